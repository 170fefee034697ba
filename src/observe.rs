//! The leader as observers see it: a leader, a vacancy, or unknown since when.
//!
//! Knowledge of an election is always of a past moment, so every [`Observation`] has its time. An observer
//! that loses contact reports [`State::Unknown`] instead of repeating an old state.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;

use crate::{choosing::CandidateProfile, clock::Timestamp, leadership::FencingToken};

/// The state of an election, and the time at which it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observation {
    /// Time at which this state became known here (time of day, of this machine).
    pub at: SystemTime,
    /// The state.
    pub state: State,
}

impl Observation {
    /// Creates an observation with its time of day.
    pub fn new(at: SystemTime, state: State) -> Self {
        Self { at, state }
    }
}

/// The state of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// There is a leader. Its process may not have verified the win yet, or may have stopped already: only its own
    /// [`Leadership`](crate::Leadership) says whether it may act.
    Leader(Leader),
    /// There is no leader.
    Vacant {
        /// A foreign key before all candidates, which keeps them from leading until it is gone.
        blocked_by: Option<String>,
    },
    /// There is no contact; the leader is not known.
    Unknown {
        /// Time at which it was last known (time of day, of this machine); `None` if never.
        last_known: Option<SystemTime>,
        /// The error.
        problem: String,
    },
}

/// A leader, as an observer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// Its name, or its last proclaimed value; made displayable.
    pub name: String,
    /// The token of its term.
    pub token: FencingToken,
    /// Start of its term (time of day): as the leader announces it, otherwise as the observer saw it. `None`
    /// if it led before the observer started.
    pub since: Option<SystemTime>,
    /// The address that it advertises to its clients; made displayable. `None` if it advertises none, or that is not
    /// known (yet).
    pub address: Option<String>,
}

impl Leader {
    /// Creates a leader with its name and its token: for tests of programs that show one.
    pub fn new(name: String, token: FencingToken) -> Self {
        Self { name, token, since: None, address: None }
    }
}

/// One reading of an election: the leader, and the waiting candidates, first come first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The leader, a vacancy, or unknown.
    pub observation: Observation,
    /// All candidates in the order of the queue. The first is the leader, if there is one.
    ///
    /// Peers wait in no order; they are sorted by name.
    pub candidates: Vec<Queued>,
}

impl Snapshot {
    /// Creates a snapshot with the candidates in the order of the queue.
    pub fn new(observation: Observation, candidates: Vec<Queued>) -> Self {
        Self { observation, candidates }
    }

    /// Creates the snapshot for a reading without an answer.
    pub fn unknown(problem: String) -> Self {
        let state = State::Unknown { last_known: None, problem };
        Self { observation: Observation { at: SystemTime::now(), state }, candidates: Vec::new() }
    }
}

/// One candidate in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queued {
    /// Its name, made displayable.
    pub name: String,
    /// The token it has, or will have once it leads. Of peers only the leader has one.
    pub token: Option<FencingToken>,
    /// What it publishes about itself. `None`: not known, or a candidate of another client or an older
    /// release.
    pub profile: Option<CandidateProfile>,
}

impl Queued {
    /// Creates a candidate with its name and its token.
    pub fn new(name: String, token: Option<FencingToken>) -> Self {
        Self { name, token, profile: None }
    }

    /// Adds what the candidate publishes about itself.
    #[must_use = "a candidate is made by value"]
    pub fn with_profile(self, profile: Option<CandidateProfile>) -> Self {
        Self { profile, ..self }
    }
}

/// Limits a time of day that another program claims to the range that can be written: from 1970 to 9999.
pub(crate) fn claimed_time(at: SystemTime) -> SystemTime {
    /// The last millisecond of the year 9999.
    const LATEST: Duration = Duration::from_millis(253_402_300_799_999);
    at.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LATEST)
}

/// Reason that there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The backend refuses this user, password or certificate: a retry can't help.
    #[error("{0}")]
    Refused(String),
    /// No answer came. Another attempt may get one.
    #[error("{0}")]
    Unavailable(String),
}

