//! Who leads, as others see it: a leader, a vacancy, or unknown since when.
//!
//! What is known of an election is always from a moment that has passed, so every
//! [`Observation`] says from when it is. An observer that loses contact says so
//! ([`State::Unknown`]) instead of repeating what was true once.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;

use crate::{clock::Timestamp, leadership::FencingToken};

/// What was seen of an election, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observation {
    /// When this became known here (time of day, of this machine).
    pub at: SystemTime,
    /// What became known.
    pub state: State,
}

impl Observation {
    /// What became known at this time of day.
    pub fn new(at: SystemTime, state: State) -> Self {
        Self { at, state }
    }
}

/// The state of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Somebody leads.
    Leader(Leader),
    /// Nobody leads.
    Vacant {
        /// A key before all candidates that is none of theirs, and that keeps them all from leading for as
        /// long as it is there.
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
#[non_exhaustive]
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
#[non_exhaustive]
pub struct Snapshot {
    /// Who leads.
    pub observation: Observation,
    /// All candidates in the order of the queue. The first is the leader, if there is one.
    ///
    /// Peers wait in no order; they are sorted by name.
    pub candidates: Vec<Queued>,
}

impl Snapshot {
    /// One look, with the candidates in the order of the queue.
    pub fn new(observation: Observation, candidates: Vec<Queued>) -> Self {
        Self { observation, candidates }
    }

    /// What there is to show where no answer came.
    pub fn unknown(problem: String) -> Self {
        let state = State::Unknown { last_known: None, problem };
        Self { observation: Observation { at: SystemTime::now(), state }, candidates: Vec::new() }
    }
}

/// One candidate in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queued {
    /// Its name, made fit to be shown.
    pub name: String,
    /// The token it has, or will have once it leads. Of peers only the leader has one.
    pub token: Option<FencingToken>,
}

impl Queued {
    /// A candidate by its name, and its token.
    pub fn new(name: String, token: Option<FencingToken>) -> Self {
        Self { name, token }
    }
}

/// A time of day that another program claims, as far as it can be written down: from 1970 to 9999.
pub(crate) fn claimed_time(at: SystemTime) -> SystemTime {
    /// The last millisecond of the year 9999.
    const LATEST: Duration = Duration::from_millis(253_402_300_799_999);
    at.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LATEST)
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The backend refuses this user, password or certificate: asking again can't help.
    #[error("{0}")]
    Refused(String),
    /// No answer came. Another attempt may get one.
    #[error("{0}")]
    Unavailable(String),
}

/// Who is at the front of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueHead {
    /// A candidate: it leads, or is about to.
    Candidate {
        /// The token of its term.
        token: FencingToken,
        /// Its name, or what it had proclaimed in the name's place by the time it was first seen here.
        name: String,
    },
    /// A key put by hand, on no lease: nobody can lead until it is deleted.
    Foreign(String),
    /// A key on a lease, and no candidate's (or one of several that were put at once): nobody can lead
    /// until it has gone. That is for its owner to see to, who may still need it.
    Leased(String),
    /// The queue is empty; among peers: no leader is known.
    Nobody,
}

/// Who is at the front of an election, newest first: see
/// [`Backend::watch_leader`](crate::candidate::Backend::fronts).
#[derive(Clone)]
#[must_use = "dropping this stops following"]
pub struct LeaderWatch {
    front: watch::Receiver<Option<QueueHead>>,
    queue: Arc<dyn Fn() -> Result<Vec<FencingToken>, Timestamp> + Send + Sync>,
    called: Arc<TokensOf>,
}

/// The tokens of those in a queue that are known to go by a name.
type TokensOf = dyn Fn(&str) -> Vec<FencingToken> + Send + Sync;

impl fmt::Debug for LeaderWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fronts").field("front", &*self.front.borrow()).finish_non_exhaustive()
    }
}

impl LeaderWatch {
    /// Follows `front`, which is `None` until it is first known, and asks `queue` for the tokens, `called` for those of
    /// a name.
    pub(crate) fn new(
        mut front: watch::Receiver<Option<QueueHead>>,
        queue: impl Fn() -> Result<Vec<FencingToken>, Timestamp> + Send + Sync + 'static,
        called: impl Fn(&str) -> Vec<FencingToken> + Send + Sync + 'static,
    ) -> Self {
        front.mark_changed();
        Self { front, queue: Arc::new(queue), called: Arc::new(called) }
    }

    /// The tokens of all who are in the queue, first come first. Among peers: the leader's, if there is
    /// one.
    ///
    /// # Errors
    ///
    /// Since when that is not known (boot-time clock).
    pub fn queue(&self) -> Result<Vec<FencingToken>, Timestamp> {
        (self.queue)()
    }

    /// The tokens of those in the queue that are known to go by this name: the first, and those that have joined since this
    /// process watches. Nothing is asked for. Among peers there are none, as their names are in the configuration.
    pub fn called(&self, name: &str) -> Vec<FencingToken> {
        (self.called)(name)
    }

    /// Who is at the front now; waits until that is known, or has changed since the last call.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call sees the newest.
    pub async fn next(&mut self) -> QueueHead {
        loop {
            if self.front.changed().await.is_err() {
                // The backend has stopped, which its candidates are told: here there is no news any more.
                std::future::pending::<()>().await;
            }
            if let Some(front) = &*self.front.borrow_and_update() {
                return front.clone();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_that_is_claimed_can_be_written_down() {
        let epoch = SystemTime::UNIX_EPOCH;
        let far = epoch.checked_add(Duration::from_secs(i64::MAX as u64)).unwrap();
        for (claimed, written) in [
            (far, "9999-12-31T23:59:59.999Z"),
            (epoch - Duration::from_secs(1), "1970-01-01T00:00:00.000Z"),
            (epoch + Duration::from_secs(1), "1970-01-01T00:00:01.000Z"),
        ] {
            assert_eq!(humantime::format_rfc3339_millis(claimed_time(claimed)).to_string(), written);
        }
    }
}
