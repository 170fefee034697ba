//! The messages before Hello: each side proves that it is a member before the other one sends more than its name.
//!
//! ```text
//!   caller    ── name, nonce ────────────────►   listener: is that a member, with its host's certificate?
//!             ◄──────── name, nonce, proof ──
//!   checks    ── Hello, proof ───────────────►   checks, compares, asks its disk
//!             ◄─────────────── Hello, proof ──
//! ```
//!
//! * With TLS, a certificate proves it: it has to be for the host that the list has for that member. The caller's
//!   TLS has checked the listener's; here the listener checks the caller's.
//! * With a secret, a [`Proof`] does, in both directions.
//! * With neither, there is no proof. Then any client that can connect is believed: see [`Settings`].
//!
//! Pure, but for the random bytes of a nonce.

use prost::Message as _;
use prost::bytes::Bytes;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::tls::PeerCertificate;
use super::{
    Group, Settings,
    secret::{Nonce, Point, Proof, Secret},
    wire::proto,
};
use crate::{
    names::{CandidateName, displayed},
    raft::identity::NodeId,
};

/// The version of the messages in `proto/peers.proto`.
const PROTOCOL: u32 = 2;

/// Reason for refusing the other side's greeting. As it is logged here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    #[error(
        "'{us}' speaks version {PROTOCOL} of the peers' protocol, and '{them}' version {theirs}; \
         install the same version on both"
    )]
    Protocol { us: CandidateName, them: String, theirs: u32 },
    #[error("'{them}' is not among the peers of '{us}', which are {group}; start both with the same --peers")]
    NotAMember { us: CandidateName, them: String, group: Group },
    #[error("two servers call themselves '{us}'; start each with a name of its own")]
    Namesake { us: CandidateName },
    #[error("'{them}' answers at {at}, where '{us}' looks for '{sought}'; correct that address in --peers")]
    OtherMember { us: CandidateName, them: String, sought: CandidateName, at: String },
    #[error(
        "it claims to be '{them}', and its certificate is not for {host}, where '{them}' is; give that server a \
         certificate for this host (an IP address needs an IP SAN)"
    )]
    Certificate { them: CandidateName, host: String },
    #[error("'{with}' has a secret, and '{without}' has none; give both the same --secret-file")]
    OneSecret { with: CandidateName, without: CandidateName },
    #[error(
        "it claims to be '{them}', and does not prove that it has the secret of '{us}'; give both the same \
         --secret-file and --election"
    )]
    Secret { us: CandidateName, them: CandidateName },
    #[error("its first message is no member's")]
    Malformed,
}

impl Unproven {
    /// The part that the other side may hear, which has proved nothing: its own words, and the missing kind of
    /// proof.
    pub(super) fn told(&self) -> String {
        match self {
            Self::NotAMember { us, them, .. } => {
                format!("'{them}' is not among the peers of '{us}'; start both with the same --peers")
            }
            Self::OtherMember { them, .. } => format!("'{them}' is not expected there"),
            Self::Certificate { them, .. } => format!(
                "the certificate is not for the host where '{them}' is; give that server a certificate for its host in \
                 --peers (an IP address needs an IP SAN)"
            ),
            Self::Protocol { .. }
            | Self::Namesake { .. }
            | Self::OneSecret { .. }
            | Self::Secret { .. }
            | Self::Malformed => self.to_string(),
        }
    }
}

/// A member's own greeting, until the other side has answered it.
#[derive(Debug)]
pub(crate) struct OwnGreeting {
    called: NodeId,
    nonce: Nonce,
}

impl OwnGreeting {
    /// Greets that member.
    pub(crate) fn to(settings: &Settings, called: NodeId) -> (Self, proto::Greeting) {
        let calling = Self { called, nonce: nonce() };
        let greeting = greeting(settings, &calling.nonce, Bytes::new());
        (calling, greeting)
    }

    /// Checks the listener's greeting.
    pub(crate) fn answered(
        self,
        settings: &Settings,
        theirs: &proto::Greeting,
    ) -> Result<ProvenConnection, Unproven> {
        let member = settings.group().member(self.called);
        same_protocol(settings, theirs)?;
        if theirs.name != member.name.as_str() {
            return Err(Unproven::OtherMember {
                us: settings.name().clone(),
                them: displayed(theirs.name.as_bytes()),
                sought: member.name.clone(),
                at: member.address.to_string(),
            });
        }
        let names = [settings.name().clone(), member.name.clone()];
        let session = ProvenConnection::of(settings, names, [self.nonce, read(&theirs.nonce)?]);
        both_have_a_secret(settings, &member.name, theirs)?;
        session.check(Point::Greeted, b"", &theirs.proof)?;
        Ok(session)
    }
}

