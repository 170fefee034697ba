//! The keys of etcd's own election: `<election>/<lease id in hex>`.
//!
//! Shared with `etcdctl elect` and with Go's concurrency package, so one queue can hold candidates of all of
//! them. The order is by `create_revision`.
//!
//! Beside the queue are the keys with which its leader is chosen, which only candidates and operators of this
//! package know. None of them is under the election's prefix, where etcd's clients would take it for one of
//! the queue:
//!
//! | key | on the lease of | holds |
//! |---|---|---|
//! | `<election>.member:<lease>` | its candidate | a candidate's record ([`member`](super::member)) |
//! | `<election>.order` | the operator | an order to hand over ([`order`](super::order)) |
//! | `<election>.control:pause`, `<election>.control:cordon:<name>` | – | standing orders ([`control`](super::control)) |
//! | `<election>.history:<slot>` | – | a past term ([`history`](super::history)) |
//!
//! An election may itself be called `leader.order`, and announce its leader at that key. So a value that does
//! not have the form of its key is left alone: readers ignore it, writers do not replace it. To the election
//! `jobs`, keys of these forms that belong to `jobs/cleanup` are not part of the queue.

use std::fmt;

use super::announcement::Announcement;
use crate::{
    leadership::FencingToken,
    names::{CandidateName, ElectionName},
};

/// A point in etcd's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Revision(pub(crate) i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a lease. etcd assigns any 63-bit number but 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub(crate) i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Returns the token of a term whose key has this `create_revision`.
pub(crate) fn token(created: Revision) -> FencingToken {
    FencingToken::new(created.0.unsigned_abs())
}

/// Returns the common prefix of an election's keys.
pub(crate) fn prefix(election: &ElectionName) -> String {
    format!("{election}/")
}

/// Returns the key of the candidate that holds `lease`.
pub(crate) fn candidate_key(election: &ElectionName, lease: LeaseId) -> Vec<u8> {
    format!("{election}/{lease}").into_bytes()
}

/// A key as it was made: one of the same name that was made later is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MadeKey {
    pub(crate) key: Vec<u8>,
    pub(crate) created: Revision,
}

const MEMBER: &str = ".member:";
const ORDER: &str = ".order";
const CONTROL: &str = ".control:";
const PAUSE: &str = "pause";
const CORDON: &str = "cordon:";
const HISTORY: &str = ".history:";

/// Returns the lease of a candidate, from its key in the queue.
pub(crate) fn candidate_lease(election: &ElectionName, key: &[u8]) -> Option<LeaseId> {
    lease_named(key.strip_prefix(prefix(election).as_bytes())?)
}

/// Returns the common prefix of the candidates' records.
pub(crate) fn member_prefix(election: &ElectionName) -> String {
    format!("{election}{MEMBER}")
}

/// Returns the key of a candidate's record.
pub(crate) fn member_key(election: &ElectionName, lease: LeaseId) -> Vec<u8> {
    format!("{election}{MEMBER}{lease}").into_bytes()
}

/// Returns the lease of the candidate whose record this key has.
pub(crate) fn member_lease(election: &ElectionName, key: &[u8]) -> Option<LeaseId> {
    lease_named(key.strip_prefix(member_prefix(election).as_bytes())?)
}

/// Returns the key of an operator's order to hand over.
pub(crate) fn order_key(election: &ElectionName) -> Vec<u8> {
    format!("{election}{ORDER}").into_bytes()
}

/// Returns the common prefix of the standing orders.
pub(crate) fn control_prefix(election: &ElectionName) -> String {
    format!("{election}{CONTROL}")
}

pub(crate) fn pause_key(election: &ElectionName) -> Vec<u8> {
    format!("{election}{CONTROL}{PAUSE}").into_bytes()
}

pub(crate) fn cordon_key(election: &ElectionName, name: &CandidateName) -> Vec<u8> {
    format!("{election}{CONTROL}{CORDON}{name}").into_bytes()
}

/// A standing order, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ControlKey {
    Pause,
    Cordon(CandidateName),
}

/// Parses the key of a standing order.
pub(crate) fn control(election: &ElectionName, key: &[u8]) -> Option<ControlKey> {
    let rest = std::str::from_utf8(key.strip_prefix(control_prefix(election).as_bytes())?).ok()?;
    match rest.strip_prefix(CORDON) {
        Some(name) => name.parse().ok().map(ControlKey::Cordon),
        None => (rest == PAUSE).then_some(ControlKey::Pause),
    }
}

/// Returns the common prefix of the past terms.
pub(crate) fn history_prefix(election: &ElectionName) -> String {
    format!("{election}{HISTORY}")
}

