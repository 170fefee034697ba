//! `elect server NAME`: take part in an election until stopped, and log its events.

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

pub(super) async fn run(config: Config, candidate: CandidateConfig) -> anyhow::Result<ExitCode> {
    let signals = Signals::listen_with_hangup().context("failed to listen for signals")?;
    if process::id() == 1 {
        tokio::spawn(reap());
    }
    let startup = Startup::set(&candidate, &config.election, config.log_format)?;
    // Nothing here blocks: not even a log without a reader.
    match candidate.place {
        CandidateBackend::Etcd(settings, ttl) => take_part(startup.on_etcd(settings, ttl)?, signals).await,
        CandidateBackend::Peers(settings) => take_part(startup.among_peers(*settings)?, signals).await,
    }
}

/// Reaps orphans, which would stay as zombies: process 1 of a container becomes the parent of every orphan
/// there. A server starts no processes itself.
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

async fn take_part<B: Backend>(
    participant: Participant<B>,
    mut signals: Signals,
) -> anyhow::Result<ExitCode> {
    let Participant { backend, mut candidate, store, election_log: mut log, proof, .. } = participant;
    let mut events = candidate.subscribe();
    let mut leader_watch = store.leader_watch();
    let mut systemd = Systemd::from_environment();

    let (stop, stopping) = oneshot::channel();
    let mut stop = Some(stop);
    let stopping = async {
        // The sender is kept until it is used.
        let _ = stopping.await;
    };
    // The only work is to lead, and to log it.
    let mut leading = pin!(candidate.lead_until(stopping, |leadership| {
        store.leading(leadership);
        pending()
    }));
    let mut alive = heartbeat();
    let outcome = loop {
        tokio::select! {
            biased;
            _ = signals.next() => match stop.take() {
                Some(stop) => {
                    // Before the release: the next leader's first line comes after our last.
                    log.log(Happened::Stopping);
                    systemd.stopping();
                    // The receiver lives as long as the campaign.
                    let _ = stop.send(());
                }
                None => return Ok(at_once()),
            },
            Some(event) = events.next() => {
                store.event(&event);
                systemd.event(&event);
                log.event(event);
            }
            outcome = &mut leading => break outcome,
            head = leader_watch.next() => log.seen(head),
            _ = alive.tick() => {
                store.tick();
                log.namesakes(&store.namesakes());
            }
            () = systemd.feed() => {}
        }
    };
    while let Some(event) = events.try_next() {
        store.event(&event);
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
        // A lease that is not revoked by then expires by itself.
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

/// Only `run` has a default name.
pub(super) fn nameless() -> Result<CandidateName, UsageError> {
    let problem = "this server has no name; give one, as in `elect server server1`, or set ELECT_NAME";
    let empty = if config::is_empty("ELECT_NAME") { ", which must not be empty" } else { "" };
    Err(UsageError(format!("{problem}{empty}")))
}

/// Exits at a second signal without any wait.
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
