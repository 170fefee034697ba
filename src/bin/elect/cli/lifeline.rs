//! `--lifeline` of a server, and the commands of a witness: `elect witness`, `elect release`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use leader_election::{
    etcd::{self, Etcd},
    leadership::ReleaseError,
    lifeline::{Lifeline, LifelineError},
};
use tokio::{runtime::Handle, time::timeout};
use tracing::info;

use super::{LEAVE_WITHIN, signals::Signals};
use crate::{
    config::{self, BackendConfig, CandidateBackend, CandidateConfig, Config, UsageError},
    log,
};

/// Turns the default off, in place of a directory.
const NONE: &str = "none";

/// Time for which `elect release` waits for etcd; the remaining keys expire by their TTL.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// The flags by which a server that dies is followed at once.
#[derive(Debug, Default, Args)]
pub(crate) struct LifelineArgs {
    /// Keep a ticket in this directory, by which the other servers of this host notice at once that this one died
    /// [default: $RUNTIME_DIRECTORY, or $XDG_RUNTIME_DIR/elect where it is there; none turns it off].
    #[arg(long, value_name = "DIR", env = "ELECT_LIFELINE", help_heading = "etcd")]
    lifeline: Option<PathBuf>,
    /// Let them wait for so long first, so that the last effects of this server have arrived [default: 0s].
    #[arg(long, value_name = "DURATION", env = "ELECT_LOCK_DELAY", value_parser = config::parse_span, help_heading = "etcd")]
    lock_delay: Option<Duration>,
}

impl LifelineArgs {
    /// Returns the server with its lifeline, or without one on failure: then the TTL decides.
    pub(super) fn add_to(self, mut server: CandidateConfig) -> Result<CandidateConfig, UsageError> {
        let Self { lifeline: flag, lock_delay: delay } = self;
        let CandidateBackend::Etcd(settings, ttl) = server.place else {
            let flag = flag.map(|_| "--lifeline").or(delay.map(|_| "--lock-delay"));
            return match flag {
                Some(flag) => Err(UsageError(format!(
                    "{flag} is for etcd, whose leases outlive their holders; peers need none: leave it out"
                ))),
                None => Ok(server),
            };
        };
        let settings = match flag.or_else(default_directory) {
            Some(directory) if directory != Path::new(NONE) => match Lifeline::open(&directory) {
                Ok(lifeline) => settings.with_lifeline(lifeline.with_lock_delay(delay.unwrap_or_default())),
                Err(error) => {
                    log::problem(&format!(
                        "--lifeline: {error}; until then this server, should it die, is followed after its TTL only"
                    ));
                    settings
                }
            },
            _ => settings,
        };
        server.place = CandidateBackend::Etcd(settings, ttl);
        Ok(server)
    }
}

/// Returns the directory whose files live as long as a service or a user's session.
fn default_directory() -> Option<PathBuf> {
    let of_the_unit = env::var("RUNTIME_DIRECTORY").ok().filter(|list| !list.is_empty());
    let of_the_unit = of_the_unit.and_then(|list| list.split(':').next().map(PathBuf::from));
    let of_the_user = || Some(Path::new(&env::var_os("XDG_RUNTIME_DIR")?).join("elect"));
    of_the_unit.or_else(|| of_the_user().filter(|directory| directory.is_dir()))
}

/// Returns the directory to witness in, and the etcd to release with.
fn directory(flag: Option<PathBuf>, config: Config) -> anyhow::Result<(Lifeline, etcd::Settings)> {
    let BackendConfig::Etcd(settings) = config.backend.clone() else {
        bail!(UsageError("peers detect a dead member by themselves; leave --peers out".into()));
    };
    let directory = flag.or_else(default_directory);
    let directory = directory.ok_or_else(|| {
        UsageError("which directory? name it, as in `elect witness /run/elect`, or set ELECT_LIFELINE".into())
    })?;
    Ok((Lifeline::open(directory).map_err(explained)?, settings))
}

fn explained(error: LifelineError) -> anyhow::Error {
    anyhow::Error::new(error).context("this directory can't have tickets")
}

/// `elect witness`: releases the keys of servers that die on this host, until stopped.
pub(super) async fn witness(flag: Option<PathBuf>, config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen_with_hangup().context("failed to listen for signals")?;
    let (lifeline, settings) = directory(flag, config)?;
    info!(directory = %lifeline.path().display(), "watching the servers of this host");
    let etcd = Etcd::start_on(Handle::current(), settings.with_lifeline(lifeline));
    let _ = signals.next().await;
    let _ = timeout(LEAVE_WITHIN, etcd.drained()).await;
    log::drain();
    Ok(ExitCode::SUCCESS)
}

/// `elect release`: does the same, once.
pub(super) async fn release(flag: Option<PathBuf>, config: Config) -> anyhow::Result<ExitCode> {
    // A unit calls this whatever its settings are.
    if matches!(config.backend, BackendConfig::Peers(_)) || flag.as_deref() == Some(Path::new(NONE)) {
        info!("these servers leave nothing that could be released");
        return Ok(ExitCode::SUCCESS);
    }
    let (lifeline, settings) = directory(flag, config)?;
    let etcd = Etcd::start_on(Handle::current(), settings);
    let released = lifeline.release_dead(&etcd, RELEASE_WITHIN).await;
    let released = released.with_context(|| lifeline.path().display().to_string())?;
    let _ = timeout(LEAVE_WITHIN, etcd.drained()).await;
    let ours = |error: &ReleaseError| !matches!(error, ReleaseError::OtherCluster { .. });
    if let Some(error) = released.errors.into_iter().find(ours) {
        return Err(
            anyhow::Error::new(error).context("a server that died keeps its place until its TTL has passed")
        );
    }
    info!(servers = released.given_up, "released what servers that died had left");
    log::drain();
    Ok(ExitCode::SUCCESS)
}
