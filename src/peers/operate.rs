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

use std::{net::SocketAddr, time::Duration};

use prost::{Message as _, bytes::Bytes};
use tokio::sync::mpsc;

use super::{
    Settings,
    ledger::Ledger,
    secret::{Nonce, Point, Proof},
    tls::PeerCertificate,
    wire::proto::{self, order::Order},
};
use crate::{
    choosing::{Cordon, OrderedBy},
    leadership::FencingToken,
    names::displayed,
    raft::{
        identity::NodeId,
        membership::{DirectoryId, MemberDisk},
        orders::{ControlOrder, LONGEST_OPERATOR},
    },
};

/// The fewest digits that name a directory: as many as messages show.
const FEWEST_DIGITS: usize = 8;

/// Longest time that an operator can give a target to catch up.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// An order to this server, and the receiver of its progress.
#[derive(Debug)]
pub(crate) struct OperatorOrder {
    pub(crate) task: OrderTask,
    pub(crate) told: mpsc::UnboundedSender<OrderProgress>,
}

/// The contents of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderTask {
    /// Another disk for a member.
    Replace { member: NodeId, directory: DirectoryId },
    /// Another leader.
    Transfer { to: NodeId, token: Option<FencingToken>, within: Duration, by: OrderedBy },
    /// Another standing order.
    Control(ControlOrder),
}

/// Progress of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderProgress {
    Begun,
    Done,
    /// The target of a transfer leads, with that token.
    Led(FencingToken),
    Refused(String),
    /// A transfer was begun, and that member leads.
    Void(String),
    Unconfirmed(String),
}

impl OrderTask {
    /// The order in a few words, for the log.
    pub(crate) fn described(&self, settings: &Settings) -> String {
        let name = |node: &NodeId| &settings.group().member(*node).name;
        match self {
            Self::Replace { member, directory } => {
                format!("replace the data directory of {} by {}", name(member), directory.short())
            }
            Self::Transfer { to, by, .. } => format!("transfer to {}, by {}", name(to), by.operator),
            Self::Control(ControlOrder::Cordon { member, cordon }) => {
                format!("cordon {}, by {}", name(member), cordon.by.operator)
            }
            Self::Control(ControlOrder::Uncordon { member }) => format!("uncordon {}", name(member)),
            Self::Control(ControlOrder::Pause(by)) => format!("pause, by {}", by.operator),
            Self::Control(ControlOrder::Resume) => "resume".to_owned(),
        }
    }
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
pub(super) fn to_bytes(order: Order) -> Bytes {
    proto::Order { order: Some(order) }.encode_to_vec().into()
}

/// The task of an order, if all that it names is there.
pub(crate) fn understood(
    settings: &Settings,
    ledger: &Ledger,
    order: proto::Order,
) -> Result<OrderTask, String> {
    let order = order.order.ok_or("it is no order that is known here")?;
    Ok(match order {
        Order::Replace(proto::ReplaceOrder { member, directory }) => {
            let member = member_called(settings, &member)?;
            OrderTask::Replace { member, directory: directory_of(settings, ledger, member, &directory)? }
        }
        Order::Transfer(proto::TransferOrder { member, token, within_ms, by }) => OrderTask::Transfer {
            to: member_called(settings, &member)?,
            token: (token > 0).then_some(FencingToken::new(token)),
            within: Duration::from_millis(within_ms).min(LONGEST_WAIT),
            by: operator(by)?,
        },
        Order::Cordon(proto::CordonOrder { member, hard, by }) => {
            let (member, cordon) = (member_called(settings, &member)?, Cordon::new(hard, operator(by)?));
            OrderTask::Control(ControlOrder::Cordon { member, cordon })
        }
        Order::Uncordon(proto::UncordonOrder { member }) => {
            OrderTask::Control(ControlOrder::Uncordon { member: member_called(settings, &member)? })
        }
        Order::Pause(proto::PauseOrder { by }) => OrderTask::Control(ControlOrder::Pause(operator(by)?)),
        Order::Resume(proto::ResumeOrder {}) => OrderTask::Control(ControlOrder::Resume),
    })
}

/// The operator, as it calls itself: one short line.
fn operator(by: Option<proto::OrderedBy>) -> Result<OrderedBy, String> {
    let by = OrderedBy::from(by.unwrap_or_default());
    if by.operator.is_empty() || by.operator.len() > LONGEST_OPERATOR {
        return Err(format!("an operator's name has 1 to {LONGEST_OPERATOR} bytes"));
    }
    Ok(OrderedBy::new(displayed(by.operator.as_bytes()).chars().take(LONGEST_OPERATOR / 4).collect(), by.at))
}

fn member_called(settings: &Settings, name: &str) -> Result<NodeId, String> {
    let node = name.parse().ok().and_then(|name| settings.group().node(&name));
    node.ok_or_else(|| {
        format!("'{}' is not among the peers, which are {}", displayed(name.as_bytes()), listed(settings))
    })
}

/// The directory that an order names.
///
/// The operator names it by as many digits as a refusal shows: it is never just the present one.
fn directory_of(
    settings: &Settings,
    ledger: &Ledger,
    node: NodeId,
    directory: &str,
) -> Result<DirectoryId, String> {
    let name = &settings.group().member(node).name;
    let refused = ledger.refused(node);
    if directory.is_empty() {
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
    let said = directory.to_ascii_lowercase();
    let known = [refused, ledger.disk_of(node).map(MemberDisk::directory)];
    let fits =
        |directory: &DirectoryId| said.len() >= FEWEST_DIGITS && directory.to_string().starts_with(&said);
    match known.into_iter().flatten().find(fits) {
        Some(directory) => Ok(directory),
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

    fn replace_c() -> Bytes {
        let (member, directory) = ("c".to_owned(), "0123abcd".to_owned());
        to_bytes(Order::Replace(proto::ReplaceOrder { member, directory }))
    }

    fn said(proof: Bytes) -> proto::Operation {
        proto::Operation { order: replace_c(), proof }
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
        let order = replace_c();
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
