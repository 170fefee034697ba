//! `elect server NAME`: stand for election until stopped, and log what happens.

use std::{future::pending, pin::pin, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use leader_election::{
    CampaignError, Candidate,
    candidate::{Event, Stopped},
    clock::Timestamp,
    etcd::{Etcd, Front},
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{broadcast::error::RecvError, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use super::transcript::{Happened, Line, Transcript};
use crate::{
    config::{Config, Standing, UsageError},
    log::{self, TRANSCRIPT, together},
    status::{self, Board},
};

/// How long a follower on its way out tries to take its key out of the queue.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// How long a slow reader of the log is waited for on the way out.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// How often the loop shows that it is alive.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn run(config: Config, standing: Standing) -> anyhow::Result<ExitCode> {
    let Config { etcd: settings, election, .. } = config;
    let Standing { name, ttl, http } = standing;
    let mut signals = Signals::listen().context("failed to listen for signals")?;
    let endpoints = settings.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    // Before it stands: a server that can't be asked is not what was ordered.
    let bound = http.map(|address| address.bind()).transpose()?;
    let mut log = Log { transcript: Transcript::new(), endpoints };
    info!(target: TRANSCRIPT, election = %election, ttl = %ttl, "{}", Line::Starting { name: name.to_string() });
    log.connecting();

    // Nothing here blocks: not even a log that nobody reads.
    let etcd = Etcd::start_on(Handle::current(), settings.clone());
    let board = Board::new(name.clone(), election.clone(), ttl, etcd.clone());
    if let Some(bound) = bound {
        let address = status::serve(bound, board.clone(), settings).context("failed to serve HTTP")?;
        info!("serving http://{address}/");
    }
    let mut candidate = Candidate::new(etcd.clone(), election.clone(), name, ttl).announcing(true);
    let mut events = candidate.subscribe();
    let mut fronts = etcd.fronts(&election);

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
    let mut alive = interval(TICK);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            biased;
            () = signals.next() => match stop.take() {
                Some(stop) => {
                    // Before the release: the next leader's first line comes after our last.
                    log.happened(Happened::Stopping);
                    // The other end lives as long as the campaign.
                    let _ = stop.send(());
                }
                None => return Ok(at_once()),
            },
            event = events.recv() => match event {
                Ok(event) => {
                    board.event(&event);
                    log.event(event);
                }
                Err(RecvError::Lagged(missed)) => warn!(missed, "log lines were left out"),
                Err(RecvError::Closed) => {}
            },
            outcome = &mut standing => break outcome,
            front = fronts.next() => log.seen(front),
            _ = alive.tick() => board.tick(),
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
        () = signals.next() => Ok(at_once()),
        // What is not given back by then expires by itself.
        _ = timeout(LEAVE_WITHIN, etcd.settled()) => ended,
    };
    log::drain(DRAIN_WITHIN);
    ended
}

/// A second signal: no waiting for anything.
fn at_once() -> ExitCode {
    eprintln!("elect: stopped at once; what was held ends by itself");
    ExitCode::FAILURE
}

fn explained(error: CampaignError) -> anyhow::Error {
    match error {
        CampaignError::TtlTooShort { asked, granted } => anyhow!(UsageError(format!(
            "--ttl {asked}: etcd grants at least {granted} (1.5 times its election timeout); use --ttl {granted} or more"
        ))),
        CampaignError::Refused(why) => anyhow!("etcd refuses this server: {why}"),
        other => anyhow!(other),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    first: Option<Instant>,
}

impl Signals {
    /// A wrapper that passes a signal on to a process that got it already, with the rest of its
    /// group, does so at once. That is no second wish.
    const ECHO: Duration = Duration::from_millis(100);

    fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, first: None })
    }

    /// The next signal, other than an echo of the first.
    ///
    /// Cancel safe.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            match self.first {
                None => {
                    self.first = Some(Instant::now());
                    return;
                }
                Some(first) if first.elapsed() < Self::ECHO => {}
                Some(_) => return,
            }
        }
    }
}

/// Turns what happens into log lines.
struct Log {
    transcript: Transcript,
    endpoints: String,
}

impl Log {
    fn connecting(&self) {
        info!(target: TRANSCRIPT, "{}", Line::Connecting { endpoints: self.endpoints.clone() });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Campaigning => self.happened(Happened::Campaigning),
            Event::Following { token } => self.happened(Happened::Queued { own: token }),
            Event::Elected { token, until } => {
                let lines = self.transcript.lines(Happened::Elected { token });
                together(|| {
                    // Frozen between the news and this line, we may have been deposed: then say nothing.
                    for line in lines.iter().filter(|_| Timestamp::now() < until) {
                        info!(target: TRANSCRIPT, token = token.get(), "{line}");
                    }
                });
            }
            Event::Renewed { until, latency, .. } => {
                let lines = self.transcript.lines(Happened::Renewed);
                for line in lines.iter().filter(|_| Timestamp::now() < until) {
                    info!(target: TRANSCRIPT, ?latency, "{line}");
                }
            }
            Event::Lost { token, loss } => {
                for line in self.transcript.lines(Happened::Lost) {
                    info!(target: TRANSCRIPT, token = token.get(), reason = %loss, "{line}");
                }
            }
            Event::Retrying { problem, unreachable, pause } => {
                warn!(problem, retry_in = ?pause, "the attempt failed");
                if unreachable {
                    self.connecting();
                }
            }
            _ => {}
        }
    }

    fn seen(&mut self, front: Front) {
        match front {
            Front::Candidate(token) => self.happened(Happened::SeenLeader { token }),
            Front::Foreign(key) => {
                warn!(key, "nobody can lead until this key, put by hand, is deleted");
                self.happened(Happened::SeenVacant);
            }
            _ => self.happened(Happened::SeenVacant),
        }
    }

    fn happened(&mut self, happened: Happened) {
        for line in self.transcript.lines(happened) {
            info!(target: TRANSCRIPT, "{line}");
        }
    }
}
