//! Campaign, lead, lose, campaign again: the loop that both backends share.
//!
//! ```text
//!             ┌────────────── lost, or work done ──────────────┐
//!             ▼                                                │
//!        campaign() ──── verified win ────► Leadership ──► the user's work
//!             │                                                │
//!   only what retrying can't fix                           shutdown
//!             ▼                                                ▼
//!       CampaignError                                 stop the work, resign
//! ```

use std::{ops::ControlFlow, time::Duration};

use tokio::sync::{broadcast, oneshot};

use crate::{
    clock::Timestamp,
    leadership::{FencingToken, Leadership, Loss, OrderError},
    names::{CandidateName, ElectionName},
    observe::{Fronts, Observer, Snapshot, SnapshotError},
    peers::Peers,
    timing::Ttl,
};

/// Something that candidates can stand on, and that others can ask who leads. Cheap to clone.
///
/// Sealed: [`Etcd`](crate::etcd::Etcd) and [`Peers`]. What is said here holds for each of them; what one of them
/// adds is said at its own methods.
pub trait Backend: sealed::Stand + Clone + Send + Sync + 'static {
    /// The states of an election, in order: see [`Observer`].
    fn observe(&self, election: ElectionName) -> Observer;

    /// Who is at the front of an election, as it changes. Made for a program that also stands in it: it
    /// costs nobody a question.
    ///
    /// Short terms may be skipped, and nothing is said of a lost connection. A win of this process is
    /// told to its candidate's subscribers ([`Event::Elected`]) before it is shown here.
    fn fronts(&self, election: &ElectionName) -> Fronts;

    /// One look at an election: who leads, and who waits.
    ///
    /// # Errors
    ///
    /// What went wrong, if there was no answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn snapshot(
        &self,
        election: ElectionName,
    ) -> impl Future<Output = Result<Snapshot, SnapshotError>> + Send;

    /// When that was last heard without which nobody here can lead or follow: an answer of etcd's that was
    /// not refused; of the peers a leader's heartbeat or, while this process leads, a majority's
    /// answers (boot-time clock). `None` if never.
    fn last_contact(&self) -> Option<Timestamp>;

    /// Waits until no candidate stands through this any more: all that was given up in the background
    /// is given back, or past its time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    fn settled(&self) -> impl Future<Output = ()> + Send;
}

pub(crate) mod sealed {
    pub trait Stand {
        /// Takes the order to stand, and answers through `won`, which is closed by a
        /// candidate that no longer wants to win.
        fn stand(&self, standing: super::Standing, won: super::Won);
    }
}

/// Where a backend answers a campaign.
pub(crate) type Won = oneshot::Sender<Result<Leadership, CampaignError>>;

/// One campaign's order to a backend.
#[derive(Debug)]
pub struct Standing {
    pub(crate) election: ElectionName,
    pub(crate) name: CandidateName,
    pub(crate) ttl: Ttl,
    pub(crate) announce: bool,
    pub(crate) events: broadcast::Sender<Event>,
}

/// Why a campaign ended for good. Everything else is retried, for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// The backend refuses this user, password or certificate.
    #[error("refused: {0}")]
    Refused(String),
    /// etcd raised the time to live to its minimum.
    #[error("asked for a lease of {asked}, and etcd grants at least {granted}")]
    TtlTooShort {
        /// What was asked for.
        asked: Ttl,
        /// What etcd granted in its place.
        granted: Ttl,
    },
    /// The backend had to stop, and says why: its disk is full, for example.
    #[error("the backend had to stop: {0}")]
    Failed(String),
    /// The backend's thread has ended.
    #[error("the backend has stopped")]
    Stopped,
}

/// What happens to a candidate, in order, for logs and metrics.
///
/// Nothing here is a licence to work: only [`Leadership`] is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A new attempt: the backend was reached and a lease taken.
    Campaigning,
    /// In the queue, behind somebody.
    Following {
        /// The token that this candidate will have once it leads. Among peers there is no queue, and
        /// nobody who waits has one.
        token: Option<FencingToken>,
    },
    /// Verified as the leader.
    Elected {
        /// The new term's token.
        token: FencingToken,
        /// Until when it is proved so far (boot-time clock).
        until: Timestamp,
    },
    /// A renewal was acknowledged.
    Renewed {
        /// The term that was renewed.
        token: FencingToken,
        /// Until when it is proved now (boot-time clock).
        until: Timestamp,
        /// From the send to the answer.
        latency: Duration,
        /// What was left, by then, of the time that had been proved before.
        left: Duration,
    },
    /// The leader's key can't be watched, though its lease is renewed: the leader would not notice that
    /// the key was deleted. Its term ends unless that changes.
    Blind {
        /// The term.
        token: FencingToken,
        /// When it ends, unless the key can be watched again by then (boot-time clock).
        until: Timestamp,
    },
    /// Leadership ended.
    Lost {
        /// The term that ended.
        token: FencingToken,
        /// Why.
        loss: Loss,
    },
    /// An attempt failed, and another follows.
    Retrying {
        /// What went wrong.
        problem: String,
        /// Whether no endpoint could be reached at all.
        unreachable: bool,
        /// The pause before the next attempt.
        pause: Duration,
    },
}

