//! Who leads, as others see it: a leader, a vacancy, or unknown since when.
//!
//! What is known of an election is always from a moment that has passed, so every
//! [`Observation`] says from when it is. An observer that loses contact says so
//! ([`State::Unknown`]) instead of repeating what was true once.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::leadership::FencingToken;

/// What was seen of an election, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When this became known here (time of day, of this machine).
    pub at: SystemTime,
    /// What became known.
    pub state: State,
}

/// The state of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Somebody leads.
    Leader(Leader),
    /// Nobody leads.
    Vacant {
        /// A key that somebody put by hand before all candidates, and that keeps them all
        /// from leading until it is deleted.
        blocked_by: Option<String>,
    },
    /// There is no contact; it is not known who leads.
    Unknown {
        /// Until when it was known (time of day, of this machine); `None` if never.
        last_known: Option<SystemTime>,
        /// What went wrong.
        problem: String,
    },
}

/// A leader, as an observer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name, or what it last proclaimed; made fit to be shown.
    pub name: String,
    /// The token of its term.
    pub token: FencingToken,
    /// Since when it leads (time of day): by its own word where it announces, otherwise as
    /// the observer saw it happen. `None` if it led already when the observer came.
    pub since: Option<SystemTime>,
}

/// One look at an election: who leads, and who waits, first come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who leads.
    pub observation: Observation,
    /// All candidates in the order of the queue. The first is the leader, if there is one.
    pub candidates: Vec<Queued>,
}

/// One candidate in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its name, made fit to be shown.
    pub name: String,
    /// The token it has, or will have once it leads.
    pub token: FencingToken,
}

/// The states of an election, in order: the present one at first, then every change.
///
/// Driven in the background until it is dropped. It ends only where retrying can't help
/// (credentials, certificate), after an [`Unknown`](State::Unknown) that says why.
/// Whoever reads slowly misses nothing, and hears of it later.
#[derive(Debug)]
#[must_use = "dropping this stops observing"]
pub struct Observer {
    observations: mpsc::Receiver<Observation>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Observer {
    /// Observations that may wait for a slow reader.
    const WAITING: usize = 64;

    /// Runs what sends observations, until the observer is dropped.
    pub(crate) fn driven<F: Future<Output = ()> + Send + 'static>(
        spawn: impl FnOnce(F) -> tokio::task::JoinHandle<()>,
        drive: impl FnOnce(mpsc::Sender<Observation>) -> F,
    ) -> Self {
        let (told, observations) = mpsc::channel(Self::WAITING);
        let task = tokio_util::task::AbortOnDropHandle::new(spawn(drive(told)));
        Self { observations, _task: task }
    }

    /// The next observation; `None` once the stream has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no observation is lost.
    pub async fn next(&mut self) -> Option<Observation> {
        self.observations.recv().await
    }
}

impl Stream for Observer {
    type Item = Observation;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Observation>> {
        self.observations.poll_recv(cx)
    }
}
