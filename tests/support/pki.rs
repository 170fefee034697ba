//! A certificate authority, made for one test, with a server and a client certificate, and a foreign one.
//!
//! PEM files in a temporary directory, because servers and command lines read those. No private
//! key outlives the test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// The common name of the client certificate. etcd takes it for the user when authentication is on.
pub(crate) const CLIENT_NAME: &str = "test-client";

/// A certificate and its private key, as files.
#[derive(Clone, Debug)]
pub(crate) struct KeyAndCert {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Pki {
    /// The authority that the server trusts, and that has signed `server` and `client`.
    pub(crate) ca: PathBuf,
    /// For 127.0.0.1 and `localhost`, unless it is made for other hosts.
    pub(crate) server: KeyAndCert,
    pub(crate) client: KeyAndCert,
    /// An authority that has signed none of these.
    pub(crate) foreign_ca: PathBuf,
    /// A client certificate of the foreign authority, with the same name as the good one.
    pub(crate) foreign_client: KeyAndCert,
    authority: Authority,
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::of_hosts(&["localhost", "127.0.0.1"])
    }

    /// Makes a server certificate for these.
    pub(crate) fn of_hosts(names: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let path = dir.path();
        let authority = Authority::new("test CA");
        let foreign = Authority::new("foreign CA");
        // etcd's own gateway connects to etcd with the server's certificate, as a client.
        let both = [Purpose::ServerAuth, Purpose::ClientAuth];
        Self {
            ca: write(path, "ca.pem", &authority.pem),
            server: authority.sign(path, "server", names, &both),
            client: authority.sign(path, CLIENT_NAME, &[], &[Purpose::ClientAuth]),
            foreign_ca: write(path, "foreign-ca.pem", &foreign.pem),
            foreign_client: foreign.sign(
                &subdirectory(path, "foreign"),
                CLIENT_NAME,
                &[],
                &[Purpose::ClientAuth],
            ),
            authority,
            dir,
        }
    }

    /// Another client certificate, which expires when this year begins.
    pub(crate) fn client_until(&self, year: i32) -> KeyAndCert {
        let directory = subdirectory(self.dir.path(), &format!("until-{year}"));
        let mut params = named(CLIENT_NAME, &[]);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.authority.sign_as(&directory, CLIENT_NAME, params, &[Purpose::ClientAuth])
    }

    /// The options of a client that the server accepts.
    pub(crate) fn tls_options(&self) -> TlsOptions {
        self.tls_options_as(&self.client)
    }

    /// The options of a client that trusts the server and identifies itself with `client`.
    pub(crate) fn tls_options_as(&self, client: &KeyAndCert) -> TlsOptions {
        TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(&self.ca)))
            .identity(Identity::from_pem(read(&client.cert), read(&client.key)))
    }
}

#[derive(Debug)]
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = generate_key();
        let pem = params.self_signed(&key).expect("the parameters are fixed and valid").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, dir: &Path, name: &str, subject_alt_names: &[&str], purposes: &[Purpose]) -> KeyAndCert {
        self.sign_as(dir, name, named(name, subject_alt_names), purposes)
    }

    fn sign_as(
        &self,
        dir: &Path,
        name: &str,
        mut params: CertificateParams,
        purposes: &[Purpose],
    ) -> KeyAndCert {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = generate_key();
        let cert = params.signed_by(&key, &self.issuer).expect("the parameters are fixed and valid");
        KeyAndCert {
            cert: write(dir, &format!("{name}.pem"), &cert.pem()),
            key: write(dir, &format!("{name}-key.pem"), &key.serialize_pem()),
        }
    }
}

fn named(name: &str, subject_alt_names: &[&str]) -> CertificateParams {
    let subject_alt_names: Vec<_> = subject_alt_names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(subject_alt_names).expect("the names are fixed and valid");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn generate_key() -> KeyPair {
    KeyPair::generate().expect("the machine has a source of randomness")
}

fn subdirectory(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir(&path).expect("the temporary directory is ours and empty");
    path
}

fn write(dir: &Path, name: &str, pem: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, pem).expect("the temporary directory is writable");
    path
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("written by Pki::new")
}