pub(crate) fn history_key(election: &ElectionName, slot: usize) -> Vec<u8> {
    format!("{election}{HISTORY}{slot}").into_bytes()
}

/// Parses the key of a past term.
pub(crate) fn history_slot(election: &ElectionName, key: &[u8]) -> Option<usize> {
    slot_named(key.strip_prefix(history_prefix(election).as_bytes())?)
}

fn slot_named(text: &[u8]) -> Option<usize> {
    let number = std::str::from_utf8(text).ok()?;
    let slot: usize = number.parse().ok()?;
    (slot.to_string() == number).then_some(slot)
}

/// Returns whether a key is one beside the queue of some election.
fn is_beside_a_queue(key: &[u8]) -> bool {
    let Ok(key) = std::str::from_utf8(key) else { return false };
    let named = |(election, _): &(&str, &str)| !election.is_empty() && !election.ends_with('/');
    let after = |mark| key.rsplit_once(mark).filter(named).map(|(_, rest)| rest.as_bytes());
    // A candidate's name may have any of these marks in it.
    let controlled = || {
        key.match_indices(CONTROL).any(|(at, _)| {
            let rest = &key[at + CONTROL.len()..];
            named(&(&key[..at], rest)) && (rest == PAUSE || rest.starts_with(CORDON))
        })
    };
    after(ORDER).is_some_and(<[u8]>::is_empty)
        || after(MEMBER).is_some_and(|rest| lease_named(rest).is_some())
        || after(HISTORY).is_some_and(|rest| slot_named(rest).is_some())
        || controlled()
}

/// The role of a key under an election's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// A candidate's key: `<election>/` and the id of its lease.
    Candidate,
    /// Put by hand. It blocks every candidate behind it, as in etcd's own election, but leads nothing.
    Foreign,
    /// Not part of the queue: it belongs to an election named `<election>/…`, or is beside its queue.
    ///
    /// Leaving it out is safe for a key of any client: only keys of the form of
    /// [`Candidate`](Self::Candidate) can lead this election, here and among etcd's own clients. (Those wait
    /// for every key under the prefix.)
    Elsewhere,
}

/// Classifies a key by its name and, if known, its lease and its value.
pub(crate) fn part_of(election: &ElectionName, key: &[u8], known: Option<(LeaseId, &[u8])>) -> KeyKind {
    let Some(rest) = key.strip_prefix(prefix(election).as_bytes()) else { return KeyKind::Elsewhere };
    if let Some(named) = lease_named(rest) {
        return match known {
            Some((lease, _)) if lease != named => announced_or_foreign(known),
            _ => KeyKind::Candidate,
        };
    }
    if is_beside_a_queue(rest) {
        return KeyKind::Elsewhere;
    }
    let last = rest.iter().rposition(|byte| *byte == b'/').map(|slash| &rest[slash + 1..]);
    match last.and_then(lease_named) {
        Some(_candidate_of_another) => KeyKind::Elsewhere,
        None => announced_or_foreign(known),
    }
}

/// The leader of `<election>/x` announces itself at the key of that name, on its lease.
fn announced_or_foreign(known: Option<(LeaseId, &[u8])>) -> KeyKind {
    match known {
        Some((lease, value)) if lease.0 > 0 && Announcement::from_json(value).is_some() => KeyKind::Elsewhere,
        _ => KeyKind::Foreign,
    }
}

/// Parses the one form in which etcd itself writes a lease's id.
fn lease_named(text: &[u8]) -> Option<LeaseId> {
    let number = std::str::from_utf8(text).ok()?;
    let lease = LeaseId(i64::from_str_radix(number, 16).ok()?);
    (lease.0 > 0 && lease.to_string() == number).then_some(lease)
}

