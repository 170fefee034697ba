//! Conversion between Raft's own types and the bytes of `proto/peers.proto`, on a connection and on a disk.
//!
//! Decoded messages are well formed, and no more: the core, which has bounds for everything, judges the contents.

use std::sync::Arc;

pub(crate) use self::orders::time;
pub(crate) use self::short::{LONGEST_FIRST_WORD, ShortAtFirst};
use prost::Message as _;
use proto::{entry, message::Kind};

use crate::{
    choosing::Priority,
    clock::Timestamp,
    leadership::ClusterId,
    raft::{
        identity::{Index, MAX_MEMBERS, NodeId, Position, Term},
        log::{Conflict, Entry, Payload, Proclamation, Snapshot, TimeOfDay},
        membership::{DirectoryId, MemberDisk, MemberDisks},
        message::{Envelope, Message},
        orders::ElectionRecord,
    },
};

mod orders;
mod short;

/// The types that are generated from `proto/peers.proto`.
pub(crate) mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated; proto/peers.proto documents the messages"
    )]
    tonic::include_proto!("elect.peers.v1");
}

/// No server of this program has encoded this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(crate) struct Malformed(&'static str);

/// The two members of a connection, and their group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) cluster: ClusterId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// The sender's, as sent on this connection.
    pub(crate) directory: DirectoryId,
}

impl Route {
    /// Decodes a message that came by this route.
    pub(crate) fn decode(self, message: proto::Message) -> Result<Envelope, Malformed> {
        let Self { cluster, from, to, directory } = self;
        let term = Term::new(message.term);
        let kind = message.kind.ok_or(Malformed("a message of no known kind"))?;
        Ok(Envelope { cluster, from, to, directory, term, message: kind.try_into()? })
    }
}

impl From<Envelope> for proto::Message {
    fn from(envelope: Envelope) -> Self {
        Self {
            term: envelope.term.get(),
            kind: Some(envelope.message.into()),
            writes: 0,
            tallies: Vec::new(),
        }
    }
}

/// An entry, as it is kept on disk.
pub(crate) fn entry_to_bytes(entry: &Entry) -> Vec<u8> {
    proto::Entry::from(entry.clone()).encode_to_vec()
}

/// An entry, as it was read from a disk.
pub(crate) fn entry_from_bytes(bytes: &[u8]) -> Result<Entry, Malformed> {
    let entry = proto::Entry::decode(bytes).map_err(|_| Malformed("an entry that can't be decoded"))?;
    entry.try_into()
}

/// A snapshot, as it is kept on disk.
pub(crate) fn snapshot_to_bytes(snapshot: &Snapshot) -> Vec<u8> {
    proto::Snapshot::from(snapshot.clone()).encode_to_vec()
}

/// A snapshot, as it was read from a disk.
pub(crate) fn snapshot_from_bytes(bytes: &[u8]) -> Result<Snapshot, Malformed> {
    let snapshot =
        proto::Snapshot::decode(bytes).map_err(|_| Malformed("a snapshot that can't be decoded"))?;
    snapshot.try_into()
}

impl From<Message> for Kind {
    fn from(message: Message) -> Self {
        match message {
            Message::PreVote { last, sent } => {
                Self::PreVote(proto::PreVote { last: Some(last.into()), sent: sent.as_nanos() })
            }
            Message::PreVoteGranted { echo } => {
                Self::PreVoteGranted(proto::PreVoteGranted { echo: echo.as_nanos() })
            }
            Message::RequestVote { last, transfer } => {
                Self::RequestVote(proto::RequestVote { last: Some(last.into()), transfer })
            }
            Message::VoteGranted => Self::VoteGranted(proto::VoteGranted {}),
            Message::Append { previous, entries, commit, sent } => Self::Append(proto::Append {
                previous: Some(previous.into()),
                entries: entries.into_iter().map(Into::into).collect(),
                commit: commit.get(),
                sent: sent.as_nanos(),
            }),
            Message::Appended { matched, echo, stands } => Self::Appended(proto::Appended {
                matched: matched.get(),
                echo: echo.as_nanos(),
                stands: stands.is_some(),
                priority: stands.map(Priority::get),
            }),
            Message::Rejected { previous, conflict, echo, stands } => Self::Rejected(proto::Rejected {
                previous: previous.get(),
                conflict_term: conflict.term.map(Term::get),
                conflict_first: conflict.first.get(),
                echo: echo.as_nanos(),
                stands: stands.is_some(),
                priority: stands.map(Priority::get),
            }),
            Message::Install { snapshot, sent } => {
                Self::Install(proto::Install { snapshot: Some(snapshot.into()), sent: sent.as_nanos() })
            }
            Message::TimeoutNow { farewell } => {
                Self::TimeoutNow(proto::TimeoutNow { farewell: farewell.map(Into::into) })
            }
            Message::Outdated => Self::Outdated(proto::Outdated {}),
        }
    }
}

