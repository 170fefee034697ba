//! The flags of `elect run`, merged with the file and the defaults into what can only be valid.

use std::{ffi::OsString, time::Duration};

use clap::{Args, builder::FalseyValueParser};
use leader_election::{CandidateName, peers::Timing};

use super::super::{CandidateArgs, CommonArgs, LifelineArgs};
use crate::{
    config::{self, CandidateConfig, Config, Defaults, UsageError},
    supervise::{
        budget::{Budget, KillAfter},
        contain::Contain,
        health::Check,
        hooks::Commands,
        restart::Restart,
    },
};

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Name of this server in the election [env: ELECT_NAME] [default: the host's name].
    #[arg(long, value_name = "NAME")]
    name: Option<CandidateName>,
    #[command(flatten)]
    candidate_args: CandidateArgs,
    #[command(flatten)]
    lifeline: LifelineArgs,
    /// Time from TERM to KILL, when the command has to stop [default: a fifth of the TTL, or among peers of the
    /// shortest election timeout].
    #[arg(long, value_name = "DURATION", env = "ELECT_KILL_AFTER", value_parser = config::parse_span)]
    kill_after: Option<Duration>,
    /// Start the command again, in the same term, when it ends by itself.
    #[arg(long, value_enum, value_name = "WHEN", env = "ELECT_RESTART", default_value = "never")]
    restart: Restart,
    /// End with exit code 75 when leadership is lost, instead of campaigning again.
    #[arg(long, env = "ELECT_ONCE", value_parser = FalseyValueParser::new())]
    once: bool,
    /// Contain the command in a PID namespace of its own, or not [default: pid if root may make one, else none].
    #[arg(long, value_enum, value_name = "BY", env = "ELECT_CONTAIN")]
    contain: Option<Contain>,
    /// Print how the TTL is divided up and how the command is contained, and exit.
    #[arg(long)]
    pub(in crate::cli) explain: bool,
    /// Campaign only while this shell command succeeds; a leader hands over when it fails.
    #[arg(long, value_name = "COMMAND", env = "ELECT_CHECK", help_heading = "Health")]
    check: Option<String>,
    /// Time from one check to the next.
    #[arg(long, value_name = "DURATION", env = "ELECT_CHECK_INTERVAL", default_value = "5s", value_parser = positive, help_heading = "Health")]
    check_interval: Duration,
    /// Time after which a check is killed, and has failed.
    #[arg(long, value_name = "DURATION", env = "ELECT_CHECK_TIMEOUT", default_value = "3s", value_parser = positive, help_heading = "Health")]
    check_timeout: Duration,
    /// Failures in a row that make this server unfit; one success makes it fit.
    #[arg(long, value_name = "N", env = "ELECT_CHECK_FAILURES", default_value = "3", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Health")]
    check_failures: u32,
    /// Run this shell command when this server begins to lead.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_LEADING", help_heading = "Hooks")]
    on_leading: Option<String>,
    /// Run this shell command when it has stopped leading, or first waits behind another.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_FOLLOWING", help_heading = "Hooks")]
    on_following: Option<String>,
    /// Run this shell command whenever another leader is seen, or none.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_CHANGE", help_heading = "Hooks")]
    on_change: Option<String>,
    /// Time after which a hook is killed.
    #[arg(long, value_name = "DURATION", env = "ELECT_HOOK_TIMEOUT", default_value = "10s", value_parser = positive, help_heading = "Hooks")]
    hook_timeout: Duration,
    #[command(flatten)]
    pub(in crate::cli) shared: CommonArgs,
    /// Command to run while this server leads, in a process group of its own.
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "explain")]
    command: Vec<OsString>,
}

/// Options of `elect run`.
#[derive(Debug)]
pub(in crate::cli) struct Options {
    pub(super) candidate: CandidateConfig,
    pub(super) lifeline: LifelineArgs,
    pub(in crate::cli) budget: Budget,
    pub(super) command: Vec<OsString>,
    pub(super) restart: Restart,
    pub(super) once: bool,
    pub(super) contain: Option<Contain>,
    pub(super) check: Option<Check>,
    pub(super) hooks: Commands,
}

impl RunArgs {
    pub(in crate::cli) fn merge(self) -> Result<(Config, Options), UsageError> {
        let config = Config::of(self.shared, Some(self.candidate_args.member.clone()))?;
        let defaults = Defaults { name: host_name, timing: default_timing() };
        let candidate = config.candidate(self.name, self.candidate_args, defaults)?;

        let kill_after = self.kill_after.map_or(KillAfter::Usual, KillAfter::Given);
        let budget = Budget::new(candidate.place.proof(), kill_after);
        let budget = budget.map_err(|error| UsageError(error.to_string()))?;
        let check = self.check.map(|command| Check {
            command,
            interval: self.check_interval,
            timeout: self.check_timeout,
            failures: self.check_failures,
        });
        let hooks = Commands {
            on_leading: self.on_leading,
            on_following: self.on_following,
            on_change: self.on_change,
            timeout: self.hook_timeout,
        };
        let Self { command, restart, once, contain, lifeline, .. } = self;
        Ok((config, Options { candidate, lifeline, budget, command, restart, once, contain, check, hooks }))
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match config::parse_span(text)? {
        Duration::ZERO => Err("it must be longer than zero; write a duration, as in 2s".into()),
        span => Ok(span),
    }
}

/// Default timing among peers. A server without a command may be quicker; a command can't be stopped in the
/// quarter of a second that is proved then.
fn default_timing() -> Timing {
    let [heartbeat, shortest, longest] = [50, 1000, 2000].map(Duration::from_millis);
    Timing::new(heartbeat, shortest, longest).expect("a shortest election timeout of 20 heartbeats is valid")
}

/// Default name: the host's.
fn host_name() -> Result<CandidateName, UsageError> {
    let remedy = "give this server a name with --name, or set ELECT_NAME";
    let host = nix::unistd::gethostname()
        .map_err(|error| UsageError(format!("the host's name can't be read: {error}; {remedy}")))?;
    let host = host.to_string_lossy().into_owned();
    host.parse().map_err(|error| UsageError(format!("the host's name {host:?}: {error}; {remedy}")))
}
