//! `--lifeline` of `server` and `run`, and the commands of a witness: `elect witness`, `elect release`.

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, ExitCode},
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
use tracing::{info, warn};

use super::{LEAVE_WITHIN, signals::Signals};
use crate::{
    config::{self, BackendConfig, CandidateBackend, CandidateConfig, Config, UsageError},
    log,
    supervise::namespace::Contained,
};

/// Turns the default off, in place of a directory.
const NONE: &str = "none";

/// Time for which `elect release` waits for etcd; the remaining keys expire by their TTL.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// The flags by which a server that dies is followed at once.
#[derive(Debug, Default, Args)]
pub(crate) struct LifelineArgs {
    /// Keep a ticket in this directory, by which the other servers of this host notice at once that this one died
    /// [default of server: $RUNTIME_DIRECTORY, or $XDG_RUNTIME_DIR/elect where it is there; none turns it off].
    #[arg(long, value_name = "DIR", env = "ELECT_LIFELINE", help_heading = "etcd")]
    lifeline: Option<PathBuf>,
    /// Let them wait for so long first, so that the last effects of this server have arrived [default: 0s].
    #[arg(long, value_name = "DURATION", env = "ELECT_LOCK_DELAY", value_parser = config::parse_span, help_heading = "etcd")]
    lock_delay: Option<Duration>,
}

/// The evidence that nothing is left of a command, once its supervisor is dead.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandEnd {
    /// The end of this process, which is process 1 of a container: the kernel ends all of that with it.
    Own,
    /// The end of the init, which is process 1 of the command's PID namespace.
    Init,
    /// None.
    Unseen,
}

#[cfg(target_os = "linux")]
impl CommandEnd {
    /// The hook of a term runs beside the namespace of its command, to act on other processes.
    pub(super) fn of(contained: Contained, has_term_hook: bool) -> Self {
        match contained {
            _ if process::id() == 1 => Self::Own,
            Contained::Namespace if !has_term_hook => Self::Init,
            Contained::Namespace | Contained::Reaper => Self::Unseen,
        }
    }

    /// Turns the lifeline of a server into that of a supervisor.
    fn of_lifeline(self, lifeline: Lifeline) -> Result<Lifeline, LifelineError> {
        if self == Self::Unseen {
            info!(
                "this server is a witness for others, and has no ticket: where elect is not process 1 of a container, and \
                 the command has no PID namespace or its term a hook, no witness can know that all of it is gone"
            );
            return Ok(lifeline.witness_only());
        }
        let lifeline = lifeline.of_command()?;
        let named = if self == Self::Own { lifeline.name_process(process::id()) } else { Ok(()) };
        match named {
            Err(error) => warn!(%error, "should this process be killed, the next leader waits for the TTL"),
            Ok(()) => info!(
                "should all of elect's processes be killed at once, a witness follows the end of {}",
                if self == Self::Own { "this container" } else { "the command's PID namespace" }
            ),
        }
        Ok(lifeline)
    }
}

/// The lifeline of `elect run`. Its socket is removed with it.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct CommandLifeline {
    lifeline: Lifeline,
    end: CommandEnd,
}

#[cfg(target_os = "linux")]
impl CommandLifeline {
    /// Returns the lifeline if it is to name the command's init.
    pub(super) fn of_init(&self) -> Option<Lifeline> {
        (self.end == CommandEnd::Init).then(|| self.lifeline.clone())
    }
}

#[cfg(target_os = "linux")]
impl Drop for CommandLifeline {
    fn drop(&mut self) {
        self.lifeline.close();
    }
}

impl LifelineArgs {
    /// Returns `elect run` with its lifeline, or without one on failure.
    ///
    /// There is no default: a runtime directory is the command's.
    #[cfg(target_os = "linux")]
    pub(super) fn add_to_run(
        self,
        server: CandidateConfig,
        end: CommandEnd,
    ) -> Result<(CandidateConfig, Option<CommandLifeline>), UsageError> {
        let mut added = None;
        let server = self.add(server, None, |lifeline| {
            let lifeline = end.of_lifeline(lifeline)?;
            added = Some(CommandLifeline { lifeline: lifeline.clone(), end });
            Ok(lifeline)
        })?;
        Ok((server, added))
    }

    /// Returns the server with its lifeline, or without one on failure: then the TTL decides.
    pub(super) fn add_to(self, server: CandidateConfig) -> Result<CandidateConfig, UsageError> {
        self.add(server, default_directory(), Ok)
    }

    fn add(
        self,
        mut server: CandidateConfig,
        default: Option<PathBuf>,
        finished: impl FnOnce(Lifeline) -> Result<Lifeline, LifelineError>,
    ) -> Result<CandidateConfig, UsageError> {
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
        let opened =
            |directory| finished(Lifeline::open(directory)?.with_lock_delay(delay.unwrap_or_default()));
        let settings = match flag.or(default) {
            Some(directory) if directory != Path::new(NONE) => match opened(directory) {
                Ok(lifeline) => settings.with_lifeline(lifeline),
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
