//! The keys of etcd's own election: `<election>/<lease id in hex>`.
//!
//! Shared with `etcdctl elect` and with Go's concurrency package, so that one queue can
//! hold candidates of all of them. Who comes first is decided by `create_revision`.

use std::fmt;

use crate::{leadership::FencingToken, names::ElectionName};

/// A point in etcd's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Revision(pub(crate) i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a lease. etcd gives out any 63-bit number but 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub(crate) i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The token of the term that a key with this `create_revision` leads in.
pub(crate) fn token(created: Revision) -> FencingToken {
    FencingToken::new(created.0.unsigned_abs())
}

/// The prefix that all keys of an election share.
pub(crate) fn prefix(election: &ElectionName) -> String {
    format!("{election}/")
}

/// The key of the candidate that holds `lease`.
pub(crate) fn candidate_key(election: &ElectionName, lease: LeaseId) -> Vec<u8> {
    format!("{election}/{lease}").into_bytes()
}

/// Whether a key under the election's prefix is one that a candidate made, as far as its
/// name tells: `<election>/` and a lease's number.
///
/// Anything else there was put by hand. It holds up everybody behind it, as it does for
/// etcd's own election, but it leads nothing.
pub(crate) fn named_as_candidate(election: &ElectionName, key: &[u8]) -> Option<LeaseId> {
    let number = key.strip_prefix(prefix(election).as_bytes())?;
    let number = std::str::from_utf8(number).ok()?;
    let lease = LeaseId(i64::from_str_radix(number, 16).ok()?);
    // Only the one form that etcd itself writes.
    (lease.0 > 0 && candidate_key(election, lease) == key).then_some(lease)
}

/// Whether a key is the one that a candidate of some election made for `lease`.
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
        let named = |key: &[u8]| named_as_candidate(&election, key);
        assert_eq!(named(b"leader/2a"), Some(LeaseId(42)));
        for key in [
            "leader/me",
            "leader/2A",
            "leader/02a",
            "leader/+2a",
            "leader/-2a",
            "leader/0",
            "leader/",
            "other/2a",
        ] {
            assert_eq!(named(key.as_bytes()), None, "{key}");
        }
        assert_eq!(named(b"leader/\xff"), None);
    }
}