/// How many events a slow subscriber may fall behind before it misses some.
const EVENTS: usize = 64;

/// Stands for election by one name, as often as it takes.
#[derive(Debug)]
pub struct Candidate<B> {
    backend: B,
    election: ElectionName,
    name: CandidateName,
    ttl: Ttl,
    announce: bool,
    events: broadcast::Sender<Event>,
}

/// How [`Candidate::lead_until`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it says whether leadership was given up before the end"]
#[non_exhaustive]
pub enum Stopped {
    /// This process did not lead when it was told to stop.
    Waiting,
    /// The work was stopped, then leadership given up.
    Released,
    /// The work was stopped, but the backend did not confirm the release.
    Unconfirmed(String),
}

impl Candidate<Peers> {
    /// This member of a group as a candidate in its election, by its own name. Stands only once it is told
    /// to.
    pub fn member(peers: Peers) -> Self {
        let (election, name) = (peers.settings().election().clone(), peers.settings().name().clone());
        // Peers have no lease.
        Self::new(peers, election, name, Ttl::DEFAULT)
    }
}

impl<B: Backend> Candidate<B> {
    /// A candidate called `name` in `election`. Stands only once it is told to.
    ///
    /// `ttl` is how long etcd keeps its lease. Among peers it means nothing: see
    /// [`member`](Candidate::member).
    pub fn new(backend: B, election: ElectionName, name: CandidateName, ttl: Ttl) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        Self { backend, election, name, ttl, announce: false, events }
    }

    /// Whether a leader on etcd also writes who leads, and since when, to the key that is
    /// called as the election itself (`leader`). Off unless turned on. Among peers all know it anyway.
    #[must_use = "a candidate that is dropped never stands"]
    pub fn announcing(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// What happens to this candidate from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Waits in the queue until this process leads.
    ///
    /// Retries for ever, with growing and jittered pauses.
    ///
    /// # Errors
    ///
    /// Only what retrying can't fix: see [`CampaignError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves the queue, in the background. A later call queues anew,
    /// at the end.
    pub async fn campaign(&mut self) -> Result<Leadership, CampaignError> {
        let (won, outcome) = oneshot::channel();
        let standing = Standing {
            election: self.election.clone(),
            name: self.name.clone(),
            ttl: self.ttl,
            announce: self.announce,
            events: self.events.clone(),
        };
        self.backend.stand(standing, won);
        outcome.await.unwrap_or(Err(CampaignError::Stopped))
    }

    /// Campaigns and runs `work` in each term of leadership, for ever.
    ///
    /// The work is dropped the moment leadership is lost, and called again with the
    /// next one. When it returns `Continue`, leadership is given up and contended for
    /// again; on `Break`, given up for good.
    ///
    /// # Errors
    ///
    /// As for [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the work first, then gives leadership up or leaves the
    /// queue, in the background.
    pub async fn lead<T>(
        &mut self,
        mut work: impl AsyncFnMut(&Leadership) -> ControlFlow<T>,
    ) -> Result<T, CampaignError> {
        loop {
            let leadership = self.campaign().await?;
            let done = leadership.run(work(&leadership)).await;
            match done {
                // Lost while we worked, or before the release was confirmed: the next
                // campaign starts from the end of the queue either way.
                Err(_loss) => {}
                Ok(ControlFlow::Continue(())) => drop(leadership.resign().await),
                Ok(ControlFlow::Break(result)) => {
                    drop(leadership.resign().await);
                    return Ok(result);
                }
            }
        }
    }

    /// Campaigns and runs `work` in each term of leadership until `shutdown` resolves;
    /// then stops the work, gives leadership up, and says whether that was confirmed.
    ///
    /// Work that returns has given leadership up, and contends again.
    ///
    /// # Errors
    ///
    /// As for [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// As for [`lead`](Self::lead).
    pub async fn lead_until(
        &mut self,
        shutdown: impl Future<Output = ()>,
        mut work: impl AsyncFnMut(&Leadership),
    ) -> Result<Stopped, CampaignError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let leadership = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(Stopped::Waiting),
                won = self.campaign() => won?,
            };
            tokio::select! {
                biased;
                () = &mut shutdown => {}
                worked = leadership.run(work(&leadership)) => {
                    if worked.is_ok() {
                        drop(leadership.resign().await);
                    }
                    continue;
                }
            }
            return Ok(match leadership.resign().await {
                Ok(()) => Stopped::Released,
                Err(OrderError::NotLeading) => Stopped::Waiting,
                Err(OrderError::Refused(why) | OrderError::Unconfirmed(why)) => Stopped::Unconfirmed(why),
            });
        }
    }
}
