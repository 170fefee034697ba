//! The `ELECT_…` variables: empty ones count as unset, and unknown ones are warned about.

use std::{collections::BTreeSet, env, ffi::OsString};

use clap::{
    Command,
    builder::{OsStr, Resettable},
};

use crate::{
    config::{self, Config},
    log,
};

/// Variables that no flag declares: read elsewhere, or set by `elect run` for what it starts.
const OTHERS: [&str; 7] = [
    "ELECT_NAME",
    "ELECT_PASSWORD",
    "ELECT_TOKEN",
    "ELECT_CLUSTER",
    "ELECT_EVENT",
    "ELECT_LEADER_TOKEN",
    "ELECT_LEADER_ADDRESS",
];

/// Makes the command line ignore empty variables.
///
/// A compose file makes an empty variable of `ELECT_X: ${X}` where X is not set.
pub(super) fn without_empty(command: Command) -> Command {
    let arguments = |arg: clap::Arg| match arg.get_env().and_then(|name| name.to_str()) {
        Some(name) if config::is_empty(name) => arg.env(Resettable::<OsStr>::Reset),
        _ => arg,
    };
    command.mut_args(arguments).mut_subcommands(without_empty)
}

/// Warns about each `ELECT_…` without a meaning, which may be misspelt, about endpoints that only etcdctl
/// reads, and about risks.
pub(super) fn warn(command: &Command, config: &Config) {
    for warning in &config.warnings {
        log::problem(warning);
    }
    for name in unknown(command, env::vars_os().map(|(name, _)| name)) {
        log::problem(&format!(
            "{name} is ignored: it is no setting of elect; `elect help server` lists them"
        ));
    }
    let of_etcdctl = env::var_os("ETCDCTL_ENDPOINTS").is_some_and(|endpoints| !endpoints.is_empty());
    if config.uses_default_endpoint && of_etcdctl {
        log::problem(&format!(
            "ETCDCTL_ENDPOINTS is read by etcdctl only, and this asks {}; set ELECT_ETCD, or give --etcd",
            config::DEFAULT_ENDPOINT
        ));
    }
}

fn unknown(command: &Command, set: impl Iterator<Item = OsString>) -> BTreeSet<String> {
    let known = known(command);
    let set = set.filter_map(|name| name.into_string().ok());
    set.filter(|name| name.starts_with("ELECT_") && !known.contains(name) && !is_of_a_service(name)).collect()
}

/// Returns whether Kubernetes or Docker's links set this variable for a service called `elect` or `elect-…`.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

fn known(command: &Command) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = OTHERS.map(str::to_owned).into();
    for command in std::iter::once(command).chain(command.get_subcommands()) {
        let names = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
        known.extend(names.map(str::to_owned));
    }
    known
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn only_what_means_nothing_is_unknown() {
        let command = crate::cli::Cli::command();
        let set = [
            "ELECT_ETCD",
            "ELECT_NAME",
            "ELECT_TOKEN",
            "ELECT_ONCE",
            "ELECT_ENDPOINTS",
            "ELECT_TLL",
            "ELECT_SERVICE_HOST",
            "ELECT_PORT_8080_TCP_ADDR",
            "ELECT_PORT",
            "ELECTRON_RUN",
            "HOME",
        ];
        let unknown = unknown(&command, set.into_iter().map(OsString::from));
        assert_eq!(Vec::from_iter(unknown), ["ELECT_ENDPOINTS", "ELECT_TLL"]);
    }
}
