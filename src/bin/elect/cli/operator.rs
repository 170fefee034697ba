//! An operator's end of an election: who orders, and by which way the order goes.

use std::{path::PathBuf, time::SystemTime};

use anyhow::Context;
use clap::Args;
use leader_election::{
    choosing::{OrderedBy, PastTerm},
    etcd::Etcd,
    peers,
};
use nix::unistd::{Uid, User, gethostname};

use super::CommonArgs;
use crate::config::{BackendConfig, Config, MemberArgs, UsageError};

/// Bytes of an operator's name that every backend keeps.
const LONGEST_NAME: usize = 64;

/// Flags of every order.
#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    /// Prove to the group with this file's secret that the order may be given.
    #[arg(long, value_name = "FILE", env = "ELECT_SECRET_FILE", help_heading = "peers")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    shared: CommonArgs,
}

impl OrderArgs {
    pub(super) fn merge(self) -> Result<Config, UsageError> {
        let Self { secret_file, shared } = self;
        // A secret is of peers only, as every flag of a member.
        let member = secret_file.map(|file| MemberArgs { secret_file: Some(file), ..MemberArgs::default() });
        Config::of(shared, member)
    }
}

/// Reads the last terms, the newest first.
pub(super) async fn history(config: Config, most: usize) -> anyhow::Result<Result<Vec<PastTerm>, String>> {
    let Config { backend, election, .. } = config;
    Ok(match backend {
        BackendConfig::Peers(peers) => {
            let operator = peers.client(election)?.operator(None);
            operator.history(most).await.map_err(|error| error.to_string())
        }
        BackendConfig::Etcd(settings) => {
            let etcd = Etcd::start(settings).context("failed to start")?;
            etcd.operator(election).history(most).await.map_err(|error| error.to_string())
        }
    })
}

/// Connects to the leader for orders.
pub(super) fn of(config: Config) -> anyhow::Result<peers::Operator> {
    match config.backend {
        BackendConfig::Peers(peers) => {
            let secret = peers.secret()?;
            Ok(peers.client(config.election)?.operator(secret))
        }
        BackendConfig::Etcd(_) => Err(UsageError(
            "orders are for a group so far: give --peers NAME=HOST:PORT,…; on etcd they do not exist yet"
                .into(),
        )
        .into()),
    }
}

/// Names the user of this process and its host, with the time.
pub(super) fn by_this_user() -> OrderedBy {
    // The user behind sudo, who is the one to ask.
    let behind_sudo =
        std::env::var("SUDO_USER").ok().filter(|name| Uid::current().is_root() && !name.is_empty());
    let user = behind_sudo.or_else(|| Some(User::from_uid(Uid::current()).ok()??.name));
    let user = user.unwrap_or_else(|| Uid::current().to_string());
    let host =
        gethostname().map_or_else(|_| "unknown host".into(), |host| host.to_string_lossy().into_owned());
    OrderedBy::new(bounded(format!("{user}@{host}")), SystemTime::now())
}

/// Cuts a name to the bytes that are kept, at a character's end.
fn bounded(mut name: String) -> String {
    let ends = name.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let end = ends.take_while(|end| *end <= LONGEST_NAME).last().unwrap_or(0);
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_a_user_at_a_host_and_its_name_is_bounded() {
        assert!(by_this_user().operator.contains('@'));
        assert_eq!(bounded("a@b".into()), "a@b");
        assert_eq!(bounded("é".repeat(50)).len(), LONGEST_NAME);
        assert_eq!(bounded(format!("x{}", "é".repeat(50))).len(), LONGEST_NAME - 1);
    }
}
