//! With certificates, and with the wrong ones.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::peers::{Client, Tls};

/// An authority and its certificates: files, as people have them.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        // Otherwise a signature of the other authority would be taken for a wrong one of this.
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Trusts this authority, and shows a certificate of `signer` for `host`.
    fn trusted_and_identified_by(&self, signer: &Self, host: &str) -> Tls {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages = vec![Purpose::ServerAuth, Purpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let path = |name: &str| self.dir.path().join(name);
        fs::write(path("cert.pem"), params.signed_by(&key, &signer.issuer).unwrap().pem()).unwrap();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let trusting = Tls::default().trusting(&self.ca()).unwrap();
        trusting.identified_by(&path("cert.pem"), &path("key.pem")).unwrap()
    }

    fn tls(&self) -> Tls {
        self.trusted_and_identified_by(self, "127.0.0.1")
    }
}

fn start(street: &Street, name: &str, tls: Option<&Tls>) -> Server {
    let settings = street.settings(name);
    let settings = tls.into_iter().fold(settings, |settings, tls| settings.with_tls(tls).unwrap());
    Server::start(settings, street.listener(name), directory(name))
}

#[tokio::test]
async fn members_with_certificates_of_one_authority_talk() {
    let (street, authority) = (Street::of(&["a", "b"]), Authority::new("one"));
    let (a, mut b) =
        (start(&street, "a", Some(&authority.tls())), start(&street, "b", Some(&authority.tls())));
    a.connected("b").await;
    b.connected("a").await;
    for term in 1..=100 {
        a.say("b", term);
    }
    a.say_much("b", 101);
    for term in 1..=101 {
        assert_eq!(b.hear().await, (NodeId::new(0), term));
    }
}

/// The caller shows this problem; the listener counts an error.
async fn problem(caller: Option<&Tls>, called: Option<&Tls>, problem: &str) {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (start(&street, "a", caller), start(&street, "b", called));
    until(problem, || {
        let shown = a.problem("b");
        println!("{shown}");
        shown.contains(problem)
    })
    .await;
    until("counted", || {
        b.count(TransportError::Malformed) + b.count(TransportError::Refused) + b.count(TransportError::Left)
            > 0
    })
    .await;
    assert!(!a.contact("b").connected && !b.contact("a").connected);
    assert_eq!(b.contact("a").heard, None);
}

#[tokio::test]
async fn a_caller_without_tls_is_told_to_use_it() {
    problem(None, Some(&Authority::new("one").tls()), "speaks TLS, and this server has no certificate").await;
}

#[tokio::test]
async fn a_caller_with_tls_is_told_that_it_is_not_spoken() {
    problem(Some(&Authority::new("one").tls()), None, "does not speak TLS, and this server does").await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let called = one.trusted_and_identified_by(&other, "127.0.0.1");
    problem(Some(&one.tls()), Some(&called), "invalid peer certificate: UnknownIssuer").await;
}

#[tokio::test]
async fn a_caller_of_another_authority_is_not_let_in() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let caller = one.trusted_and_identified_by(&other, "127.0.0.1");
    problem(Some(&caller), Some(&one.tls()), "UnknownCA").await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_taken() {
    let authority = Authority::new("one");
    let called = authority.trusted_and_identified_by(&authority, "elsewhere.example");
    problem(Some(&authority.tls()), Some(&called), "not valid for name").await;
}

/// An observer's certificate is of the same authority, and for no member's host: it only permits to ask.
#[tokio::test]
async fn contract_11_a_caller_whose_certificate_is_for_another_host_is_no_member() {
    let (street, authority) = (Street::of(&["a", "b"]), Authority::new("one"));
    let member = authority.tls();
    let observer = authority.trusted_and_identified_by(&authority, "observer.example");
    let b = start(&street, "b", Some(&member));
    let a = start(&street, "a", Some(&observer));
    until("it is told why", || a.problem("b").contains("the certificate is not for the host where 'a' is"))
        .await;
    until("counted", || b.count(TransportError::Refused) > 0).await;
    assert!(!a.contact("b").connected && !b.contact("a").connected);
    assert!(b.problem("a").starts_with("it has not connected yet"), "what proved nothing leaves nothing");
    drop(a);

    let client = Client::new(street.group(), "leader".parse().unwrap(), Some(&observer)).unwrap();
    let looks = client.statuses(PATIENCE).await;
    assert!(looks[1].status.is_ok(), "{looks:?}");

    let a = start(&street, "a", Some(&member));
    a.connected("b").await;
}

#[test]
fn half_of_it_is_not_enough() {
    let authority = Authority::new("one");
    let one_sided = Tls::default().trusting(&authority.ca()).unwrap();
    let refused = Street::of(&["a", "b"]).settings("a").with_tls(&one_sided).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "TLS among peers goes both ways: an authority, a certificate and its key are needed, all three"
    );
}

#[tokio::test]
async fn a_handshake_that_is_not_gone_on_with_is_ended() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let street = Street::of(&["a", "b"]);
    let b = start(&street, "b", Some(&Authority::new("one").tls()));
    let mut caller = tokio::net::TcpStream::connect(street.address("b")).await.unwrap();
    // The head of a first message that is longer than the bytes sent.
    caller.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    until("counted", || b.count(TransportError::Silent) == 1).await;
    assert_eq!(caller.read(&mut [0; 16]).await.unwrap_or(0), 0, "and closed");
}
