//! Incoming connections: the listener, and each connection from its first byte to its last.

use std::{
    error::Error,
    io, iter,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    FAREWELL, FIRST_WORD, IdentityCheck, LARGEST_MESSAGE, MOST_HEADERS, SEND_BUFFER, TransportShared, WINDOW,
    counts::TransportError,
    executor::BoundExecutor,
    service::PeersService,
    session::{Disconnect, innermost},
    stream::{TLS_HANDSHAKE, TimedStream},
};
use crate::peers::{tls::PeerCertificate, wire::proto::peers_server::PeersServer};

/// Calls on one connection at a time. A caller has one; the other is for one that is just ending.
const MOST_CALLS: u32 = 2;

/// The stages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InboundStage {
    /// No acceptable message has arrived.
    Stranger,
    /// A member, or an observer.
    Known,
    /// It is about to end.
    Over,
}

/// A caller's connection, shared by its calls.
#[derive(Debug, Clone)]
pub(super) struct Inbound {
    pub(super) from: SocketAddr,
    /// The address that was called.
    pub(super) at: SocketAddr,
    /// The time limit for the first message.
    pub(super) until: Instant,
    /// Ends the connection at once, with all its tasks.
    pub(super) over: CancellationToken,
    pub(super) stage: Arc<watch::Sender<InboundStage>>,
    /// The reason for the connection's end, once it has ended.
    pub(super) ending: Arc<OnceLock<Disconnect>>,
}

impl Inbound {
    /// Ends the connection of a caller that has not proved to be a member.
    pub(super) fn turn_away<G>(&self, shared: &TransportShared<G>, ending: &Disconnect) {
        if self.stage.send_replace(InboundStage::Over) != InboundStage::Stranger {
            return;
        }
        match ending {
            Disconnect::Closed | Disconnect::Broken(_) => shared.sessions.counts.count(TransportError::Left),
            ending => shared.turned_away(self.from, ending),
        }
    }
}

/// Accepts connections until this is dropped.
pub(super) async fn accept<G: IdentityCheck>(shared: Arc<TransportShared<G>>, listener: TcpListener) {
    /// The pause before another attempt if there are no file descriptors left: some will be closed.
    const EXHAUSTED: std::time::Duration = std::time::Duration::from_millis(100);
    let mut last_error = None;
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                last_error = None;
                let over = shared.over.child_token();
                let stage = Arc::new(watch::Sender::new(InboundStage::Stranger));
                let until = Instant::now() + FIRST_WORD;
                // The fallback is no caller's address.
                let at = tcp.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
                let inbound = Inbound { from, at, until, over, stage, ending: Arc::default() };
                let is_members = shared.member_addresses.contains(from.ip());
                if !shared.admissions.enter(from.ip(), is_members, &inbound.over) {
                    shared.sessions.counts.count(TransportError::Crowded);
                }
                tokio::spawn(receive(Arc::clone(&shared), tcp, inbound));
            }
            Err(error) => {
                if last_error.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%error, "no peer can connect");
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn receive<G: IdentityCheck>(shared: Arc<TransportShared<G>>, tcp: TcpStream, inbound: Inbound) {
    let served = inbound.over.run_until_cancelled(serve(&shared, tcp, &inbound)).await;
    if let Some(ending) = &served {
        let _ = inbound.ending.set(ending.clone());
    }
    inbound.over.cancel();
    shared.admissions.leave(&inbound.over);
    // An evicted connection was counted at its eviction; a known peer's, by its messages.
    let Some(ending) = served else { return };
    if *inbound.stage.borrow() != InboundStage::Stranger {
        return;
    }
    match ending {
        Disconnect::Closed | Disconnect::Broken(_) => {
            tracing::debug!(from = %inbound.from, %ending, "a stranger has left");
            shared.sessions.counts.count(TransportError::Left);
        }
        ending => shared.turned_away(inbound.from, &ending),
    }
}

