//! The command line: what may be written, and which command runs.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use leader_election::{
    CandidateName, ElectionName,
    peers::{Group, Timing},
    timing::Ttl,
};
use tokio::{
    runtime::Runtime,
    time::{Interval, MissedTickBehavior, interval},
};

pub(crate) use self::lifeline::LifelineArgs;
use self::{
    completions::Shell,
    operator::{OrderArgs, StandingOrder},
};
#[cfg(target_os = "linux")]
use crate::supervise::{guard::Inherited, init, shim};
use crate::{
    config::{self, Config, Defaults, Endpoints, File, MemberArgs, PreferenceArgs, UsageError},
    descriptors,
    log::{self, Format, OutputStream},
    secrecy,
    status::Address,
};

mod completions;
#[cfg(target_os = "linux")]
mod demo;
mod election_log;
mod environment;
mod help;
mod history;
mod lifeline;
mod man;
mod observe;
mod operate;
mod operator;
mod peers;
mod reading;
#[cfg(target_os = "linux")]
mod run;
mod server;
mod show;
mod signals;
mod startup;
mod status;
mod transcript;

/// Leader election: run several copies of a service, and have exactly one of them lead.
#[derive(Debug, Parser)]
#[command(name = "elect", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand for election until stopped.
    ///
    /// Waits in the queue, leads, refreshes the lease, and campaigns again after a loss.
    /// SIGTERM or SIGINT gives leadership up and exits; a second one exits at once.
    Server {
        /// Name of this server in the election [env: ELECT_NAME].
        #[arg(value_name = "NAME")]
        name: Option<CandidateName>,
        /// The same, as a flag.
        #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
        name_flag: Option<CandidateName>,
        #[command(flatten)]
        candidate_args: Box<CandidateArgs>,
        #[command(flatten)]
        lifeline: LifelineArgs,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Run a command only while this server leads.
    ///
    /// Starts COMMAND after a verified win, with ELECT_TOKEN, ELECT_CLUSTER, ELECT_ELECTION and ELECT_NAME in its
    /// environment. COMMAND and all that it started are gone before leadership ends. Signals are passed on to it, and
    /// its exit code is passed back.
    #[cfg(target_os = "linux")]
    Run(Box<run::RunArgs>),
    /// Ends the command of `run`, should `run` not be able to.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Guard {
        #[command(flatten)]
        inherited: Inherited,
        #[command(flatten)]
        flags: Box<run::RunArgs>,
    },
    /// Print each change of leadership.
    Observe {
        /// One JSON object a line: at, state, leader, token, since.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Print the leader, since when it leads, and the candidates that wait.
    ///
    /// For scripts, --is asks whether one server leads, --wait waits until one does, and --watch prints each change.
    Status(Box<status::StatusArgs>),
    /// Hand leadership to a candidate that waits.
    ///
    /// The leader first makes sure that the other one is ready; then it stops its work, and hands over. Otherwise it refuses,
    /// says why, and leads on. Returns once the other one leads.
    Transfer {
        /// Name of the candidate.
        #[arg(value_name = "NAME")]
        name: CandidateName,
        /// Time for that candidate to become ready; after it the order is void.
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = config::parse_span)]
        within: Duration,
        #[command(flatten)]
        order: Box<OrderArgs>,
    },
    /// Keep a server from leading while another one can.
    ///
    /// For maintenance. If it leads, it hands over. It may be a server that is not there now. The order stands until `elect
    /// uncordon`; `elect status` shows it.
    Cordon {
        /// Name of the server.
        #[arg(value_name = "NAME")]
        name: CandidateName,
        /// Keep it from leading even while no other server can.
        #[arg(long)]
        hard: bool,
        #[command(flatten)]
        order: Box<OrderArgs>,
    },
    /// Let a server lead again that was cordoned.
    Uncordon {
        /// Name of the server.
        #[arg(value_name = "NAME")]
        name: CandidateName,
        #[command(flatten)]
        order: Box<OrderArgs>,
    },
    /// Move leadership neither by priority nor by transfer, until `elect resume`.
    ///
    /// Cordons and crashes still move it. `elect status` shows who paused it, and when.
    Pause {
        #[command(flatten)]
        order: Box<OrderArgs>,
    },
    /// Take `elect pause` back.
    Resume {
        #[command(flatten)]
        order: Box<OrderArgs>,
    },
    /// Print the past terms, the newest first, and why each ended.
    History {
        /// One JSON object a line: leader, token, from, until, ended, and of a transfer to, reason, by, ordered_at.
        #[arg(long)]
        json: bool,
        /// Number of terms at most.
        #[arg(short = 'n', long = "most", value_name = "N", default_value_t = 20)]
        most: usize,
        #[command(flatten)]
        shared: Box<CommonArgs>,
    },
    /// Print the members of a group, and admit a member's new disk.
    ///
    /// One line each: address, role, term, data directory, round trip and last sync. A server that was refused because it has
    /// another data directory is shown with the command that admits it.
    #[command(args_conflicts_with_subcommands = true)]
    Peers {
        #[command(subcommand)]
        verb: Option<Verb>,
        /// One JSON object: members, each with name, address, role, term, data_directory, counts, round_trip_ms, last_sync_ms,
        /// refused, problem.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Release the places of servers that die on this host, until stopped.
    ///
    /// Watches a directory that servers were given with --lifeline. One for each host is enough, and none is needed where
    /// each host has several servers of one election: those witness for each other.
    Witness {
        /// The directory [default: $RUNTIME_DIRECTORY, or $XDG_RUNTIME_DIR/elect where it is there].
        #[arg(value_name = "DIR", env = "ELECT_LIFELINE")]
        lifeline: Option<PathBuf>,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Release the places of servers that have died on this host, and exit.
    ///
    /// For a unit's ExecStopPost=. Exits with 1 if etcd did not confirm it.
    Release {
        /// The directory [default: $RUNTIME_DIRECTORY, or $XDG_RUNTIME_DIR/elect where it is there].
        #[arg(value_name = "DIR", env = "ELECT_LIFELINE")]
        lifeline: Option<PathBuf>,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Run three servers in this terminal: kill the leader, and watch another take over.
    ///
    /// They elect by Raft, so nothing else is needed; --etcd shows the same on an etcd. Neither ELECT_… nor a file is read.
    /// In a terminal there are keys; without one, or with --rounds, the leader is killed round after round.
    #[cfg(target_os = "linux")]
    Demo(demo::DemoArgs),
    /// Print a script that makes a shell complete this command line.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page, or write a page for each command.
    Man {
        /// Write elect.1, elect-server.1 and so on into this directory.
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Orders to a group.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Let a server's new data directory take the place of the one that it lost.
    ///
    /// Start the server on the new directory first. It is refused; its log and `elect peers` show the directory's first
    /// eight digits. Returns once the new directory counts. Needs a majority without that server, and so a group of three or
    /// more. With TLS the certificate has to be for one of the --operators of the servers; with a secret give --secret-file;
    /// else run this on the leader's host.
    Replace {
        /// Name of the server.
        #[arg(value_name = "NAME")]
        name: CandidateName,
        /// The first eight digits of the new directory's id, or more. Without it, the one that was refused is shown.
        #[arg(value_name = "DIRECTORY")]
        directory: Option<String>,
        /// Prove with this file's secret that the order may be given.
        #[arg(long, value_name = "FILE", env = "ELECT_SECRET_FILE", help_heading = "peers")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        shared: Box<CommonArgs>,
    },
}

/// Flags of a candidate, beside its name.
#[derive(Debug, Args)]
pub(crate) struct CandidateArgs {
    /// Lifetime of the lease, for which a crashed leader keeps its place: whole seconds, at least etcd's minimum of 2s
    /// [default: 5s].
    #[arg(
        long,
        value_name = "DURATION",
        env = "ELECT_TTL",
        allow_hyphen_values = true,
        value_parser = config::parse_ttl,
        help_heading = "etcd"
    )]
    pub(crate) ttl: Option<Ttl>,
    /// Serve /leader, /metrics, a page and more at this address: 8080 is for this machine only, 0.0.0.0:8080 for all.
    #[arg(long, value_name = "ADDR", env = "ELECT_HTTP")]
    pub(crate) http: Option<Address>,
    #[command(flatten)]
    pub(crate) preferences: PreferenceArgs,
    #[command(flatten)]
    pub(crate) member: MemberArgs,
}

/// Flags of every command. Absent is not always the default: that depends on the backend.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Members of one etcd cluster [default: localhost:2379].
    #[arg(long, value_name = "HOST:PORT,…", env = "ELECT_ETCD", display_order = 0, help_heading = "etcd")]
    pub(crate) etcd: Option<Vec<Endpoints>>,
    /// Log in as this user; the password comes from ELECT_PASSWORD or --password-file.
    #[arg(long, value_name = "USER", env = "ELECT_USER", help_heading = "etcd")]
    pub(crate) user: Option<String>,
    /// Read the user's password from this file.
    #[arg(long, value_name = "FILE", env = "ELECT_PASSWORD_FILE", help_heading = "etcd")]
    pub(crate) password_file: Option<PathBuf>,
    /// Elect without etcd, by Raft: the members, 1 to 7, the same list on each.
    #[arg(
        long,
        value_name = "NAME=HOST:PORT,…",
        env = "ELECT_PEERS",
        display_order = 0,
        help_heading = "peers"
    )]
    pub(crate) peers: Option<Group>,
    /// Trust the certificate authorities in this PEM file. Turns TLS on.
    #[arg(long, value_name = "FILE", env = "ELECT_CACERT", help_heading = "TLS")]
    pub(crate) cacert: Option<PathBuf>,
    /// Show this certificate (PEM). Needs --key. Peers need all three.
    #[arg(long, value_name = "FILE", env = "ELECT_CERT", help_heading = "TLS")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key (PEM). Needs --cert.
    #[arg(long, value_name = "FILE", env = "ELECT_KEY", help_heading = "TLS")]
    pub(crate) key: Option<PathBuf>,
    /// Name of the election; servers that use the same name compete.
    #[arg(long, value_name = "NAME", env = "ELECT_ELECTION", default_value = config::DEFAULT_ELECTION)]
    pub(crate) election: ElectionName,
    /// plain: only the lines of the demo; full: with time, level and fields; json: for programs.
    #[arg(long, value_enum, value_name = "FORMAT", env = "ELECT_LOG_FORMAT", default_value = "full")]
    pub(crate) log_format: Format,
    /// A TOML file with any of the long flags as keys.
    #[arg(long, value_name = "FILE", env = "ELECT_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// Time for a follower that stops to delete its key from the queue.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Ticks by which a loop shows that it is alive.
