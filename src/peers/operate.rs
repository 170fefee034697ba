//! Operators and their orders.
//!
//! ```text
//!   operator  ── (nothing) ─────────►
//!             ◄──────── challenge ──
//!             ── order, proof ──────►   permitted? then to the driver of the leader
//!             ◄────── begun, done ──   (or refused, with the reason)
//! ```
//!
//! The right to *operate* differs from a member's, and from an observer's:
//!
//! * With TLS, the caller's certificate has to be for one of the names in [`Settings::with_operators`].
//! * With a secret, the order has to be proved with it: for this server, this order and this challenge.
//! * With neither, the caller has to be on the host of the server that it orders.

use std::net::SocketAddr;

use prost::{Message as _, bytes::Bytes};
use tokio::sync::mpsc;

use super::{
    Settings,
    ledger::Ledger,
    secret::{Nonce, Point, Proof},
    tls::PeerCertificate,
    wire::proto,
};
use crate::{
    names::displayed,
    raft::{
        identity::NodeId,
        membership::{DirectoryId, MemberDisk},
    },
};

/// The fewest digits that name a directory: as many as messages show.
const FEWEST_DIGITS: usize = 8;

/// A new disk for a member, and the receiver of its progress.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub(crate) member: NodeId,
    pub(crate) directory: DirectoryId,
    pub(crate) told: mpsc::UnboundedSender<ReplaceProgress>,
}

/// Progress of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplaceProgress {
    Begun,
    Done,
    Refused(String),
}

/// The addresses of a caller and of the called server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderEnds {
    pub(crate) from: SocketAddr,
    pub(crate) at: SocketAddr,
}

impl OrderEnds {
    /// Returns true if both are of this host.
    fn are_one_host(&self) -> bool {
        let (from, at) = (self.from.ip().to_canonical(), self.at.ip().to_canonical());
        from.is_loopback() || from == at
    }
}

/// The caller's order, if it may operate.
pub(crate) fn permitted(
    settings: &Settings,
    certificate: Option<&PeerCertificate>,
    ends: OrderEnds,
    challenge: &Nonce,
    said: &proto::Operation,
) -> Result<proto::Order, String> {
    if settings.tls().is_some() {
        let named = |name: &String| certificate.is_some_and(|certificate| certificate.is_for(name));
        if !settings.operators().iter().any(named) {
            return Err("the certificate is for none of the names in --operators of this server".to_owned());
        }
    } else if let Some(secret) = settings.secret() {
        if !secret.confirms(
            &proof(settings.election().as_str(), settings.name().as_str(), challenge, &said.order),
            &said.proof,
        ) {
            return Err("this needs the secret of the group: give its --secret-file".to_owned());
        }
    } else if !ends.are_one_host() {
        return Err(
            "without TLS and --secret-file the leader takes orders only from its own host: type the command there".to_owned()
        );
    }
    proto::Order::decode(said.order.clone()).map_err(|_| "it is no order that is known here".to_owned())
}

/// The proof of an operator that it has the secret.
pub(super) fn proof<'a>(election: &'a str, called: &'a str, challenge: &Nonce, order: &'a [u8]) -> Proof<'a> {
    let nonces = [Nonce::default(), *challenge];
    Proof { point: Point::Operator, election, caller: "", called, nonces, said: order }
}

/// The bytes of an order, as sent and proved.
pub(super) fn to_bytes(member: &str, directory: &str) -> Bytes {
    let order = proto::Order { member: member.to_owned(), directory: directory.to_owned() };
    order.encode_to_vec().into()
}

/// The member and the directory that an order names.
///
/// The operator names the directory, by as many digits as a refusal shows: it is never just the present one.
pub(crate) fn named(
    settings: &Settings,
    ledger: &Ledger,
    order: &proto::Order,
) -> Result<(NodeId, DirectoryId), String> {
    let node = order.member.parse().ok().and_then(|name| settings.group().node(&name));
    let node = node.ok_or_else(|| {
        format!(
            "'{}' is not among the peers, which are {}",
            displayed(order.member.as_bytes()),
            listed(settings)
        )
    })?;
    let name = &settings.group().member(node).name;
    let refused = ledger.refused(node);
    if order.directory.is_empty() {
        return Err(match refused {
            Some(directory) => format!(
                "a server called '{name}' was refused with the data directory {0}; if that is the new one, type: elect peers \
                 replace {name} {0}",
                directory.short()
            ),
            None => format!(
                "no server called '{name}' with another data directory was refused here; start it first"
            ),
        });
    }
    let said = order.directory.to_ascii_lowercase();
    let known = [refused, ledger.disk_of(node).map(MemberDisk::directory)];
    let fits =
        |directory: &DirectoryId| said.len() >= FEWEST_DIGITS && directory.to_string().starts_with(&said);
    match known.into_iter().flatten().find(fits) {
        Some(directory) => Ok((node, directory)),
        None => Err(format!(
            "no server called '{name}' was refused with a data directory that begins with {}; give the eight digits that the \
             log of the new one shows",
            displayed(said.as_bytes())
        )),
    }
}

fn listed(settings: &Settings) -> String {
    let names: Vec<_> = settings.group().members().iter().map(|member| member.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::secret::Secret;

    const GROUP: &str = "a=h:1,b=h:2,c=h:3";

    fn settings() -> Settings {
        Settings::new(&"a".parse().unwrap(), GROUP.parse().unwrap(), "data").unwrap()
    }

    fn ends(from: &str, at: &str) -> OrderEnds {
        OrderEnds { from: from.parse().unwrap(), at: at.parse().unwrap() }
    }

    fn said(proof: Bytes) -> proto::Operation {
        proto::Operation { order: to_bytes("c", "0123abcd"), proof }
    }

    #[test]
    fn contract_11_without_tls_and_secret_only_its_own_host_operates_a_server() {
        let permitted = |ends| permitted(&settings(), None, ends, &[1; 16], &said(Bytes::new()));
        assert!(permitted(ends("127.0.0.1:9", "127.0.0.1:1")).is_ok());
        assert!(permitted(ends("10.0.0.1:9", "10.0.0.1:1")).is_ok(), "by its own address");
        let refused = permitted(ends("10.0.0.2:9", "10.0.0.1:1")).unwrap_err();
        assert!(refused.contains("only from its own host"), "{refused}");
    }

    #[test]
    fn contract_11_with_a_secret_an_order_is_proved_for_one_server_and_one_challenge() {
        let secret = Secret::new(&[7; 32]).unwrap();
        let settings = settings().with_secret(secret.clone());
        let here = ends("127.0.0.1:9", "127.0.0.1:1");
        let order = to_bytes("c", "0123abcd");
        let made =
            |called: &str, challenge: &Nonce| secret.prove(&proof("leader", called, challenge, &order));
        let permitted = |proof| permitted(&settings, None, here, &[1; 16], &said(proof));
        assert!(permitted(made("a", &[1; 16])).is_ok());
        for wrong in [Bytes::new(), made("b", &[1; 16]), made("a", &[2; 16])] {
            assert!(permitted(wrong).unwrap_err().contains("--secret-file"));
        }
        // A member's proof differs.
        let member = Proof { point: Point::Caller, ..proof("leader", "a", &[1; 16], &order) };
        assert!(permitted(secret.prove(&member)).is_err());
    }
}
