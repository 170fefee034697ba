//! A server under members that send anything at all: fuzzed greetings, and fuzzed frames, decoded and fed to the
//! real core.
//!
//! Raft trusts its members to follow the protocol, and TLS keeps strangers out. So no safety is claimed under a
//! lying member: it can vote twice. Claimed, and checked here after each frame, are a server's own obligations:
//!
//! * nothing that can be decoded makes it panic;
//! * its term only grows, and by no more than one leap for each frame;
//! * no applied entry is ever applied again with other contents;
//! * its own validity is never counted from a time in the future.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use prost::Message as _;

use super::{
    Group, PeerStatus, Settings, SyncTimes,
    handshake::{self, Side},
    status_wire,
    wire::{Route, entry_from_bytes, entry_to_bytes, proto, snapshot_from_bytes, snapshot_to_bytes},
};
use crate::{
    clock::Timestamp,
    leadership::ClusterId,
    raft::{
        action::{Actions, Effect, Input, LeadershipChange, Nomination, Now, Stored, Write},
        core::CoreConfig,
        identity::{Members, NodeId, Position},
        log::TimeOfDay,
        membership::{DirectoryId, FirstDirectories, VotingRights},
        message::{LONGEST_LEAP, Limits},
        node::Node,
        timing::{Random, Timing},
    },
};

const CLUSTER: ClusterId = ClusterId(1);
const ME: NodeId = NodeId::new(0);

/// More than a fuzzer needs to find its way, and few enough to be quick.
const MOST_STEPS: usize = 64;

/// The longest frame: one byte holds its length.
const LONGEST_FRAME: usize = u8::MAX as usize;

/// The clock's start: long after boot.
const START: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

/// One server of three, with values that it must never take back.
struct Victim {
    node: Option<Node>,
    now: Timestamp,
    writes: Vec<Write>,
    disk: Stored,
    applied: BTreeMap<u64, Position>,
}

impl Victim {
    fn new() -> Self {
        let (timing, limits) = (Timing::DEFAULT, Limits::DEFAULT);
        let members = Members::of(3).expect("three are a group");
        let config = CoreConfig {
            me: ME,
            members,
            cluster: CLUSTER,
            timing,
            limits,
            voting_rights: VotingRights::Full,
            directory: DirectoryId::in_tests(ME),
            moves: crate::raft::preference::MoveDelays::DEFAULT,
            founders: FirstDirectories::all_of(members),
            mutant: None,
        };
        let now = Now { boot_time: START, today: TimeOfDay(0), draw: Random(0) };
        let disk = Stored::nothing();
        let node = Node::start(config, disk.clone(), &now).expect("an empty disk is in order");
        let mut victim =
            Self { node: Some(node), now: START, writes: Vec::new(), disk, applied: BTreeMap::new() };
        victim.step(Input::Stand(Nomination::of(*b"me")));
        victim
    }

    fn step(&mut self, input: Input) {
        let now = Now { boot_time: self.now, today: TimeOfDay(0), draw: Random(0) };
        let before = self.node.take().expect("each step gives it back");
        let term = before.term();
        let (node, Actions { effects, write }) = before.step(now, input);
        assert!(node.term() >= term, "the term fell");
        let leap = node.term().get() - term.get();
        assert!(leap <= LONGEST_LEAP + 1, "the term leapt by {leap}");
        for effect in &effects {
            self.check(effect);
        }
        self.writes.extend(write);
        self.node = Some(node);
    }

    fn check(&mut self, effect: &Effect) {
        match effect {
            Effect::Apply(entries) => {
                for entry in entries {
                    let again = self.applied.insert(entry.at.index.get(), entry.at);
                    assert_eq!(again, None, "applied twice");
                }
            }
            Effect::Restore(snapshot) => {
                let reached = self.applied.last_key_value().map_or(0, |(index, _)| *index);
                assert!(snapshot.at.index.get() > reached, "a snapshot took back what was applied");
                self.applied.insert(snapshot.at.index.get(), snapshot.at);
            }
            Effect::Leadership(
                LeadershipChange::Gained { until, .. } | LeadershipChange::Extended { until, .. },
            ) => {
                assert!(*until <= self.now + Timing::DEFAULT.shortest(), "valid for too long");
            }
            Effect::Send(_)
            | Effect::Leadership(_)
            | Effect::Objection { .. }
            | Effect::TransferRefused { .. }
            | Effect::TransferBegun { .. }
            | Effect::Accepted { .. }
            | Effect::Declined { .. } => {}
        }
    }