/// Checks a caller's greeting, and answers it. `certificate` is the caller's, if this server uses TLS.
pub(crate) fn answer(
    settings: &Settings,
    certificate: Option<&PeerCertificate>,
    theirs: &proto::Greeting,
) -> Result<(NodeId, ProvenConnection, proto::Greeting), Unproven> {
    same_protocol(settings, theirs)?;
    let node = theirs.name.parse().ok().and_then(|name| settings.group().node(&name));
    let Some(node) = node else {
        let (us, them) = (settings.name().clone(), displayed(theirs.name.as_bytes()));
        return Err(Unproven::NotAMember { us, them, group: settings.group().clone() });
    };
    let member = settings.group().member(node);
    if settings.mutual_tls().is_some() {
        let host = member.address.host();
        if !certificate.is_some_and(|certificate| certificate.is_for(host)) {
            return Err(Unproven::Certificate { them: member.name.clone(), host: host.to_owned() });
        }
    }
    if node == settings.me() {
        return Err(Unproven::Namesake { us: settings.name().clone() });
    }
    both_have_a_secret(settings, &member.name, theirs)?;
    let ours = nonce();
    let names = [member.name.clone(), settings.name().clone()];
    let session = ProvenConnection::of(settings, names, [read(&theirs.nonce)?, ours]);
    let proof = session.prove(Point::Greeted, b"");
    Ok((node, session, greeting(settings, &ours, proof)))
}

fn greeting(settings: &Settings, nonce: &Nonce, proof: Bytes) -> proto::Greeting {
    proto::Greeting {
        protocol: PROTOCOL,
        name: settings.name().to_string(),
        nonce: Bytes::copy_from_slice(nonce),
        secret: settings.secret().is_some(),
        proof,
    }
}

fn same_protocol(settings: &Settings, theirs: &proto::Greeting) -> Result<(), Unproven> {
    if theirs.protocol == PROTOCOL {
        return Ok(());
    }
    let (us, them) = (settings.name().clone(), displayed(theirs.name.as_bytes()));
    Err(Unproven::Protocol { us, them, theirs: theirs.protocol })
}

/// Only for a better reason than a wrong proof: a caller that lies about it gains nothing.
fn both_have_a_secret(
    settings: &Settings,
    them: &CandidateName,
    theirs: &proto::Greeting,
) -> Result<(), Unproven> {
    let (us, them) = (settings.name().clone(), them.clone());
    match (settings.secret().is_some(), theirs.secret) {
        (true, false) => Err(Unproven::OneSecret { with: us, without: them }),
        (false, true) => Err(Unproven::OneSecret { with: them, without: us }),
        (true, true) | (false, false) => Ok(()),
    }
}

fn read(nonce: &Bytes) -> Result<Nonce, Unproven> {
    nonce.as_ref().try_into().map_err(|_| Unproven::Malformed)
}

pub(super) fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    SystemRandom::new().fill(&mut nonce).expect("the kernel has random bytes, or no TLS would work either");
    nonce
}

/// A connection on which both have greeted.
#[derive(Debug)]
pub(crate) struct ProvenConnection {
    us: CandidateName,
    election: String,
    caller: CandidateName,
    called: CandidateName,
    nonces: [Nonce; 2],
    secret: Option<Secret>,
}

impl ProvenConnection {
    fn of(settings: &Settings, [caller, called]: [CandidateName; 2], nonces: [Nonce; 2]) -> Self {
        let (us, election) = (settings.name().clone(), settings.election().to_string());
        Self { us, election, caller, called, nonces, secret: settings.secret().cloned() }
    }

    /// This Hello, with its proof.
    pub(crate) fn introduce(&self, hello: &proto::Hello) -> proto::Introduction {
        let hello = Bytes::from(hello.encode_to_vec());
        let proof = self.prove(self.point(true), &hello);
        proto::Introduction { hello, proof }
    }

    /// The other side's Hello, if its proof is right.
    pub(crate) fn introduced(&self, theirs: &proto::Introduction) -> Result<proto::Hello, Unproven> {
        self.check(self.point(false), &theirs.hello, &theirs.proof)?;
        proto::Hello::decode(theirs.hello.clone()).map_err(|_| Unproven::Malformed)
    }

    /// The point at which this side, or the other, introduces itself.
    fn point(&self, ours: bool) -> Point {
        let caller = self.us == self.caller;
        if caller == ours { Point::Caller } else { Point::Called }
    }

    fn prove(&self, point: Point, said: &[u8]) -> Bytes {
        self.secret.as_ref().map(|secret| secret.prove(&self.proof(point, said))).unwrap_or_default()
    }

    fn check(&self, point: Point, said: &[u8], made: &[u8]) -> Result<(), Unproven> {
        let Some(secret) = &self.secret else { return Ok(()) };
        if secret.confirms(&self.proof(point, said), made) {
            return Ok(());
        }
        let them = if self.us == self.caller { &self.called } else { &self.caller };
        Err(Unproven::Secret { us: self.us.clone(), them: them.clone() })
    }

