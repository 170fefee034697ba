//! `elect server NAME`: stand for election until stopped, and log what happens.

use std::{future::pending, pin::pin, process::ExitCode};

use anyhow::{Context, anyhow};
use leader_election::{CampaignError, Candidate, CandidateName, candidate::Stopped, etcd::Etcd};
use tokio::{
    runtime::Handle,
    sync::{broadcast::error::RecvError, oneshot},
    time::timeout,
};
use tracing::warn;

use super::{LEAVE_WITHIN, heartbeat, journal::Journal, serve, signals::Signals, transcript::Happened};
use crate::{
    config::{Config, Standing, UsageError},
    effects::systemd::Systemd,
    log,
    status::Board,
};

pub(super) async fn run(config: Config, standing: Standing) -> anyhow::Result<ExitCode> {
    let Config { etcd: settings, election, .. } = config;
    let Standing { name, ttl, http } = standing;
    let mut signals = Signals::listen().context("failed to listen for signals")?;
    // Before it stands: a server that can't be asked is not what was ordered.
    let bound = http.map(|address| address.bind()).transpose()?;
    let mut log = Journal::starting(&settings, &election, &name, ttl);

    // Nothing here blocks: not even a log that nobody reads.
    let etcd = Etcd::start_on(Handle::current(), settings.clone());
    let board = Board::new(name.clone(), election.clone(), ttl, etcd.clone());
    serve(bound, &board, settings)?;
    let mut candidate = Candidate::new(etcd.clone(), election.clone(), name, ttl).announcing(true);
    let mut events = candidate.subscribe();
    let mut fronts = etcd.fronts(&election);
    let mut systemd = Systemd::from_environment();

    let (stop, stopping) = oneshot::channel();
    let mut stop = Some(stop);
    let stopping = async {
        // The other end lives until it is used.
        let _ = stopping.await;
    };
    // There is no work but to lead, and to say so.
    let mut standing = pin!(candidate.lead_until(stopping, async |leadership| {
        board.leading(leadership.claim());
        pending().await
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
            event = events.recv() => match event {
                Ok(event) => {
                    board.event(&event);
                    systemd.event(&event);
                    log.event(event);
                }
                Err(RecvError::Lagged(missed)) => warn!(missed, "log lines were left out"),
                Err(RecvError::Closed) => {}
            },
            outcome = &mut standing => break outcome,
            front = fronts.next() => log.seen(front),
            _ = alive.tick() => board.tick(),
            () = systemd.feed() => {}
        }
    };
    while let Ok(event) = events.try_recv() {
        board.event(&event);
        log.event(event);
    }
    let ended = match outcome {
        Ok(Stopped::Unconfirmed(why)) => {
            Err(anyhow!("stopped, but leadership was not released: {why}; it ends by itself within {ttl}"))
        }
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(explained(error)),
    };
    let ended = tokio::select! {
        biased;
        _ = signals.next() => Ok(at_once()),
        // What is not given back by then expires by itself.
        _ = timeout(LEAVE_WITHIN, etcd.settled()) => ended,
    };
    log::drain();
    ended
}

/// Only `run` has a name to fall back on.
pub(super) fn nameless() -> Result<CandidateName, UsageError> {
    let problem = "this server has no name; give one, as in `elect server server1`, or set ELECT_NAME";
    Err(UsageError(problem.into()))
}

/// A second signal: no waiting for anything.
fn at_once() -> ExitCode {
    eprintln!("elect: stopped at once; what was held ends by itself");
    ExitCode::FAILURE
}

pub(super) fn explained(error: CampaignError) -> anyhow::Error {
    match error {
        CampaignError::TtlTooShort { asked, granted } => anyhow!(UsageError(format!(
            "--ttl {asked}: etcd grants at least {granted} (1.5 times its election timeout); use --ttl {granted} or more"
        ))),
        CampaignError::Refused(why) => anyhow!("etcd refuses this server: {why}"),
        other => anyhow!(other),
    }
}
