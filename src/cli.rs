//! The command line: what may be written, and which command runs.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use leader_election::{
    CandidateName, ElectionName,
    etcd::{Endpoint, Settings},
    timing::Ttl,
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::info;

use self::completions::Shell;
#[cfg(target_os = "linux")]
use crate::effects::{guard::Inherited, shim};
use crate::{
    config::{self, Config, UsageError},
    log::{self, Format, Stream},
    status::{Address, Board, Bound},
};

mod completions;
mod journal;
mod man;
mod observe;
#[cfg(target_os = "linux")]
mod run;
mod server;
mod show;
mod signals;
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
        /// How long a crashed leader holds its place: whole seconds, at least etcd's minimum of 2s [default: 5s].
        #[arg(long, value_name = "DURATION", env = "ELECT_TTL", value_parser = config::parse_ttl)]
        ttl: Option<Ttl>,
        /// Serve /leader, /metrics, a page and more there: 8080 is for this machine only, 0.0.0.0:8080 for all.
        #[arg(long, value_name = "ADDR", env = "ELECT_HTTP")]
        http: Option<Address>,
        #[command(flatten)]
        shared: Shared,
    },
    /// Run a command exactly while this server leads.
    ///
    /// Starts COMMAND after a verified win, with ELECT_TOKEN, ELECT_CLUSTER, ELECT_ELECTION and ELECT_NAME in its
    /// environment. When leadership ends, COMMAND and all that it started are gone before it does. Signals are
    /// passed on, and so is COMMAND's exit code. See docs/run.md.
    #[cfg(target_os = "linux")]
    Run(Box<run::Flags>),
    /// Ends the command of `run`, should `run` not be able to.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Guard {
        #[command(flatten)]
        inherited: Inherited,
        #[command(flatten)]
        flags: Box<run::Flags>,
    },
    /// Becomes a command that dies with its parent.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Shim {
        parent: i32,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Print each change of leadership.
    Observe {
        /// One JSON object a line: at, state, leader, token, since.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        shared: Shared,
    },
    /// Print who leads, since when, and who waits.
    Status {
        /// One JSON object: at, state, leader, token, since, candidates.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        shared: Shared,
    },
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

/// What every command takes. Absent is not the default: a file may say it.
#[derive(Debug, Args)]
pub(crate) struct Shared {
    /// Members of one etcd cluster [default: localhost:2379].
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "ELECT_ETCD",
        value_delimiter = ',',
        help_heading = "etcd"
    )]
    pub(crate) etcd: Option<Vec<Endpoint>>,
    /// Log in as this user; the password comes from ELECT_PASSWORD or --password-file.
    #[arg(long, value_name = "USER", env = "ELECT_USER", help_heading = "etcd")]
    pub(crate) user: Option<String>,
    /// Read the user's password from this file.
    #[arg(long, value_name = "FILE", env = "ELECT_PASSWORD_FILE", help_heading = "etcd")]
    pub(crate) password_file: Option<PathBuf>,
    /// Trust the certificate authorities in this PEM file. Turns TLS on.
    #[arg(long, value_name = "FILE", env = "ELECT_CACERT", help_heading = "etcd")]
    pub(crate) cacert: Option<PathBuf>,
    /// Show this client certificate (PEM). Needs --key.
    #[arg(long, value_name = "FILE", env = "ELECT_CERT", help_heading = "etcd")]
    pub(crate) cert: Option<PathBuf>,
    /// The client certificate's private key (PEM). Needs --cert.
    #[arg(long, value_name = "FILE", env = "ELECT_KEY", help_heading = "etcd")]
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

/// Serves HTTP, if that was asked for, and says where.
fn serve(bound: Option<Bound>, board: &Board, etcd: Settings) -> anyhow::Result<()> {
    if let Some(bound) = bound {
        let address = crate::status::serve(bound, board.clone(), etcd).context("failed to serve HTTP")?;
        info!("serving http://{address}/");
    }
    Ok(())
}

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
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("elect: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // It must stay small: it has no use for a runtime.
    #[cfg(target_os = "linux")]
    if let Command::Shim { parent, command } = &command {
        return Ok(shim::become_command(*parent, command));
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
        #[cfg(target_os = "linux")]
        Command::Shim { .. } => unreachable!("it has become another program"),
        Command::Server { name, name_flag, ttl, http, shared } => {
            let config = Config::merge(shared)?;
            let standing = config.standing(name_flag.or(name), ttl, http, server::nameless)?;
            log::start(config.log_format, Stream::Stdout)?;
            runtime.block_on(server::run(config, standing))
        }
        Command::Observe { json, shared } => {
            let config = Config::merge(shared)?;
            log::start(config.log_format, Stream::Stderr)?;
            runtime.block_on(observe::run(config, json))
        }
        Command::Status { json, shared } => {
            let config = Config::merge(shared)?;
            log::start(config.log_format, Stream::Stderr)?;
            runtime.block_on(status::run(config, json))
        }
        Command::Completions { shell } => completions::run(Cli::command(), shell),
        Command::Man { dir } => man::run(Cli::command(), dir),
    }
}
