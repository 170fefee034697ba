//! The rights that etcd's roles need for an election, as the commands that grant them.

use std::{collections::BTreeSet, sync::Mutex};

use super::{error::EtcdError, keys};
use crate::names::ElectionName;

/// Reports of denied keys, each once a process: attempts and terms repeat.
#[derive(Debug, Default)]
pub(super) struct Denials {
    reported: Mutex<BTreeSet<String>>,
}

impl Denials {
    /// Warns that etcd denies a key, unless it was reported before.
    pub(super) fn report(&self, key: &str, consequence: &str, remedy: &str) {
        let mut reported = self.reported.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if reported.insert(key.to_owned()) {
            // The program's plain log shows those of this target.
            tracing::warn!(target: "problem", "etcd denies '{key}': {consequence}; '{remedy}' ends that");
        }
    }
}

/// Returns the command that grants a right to the role `ROLE`.
fn grant(access: &str, key: &str, prefix: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:/-@+".contains(c);
    let key =
        if key.chars().all(plain) { key.to_owned() } else { format!("'{}'", key.replace('\'', r"'\''")) };
    let prefix = if prefix { " --prefix=true" } else { "" };
    format!("etcdctl role grant-permission ROLE {access} {key}{prefix}")
}

pub(super) fn grant_members(election: &ElectionName) -> String {
    grant("readwrite", &keys::member_prefix(election), true)
}

pub(super) fn grant_history(election: &ElectionName) -> String {
    grant("readwrite", &keys::history_prefix(election), true)
}

/// Returns the commands that grant an operator all that it may do, one a line.
pub(super) fn grants_of_operators(election: &ElectionName) -> String {
    let order = format!("{election}.order");
    let grants = [
        grant("read", election.as_str(), false),
        grant("read", &keys::prefix(election), true),
        grant("read", &keys::member_prefix(election), true),
        grant("readwrite", &order, false),
        grant("readwrite", &keys::control_prefix(election), true),
        grant("read", &keys::history_prefix(election), true),
    ];
    grants.join("\n")
}

/// Returns the text for an operator whose request etcd denies.
pub(super) fn denied(election: &ElectionName, error: &EtcdError) -> String {
    if !error.is_denied() {
        return error.message.clone();
    }
    format!(
        "etcd denies it to this user; these commands let its role operate '{election}':\n{}",
        grants_of_operators(election)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::error::Remedy;

    #[test]
    fn a_denial_names_the_commands_to_run() {
        let election = "leader".parse().unwrap();
        let error = EtcdError { remedy: Remedy::Human, message: "permission denied; grant".into() };
        let commands = "etcdctl role grant-permission ROLE read leader\n\
                        etcdctl role grant-permission ROLE read leader/ --prefix=true\n\
                        etcdctl role grant-permission ROLE read leader.member: --prefix=true\n\
                        etcdctl role grant-permission ROLE readwrite leader.order\n\
                        etcdctl role grant-permission ROLE readwrite leader.control: --prefix=true\n\
                        etcdctl role grant-permission ROLE read leader.history: --prefix=true";
        assert!(denied(&election, &error).ends_with(commands), "{}", denied(&election, &error));
    }

    #[test]
    fn a_key_with_spaces_is_quoted_for_the_shell() {
        let election = "it's mine".parse().unwrap();
        let command = r"etcdctl role grant-permission ROLE readwrite 'it'\''s mine.member:' --prefix=true";
        assert_eq!(grant_members(&election), command);
    }
}
