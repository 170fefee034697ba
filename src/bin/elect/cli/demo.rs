//! `elect demo`: three servers on this machine, in one terminal. The leader is killed, and another takes over.
//!
//! Nothing is simulated: these are three processes of `elect server`, by Raft among themselves or on an etcd,
//! and their output is printed here as it comes. Their ports of the loopback interface and their temporary
//! directory are their own, and no configuration of other servers is read: neither `ELECT_…` nor a file. With
//! a keyboard, keys kill and start servers; without one, rounds are played and the failovers measured.
//!
//! However this process ends, the servers end too: it stops them, or, if it is killed, the kernel does. Only
//! then their directory stays behind.
//!
//! | module | |
//! |---|---|
//! | `servers` | the three servers: start, kill, output, end |
//! | `watch` | the leader, the servers that are down, and the duration of a failover (pure) |
//! | `failovers` | the table of failovers (pure) |
//! | `process` | a child, and a thread that reads its output |
//! | `backing` | the servers' backend: their command lines, and an etcd of our own |
//! | `ports` | ports that no other program gets while we hold them |
//! | `keyboard` | single keys, with the terminal restored at the end |
//! | `printed` | prefixes and colours |

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    backing::Backing, failovers::Failovers, keyboard::Keyboard, servers::Servers, watch::KillOutcome,
};
use crate::config::Endpoints;

mod backing;
mod failovers;
mod keyboard;
mod ports;
mod printed;
mod process;
mod servers;
mod watch;

/// Rounds without keys and without a number given.
const ROUNDS: u32 = 3;

/// Time until the first leader, with the start of an etcd. Far more than it takes, for machines under load.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Time for the next leader after a kill, and for a restarted server to follow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time for a person to read the present state before it changes.
const SHOWN: Duration = Duration::from_millis(1500);

/// Kills in a row that hit a server that had just stopped leading by itself. More are not chance.
const RETAKES: u32 = 10;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Without keys: kill the leader, wait for the next one, start the dead one again, N times; then print a table of
    /// the failovers [default without a terminal: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Elect on an etcd: one that runs at HOST:PORT, or, without a value, one that is started for this (from PATH).
    #[arg(long, value_name = "HOST:PORT,…", num_args = 0..=1)]
    etcd: Option<Vec<Endpoints>>,
}

pub(super) async fn run(flags: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen().context("failed to listen for signals")?;
    let directory = tempfile::Builder::new().prefix("elect-demo-").tempdir();
    let directory = directory.context("no temporary directory for the servers' data; set TMPDIR to one")?;
    let ended = on_stage(flags, &directory, &mut stop).await;
    // All its writers have ended.
    directory.close().context("the servers' data could not be removed")?;
    ended
}

/// Does everything that needs processes. None of them is left when this returns.
async fn on_stage(flags: DemoArgs, directory: &TempDir, stop: &mut Stop) -> anyhow::Result<ExitCode> {
    // Before anything is started: the terminal may refuse.
    let keyboard = match flags.rounds {
        None if is_watched() => Some(Keyboard::open().context("failed to read single keys")?),
        _ => None,
    };
    let backing = tokio::select! {
        biased;
        () = stop.signalled() => return Ok(untimely(keyboard.is_some())),
        backing = Backing::start(flags.etcd, directory.path()) => backing?,
    };
    let mut servers = Servers::new(backing, directory.path())?;
    let mut failovers = Failovers::default();
    let rounds = flags.rounds.unwrap_or(ROUNDS);
    let by_hand = keyboard.is_some();
    let played = async {
        servers.introduce(by_hand)?;
        servers.start_all()?;
        match keyboard {
            Some(mut keyboard) => play_by_keys(&mut servers, &mut keyboard, &mut failovers).await,
            None => play_rounds(&mut servers, rounds, &mut failovers).await,
        }
    };
    let played = tokio::select! {
        biased;
        () = stop.signalled() => Ok(untimely(by_hand)),
        played = played => played.map(|()| ExitCode::SUCCESS),
    };
    let last_words = if played.is_err() { servers.last_words() } else { String::new() };
    servers.end(stop).await;
    if !failovers.is_empty() {
        servers.print_table(&failovers)?;
    }
    if !last_words.is_empty() {
        eprint!("{last_words}");
    }
    played
}

/// Returns the exit code for an early end: success with keys, failure before the last round.
fn untimely(by_hand: bool) -> ExitCode {
    if by_hand {
        return ExitCode::SUCCESS;
    }
    eprintln!("elect: stopped before the last round");
    ExitCode::FAILURE
}

/// Returns whether a person watches, and has keys to press.
fn is_watched() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && keyboard::in_foreground()
}

async fn play_rounds(servers: &mut Servers, rounds: u32, failovers: &mut Failovers) -> anyhow::Result<()> {
    servers.until(START_WITHIN, "all three followed or led", |watch| watch.all_placed()).await?;
    let mut retakes = 0;
    for round in 1..=rounds {
        loop {
            servers.show_for(SHOWN).await?;
            servers.until(PATIENCE, "there was a leader", |watch| watch.leader().is_some()).await?;
            let Some(leader) = servers.leader() else { continue };
            servers.remark(&format!("Round {round} of {rounds}: kill -KILL {leader}"))?;
            servers.kill(leader)?;
            let turn = servers.next_turn().await?;
            servers.report(&turn)?;
            servers.until(PATIENCE, "the others followed", |watch| watch.all_placed()).await?;
            servers.show_for(SHOWN / 2).await?;
            servers.start_again()?;
            servers.until(PATIENCE, "it followed again", |watch| watch.all_placed()).await?;
            match turn {
                KillOutcome::Took(failover) => {
                    failovers.add(failover);
                    break;
                }
                KillOutcome::Void { .. } if retakes < RETAKES => retakes += 1,
                KillOutcome::Void { .. } => {
                    bail!("no leader stays long enough to be killed: this machine is too busy")
                }
            }
        }
    }
    Ok(())
}

async fn play_by_keys(
    servers: &mut Servers,
    keyboard: &mut Keyboard,
    failovers: &mut Failovers,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            key = keyboard.key() => match key {
                Some(b'k' | b'K') => match servers.leader() {
                    Some(leader) => {
                        servers.remark(&format!("kill -KILL {leader}"))?;
                        servers.kill(leader)?;
                    }
                    None => servers.remark("There is no leader now that could be killed.")?,
                },
                Some(b's' | b'S') => servers.start_again()?,
                // The second is Ctrl-D. No more keys: the terminal is gone.
                Some(b'q' | b'Q' | 4) | None => return Ok(()),
                Some(_) => servers.remark_keys()?,
            },
            turn = servers.next_turn() => {
                let turn = turn?;
                servers.report(&turn)?;
                if let KillOutcome::Took(failover) = turn {
                    failovers.add(failover);
                }
            }
        }
    }
}

/// Signals that end the demonstration.
struct Stop([Signal; 4]);

impl Stop {
    fn listen() -> io::Result<Self> {
        // The third: the terminal was closed. The fourth: Ctrl-\, whose default action would skip the
        // cleanup.
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
        ]))
    }

    /// Cancel safe.
    async fn signalled(&mut self) {
        let [terminate, interrupt, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