/// Returns whether a key is the one that a candidate of some election made for `lease`.
pub(crate) fn is_candidates_key(key: &[u8], lease: LeaseId) -> bool {
    let election = key.strip_suffix(format!("/{lease}").as_bytes());
    lease.0 > 0 && election.is_some_and(|election| !election.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_own_election() {
        let election: ElectionName = "leader".parse().unwrap();
        assert_eq!(candidate_key(&election, LeaseId(0x694d_71dd)), b"leader/694d71dd");
        assert_eq!(prefix(&election), "leader/");
    }

    #[test]
    fn a_candidates_key_ends_in_its_own_lease() {
        let made = |key: &str, lease| is_candidates_key(key.as_bytes(), LeaseId(lease));
        assert!(made("leader/2a", 42));
        assert!(made("jobs/cleanup/2a", 42));
        for (key, lease) in [("leader/2a", 43), ("leader/12a", 42), ("/2a", 42), ("2a", 42), ("leader/0", 0)]
        {
            assert!(!made(key, lease), "{key}");
        }
    }

    #[test]
    fn a_key_put_by_hand_is_no_candidate() {
        let election: ElectionName = "leader".parse().unwrap();
        let part = |key: &[u8]| part_of(&election, key, None);
        assert_eq!(part(b"leader/2a"), KeyKind::Candidate);
        for key in ["leader/me", "leader/2A", "leader/02a", "leader/+2a", "leader/-2a", "leader/0", "leader/"]
        {
            assert_eq!(part(key.as_bytes()), KeyKind::Foreign, "{key}");
        }
        assert_eq!(part(b"leader/\xff"), KeyKind::Foreign);
        assert_eq!(part(b"other/2a"), KeyKind::Elsewhere);
        let on = |lease| part_of(&election, b"leader/2a", Some((LeaseId(lease), b"me")));
        assert_eq!([on(42), on(43), on(0)], [KeyKind::Candidate, KeyKind::Foreign, KeyKind::Foreign]);
    }

    #[test]
    fn keys_of_an_election_that_is_called_under_this_one_are_not_part_of_it() {
        let election: ElectionName = "jobs".parse().unwrap();
        let part = |key: &[u8]| part_of(&election, key, None);
        for key in ["jobs/cleanup/2a", "jobs/cleanup/deep/694d71dd", "jobs//2a", "jobs/2a/2b"] {
            assert_eq!(part(key.as_bytes()), KeyKind::Elsewhere, "{key}");
        }
        assert_eq!(part(b"jobs/cleanup/me"), KeyKind::Foreign);

        let announced = br#"{"leader":"n","token":7,"since":"2026-01-01T00:00:00.000Z"}"#;
        let inner = |lease, value: &[u8]| part_of(&election, b"jobs/cleanup", Some((LeaseId(lease), value)));
        assert_eq!(inner(42, announced), KeyKind::Elsewhere);
        assert_eq!(inner(0, announced), KeyKind::Foreign, "put by hand: it is on no lease");
        assert_eq!(inner(42, b"mine"), KeyKind::Foreign);
        assert_eq!(part_of(&election, b"jobs/2a", Some((LeaseId(43), announced))), KeyKind::Elsewhere);
    }

    #[test]
    fn keys_beside_a_queue_are_parsed_back() {
        let election: ElectionName = "leader".parse().unwrap();
        let name: CandidateName = "a b/c.order".parse().unwrap();
        assert_eq!(member_key(&election, LeaseId(42)), b"leader.member:2a");
        assert_eq!(member_lease(&election, b"leader.member:2a"), Some(LeaseId(42)));
        assert_eq!(candidate_lease(&election, b"leader/2a"), Some(LeaseId(42)));
        assert_eq!(order_key(&election), b"leader.order");
        assert_eq!(control(&election, &pause_key(&election)), Some(ControlKey::Pause));
        let cordon = cordon_key(&election, &name);
        assert_eq!(control(&election, &cordon), Some(ControlKey::Cordon(name)));
        assert_eq!(history_slot(&election, &history_key(&election, 7)), Some(7));
        for foreign in ["leader.member:2A", "leader.member:", "leader.history:07", "leader.control:", "other"]
        {
            let key = foreign.as_bytes();
            let lease = member_lease(&election, key);
            assert_eq!((lease, history_slot(&election, key), control(&election, key)), (None, None, None));
        }
        assert_eq!(control(&election, b"leader.control:cordon:"), None);
    }

    #[test]
    fn keys_beside_the_queue_of_an_election_that_is_called_under_this_one_are_not_part_of_it() {
        let (jobs, inner): (ElectionName, ElectionName) =
            ("jobs".parse().unwrap(), "jobs/cleanup".parse().unwrap());
        let name: CandidateName = "x.member:".parse().unwrap();
        let beside = [
            member_key(&inner, LeaseId(42)),
            order_key(&inner),
            pause_key(&inner),
            cordon_key(&inner, &name),
            history_key(&inner, 3),
        ];
        for key in beside {
            assert_eq!(part_of(&jobs, &key, None), KeyKind::Elsewhere, "{}", String::from_utf8_lossy(&key));
            assert_eq!(part_of(&inner, &key, None), KeyKind::Elsewhere);
        }
        for key in
            ["jobs/me.order:", "jobs/.order", "jobs/me.member:x", "jobs/a.history:01", "jobs/a.control:x"]
        {
            assert_eq!(part_of(&jobs, key.as_bytes(), None), KeyKind::Foreign, "{key}");
        }
    }
}
