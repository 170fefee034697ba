//! TLS among peers: both sides show a certificate, and both check the other's.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, ServerConfig,
    client::verify_server_name,
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls::{Files, HTTP_2, Tls, provider};

impl Tls {
    /// Both sides show a certificate, and both check the other's.
    ///
    /// # Errors
    ///
    /// [`OneSided`] if the authority or the own certificate is missing.
    pub(crate) fn mutual(&self) -> Result<Mutual, OneSided> {
        let current = Current { stamp: self.files.stamp(), both: self.both()? };
        Ok(Mutual { source: self.clone(), current: Arc::new(Mutex::new(current)) })
    }

    fn both(&self) -> Result<Both, OneSided> {
        let (Some(pem), Some(roots), Some(client)) = (&self.identity, self.roots(), self.listening()) else {
            return Err(OneSided::Missing);
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| OneSided::Unusable(error.to_string()))?;
        let unusable = |error: rustls::Error| OneSided::Unusable(error.to_string());
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(pem.chain(), pem.key().map_err(|error| OneSided::Unusable(error.to_string()))?)
            .map_err(unusable)?;
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Both { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// TLS among equals: the same authority and the same certificate, in both directions. The files are read again at
/// the first connection after they changed.
#[derive(Clone)]
pub(crate) struct Mutual {
    source: Tls,
    current: Arc<Mutex<Current>>,
}

/// The TLS configurations, and the state of the files at their reading.
struct Current {
    stamp: Stamp,
    both: Both,
}

/// Each file's time of change and length.
type Stamp = Vec<Option<(SystemTime, u64)>>;

impl Files {
    fn stamp(&self) -> Stamp {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.ca.iter().chain(identity).map(stamp).collect()
    }
}

#[derive(Clone)]
struct Both {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Mutual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutual").finish_non_exhaustive()
    }
}

impl Mutual {
    pub(crate) fn source(&self) -> &Tls {
        &self.source
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.both().client)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.both().server)
    }

    fn both(&self) -> Both {
        let stamp = self.source.files.stamp();
        // Nothing in here panics half way through a change.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != current.stamp {
            current.stamp = stamp;
            match self.source.reread().both() {
                Ok(both) => {
                    tracing::info!("the certificates were read again");
                    current.both = both;
                }
                Err(error) => tracing::warn!(%error, "the certificates read before are used"),
            }
        }
        current.both.clone()
    }
}

/// The other side's certificate, found in the handshake to be signed by a trusted authority.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// The caller's certificate, on an incoming connection.
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Option<Self> {
        let first = connection.peer_certificates()?.first()?;
        Some(Self(first.clone().into_owned()))
    }

    /// Returns true if it is for this host: by a DNS name, or an IP address.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let (Ok(certificate), Ok(host)) = (ParsedCertificate::try_from(&self.0), ServerName::try_from(host))
        else {
            return false;
        };
        verify_server_name(&certificate, &host).is_ok()
    }
}

/// Reason why a [`Tls`] can't serve connections on which both sides show a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OneSided {
    #[error("an authority, a certificate and its key are needed, all three")]
    Missing,
    #[error("{0}")]
    Unusable(String),
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

    use super::*;

    /// Writes a new certificate and its key; returns the certificate's text.
    fn issue(directory: &Path) -> String {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["peer1".to_owned()]).unwrap();
        // Another length each time, as the file system's clock may be coarse.
        let comment = format!("{}\n", "#".repeat(fastrand::usize(1..1000)));
        std::fs::write(directory.join("cert"), comment + &cert.pem()).unwrap();
        std::fs::write(directory.join("key"), KeyPair::serialize_pem(&signing_key)).unwrap();
        cert.pem()
    }

    #[test]
    fn renewed_certificates_are_used_and_broken_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert"), directory.path().join("key"));
        issue(directory.path());
        let tls = Tls::default().trusting(&cert).unwrap().identified_by(&cert, &key).unwrap();
        let mutual = tls.mutual().unwrap();
        let before = mutual.both();
        assert!(Arc::ptr_eq(&before.server, &mutual.both().server), "nothing has changed");

        let renewed = issue(directory.path());
        let now = tls.reread();
        assert!(String::from_utf8_lossy(&now.identity.unwrap().certificate).contains(&renewed));
        let after = mutual.both();
        assert!(!Arc::ptr_eq(&before.server, &after.server) && !Arc::ptr_eq(&before.client, &after.client));

        std::fs::write(&cert, "cut off").unwrap();
        assert_eq!(tls.reread().identity.unwrap().certificate, tls.identity.as_ref().unwrap().certificate);
    }
}