async fn serve<G: IdentityCheck>(
    shared: &Arc<TransportShared<G>>,
    tcp: TcpStream,
    inbound: &Inbound,
) -> Disconnect {
    // A call that is too late gets an error, which takes a while.
    let until = inbound.until + FAREWELL;
    let line = tokio::select! {
        line = line(shared, tcp, inbound.from) => line,
        () = sleep_until(until) => Err(Disconnect::Silent(FIRST_WORD)),
    };
    let (line, certificate) = match line {
        Ok(line) => line,
        Err(ending) => return ending,
    };
    let peers_service = PeersService::new(Arc::clone(shared), inbound.clone(), line.heard(), certificate);
    let service = PeersServer::new(peers_service).max_decoding_message_size(LARGEST_MESSAGE);
    let mut builder = http2::Builder::new(BoundExecutor::to(&inbound.over));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(shared.timeouts.ping)
        .keep_alive_timeout(shared.timeouts.ping)
        .max_concurrent_streams(MOST_CALLS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_header_list_size(MOST_HEADERS)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(line), TowerToHyperService::new(service)));
    let mut stage = inbound.stage.subscribe();
    loop {
        let now = *stage.borrow_and_update();
        tokio::select! {
            served = &mut connection => return match served {
                Ok(()) => Disconnect::Closed,
                Err(error) => broken(&error),
            },
            // The connection holds the sender, by way of its service: this does not fail.
            _ = stage.changed() => {}
            () = sleep_until(until), if now == InboundStage::Stranger => return Disconnect::Silent(FIRST_WORD),
            () = farewell(), if now == InboundStage::Over => return Disconnect::Closed,
        }
        if *stage.borrow() == InboundStage::Over {
            connection.as_mut().graceful_shutdown();
        }
    }
}

async fn farewell() {
    sleep(FAREWELL).await;
}

/// TLS, if this server uses it, with the caller's certificate; and an error for callers that mistake TLS for plain
/// text.
async fn line<G: IdentityCheck>(
    shared: &TransportShared<G>,
    mut tcp: TcpStream,
    from: SocketAddr,
) -> Result<(TimedStream, Option<PeerCertificate>), Disconnect> {
    tcp.set_nodelay(true).map_err(|error| Disconnect::Broken(error.to_string()))?;
    let Some(tls) = shared.settings.mutual_tls() else {
        let mut first = [0];
        let read = tcp.peek(&mut first).await.map_err(|error| Disconnect::Broken(error.to_string()))?;
        if read > 0 && first[0] == TLS_HANDSHAKE {
            // An empty SETTINGS frame: it shows the protocol here, in a form that no TLS library takes.
            part(&mut tcp, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            return Err(Disconnect::Malformed(
                "it speaks TLS, and this server has no certificate".to_owned(),
            ));
        }
        return Ok((TimedStream::plain(tcp), None));
    };
    match tls.acceptor().accept(tcp).into_fallible().await {
        Ok(stream) => {
            let certificate = PeerCertificate::of(stream.get_ref().1);
            Ok((TimedStream::tls(stream), certificate))
        }
        Err((error, mut tcp)) => {
            // The alert has been written. Let it arrive.
            part(&mut tcp, &[]).await;
            Err(match error.get_ref().and_then(|cause| cause.downcast_ref()) {
                Some(rustls::Error::InvalidMessage(_)) => {
                    Disconnect::Malformed("it does not speak TLS, and this server does".to_owned())
                }
                // Without the port, which is another one each time: each would be a new message.
                Some(cause) => Disconnect::Tls { address: from.ip().to_string(), why: cause.to_string() },
                None => Disconnect::Broken(error.to_string()),
            })
        }
    }
}

/// Sends a last message, and reads on for a while: a connection that is closed with unread bytes is reset, and then
/// that message is lost.
async fn part(tcp: &mut TcpStream, word: &[u8]) {
    let closing = async {
        tcp.write_all(word).await?;
        tcp.shutdown().await?;
        let mut rest = [0; 1024];
        while tcp.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, closing).await;
}

/// A broken connection, or one that is no HTTP/2.
fn broken(error: &hyper::Error) -> Disconnect {
    let mut causes = iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source());
    let is_io = causes.any(|cause| cause.is::<io::Error>());
    if is_io { Disconnect::Broken(innermost(error)) } else { Disconnect::Malformed(innermost(error)) }
}
