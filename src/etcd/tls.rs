//! TLS towards etcd.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::tls::Tls;

/// Time for etcd to reject our certificate.
const LISTEN: Duration = Duration::from_secs(1);

impl Tls {
    /// Reads the same files again, for the next connection: see [`Tls::reread`].
    ///
    /// On another thread: a hanging file system must not delay renewals.
    pub(super) async fn current(&self) -> Self {
        let tls = self.clone();
        tokio::task::spawn_blocking(move || tls.reread()).await.unwrap_or_else(|_stopped| self.clone())
    }

    /// Returns the configuration of a channel to etcd.
    pub(super) fn client_config(&self) -> ClientTlsConfig {
        let options = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some(pem) => options.identity(Identity::from_pem(&pem.certificate, &pem.key)),
            None => options,
        }
    }

    /// Returns etcd's objection to our certificate, or to its absence.
    ///
    /// With TLS 1.3 the handshake is over for us before etcd has checked our certificate. If a request is
    /// under way by then, its alert is often lost when the connection closes. So this connects, sends
    /// nothing, and waits: etcd sends an alert, or begins to speak HTTP/2.
    pub(super) async fn refusal(&self, host: &str, address: SocketAddr) -> Option<io::Error> {
        let config = self.current().await.listening()?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
        let listening = async {
            let tcp = TcpStream::connect(address).await?;
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            stream.read(&mut [0; 1]).await
        };
        timeout(LISTEN, listening).await.ok()?.err()
    }
}
