//! The flags of `elect run`, merged with the file and the defaults into what can only be valid.

use std::{ffi::OsString, time::Duration};

use clap::{Args, builder::FalseyValueParser};
use leader_election::{CandidateName, peers::Timing};

use super::super::{CandidateArgs, CommonArgs};
use crate::{
    config::{CandidateConfig, Config, Defaults, UsageError, in_file},
    supervise::{
        budget::{Budget, KillAfter},
        contain::Contain,
        health::Check,
        hooks::Commands,
        restart::Restart,
    },
};

const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
const CHECK_FAILURES: u32 = 3;
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Name of this server in the election [env: ELECT_NAME] [default: the host's name].
    #[arg(long, value_name = "NAME")]
    name: Option<CandidateName>,
    #[command(flatten)]
    candidate_args: CandidateArgs,
    /// Time from TERM to KILL, when the command has to stop [default: a fifth of the TTL, or among peers of the
    /// shortest election timeout].
    #[arg(long, value_name = "DURATION", env = "ELECT_KILL_AFTER", value_parser = span)]
    kill_after: Option<Duration>,
    /// Start the command again, in the same term, when it ends by itself [default: never].
    #[arg(long, value_enum, value_name = "WHEN", env = "ELECT_RESTART")]
    restart: Option<Restart>,
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
    /// Time from one check to the next [default: 5s].
    #[arg(long, value_name = "DURATION", env = "ELECT_CHECK_INTERVAL", value_parser = positive, help_heading = "Health")]
    check_interval: Option<Duration>,
    /// Time after which a check is killed, and has failed [default: 3s].
    #[arg(long, value_name = "DURATION", env = "ELECT_CHECK_TIMEOUT", value_parser = positive, help_heading = "Health")]
    check_timeout: Option<Duration>,
    /// Failures in a row that make this server unfit; one success makes it fit [default: 3].
    #[arg(long, value_name = "N", env = "ELECT_CHECK_FAILURES", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Health")]
    check_failures: Option<u32>,
    /// Run this shell command when this server begins to lead.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_LEADING", help_heading = "Hooks")]
    on_leading: Option<String>,
    /// Run this shell command when it has stopped leading, or first waits behind another.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_FOLLOWING", help_heading = "Hooks")]
    on_following: Option<String>,
    /// Run this shell command whenever another leader is seen, or none.
    #[arg(long, value_name = "COMMAND", env = "ELECT_ON_CHANGE", help_heading = "Hooks")]
    on_change: Option<String>,
    /// Time after which a hook is killed [default: 10s].
    #[arg(long, value_name = "DURATION", env = "ELECT_HOOK_TIMEOUT", value_parser = positive, help_heading = "Hooks")]
    hook_timeout: Option<Duration>,
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
        let config = Config::merge(self.shared, Some(self.candidate_args.member.clone()))?;
        let defaults = Defaults { name: host_name, timing: default_timing() };
        let candidate = config.candidate(self.name, self.candidate_args, defaults)?;
        let file = config.file();

        let kill_after = in_order(self.kill_after, span_in("kill-after", &file.kill_after, span)?)
            .map_or(KillAfter::Usual, KillAfter::Given);
        let budget = Budget::new(candidate.place.proof(), kill_after);
        let budget = budget.map_err(|error| UsageError(error.to_string()))?;
        let hook_timeout =
            in_order(self.hook_timeout, span_in("hook-timeout", &file.hook_timeout, positive)?);
        let check_interval =
            in_order(self.check_interval, span_in("check-interval", &file.check_interval, positive)?);
        let check_timeout =
            in_order(self.check_timeout, span_in("check-timeout", &file.check_timeout, positive)?);
        let check = in_order(self.check, file.check.clone()).map(|command| Check {
            command,
            interval: check_interval.unwrap_or(CHECK_INTERVAL),
            timeout: check_timeout.unwrap_or(CHECK_TIMEOUT),
            failures: in_order(self.check_failures, file.check_failures.map(u32::from))
                .unwrap_or(CHECK_FAILURES),
        });
        let hooks = Commands {
            on_leading: in_order(self.on_leading, file.on_leading.clone()),
            on_following: in_order(self.on_following, file.on_following.clone()),
            on_change: in_order(self.on_change, file.on_change.clone()),
            timeout: hook_timeout.unwrap_or(HOOK_TIMEOUT),
        };
        let restart = in_order(self.restart, file.restart).unwrap_or_default();
        let once = self.once || file.once.unwrap_or_default();
        let contain = in_order(self.contain, file.contain);
        let options =
            Options { candidate, budget, command: self.command, restart, once, contain, check, hooks };
        Ok((config, options))
    }
}

/// Chooses the flag, or the environment in its place, before the file.
fn in_order<T>(flag: Option<T>, file: Option<T>) -> Option<T> {
    flag.or(file)
}

fn span_in(
    key: &str,
    text: &Option<String>,
    parse: fn(&str) -> Result<Duration, String>,
) -> Result<Option<Duration>, UsageError> {
    text.as_deref().map(|text| in_file(key, parse(text))).transpose()
}

/// Parses `500ms`, `2s`.
fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration, as in 2s"))
}

fn positive(text: &str) -> Result<Duration, String> {
    match span(text)? {
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
