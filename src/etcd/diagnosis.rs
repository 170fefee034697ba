//! The protocol at an address where no connection to etcd could be made.
//!
//! TLS on one side only fails on both with messages that name no cause: "connection closed", "handshake eof".
//! After such a failure this probes again, on a connection of its own, with the protocol that was not tried.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::tls;

/// Timeout of one probe, which delays the next attempt.
const WITHIN: Duration = Duration::from_millis(500);

/// Lifetime of a finding. A probe costs up to two connections more.
const AGAIN: Duration = Duration::from_secs(5);

/// The preface of every HTTP/2 client, and an empty settings frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Remedy for a port of etcd's that is not for clients.
pub(super) const NO_PORT_FOR_CLIENTS: &str = "that is no port for clients: if it is etcd's peer port (2380), give --etcd \
                                              the one of --listen-client-urls (2379)";

/// The type of the frame that a server begins with: settings.
const SETTINGS: u8 = 4;

/// Findings at addresses where no connection could be made.
#[derive(Debug, Default)]
pub(super) struct Diagnoses {
    found: Mutex<BTreeMap<SocketAddr, (Instant, Option<&'static str>)>>,
}

impl Diagnoses {
    /// Returns the remedy for one-sided TLS or a wrong port, if that is the problem.
    pub(super) async fn mismatch(&self, host: &str, address: SocketAddr, tls: bool) -> Option<&'static str> {
        let known = self.found().get(&address).copied();
        if let Some((at, hint)) = known
            && at.elapsed() < AGAIN
        {
            return hint;
        }
        let hint = mismatch(host, address, tls).await;
        let mut found = self.found();
        // The addresses of a name may change while this runs.
        found.retain(|_, (at, _)| at.elapsed() < AGAIN);
        found.insert(address, (Instant::now(), hint));
        hint
    }

    fn found(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, (Instant, Option<&'static str>)>> {
        // A lost entry is only probed again.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn mismatch(host: &str, address: SocketAddr, tls: bool) -> Option<&'static str> {
    let host = host.trim_matches(['[', ']']);
    let probe = async {
        let tcp = TcpStream::connect(address).await.ok()?;
        if tls {
            let hint = "etcd speaks no TLS there: leave out --cacert, --cert, --key and https://, or turn TLS on in etcd";
            speaks_plainly(tcp).await.unwrap_or(false).then_some(hint)
        } else {
            if speaks_tls(tcp, host).await {
                return Some("etcd speaks TLS there: give --cacert, or write https://");
            }
            let tcp = TcpStream::connect(address).await.ok()?;
            speaks_http_1(tcp).await.unwrap_or(false).then_some(NO_PORT_FOR_CLIENTS)
        }
    };
    timeout(WITHIN, probe).await.ok()?
}

/// Returns whether HTTP/2 is answered with HTTP/1, as etcd's peer port and its metrics port do.
async fn speaks_http_1(mut tcp: TcpStream) -> io::Result<bool> {
    tcp.write_all(PREFACE).await?;
    let mut beginning = [0; 5];
    tcp.read_exact(&mut beginning).await?;
    Ok(&beginning == b"HTTP/")
}

/// Returns whether HTTP/2 comes back without TLS.
async fn speaks_plainly(mut tcp: TcpStream) -> io::Result<bool> {
    tcp.write_all(PREFACE).await?;
    let mut frame = [0; 9];
    tcp.read_exact(&mut frame).await?;
    Ok(frame[3] == SETTINGS)
}

/// Returns whether a handshake begins. It can't finish with no trusted authority, and nothing is sent on it.
async fn speaks_tls(tcp: TcpStream, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host.to_owned()) else { return false };
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let Ok(builder) = builder else { return false };
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    // etcd 3.7 rejects clients that do not offer this before it shows a certificate.
    config.alpn_protocols = vec![tls::HTTP_2.to_vec()];
    match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        Ok(_) => true,
        Err(error) => {
            let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            // Any other TLS error still means TLS.
            error.is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
        }
    }
}
