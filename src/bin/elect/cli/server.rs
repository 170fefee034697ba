//! `elect server NAME`: stand for election until stopped, and log what happens.

use std::{
    future::pending,
    pin::pin,
    process::{self, ExitCode},
};

use anyhow::{Context, anyhow};
use leader_election::{
    CampaignError, CandidateName,
    candidate::{Backend, Stopped},
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};
use tracing::info;

use super::{
    LEAVE_WITHIN, heartbeat,
    signals::Signals,
    startup::{Participant, Startup},
    transcript::Happened,
};
use crate::{
    config::{self, CandidateBackend, CandidateConfig, Config, UsageError},
    lease_timing::{LeaseTiming, written},
    log,
    supervise::systemd::Systemd,
};

pub(super) async fn run(config: Config, standing: CandidateConfig) -> anyhow::Result<ExitCode> {
    let signals = Signals::listen_with_hangup().context("failed to listen for signals")?;
    if process::id() == 1 {
        tokio::spawn(reap());
    }
    let stage = Startup::set(&standing, &config.election, config.log_format)?;
    // Nothing here blocks: not even a log that nobody reads.
    match standing.place {
        CandidateBackend::Etcd(settings, ttl) => stand(stage.on_etcd(settings, ttl)?, signals).await,
        CandidateBackend::Peers(settings) => stand(stage.among_peers(*settings)?, signals).await,
    }
}

/// Takes the orphans' exit codes, or they would stay as zombies: process 1 of a container is the parent of every
/// process there whose own is gone. A server starts none itself.
async fn reap() {
    let Ok(mut child) = signal(SignalKind::child()) else { return };
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {
        }
        if child.recv().await.is_none() {
            return;
        }
    }
}

async fn stand<B: Backend>(ground: Participant<B>, mut signals: Signals) -> anyhow::Result<ExitCode> {
    let Participant { backend, mut candidate, board, journal: mut log, proof } = ground;
    let mut events = candidate.subscribe();
    let mut fronts = board.leader_watch();
    let mut systemd = Systemd::from_environment();

    let (stop, stopping) = oneshot::channel();
    let mut stop = Some(stop);
    let stopping = async {
        // The other end lives until it is used.
        let _ = stopping.await;
    };
    // There is no work but to lead, and to say so.
    let mut standing = pin!(candidate.lead_until(stopping, |leadership| {
        board.leading(leadership);
        pending()
    }));
    let mut alive = heartbeat();
    let outcome = loop {
        tokio::select! {
            biased;
            _ = signals.next() => match stop.take() {
                Some(stop) => {
                    // Before the release: the next leader's first line comes after our last.
                    log.happened(Happened::Stopping);
                    systemd.stopping();
                    // The other end lives as long as the campaign.
                    let _ = stop.send(());
                }
                None => return Ok(at_once()),
            },
            Some(event) = events.next() => {
                board.event(&event);
                systemd.event(&event);
                log.event(event);
            }
            outcome = &mut standing => break outcome,
            front = fronts.next() => log.seen(front),
            _ = alive.tick() => {
                board.tick();
                log.namesakes(&board.namesakes());
            }
            () = systemd.feed() => {}
        }
    };
    while let Some(event) = events.try_next() {
        board.event(&event);
        log.event(event);
    }
    let ended = match outcome {
        Ok(Stopped::Unconfirmed(why)) => {
            let span = written(proof.span());
            Err(anyhow!("stopped, but leadership was not released: {why}; it ends by itself within {span}"))
        }
        Ok(stopped) => Ok(stopped),
        Err(error) => Err(explained(error, proof)),
    };
    let ended = tokio::select! {
        biased;
        _ = signals.next() => {
            let ended = at_once();
            log::drain();
            return Ok(ended);
        }
        // What is not given back by then expires by itself.
        _ = timeout(LEAVE_WITHIN, backend.drained()) => ended,
    };
    let ended = ended.map(|stopped| {
        info!(
            "{}",
            match stopped {
                Stopped::Released => "stopped; leadership was given up",
                _ => "stopped; this server did not lead",
            }
        );
        ExitCode::SUCCESS
    });
    log::drain();
    ended
}

/// Only `run` has a name to fall back on.
pub(super) fn nameless() -> Result<CandidateName, UsageError> {
    let problem = "this server has no name; give one, as in `elect server server1`, or set ELECT_NAME";
    let empty = if config::is_empty("ELECT_NAME") { ", which must not be empty" } else { "" };
    Err(UsageError(format!("{problem}{empty}")))
}

/// A second signal: no waiting for anything.
fn at_once() -> ExitCode {
    eprintln!("elect: stopped at once; what was held ends by itself");
    ExitCode::FAILURE
}

pub(super) fn explained(error: CampaignError, proof: LeaseTiming) -> anyhow::Error {
    let refuses = match proof {
        LeaseTiming::Lease(_) => "etcd refuses",
        LeaseTiming::Heartbeats(_) => "the group refuses",
    };
    match error {
        CampaignError::TtlTooShort { asked, granted } => anyhow!(UsageError(format!(
            "--ttl {asked}: etcd grants at least {granted} (1.5 times its election timeout); use --ttl {granted} or more"
        ))),
        CampaignError::Refused(why) => anyhow!("{refuses} this server: {why}"),
        CampaignError::Failed(why) => anyhow!("this server had to stop: {why}"),
        other => anyhow!(other),
    }
}
