//! An operator's end of an election: who orders, and by which way the order goes.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::Args;
use leader_election::{
    CandidateName,
    choosing::{OrderedBy, PastTerm, TransferError, Transferred},
    etcd::{Etcd, EtcdOperateError, EtcdOperator},
    peers::{self, OperateError},
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

/// Gives orders to an election's leader, and reads its past.
pub(super) enum ElectionOperator {
    Etcd(EtcdOperator),
    Peers(peers::Operator),
}

/// An order that clients of the election see until it is taken back.
pub(super) enum StandingOrder {
    Cordon { name: CandidateName, hard: bool },
    Uncordon { name: CandidateName },
    Pause,
    Resume,
}

/// Reason that a standing order does not count for certain.
pub(super) struct NotStanding {
    pub(super) problem: String,
    /// It may count all the same.
    pub(super) unconfirmed: bool,
}

impl ElectionOperator {
    /// Connects on first use.
    pub(super) fn of(config: Config) -> anyhow::Result<Self> {
        let Config { backend, election, .. } = config;
        Ok(match backend {
            BackendConfig::Peers(peers) => {
                let secret = peers.secret()?;
                Self::Peers(peers.client(election)?.operator(secret))
            }
            BackendConfig::Etcd(settings) => {
                Self::Etcd(Etcd::start(settings).context("failed to start")?.operator(election))
            }
        })
    }

    pub(super) async fn transfer(&self, to: &str, within: Duration) -> Result<Transferred, TransferError> {
        match self {
            Self::Etcd(etcd) => etcd.transfer(to, within, by_this_user()).await,
            Self::Peers(peers) => peers.transfer(to, within, by_this_user()).await,
        }
    }

    pub(super) async fn stand(&self, order: &StandingOrder) -> Result<(), NotStanding> {
        let by = by_this_user();
        match self {
            Self::Etcd(etcd) => Ok(match order {
                StandingOrder::Cordon { name, hard } => etcd.cordon(name.as_str(), *hard, by).await,
                StandingOrder::Uncordon { name } => etcd.uncordon(name.as_str(), by).await,
                StandingOrder::Pause => etcd.pause(by).await,
                StandingOrder::Resume => etcd.resume(by).await,
            }?),
            Self::Peers(peers) => Ok(match order {
                StandingOrder::Cordon { name, hard } => peers.cordon(name.as_str(), *hard, by).await,
                StandingOrder::Uncordon { name } => peers.uncordon(name.as_str(), by).await,
                StandingOrder::Pause => peers.pause(by).await,
                StandingOrder::Resume => peers.resume(by).await,
            }?),
        }
    }

    /// Reads the last terms, the newest first.
    pub(super) async fn history(&self, most: usize) -> Result<Vec<PastTerm>, String> {
        match self {
            Self::Etcd(etcd) => etcd.history(most).await.map_err(|error| error.to_string()),
            Self::Peers(peers) => peers.history(most).await.map_err(|error| error.to_string()),
        }
    }
}

impl From<EtcdOperateError> for NotStanding {
    fn from(error: EtcdOperateError) -> Self {
        let unconfirmed = matches!(error, EtcdOperateError::Unconfirmed(_));
        Self { problem: error.to_string(), unconfirmed }
    }
}

impl From<OperateError> for NotStanding {
    fn from(error: OperateError) -> Self {
        let unconfirmed = matches!(error, OperateError::Unanswered { .. });
        Self { problem: error.to_string(), unconfirmed }
    }
}

/// Names the user of this process and its host, with the time.
fn by_this_user() -> OrderedBy {
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
