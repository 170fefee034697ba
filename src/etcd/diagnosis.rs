//! What speaks at an address where no connection to etcd could be made.
//!
//! TLS on one side only fails on both with words that name no cause: "connection closed", "handshake eof". So after
//! such a failure this looks again, on a connection of its own, in the language that was not tried.

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

/// For one look. It is on the way to the next attempt.
const WITHIN: Duration = Duration::from_millis(500);

/// What was found at an address holds for this long. A look is up to two connections more.
const AGAIN: Duration = Duration::from_secs(5);

/// What every HTTP/2 client begins with, and an empty frame of settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What to do about a port of etcd's that is not for clients.
pub(super) const NO_PORT_FOR_CLIENTS: &str = "that is no port for clients: if it is etcd's peer port (2380), give --etcd \
                                              the one of --listen-client-urls (2379)";

/// The type of the frame that a server begins with: settings.
const SETTINGS: u8 = 4;

/// What was found at addresses where no connection could be made.
#[derive(Debug, Default)]
pub(super) struct Diagnoses {
    found: Mutex<BTreeMap<SocketAddr, (Instant, Option<&'static str>)>>,
}

impl Diagnoses {
    /// What to do about TLS on one side only, or a wrong port, if that is what is wrong.
    pub(super) async fn mismatch(&self, host: &str, address: SocketAddr, tls: bool) -> Option<&'static str> {
        let known = self.found().get(&address).copied();
        if let Some((at, hint)) = known
            && at.elapsed() < AGAIN
        {
            return hint;
        }
        let hint = mismatch(host, address, tls).await;
        let mut found = self.found();
        // The addresses of a name may change for as long as this runs.
        found.retain(|_, (at, _)| at.elapsed() < AGAIN);
        found.insert(address, (Instant::now(), hint));
        hint
    }

    fn found(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, (Instant, Option<&'static str>)>> {
        // Whatever is missing in it is looked for again.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn mismatch(host: &str, address: SocketAddr, tls: bool) -> Option<&'static str> {
    let host = host.trim_matches(['[', ']']);
    let looking = async {
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
    timeout(WITHIN, looking).await.ok()?
}

/// Whether what is meant for HTTP/2 is answered with HTTP/1: etcd's peer port does, and its port for metrics.
async fn speaks_http_1(mut tcp: TcpStream) -> io::Result<bool> {
    tcp.write_all(PREFACE).await?;
    let mut beginning = [0; 5];
    tcp.read_exact(&mut beginning).await?;
    Ok(&beginning == b"HTTP/")
}

/// Whether HTTP/2 comes back, without TLS.
async fn speaks_plainly(mut tcp: TcpStream) -> io::Result<bool> {
    tcp.write_all(PREFACE).await?;
    let mut frame = [0; 9];
    tcp.read_exact(&mut frame).await?;
    Ok(frame[3] == SETTINGS)
}

/// Whether a handshake begins. With nobody trusted it can't end, and nothing is sent on it.
async fn speaks_tls(tcp: TcpStream, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host.to_owned()) else { return false };
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let Ok(builder) = builder else { return false };
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    // etcd 3.7 turns away whoever does not ask for it, before it shows a certificate.
    config.alpn_protocols = vec![tls::HTTP_2.to_vec()];
    match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        Ok(_) => true,
        Err(error) => {
            let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            // Whatever is wrong with it, it was TLS.
            error.is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
        }
    }
}