fn heartbeat() -> Interval {
    const EVERY: Duration = Duration::from_secs(1);
    let mut heartbeat = interval(EVERY);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
}

/// Exit code: there is no leader.
const VACANT: u8 = 3;
/// Exit code: the leader is not known.
const UNKNOWN: u8 = 4;
/// Exit code: another server leads than the one that was asked about.
const OTHER_LEADS: u8 = 5;

/// Returns the command line, with its examples.
fn command_line() -> clap::Command {
    help::add(Cli::command())
}

/// Runs the command of the command line.
pub(crate) fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(ended) = shim::become_command().or_else(init::serve) {
        return ended;
    }
    let command = environment::without_empty(command_line());
    let matches = command.clone().try_get_matches().unwrap_or_else(|error| with_hint(error).exit());
    let matches = with_file(&command, matches).map_err(anyhow::Error::from);
    let ended = matches.and_then(|mut matches| {
        let cli = Cli::from_arg_matches_mut(&mut matches);
        run(cli.unwrap_or_else(|error| error.format(&mut command.clone()).exit()).command)
    });
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("elect: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

/// Adds the remedy to an error about a command of `run` without dashes in front.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let runs = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
    let found = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(found)) if error.kind() == ErrorKind::UnknownArgument => found.clone(),
        _ => return error,
    };
    if runs && !found.starts_with('-') {
        let hint = format!("the command comes after '--', as in: elect run -- {found}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

/// Reads the command line anew, with the configuration file's values as defaults, where it names a file.
fn with_file(command: &clap::Command, matches: ArgMatches) -> Result<ArgMatches, UsageError> {
    let mut chosen = &matches;
    while let Some((_, below)) = chosen.subcommand() {
        chosen = below;
    }
    let Ok(Some(path)) = chosen.try_get_one::<PathBuf>("config") else { return Ok(matches) };
    let file = File::read(path, command)?;
    file.as_defaults(command.clone()).try_get_matches().map_err(|error| file.refused(&error))
}

/// Keeps secrets from other processes, starts the log, and warns about variables that have no effect, or a surprising one.
fn begin(config: &Config, log_to: OutputStream) -> anyhow::Result<()> {
    secrecy::close(config)?;
    log::start(config.log_format, log_to)?;
    environment::warn(&command_line(), config);
    Ok(())
}

/// Gives or takes back a standing order.
fn stand(runtime: &Runtime, flags: OrderArgs, order: StandingOrder) -> anyhow::Result<ExitCode> {
    let config = flags.merge()?;
    begin(&config, OutputStream::Stderr)?;
    runtime.block_on(operate::stand(config, order))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match &command {
        #[cfg(target_os = "linux")]
        Command::Run(_) => descriptors::ensure(descriptors::TO_RUN)?,
        _ => descriptors::ensure(descriptors::TO_BEGIN)?,
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start: no file descriptor is left")?;
    match command {
        #[cfg(target_os = "linux")]
        Command::Run(flags) => runtime.block_on(run::run(*flags)),
        #[cfg(target_os = "linux")]
        Command::Guard { inherited, flags } => runtime.block_on(run::guard(*flags, inherited)),
        Command::Server { name, name_flag, candidate_args, lifeline, shared } => {
            let config = Config::of(shared, Some(candidate_args.member.clone()))?;
            let defaults = Defaults { name: server::nameless, timing: Timing::DEFAULT };
            let candidate = config.candidate(name.or(name_flag), *candidate_args, defaults)?;
            begin(&config, OutputStream::Stdout)?;
            let candidate = lifeline.add_to(candidate)?;
            runtime.block_on(server::run(config, candidate))
        }
        Command::Observe { json, shared } => {
            let config = Config::of(shared, None)?;
            begin(&config, OutputStream::Stderr)?;
            runtime.block_on(observe::run(config, json))
        }
        Command::Status(flags) => {
            let (config, options) = flags.merge()?;
            begin(&config, OutputStream::Stderr)?;
            runtime.block_on(status::run(config, options))
        }
        Command::Transfer { name, within, order } => {
            let config = order.merge()?;
            begin(&config, OutputStream::Stderr)?;
            runtime.block_on(operate::transfer(config, name, within))
        }
        Command::Cordon { name, hard, order } => {
            stand(&runtime, *order, StandingOrder::Cordon { name, hard })
        }
        Command::Uncordon { name, order } => stand(&runtime, *order, StandingOrder::Uncordon { name }),
        Command::Pause { order } => stand(&runtime, *order, StandingOrder::Pause),
        Command::Resume { order } => stand(&runtime, *order, StandingOrder::Resume),
        Command::History { json, most, shared } => {
            let config = Config::of(*shared, None)?;
            begin(&config, OutputStream::Stderr)?;
            runtime.block_on(history::run(config, json, most))
        }
        Command::Peers { verb, json, shared } => {
            let (verb, shared, member) = match verb {
                None => (None, shared, None),
                Some(Verb::Replace { name, directory, secret_file, shared }) => {
                    let member = MemberArgs { secret_file, ..MemberArgs::default() };
                    (Some((name, directory)), *shared, Some(member))
                }
            };
            let config = Config::of(shared, member)?;
            begin(&config, OutputStream::Stderr)?;
            match verb {
                None => runtime.block_on(peers::list(config, json)),
                Some((name, directory)) => runtime.block_on(peers::replace(config, name, directory)),
            }
        }
        Command::Witness { lifeline, shared } => {
            let config = Config::of(shared, None)?;
            begin(&config, OutputStream::Stdout)?;
            runtime.block_on(lifeline::witness(lifeline, config))
        }
        Command::Release { lifeline, shared } => {
            let config = Config::of(shared, None)?;
            begin(&config, OutputStream::Stderr)?;
            runtime.block_on(lifeline::release(lifeline, config))
        }
        #[cfg(target_os = "linux")]
        Command::Demo(flags) => runtime.block_on(demo::run(flags)),
        Command::Completions { shell } => completions::run(command_line(), shell),
        Command::Man { dir } => man::run(command_line(), dir),
    }
}