/// The head of an election's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueHead {
    /// A candidate: it leads, or is about to.
    Candidate {
        /// The token of its term.
        token: FencingToken,
        /// Its name, or the proclaimed value that stood in its place when it was first seen here.
        name: String,
    },
    /// A key put by hand, on no lease: no candidate can lead until it is deleted.
    Foreign(String),
    /// A key on a lease that is no candidate's (or one of several that were put at once): no candidate can
    /// lead until it is gone. Its owner has to delete it, who may still need it.
    Leased(String),
    /// The queue is empty; among peers: no leader is known.
    Empty,
}

/// Follows the head of an election's queue, newest state only: see
/// [`Backend::watch_leader`](crate::candidate::Backend::watch_leader).
#[derive(Clone)]
#[must_use = "dropping this stops following"]
pub struct LeaderWatch {
    head: watch::Receiver<Option<QueueHead>>,
    queue: Arc<dyn Fn() -> Result<Vec<FencingToken>, Timestamp> + Send + Sync>,
    tokens_of: Arc<TokensOf>,
}

/// Returns the tokens of the candidates in the queue that are known under a name.
type TokensOf = dyn Fn(&str) -> Vec<FencingToken> + Send + Sync;

impl fmt::Debug for LeaderWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderWatch").field("head", &*self.head.borrow()).finish_non_exhaustive()
    }
}

impl LeaderWatch {
    /// Follows `head`, which is `None` until it is first known. `queue` returns the tokens, `tokens_of` those
    /// of a name.
    pub(crate) fn new(
        mut head: watch::Receiver<Option<QueueHead>>,
        queue: impl Fn() -> Result<Vec<FencingToken>, Timestamp> + Send + Sync + 'static,
        tokens_of: impl Fn(&str) -> Vec<FencingToken> + Send + Sync + 'static,
    ) -> Self {
        head.mark_changed();
        Self { head, queue: Arc::new(queue), tokens_of: Arc::new(tokens_of) }
    }

    /// Returns the tokens of all candidates in the queue, first come first. Among peers: the leader's, if
    /// there is one.
    ///
    /// # Errors
    ///
    /// The time since which the queue is not known (boot-time clock).
    pub fn queue(&self) -> Result<Vec<FencingToken>, Timestamp> {
        (self.queue)()
    }

    /// Returns the tokens of the candidates in the queue that are known under this name: of the first, and of
    /// those that joined since this process watches. Sends no request. Empty among peers, whose names are in
    /// the configuration.
    pub fn tokens_of(&self, name: &str) -> Vec<FencingToken> {
        (self.tokens_of)(name)
    }

    /// Returns the head of the queue; waits until it is known, or has changed since the last call.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call sees the newest.
    pub async fn next(&mut self) -> QueueHead {
        loop {
            if self.head.changed().await.is_err() {
                // The backend has stopped; its candidates get the error, and here nothing changes any more.
                std::future::pending::<()>().await;
            }
            if let Some(head) = &*self.head.borrow_and_update() {
                return head.clone();
            }
        }
    }
}

/// The states of an election, in order: first the present one, then every change.
///
/// Driven in the background until it is dropped. It ends only on errors that a retry can't fix (credentials,
/// certificate), after an [`Unknown`](State::Unknown) with the reason. A slow reader misses nothing.
#[derive(Debug)]
#[must_use = "dropping this stops observing"]
pub struct Observer {
    observations: mpsc::Receiver<Observation>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Observer {
    /// Observations that wait for a slow reader; the sender waits when there are more.
    const WAITING: usize = 64;

    /// Spawns the task that sends observations and ends it when the observer is dropped.
    pub(crate) fn driven<F: Future<Output = ()> + Send + 'static>(
        spawn: impl FnOnce(F) -> tokio::task::JoinHandle<()>,
        drive: impl FnOnce(mpsc::Sender<Observation>) -> F,
    ) -> Self {
        let (sender, observations) = mpsc::channel(Self::WAITING);
        let task = tokio_util::task::AbortOnDropHandle::new(spawn(drive(sender)));
        Self { observations, _task: task }
    }

    /// Returns the next observation; `None` once the stream has ended.
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
