//! Certificates and keys, read and checked before anything is sent.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, client::verify_server_cert_signed_by_trust_anchor,
    server::ParsedCertificate, sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

/// TLS settings towards etcd or among peers. Towards etcd the system's certificate authorities are trusted
/// unless others are given; peers have to name theirs.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates in PEM form.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) identity: Option<Pem>,
    pub(crate) files: Arc<Files>,
}

/// The files that the settings were read from.
#[derive(Clone, Default)]
pub(crate) struct Files {
    pub(crate) ca: Option<PathBuf>,
    /// Paths of the certificate and the key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Pem {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("client_certificate", &self.identity.is_some()).finish_non_exhaustive()
    }
}

/// Reason that a file can't be used for TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct InvalidTls {
    path: String,
    problem: String,
}

impl InvalidTls {
    fn new(path: &Path, problem: impl fmt::Display) -> Self {
        Self { path: path.display().to_string(), problem: problem.to_string() }
    }
}

impl Tls {
    /// Trusts the certificate authorities in this PEM file, and no others.
    ///
    /// # Errors
    ///
    /// A file that can't be read, or contains no certificate.
    pub fn trusting(mut self, ca: &Path) -> Result<Self, InvalidTls> {
        self.ca = Some(certificates(ca)?);
        Arc::make_mut(&mut self.files).ca = Some(ca.to_owned());
        Ok(self)
    }

    /// Shows this certificate to the other side, with its key, both PEM files.
    ///
    /// # Errors
    ///
    /// Files that can't be read, or lack a certificate or private key.
    pub fn identified_by(mut self, certificate: &Path, key: &Path) -> Result<Self, InvalidTls> {
        let pem = Pem { certificate: certificates(certificate)?, key: read(key)? };
        if is_encrypted(&pem.key) {
            let problem = "the key is encrypted, and this asks for no passphrase: decrypt it, as in `openssl pkey -in FILE`";
            return Err(InvalidTls::new(key, problem));
        }
        let der = pem.key();
        let der = der.map_err(|_| InvalidTls::new(key, "there is no private key in it, in PEM form"))?;
        if provider().key_provider.load_private_key(der.clone_key()).is_err() {
            let problem =
                "its kind of key is not supported; use RSA (2048 bits or more), P-256, P-384 or Ed25519";
            return Err(InvalidTls::new(key, problem));
        }
        CertifiedKey::from_der(pem.chain(), der, &provider())
            .map_err(|_| InvalidTls::new(key, "it is not the private key of that certificate"))?;
        self.identity = Some(pem);
        Arc::make_mut(&mut self.files).identity = Some((certificate.to_owned(), key.to_owned()));
        Ok(self)
    }

    /// Reads the same files again: certificates are renewed on disk. Keeps the previous content while they
    /// can't be used, as in the middle of a renewal.
    pub(crate) fn reread(&self) -> Self {
        let read = || {
            let mut tls = Self::default();
            if let Some(ca) = &self.files.ca {
                tls = tls.trusting(ca)?;
            }
            match &self.files.identity {
                Some((certificate, key)) => tls.identified_by(certificate, key),
                None => Ok(tls),
            }
        };
        read().unwrap_or_else(|error: InvalidTls| {
            tracing::debug!(%error, "the certificates read before are used");
            self.clone()
        })
    }

    /// Returns when the certificates of the next connection expire: of the current files, or of the last
    /// usable content.
    ///
    /// Reads the files, so it may take as long as the file system does.
    pub fn expiry(&self) -> Expiry {
        let now = self.reread();
        let authorities = now.ca.iter().flat_map(|ca| chain(ca));
        let shown = now.identity.iter().flat_map(Pem::chain);
        Expiry {
            own: shown.filter_map(|certificate| not_after(&certificate)).min(),
            authority: authorities.filter_map(|certificate| not_after(&certificate)).max(),
        }
    }

    /// Returns the same trust and identity, for a connection of our own.
    pub(crate) fn listening(&self) -> Option<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_auth_cert(pem.chain(), pem.key().ok()?).ok()?,
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Some(config)
    }

    /// Returns the configured authorities.
    pub(crate) fn roots(&self) -> Option<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(self.ca.as_ref()?).filter_map(Result::ok),
        );
        Some(roots)
    }
}

/// The only protocol inside the connection.
pub(crate) const HTTP_2: &[u8] = b"h2";

impl Pem {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        chain(&self.certificate)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, rustls_pki_types::pem::Error> {
        PrivateKeyDer::from_pem_slice(&self.key)
    }
}

/// Parses the certificates in a PEM file that was checked before.
fn chain(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Expiry times of certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expiry {
    /// The first expiry in the chain that is presented to the other side.
    pub own: Option<SystemTime>,
    /// The last expiry among the configured authorities; before it another may have taken over.
    pub authority: Option<SystemTime>,
}

/// Returns a certificate's expiry, if it can be read.
///
/// The verifier checks that first of all, so at the end of time its error has the expiry, for any signer.
fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let (no_authorities, none) = (RootCertStore::empty(), &[]);
    match verify_server_cert_signed_by_trust_anchor(&certificate, &no_authorities, &[], end_of_time, none) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

/// Returns whether a key has a passphrase: PKCS #8 says so in its label, older forms in a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let pem = String::from_utf8_lossy(pem);
    pem.contains("BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED")
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, InvalidTls> {
    std::fs::read(path).map_err(|error| InvalidTls::new(path, error))
}

fn certificates(path: &Path) -> Result<Vec<u8>, InvalidTls> {
    let pem = read(path)?;
    let mut parsed = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let broken = |_| InvalidTls::new(path, "a certificate in it is broken");
        parsed
            .add(certificate.map_err(|_| InvalidTls::new(path, "a certificate in it is cut off or broken"))?)
            .map_err(broken)?;
    }
    if parsed.is_empty() {
        return Err(InvalidTls::new(path, "there is no certificate in it, in PEM form"));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn ending(year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["peer1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn new_year(year: u64) -> Option<SystemTime> {
        let leap_days = (1970..year).filter(|year| year % 4 == 0).count() as u64;
        let days = (year - 1970) * 365 + leap_days;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60))
    }

    #[test]
    fn the_first_of_a_chain_and_the_last_of_the_authorities_count_as_the_files_are_now() {
        let directory = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca", "cert", "key"].map(|name| directory.path().join(name));
        // Expired long ago: an alert should report that.
        let ((own, own_key), (above, _)) = (ending(2041), ending(2040));
        std::fs::write(&cert, own.clone() + &above).unwrap();
        std::fs::write(&key, &own_key).unwrap();
        std::fs::write(&ca, ending(2001).0 + &ending(2002).0).unwrap();
        assert_eq!(Tls::default().expiry(), Expiry::default());
        let tls = Tls::default().trusting(&ca).unwrap();
        assert_eq!(tls.expiry(), Expiry { own: None, authority: new_year(2002) });
        let tls = tls.identified_by(&cert, &key).unwrap();
        assert_eq!(tls.expiry(), Expiry { own: new_year(2040), authority: new_year(2002) });

        std::fs::write(&cert, &own).unwrap();
        assert_eq!(tls.expiry().own, new_year(2041), "read again");
        std::fs::write(&cert, "cut off").unwrap();
        assert_eq!(tls.expiry().own, new_year(2040), "what was read first is what is used");
    }
}