    fn sync(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            self.disk.apply(&write);
            self.step(Input::Persisted(write.persisted()));
        }
    }

    /// A frame, as a connection delivers it.
    fn hear(&mut self, from: NodeId, frame: &[u8]) {
        let route = Route { cluster: CLUSTER, from, to: ME, directory: DirectoryId::in_tests(from) };
        let Ok(message) = proto::Message::decode(frame) else { return };
        let Ok(envelope) = route.decode(message) else { return };
        let again = proto::Message::from(envelope.clone());
        assert_eq!(route.decode(again).as_ref(), Ok(&envelope), "another message by its own encoding");
        self.step(Input::Receive(envelope));
    }
}

/// Follows the bytes: time passes, the disk catches up, or a member sends a frame.
fn attack(mut orders: &[u8]) {
    let mut victim = Victim::new();
    for _ in 0..MOST_STEPS {
        let [order, rest @ ..] = orders else { return };
        orders = rest;
        match order % 6 {
            0 => {
                let node = victim.node.as_ref().expect("each step gives it back");
                victim.now = victim.now.max(node.deadline());
                victim.step(Input::Tick);
            }
            1 => victim.now = victim.now + Timing::DEFAULT.heartbeat(),
            2 => victim.sync(),
            member => {
                let [length, rest @ ..] = orders else { return };
                let (frame, rest) = rest.split_at(rest.len().min(usize::from(*length)).min(LONGEST_FRAME));
                orders = rest;
                victim.hear(NodeId::new(member - 2), frame);
            }
        }
    }
}

#[test]
fn fuzz_frames() {
    bolero::check!().for_each(attack);
}

/// A disk's contents: an entry or a snapshot of this program, or an error.
#[test]
fn fuzz_stored() {
    bolero::check!().for_each(|stored: &[u8]| {
        if let Ok(entry) = entry_from_bytes(stored) {
            assert_eq!(entry_from_bytes(&entry_to_bytes(&entry)), Ok(entry));
        }
        if let Ok(snapshot) = snapshot_from_bytes(stored) {
            assert_eq!(snapshot_from_bytes(&snapshot_to_bytes(&snapshot)), Ok(snapshot));
        }
    });
}

/// Messages of members that meet, and answers to observers. The fuzzed bytes are laid over a good message, field by
/// field: by themselves they would fail the first comparison.
#[test]
fn fuzz_greetings() {
    let group: Group = "a=h:1,b=h:2,c=h:3".parse().expect("it is a group");
    let [a, b] = ["a", "b"].map(|name| {
        let name = name.parse().expect("it is a name");
        Settings::new(&name, group.clone(), "data").expect("it is listed")
    });
    // Nothing is used after a panic.
    let members = AssertUnwindSafe([a, b]);
    let shown = |text: String| assert!(!text.contains(crate::names::forges) && text.len() < 8192, "{text:?}");
    bolero::check!().for_each(|bytes: &[u8]| {
        let [a, b] = &*members;
        let mut greeting = handshake::ours_on(a, [7; 16]);
        if greeting.merge(bytes).is_ok() {
            for end in [Side::Accepted(NodeId::new(0)), Side::Dialled(NodeId::new(0))] {
                match handshake::compare(b, end, &greeting) {
                    Ok(met) => assert_eq!(met.node, NodeId::new(0)),
                    Err(difference) => shown(difference.to_string()),
                }
            }
        }
        let look = PeerStatus {
            name: a.name().clone(),
            term: 1,
            role: "follower".into(),
            standing: true,
            leader: None,
            links: Vec::new(),
            timing: Some(*a.timing()),
            syncs: SyncTimes::default(),
            profile: crate::choosing::CandidateProfile::default(),
            controls: crate::choosing::Controls::default(),
        };
        let mut told = status_wire::told(a, &look, START.as_nanos());
        if told.merge(bytes).is_ok() {
            match status_wire::read((&group, a.election()), &group.members()[0], told, (START, START)) {
                Ok(read) => {
                    assert!(read.from <= START, "from a moment that lies ahead");
                    // As it is printed.
                    let since = read
                        .look
                        .leader
                        .as_ref()
                        .map(|leader| humantime::format_rfc3339_millis(leader.since));
                    shown(format!(
                        "{:?} {}",
                        read.look,
                        since.map(|since| since.to_string()).unwrap_or_default()
                    ));
                }
                Err(refused) => shown(refused.to_string()),
            }
        }
    });
}
