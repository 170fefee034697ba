//! What a command, a hook or a check finds in its environment, beyond what `elect` found in its own.

use std::ffi::OsString;

use leader_election::{CandidateName, ElectionName, FencingToken, leadership::ClusterId};

/// systemd's word to `elect`, and not to what it starts.
pub(crate) const OF_SYSTEMD: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// What commands, hooks and checks do not get: that, and what only `elect` should know.
pub(crate) const WITHHELD: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "ELECT_PASSWORD"];

/// Variables to be set.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// Who stands for what.
pub(crate) fn of_candidate(name: &CandidateName, election: &ElectionName) -> Variables {
    vec![("ELECT_NAME", name.to_string().into()), ("ELECT_ELECTION", election.to_string().into())]
}

/// Which term this is, and whose token that is.
pub(crate) fn of_term(token: FencingToken, cluster: ClusterId) -> Variables {
    vec![("ELECT_TOKEN", token.to_string().into()), ("ELECT_CLUSTER", cluster.to_string().into())]
}
