//! Certificates, read and looked at before anything is sent.

use std::{fmt, path::Path};

use etcd_client::{Certificate, Identity, TlsOptions};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::transport;

/// How to speak TLS with etcd.
/// Trusts the system's certificate authorities unless told whom to trust.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Certificate>,
    identity: Option<Identity>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("client_certificate", &self.identity.is_some()).finish_non_exhaustive()
    }
}

/// Why a file can't be used for TLS.
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
    /// A file that can't be read, or has no certificate in it.
    pub fn trusting(mut self, ca: &Path) -> Result<Self, InvalidTls> {
        self.ca = Some(Certificate::from_pem(certificates(ca)?));
        Ok(self)
    }

    /// Shows this certificate to etcd, with its key, both PEM files.
    ///
    /// # Errors
    ///
    /// Files that can't be read, or have no certificate and no private key in them.
    pub fn identified_by(mut self, certificate: &Path, key: &Path) -> Result<Self, InvalidTls> {
        let certificate = certificates(certificate)?;
        let pem = read(key)?;
        PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| InvalidTls::new(key, "there is no private key in it, in PEM form"))?;
        let identity = Identity::from_pem(certificate, pem);
        // Made here once, and thrown away, for the TLS library to compare the two.
        transport::Endpoint::from_static("https://etcd")
            .tls_config(TlsOptions::new().identity(identity.clone()))
            .map_err(|_| InvalidTls::new(key, "it is not the private key of that certificate"))?;
        self.identity = Some(identity);
        Ok(self)
    }

    pub(crate) fn into_client_config(self) -> TlsOptions {
        let mut options = match self.ca {
            Some(ca) => TlsOptions::new().ca_certificate(ca),
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some(identity) = self.identity {
            options = options.identity(identity);
        }
        options
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InvalidTls> {
    std::fs::read(path).map_err(|error| InvalidTls::new(path, error))
}

fn certificates(path: &Path) -> Result<Vec<u8>, InvalidTls> {
    let pem = read(path)?;
    let mut parsed = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let broken = |_| InvalidTls::new(path, "a certificate in it is broken");
        parsed.add(certificate.map_err(|error| InvalidTls::new(path, error))?).map_err(broken)?;
    }
    if parsed.is_empty() {
        return Err(InvalidTls::new(path, "there is no certificate in it, in PEM form"));
    }
    Ok(pem)
}
