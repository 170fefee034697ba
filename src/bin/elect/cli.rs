//! The command line: what may be written, and which command runs.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::FalseyValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use leader_election::{
    CandidateName, ElectionName,
    peers::{Group, PeerAddress, Timing},
    timing::Ttl,
};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::completions::Shell;
#[cfg(target_os = "linux")]
use crate::supervise::{guard::Inherited, init, shim};
use crate::{
    config::{self, Config, Defaults, Endpoints, Range, UsageError},
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
mod man;
mod observe;
mod peers;
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
#[command(name = "elect", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Every flag can also be given as ELECT_… in the environment, or in a file (--config).
A flag wins over the environment, the environment over the file.

Exit codes: 0 done, 1 failed, 2 wrong usage; status: 3 nobody leads, 4 unknown;
run: the command's, 128 + N if signal N ended it, 126 or 127 if it can't be started, 75 leadership lost (--once).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand for election until stopped.
    ///
    /// Waits in the queue, leads, refreshes the lease, and campaigns again after a loss.
    /// SIGTERM or SIGINT gives leadership up and exits; a second one exits at once.
    Server {
        /// What this server is called in the election [env: ELECT_NAME].
        #[arg(value_name = "NAME")]
        name: Option<CandidateName>,
        /// The same, as a flag.
        #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
        name_flag: Option<CandidateName>,
        #[command(flatten)]
        stands: CandidateArgs,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Run a command exactly while this server leads.
    ///
    /// Starts COMMAND after a verified win, with ELECT_TOKEN, ELECT_CLUSTER, ELECT_ELECTION and ELECT_NAME in its
    /// environment. When leadership ends, COMMAND and all that it started are gone before it does. Signals are
    /// passed on, and so is COMMAND's exit code. See docs/run.md.
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
    /// Print who leads, since when, and who waits.
    Status {
        /// One JSON object: at, state, leader, token, since, candidates.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Print the members of a group, their disks, and how far they are.
    ///
    /// One line each: its address, role and data directory, when it was last heard, its round trip and its last sync. A server
    /// that was refused because it has another data directory is shown with the command that lets it in.
    Peers {
        #[command(subcommand)]
        verb: Option<Verb>,
        #[command(flatten)]
        shared: CommonArgs,
    },
    /// Three servers on this machine, in one terminal: kill the leader, and watch another take over.
    ///
    /// By Raft, so nothing else is needed; --etcd shows the same on an etcd. Reads no configuration, neither ELECT_…
    /// nor a file. With a terminal there are keys; without one, it plays rounds by itself and exits with 0, or with 1
    /// if a round had no next leader within 10 s.
    #[cfg(target_os = "linux")]
    Demo(demo::DemoArgs),
    /// Print a script that makes a shell complete this command line.
    Completions {
        /// Which shell's.
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

/// What can be done to a group.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Let a server's new data directory take the place of the one that it lost.
    ///
    /// Start the server on the new directory first. It is refused, and its log, and `elect peers`, show the directory's first
    /// eight digits. Returns once the new directory counts. Needs a majority without that server, and so a group of three or
    /// more. With TLS the certificate has to be for one of the --operators of the servers; with a secret give --secret-file;
    /// else type it on the leader's host.
    Replace {
        /// Which server.
        #[arg(value_name = "NAME")]
        name: CandidateName,
        /// The first eight digits of the new directory's id, or more. Without it, the one that was refused is shown.
        #[arg(value_name = "DIRECTORY")]
        directory: Option<String>,
        #[command(flatten)]
        shared: Box<CommonArgs>,
    },
}

/// What those who stand take, beside their name.
#[derive(Debug, Default, Args)]
pub(crate) struct CandidateArgs {
    /// How long a crashed leader holds its place: whole seconds, at least etcd's minimum of 2s [default: 5s].
    #[arg(
        long,
        value_name = "DURATION",
        env = "ELECT_TTL",
        allow_hyphen_values = true,
        value_parser = config::parse_ttl,
        help_heading = "etcd"
    )]
    pub(crate) ttl: Option<Ttl>,
    /// Serve /leader, /metrics, a page and more there: 8080 is for this machine only, 0.0.0.0:8080 for all.
    #[arg(long, value_name = "ADDR", env = "ELECT_HTTP")]
    pub(crate) http: Option<Address>,
}

/// What every command takes. Absent is not the default: a file may say it.
#[derive(Debug, Default, Args)]
pub(crate) struct CommonArgs {
    /// Members of one etcd cluster [default: localhost:2379].
    #[arg(long, value_name = "HOST:PORT,…", env = "ELECT_ETCD", help_heading = "etcd")]
    pub(crate) etcd: Option<Vec<Endpoints>>,
    /// Log in as this user; the password comes from ELECT_PASSWORD or --password-file.
    #[arg(long, value_name = "USER", env = "ELECT_USER", help_heading = "etcd")]
    pub(crate) user: Option<String>,
    /// Read the user's password from this file.
    #[arg(long, value_name = "FILE", env = "ELECT_PASSWORD_FILE", help_heading = "etcd")]
    pub(crate) password_file: Option<PathBuf>,
    /// Elect without etcd: these servers do, by Raft. 1 to 7, the same list on each.
    #[arg(long, value_name = "NAME=HOST:PORT,…", env = "ELECT_PEERS", help_heading = "peers")]
    pub(crate) peers: Option<Group>,
    /// Listen there instead of at this server's address among the peers.
    #[arg(long, value_name = "HOST:PORT", env = "ELECT_LISTEN", help_heading = "peers")]
    pub(crate) listen: Option<PeerAddress>,
    /// Keep term, vote and log in this directory, which must outlive a restart
    /// [default: ELECTION/NAME in $STATE_DIRECTORY, $XDG_STATE_HOME/elect or ~/.local/state/elect].
    #[arg(long, value_name = "DIR", env = "ELECT_DATA", help_heading = "peers")]
    pub(crate) data: Option<PathBuf>,
    /// How often a leader lets itself be heard [default: 50ms].
    #[arg(
        long,
        value_name = "DURATION",
        env = "ELECT_HEARTBEAT",
        value_parser = config::parse_heartbeat,
        help_heading = "peers"
    )]
    pub(crate) heartbeat: Option<Duration>,
    /// How long to hear no leader before electing one: drawn from this range each time, the same on each
    /// server [default: 250ms-500ms; run: 1s-2s].
    #[arg(long, value_name = "SHORTEST-LONGEST", env = "ELECT_ELECTION_TIMEOUT", help_heading = "peers")]
    pub(crate) election_timeout: Option<Range>,
    /// Talk only with peers that prove that they know what is in this file (32 bytes or more), the same on each server.
    #[arg(long, value_name = "FILE", env = "ELECT_SECRET_FILE", help_heading = "peers")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Listen for other machines with neither TLS nor a secret: whoever reaches the port can vote and lead.
    #[arg(
        long,
        env = "ELECT_INSECURE_PEERS",
        value_parser = FalseyValueParser::new(),
        help_heading = "peers"
    )]
    pub(crate) insecure_peers: bool,
    /// With TLS: who shows a certificate for one of these names may replace disks (elect peers replace).
    #[arg(
        long,
        value_name = "NAME,…",
        env = "ELECT_OPERATORS",
        value_delimiter = ',',
        help_heading = "peers"
    )]
    pub(crate) operators: Option<Vec<String>>,
    /// In a new group that takes an older one's place, begin with tokens behind this one: the same on each server.
    #[arg(long, value_name = "TOKEN", env = "ELECT_TOKENS_AFTER", value_parser = config::parse_token, help_heading = "peers")]
    pub(crate) tokens_after: Option<u64>,
    /// Trust the certificate authorities in this PEM file. Turns TLS on.
    #[arg(long, value_name = "FILE", env = "ELECT_CACERT", help_heading = "TLS")]
    pub(crate) cacert: Option<PathBuf>,
    /// Show this certificate (PEM). Needs --key. Peers need all three.
    #[arg(long, value_name = "FILE", env = "ELECT_CERT", help_heading = "TLS")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key (PEM). Needs --cert.
    #[arg(long, value_name = "FILE", env = "ELECT_KEY", help_heading = "TLS")]
    pub(crate) key: Option<PathBuf>,
    /// What is elected: all who stand under one name compete [default: leader].
    #[arg(long, value_name = "NAME", env = "ELECT_ELECTION")]
    pub(crate) election: Option<ElectionName>,
    /// plain: only the lines people follow; full: with time, level and fields; json [default: full].
    #[arg(long, value_enum, value_name = "FORMAT", env = "ELECT_LOG_FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// A TOML file with any of the long flags as keys.
    #[arg(long, value_name = "FILE", env = "ELECT_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// How long a follower on its way out tries to take its key out of the queue.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// When a loop shows that it is alive.
