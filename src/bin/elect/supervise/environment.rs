//! The environment of a command, a hook or a check, beyond `elect`'s own.

use std::ffi::OsString;

use leader_election::{CandidateName, ElectionName, FencingToken, leadership::ClusterId};

/// Variables of systemd for `elect`, not for its children.
pub(crate) const OF_SYSTEMD: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Variables withheld from commands, hooks and checks: those, and secrets of `elect`.
pub(crate) const WITHHELD: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "ELECT_PASSWORD"];

/// Variables to set.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// Returns the candidate's name and its election.
pub(crate) fn of_candidate(name: &CandidateName, election: &ElectionName) -> Variables {
    vec![("ELECT_NAME", name.to_string().into()), ("ELECT_ELECTION", election.to_string().into())]
}

/// Returns the term's token, and the cluster that issued it.
pub(crate) fn of_term(token: FencingToken, cluster: ClusterId) -> Variables {
    vec![("ELECT_TOKEN", token.to_string().into()), ("ELECT_CLUSTER", cluster.to_string().into())]
}