impl TryFrom<Kind> for Message {
    type Error = Malformed;

    fn try_from(kind: Kind) -> Result<Self, Malformed> {
        Ok(match kind {
            Kind::PreVote(asked) => {
                Self::PreVote { last: position(asked.last)?, sent: Timestamp::from_nanos(asked.sent) }
            }
            Kind::PreVoteGranted(answer) => Self::PreVoteGranted { echo: Timestamp::from_nanos(answer.echo) },
            Kind::RequestVote(asked) => {
                Self::RequestVote { last: position(asked.last)?, transfer: asked.transfer }
            }
            Kind::VoteGranted(proto::VoteGranted {}) => Self::VoteGranted,
            Kind::Append(append) => Self::Append {
                previous: position(append.previous)?,
                entries: append.entries.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                commit: Index::new(append.commit),
                sent: Timestamp::from_nanos(append.sent),
            },
            Kind::Appended(answer) => Self::Appended {
                matched: Index::new(answer.matched),
                echo: Timestamp::from_nanos(answer.echo),
                stands: stands(answer.stands, answer.priority),
            },
            Kind::Rejected(answer) => Self::Rejected {
                previous: Index::new(answer.previous),
                conflict: Conflict {
                    term: answer.conflict_term.map(Term::new),
                    first: Index::new(answer.conflict_first),
                },
                echo: Timestamp::from_nanos(answer.echo),
                stands: stands(answer.stands, answer.priority),
            },
            Kind::Install(install) => Self::Install {
                snapshot: install.snapshot.ok_or(Malformed("no snapshot in Install"))?.try_into()?,
                sent: Timestamp::from_nanos(install.sent),
            },
            Kind::TimeoutNow(proto::TimeoutNow { farewell }) => {
                Self::TimeoutNow { farewell: farewell.map(TryInto::try_into).transpose()? }
            }
            Kind::Outdated(proto::Outdated {}) => Self::Outdated,
        })
    }
}

impl From<Position> for proto::Position {
    fn from(Position { term, index }: Position) -> Self {
        Self { term: term.get(), index: index.get() }
    }
}

fn position(position: Option<proto::Position>) -> Result<Position, Malformed> {
    let position = position.ok_or(Malformed("a place in the log is missing"))?;
    Ok(Position { term: Term::new(position.term), index: Index::new(position.index) })
}

impl From<Entry> for proto::Entry {
    fn from(Entry { at, payload }: Entry) -> Self {
        let payload = match payload {
            Payload::Leadership(Proclamation { who, value, since, address, farewell }) => {
                entry::Payload::Leadership(proto::Leadership {
                    who: who.place() as u32,
                    value: bytes(&value),
                    since: since.0,
                    address: address.as_deref().map(str::to_owned),
                    farewell: farewell.map(Into::into),
                })
            }
            Payload::Record(record) => entry::Payload::Record(bytes(&record)),
            Payload::Disks(disks) => entry::Payload::Seats(disks.into()),
            Payload::Controls(orders) => entry::Payload::Controls(orders.into()),
        };
        Self { at: Some(at.into()), payload: Some(payload) }
    }
}

impl TryFrom<proto::Entry> for Entry {
    type Error = Malformed;