    fn proof<'a>(&'a self, point: Point, said: &'a [u8]) -> Proof<'a> {
        Proof {
            point,
            election: &self.election,
            caller: self.caller.as_str(),
            called: self.called.as_str(),
            nonces: self.nonces,
            said,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::handshake;

    const GROUP: &str = "a=h:1,b=h:2,c=h:3";

    fn settings(name: &str, secret: Option<u8>) -> Settings {
        let settings = Settings::new(&name.parse().unwrap(), GROUP.parse().unwrap(), "data").unwrap();
        let secret = secret.map(|byte| Secret::new(&[byte; 32]).unwrap());
        secret.into_iter().fold(settings, Settings::with_secret)
    }

    fn node(place: u8) -> NodeId {
        NodeId::new(place)
    }

    /// The handshake of 'a' and 'b', up to both sessions.
    fn greet(a: &Settings, b: &Settings) -> Result<(ProvenConnection, ProvenConnection), Unproven> {
        let (calling, first) = OwnGreeting::to(a, node(1));
        let (who, at_b, second) = answer(b, None, &first)?;
        assert_eq!(who, node(0));
        Ok((calling.answered(a, &second)?, at_b))
    }

    fn introduced(
        from: &ProvenConnection,
        to: &ProvenConnection,
        of: &Settings,
    ) -> Result<proto::Hello, Unproven> {
        to.introduced(&from.introduce(&handshake::ours_on(of, [7; 16])))
    }

    #[test]
    fn members_of_one_secret_believe_each_other() {
        for secret in [None, Some(1)] {
            let (a, b) = (settings("a", secret), settings("b", secret));
            let (at_a, at_b) = greet(&a, &b).unwrap();
            assert_eq!(introduced(&at_a, &at_b, &a).unwrap().name, "a");
            assert_eq!(introduced(&at_b, &at_a, &b).unwrap().name, "b");
        }
    }

    #[test]
    fn the_called_one_proves_itself_first() {
        let (a, b) = (settings("a", Some(1)), settings("b", Some(2)));
        let refused = greet(&a, &b).unwrap_err();
        assert_eq!(refused, Unproven::Secret { us: "a".parse().unwrap(), them: "b".parse().unwrap() });
        assert!(refused.to_string().contains("give both the same --secret-file and --election"));
    }

    #[test]
    fn a_secret_on_one_side_is_named_on_both() {
        for (ours, theirs) in [(Some(1), None), (None, Some(1))] {
            let refused = greet(&settings("a", ours), &settings("b", theirs)).unwrap_err().to_string();
            assert!(refused.contains("has a secret, and") && refused.contains("--secret-file"), "{refused}");
        }
        // A caller that claims to have no secret gets no further.
        let (_, mut first) = OwnGreeting::to(&settings("a", None), node(1));
        first.secret = true;
        let (_, at_b, _) = answer(&settings("b", Some(1)), None, &first).unwrap();
        let bare = proto::Introduction { hello: Bytes::new(), proof: Bytes::new() };
        assert!(matches!(at_b.introduced(&bare), Err(Unproven::Secret { .. })));
    }

    #[test]
    fn what_was_heard_elsewhere_is_no_proof() {
        let (a, b) = (settings("a", Some(1)), settings("b", Some(1)));
        let (at_a, at_b) = greet(&a, &b).unwrap();
        let (_, later) = greet(&a, &b).unwrap();
        let heard = at_a.introduce(&handshake::ours_on(&a, [7; 16]));
        assert!(at_b.introduced(&heard).is_ok());
        assert!(later.introduced(&heard).is_err(), "replayed on another connection");
        assert!(at_a.introduced(&heard).is_err(), "sent back");
        // The same message with another directory in it.
        let altered =
            proto::Introduction { hello: handshake::ours_on(&a, [8; 16]).encode_to_vec().into(), ..heard };
        assert!(at_b.introduced(&altered).is_err());
    }

    #[test]
    fn a_stranger_is_told_nothing_that_it_has_not_said() {
        let b = settings("b", None);
        let (_, first) = OwnGreeting::to(&settings("a", None), node(1));
        let refused = |name: &str| {
            answer(&b, None, &proto::Greeting { name: name.to_owned(), ..first.clone() }).unwrap_err()
        };
        assert_eq!(
            refused("x").told(),
            "'x' is not among the peers of 'b'; start both with the same --peers"
        );
        assert!(refused("x").to_string().contains(GROUP), "but it is logged");
        assert!(refused("b").to_string().contains("two servers call themselves 'b'"));
        let newer = proto::Greeting { protocol: 3, ..first };
        let refused = answer(&b, None, &newer).unwrap_err().to_string();
        assert!(refused.contains("version 2 of the peers' protocol, and 'a' version 3"), "{refused}");
    }
}
