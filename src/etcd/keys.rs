//! The keys of etcd's own election: `<election>/<lease id in hex>`.
//!
//! Shared with `etcdctl elect` and with Go's concurrency package, so one queue can hold candidates of all of
//! them. The order is by `create_revision`.

use std::fmt;

use super::announcement::Announcement;
use crate::{leadership::FencingToken, names::ElectionName};

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

/// The role of a key under an election's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// A candidate's key: `<election>/` and the id of its lease.
    Candidate,
    /// Put by hand. It blocks every candidate behind it, as in etcd's own election, but leads nothing.
    Foreign,
    /// Not part of the queue: it belongs to an election named `<election>/…`.
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
}