    fn try_from(entry: proto::Entry) -> Result<Self, Malformed> {
        let payload = match entry.payload.ok_or(Malformed("an entry of no known kind"))? {
            entry::Payload::Leadership(proto::Leadership { who, value, since, address, farewell }) => {
                let farewell = farewell.map(TryInto::try_into).transpose()?;
                let (who, value, since) = (node(who)?, Arc::from(&value[..]), TimeOfDay(since));
                let address = address.map(Arc::from);
                Payload::Leadership(Proclamation { who, value, since, address, farewell })
            }
            entry::Payload::Record(record) => Payload::Record(Arc::from(&record[..])),
            entry::Payload::Seats(disks) => Payload::Disks(disks.try_into()?),
            entry::Payload::Controls(orders) => Payload::Controls(orders.try_into()?),
        };
        Ok(Self { at: position(entry.at)?, payload })
    }
}

impl From<Snapshot> for proto::Snapshot {
    fn from(Snapshot { at, data, disks, record }: Snapshot) -> Self {
        let (seated, seats) = disks.map(|(named_at, disks)| (named_at.get(), disks.into())).unzip();
        Self {
            at: Some(at.into()),
            data: bytes(&data),
            seats,
            seated: seated.unwrap_or(0),
            controls: Some(record.orders.into()),
            terms: record.terms.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Snapshot> for Snapshot {
    type Error = Malformed;

    fn try_from(snapshot: proto::Snapshot) -> Result<Self, Malformed> {
        let disks = snapshot.seats.map(TryInto::try_into).transpose()?;
        let disks = disks.map(|disks| (Index::new(snapshot.seated), disks));
        // One of an earlier version has no orders, and no terms.
        let orders = snapshot.controls.map(TryInto::try_into).transpose()?.unwrap_or_default();
        let terms = snapshot.terms.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let record = ElectionRecord { orders, terms };
        Ok(Self { at: position(snapshot.at)?, data: Arc::from(&snapshot.data[..]), disks, record })
    }
}

impl From<MemberDisks> for proto::MemberDisks {
    fn from(disks: MemberDisks) -> Self {
        let disk = |disk: &MemberDisk| proto::MemberDisk {
            directory: prost::bytes::Bytes::copy_from_slice(disk.directory().as_bytes()),
            incoming: matches!(disk, MemberDisk::Incoming(_)),
            founding: matches!(disk, MemberDisk::Founding(_)),
        };
        Self { seats: disks.all().iter().map(disk).collect() }
    }
}

impl TryFrom<proto::MemberDisks> for MemberDisks {
    type Error = Malformed;

    fn try_from(disks: proto::MemberDisks) -> Result<Self, Malformed> {
        let disk = |disk: proto::MemberDisk| {
            let directory = disk.directory.as_ref().try_into().map_err(|_| Malformed("a directory"))?;
            let directory = DirectoryId::from_bytes(directory);
            match (disk.incoming, disk.founding) {
                (true, false) => Ok(MemberDisk::Incoming(directory)),
                (false, true) => Ok(MemberDisk::Founding(directory)),
                (false, false) => Ok(MemberDisk::Voting(directory)),
                (true, true) => Err(Malformed("a disk that is both the first and a replacement")),
            }
        };
        let disks = disks.seats.into_iter().map(disk).collect::<Result<Vec<_>, _>>()?;
        if disks.is_empty() || disks.len() > usize::from(MAX_MEMBERS) {
            return Err(Malformed("disks of no possible group"));
        }
        Ok(Self::of(disks))
    }
}

/// The priority of a server that would take over; an earlier version names none.
fn stands(stands: bool, priority: Option<u32>) -> Option<Priority> {
    stands.then(|| priority.map_or(Priority::DEFAULT, Priority::new))
}

fn node(place: u32) -> Result<NodeId, Malformed> {
    let place = u8::try_from(place).map_err(|_| Malformed("a member of no possible group"))?;
    Ok(NodeId::new(place))
}

fn bytes(shared: &Arc<[u8]>) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(shared)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTE: Route = Route {
        cluster: ClusterId(3),
        from: NodeId::new(1),
        to: NodeId::new(0),
        directory: DirectoryId::from_bytes([9; 16]),
    };

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>())
            .prop_map(|(term, index)| Position { term: Term::new(term), index: Index::new(index) })
    }

