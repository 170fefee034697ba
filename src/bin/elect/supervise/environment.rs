//! The environment of a command, a hook or a check, beyond `elect`'s own.

use std::ffi::OsString;

use leader_election::{FencingToken, leadership::ClusterId};

use crate::config::{CandidateConfig, Config};

/// Variables of systemd for `elect`, not for its children.
pub(crate) const OF_SYSTEMD: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Variables withheld from commands, hooks and checks: those, and secrets of `elect`.
pub(crate) const WITHHELD: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "ELECT_PASSWORD"];

/// Variables to set.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// Returns the candidate's name, its election, and its address if it advertises one.
pub(crate) fn of_candidate(candidate: &CandidateConfig, config: &Config) -> Variables {
    let mut variables = vec![
        ("ELECT_NAME", candidate.name.to_string().into()),
        ("ELECT_ELECTION", config.election.to_string().into()),
    ];
    if let Some(address) = &candidate.preferences.advertise {
        variables.push(("ELECT_ADVERTISE", address.to_string().into()));
    }
    variables
}

/// Returns the term's token, and the cluster that issued it.
pub(crate) fn of_term(token: FencingToken, cluster: ClusterId) -> Variables {
    vec![("ELECT_TOKEN", token.to_string().into()), ("ELECT_CLUSTER", cluster.to_string().into())]
}