fn heartbeat() -> Interval {
    const EVERY: Duration = Duration::from_secs(1);
    let mut heartbeat = interval(EVERY);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
}

/// Nobody leads.
const VACANT: u8 = 3;
/// It is not known who leads.
const UNKNOWN: u8 = 4;

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(ended) = shim::become_command().or_else(init::serve) {
        return ended;
    }
    let command = environment::without_empty(Cli::command());
    let matches = command.clone().try_get_matches().unwrap_or_else(|error| with_hint(error).exit());
    let cli = Cli::from_arg_matches_mut(&mut { matches });
    let cli = cli.unwrap_or_else(|error| error.format(&mut command.clone()).exit());
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("elect: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

/// What is wrong, and for a command of `run` that stands without dashes in front, what to do about it.
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

/// Says which variables do not do what they seem to.
fn warn_of_environment(config: &Config) {
    environment::warn(&Cli::command(), config);
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
        Command::Server { name, name_flag, stands, shared } => {
            let config = Config::merge(shared)?;
            secrecy::close(&config)?;
            let usual = Defaults { name: server::nameless, timing: Timing::DEFAULT };
            let standing = config.standing(name_flag.or(name), stands, usual)?;
            log::start(config.log_format, OutputStream::Stdout)?;
            warn_of_environment(&config);
            runtime.block_on(server::run(config, standing))
        }
        Command::Observe { json, shared } => {
            let config = Config::merge(shared)?;
            secrecy::close(&config)?;
            log::start(config.log_format, OutputStream::Stderr)?;
            warn_of_environment(&config);
            runtime.block_on(observe::run(config, json))
        }
        Command::Status { json, shared } => {
            let config = Config::merge(shared)?;
            secrecy::close(&config)?;
            log::start(config.log_format, OutputStream::Stderr)?;
            warn_of_environment(&config);
            runtime.block_on(status::run(config, json))
        }
        Command::Peers { verb, shared } => {
            let (verb, shared) = match verb {
                None => (None, shared),
                Some(Verb::Replace { name, directory, shared }) => (Some((name, directory)), *shared),
            };
            let config = Config::merge(shared)?;
            log::start(config.log_format, OutputStream::Stderr)?;
            warn_of_environment(&config);
            match verb {
                None => runtime.block_on(peers::list(config)),
                Some((name, directory)) => runtime.block_on(peers::replace(config, name, directory)),
            }
        }
        #[cfg(target_os = "linux")]
        Command::Demo(flags) => runtime.block_on(demo::run(flags)),
        Command::Completions { shell } => completions::run(Cli::command(), shell),
        Command::Man { dir } => man::run(Cli::command(), dir),
    }
}