    fn shared() -> impl Strategy<Value = Arc<[u8]>> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Arc::from)
    }

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        any::<u64>().prop_map(Timestamp::from_nanos)
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let farewell = prop::option::of(orders::tests::farewells());
        let address = prop::option::of("[a-z:0-9]{0,9}".prop_map(Arc::from));
        let announcement = (any::<u8>(), shared(), any::<u64>(), address, farewell);
        let announcement = announcement.prop_map(|(who, value, since, address, farewell)| {
            let (who, since) = (NodeId::new(who), TimeOfDay(since));
            Payload::Leadership(Proclamation { who, value, since, address, farewell })
        });
        let payloads = prop_oneof![
            announcement,
            shared().prop_map(Payload::Record),
            disks().prop_map(Payload::Disks),
            orders::tests::standing_orders().prop_map(Payload::Controls),
        ];
        (positions(), payloads).prop_map(|(at, payload)| Entry { at, payload })
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        let disks = prop::option::of((any::<u64>().prop_map(Index::new), disks()));
        let record = orders::tests::records();
        (positions(), shared(), disks, record).prop_map(|(at, data, disks, record)| Snapshot {
            at,
            data,
            disks,
            record,
        })
    }

    fn disks() -> impl Strategy<Value = MemberDisks> {
        let disk = (any::<[u8; 16]>(), 0..3_usize).prop_map(|(directory, kind)| {
            [MemberDisk::Founding, MemberDisk::Incoming, MemberDisk::Voting][kind](DirectoryId::from_bytes(
                directory,
            ))
        });
        prop::collection::vec(disk, 1..=usize::from(MAX_MEMBERS)).prop_map(MemberDisks::of)
    }

    fn stances() -> impl Strategy<Value = Option<Priority>> {
        prop::option::of(any::<u32>().prop_map(Priority::new))
    }

    fn messages() -> impl Strategy<Value = Message> {
        let indexes = || any::<u64>().prop_map(Index::new);
        prop_oneof![
            (positions(), timestamps()).prop_map(|(last, sent)| Message::PreVote { last, sent }),
            timestamps().prop_map(|echo| Message::PreVoteGranted { echo }),
            (positions(), any::<bool>()).prop_map(|(last, transfer)| Message::RequestVote { last, transfer }),
            Just(Message::VoteGranted),
            (positions(), prop::collection::vec(entries(), 0..5), indexes(), timestamps()).prop_map(
                |(previous, entries, commit, sent)| Message::Append { previous, entries, commit, sent }
            ),
            (indexes(), timestamps(), stances()).prop_map(|(matched, echo, stands)| Message::Appended {
                matched,
                echo,
                stands
            }),
            (indexes(), any::<Option<u64>>(), indexes(), timestamps(), stances()).prop_map(
                |(previous, term, first, echo, stands)| {
                    let conflict = Conflict { term: term.map(Term::new), first };
                    Message::Rejected { previous, conflict, echo, stands }
                }
            ),
            (snapshots(), timestamps()).prop_map(|(snapshot, sent)| Message::Install { snapshot, sent }),
            prop::option::of(orders::tests::farewells())
                .prop_map(|farewell| Message::TimeoutNow { farewell }),
            Just(Message::Outdated),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives_as_it_was(term: u64, message in messages()) {
            let Route { cluster, from, to, directory } = ROUTE;
            let envelope = Envelope { cluster, from, to, directory, term: Term::new(term), message };
            let sent = proto::Message::from(envelope.clone()).encode_to_vec();
            let received = proto::Message::decode(&sent[..]).unwrap();
            prop_assert_eq!(ROUTE.decode(received).unwrap(), envelope);
        }

        #[test]
        fn what_is_stored_is_read_as_it_was(entry in entries(), snapshot in snapshots()) {
            prop_assert_eq!(entry_from_bytes(&entry_to_bytes(&entry)).unwrap(), entry);
            prop_assert_eq!(snapshot_from_bytes(&snapshot_to_bytes(&snapshot)).unwrap(), snapshot);
        }

        /// Any bytes of a connection or a disk are a message or an error.
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = proto::Message::decode(&garbage[..]) {
                let _ = ROUTE.decode(message);
            }
            let _ = entry_from_bytes(&garbage);
            let _ = snapshot_from_bytes(&garbage);
        }
    }
}
