//! Connecting to a member: its name, TCP, TLS, HTTP/2.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
};

use super::{
    LARGEST_MESSAGE, MOST_HEADERS, SEND_BUFFER, WINDOW,
    executor::BoundExecutor,
    session::Disconnect,
    stream::{LastReceived, TimedStream},
    timeouts::Timeouts,
};
use crate::peers::tls::Mutual;
use crate::peers::{PeerAddress, wire::proto::peers_client::PeersClient};

/// A member's address, and the state of reaching it.
#[derive(Debug)]
pub(crate) struct Target {
    address: PeerAddress,
    tls: Option<Mutual>,
    timeouts: Timeouts,
    /// A lookup of the host's addresses that has not ended yet. It runs on a thread that can't be stopped, so there
    /// is one at most.
    resolving: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

/// A connection without any messages yet.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    pub(crate) heard: Arc<LastReceived>,
    origin: http::Uri,
}

impl Connection {
    /// A client for calls on it.
    pub(crate) fn client(&self) -> PeersClient<Caller> {
        PeersClient::with_origin(self.caller.clone(), self.origin.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
    }
}

impl Target {
    pub(crate) fn new(address: PeerAddress, tls: Option<Mutual>, timeouts: Timeouts) -> Self {
        Self { address, tls, timeouts, resolving: None }
    }

    pub(crate) fn unanswered(&self) -> Disconnect {
        Disconnect::Unanswered { address: self.address.to_string(), within: self.timeouts.attempt }
    }

    /// Connects. Tasks of the connection end with `over`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the lookup of the host's name goes on, for the next call.
    pub(crate) async fn connect(&mut self, over: &CancellationToken) -> Result<Connection, Disconnect> {
        let line = self.line().await?;
        let heard = line.heard();
        let mut builder = http2::Builder::new(BoundExecutor::to(over));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(self.timeouts.ping)
            .keep_alive_timeout(self.timeouts.ping)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .max_header_list_size(MOST_HEADERS)
            .max_send_buf_size(SEND_BUFFER);
        let (sender, connection) = builder
            .handshake(TokioIo::new(line))
            .await
            .map_err(|error| self.explained(&heard, Disconnect::broken_by(&error)))?;
        // It ends with `over`, or by itself: then every call on it fails, with the reason.
        tokio::spawn(over.clone().run_until_cancelled_owned(connection));
        let origin = http::Uri::builder()
            .scheme(if self.tls.is_some() { "https" } else { "http" })
            .authority(self.address.to_string())
            .path_and_query("/")
            .build()
            .map_err(|error| Disconnect::Unreachable {
                address: self.address.to_string(),
                why: error.to_string(),
            })?;
        Ok(Connection { caller: Caller(sender), heard, origin })
    }

    /// The likelier reason for the end, by the first bytes on the connection.
    pub(crate) fn explained(&self, heard: &LastReceived, ending: Disconnect) -> Disconnect {
        match ending {
            Disconnect::Broken(_) | Disconnect::Closed if heard.was_tls() => {
                Disconnect::OnlyTls { address: self.address.to_string() }
            }
            ending => ending,
        }
    }

    async fn line(&mut self) -> Result<TimedStream, Disconnect> {
        let tcp = self.tcp().await?;
        let address = || self.address.to_string();
        // Small messages must not be delayed.
        tcp.set_nodelay(true)
            .map_err(|error| Disconnect::Unreachable { address: address(), why: error.to_string() })?;
        let Some(tls) = &self.tls else { return Ok(TimedStream::plain(tcp)) };
        let name = ServerName::try_from(self.address.host().to_owned())
            .map_err(|error| Disconnect::Tls { address: address(), why: error.to_string() })?;
        match tls.connector().connect(name, tcp).await {
            Ok(stream) => Ok(TimedStream::tls(stream)),
            Err(error) => Err(self.no_tls(&error)),
        }
    }

    fn no_tls(&self, error: &io::Error) -> Disconnect {
        let address = self.address.to_string();
        match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                Disconnect::NoTls { address }
            }
            Some(cause) => Disconnect::Tls { address, why: cause.to_string() },
            None => Disconnect::Broken(error.to_string()),
        }
    }

    async fn tcp(&mut self) -> Result<TcpStream, Disconnect> {
        let addresses = self.resolved().await?;
        let address = || self.address.to_string();
        // So that an address that never answers leaves time for the next one.
        let share = self.timeouts.attempt / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut ending = Disconnect::Unresolved {
            host: self.address.host().to_owned(),
            why: "the name has no address".to_owned(),
        };
        for candidate in addresses {
            ending = match timeout(share, TcpStream::connect(candidate)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => Disconnect::Unreachable { address: address(), why: error.to_string() },
                Err(_) => self.unanswered(),
            };
        }
        Err(ending)
    }

    async fn resolved(&mut self) -> Result<Vec<SocketAddr>, Disconnect> {
        let (host, port) = (self.address.host().to_owned(), self.address.port());
        let resolving = self.resolving.get_or_insert_with(|| {
            tokio::spawn(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        });
        let resolved = resolving.await;
        self.resolving = None;
        let host = || self.address.host().to_owned();
        let why = match resolved {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Disconnect::Unresolved { host: host(), why })
    }
}

/// Makes calls on one HTTP/2 connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Caller {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
