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

use std::{
    ops::ControlFlow,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::sync::{broadcast, oneshot, watch};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};

use tracing::{Span, field};

use crate::{
    clock::Timestamp,
    leadership::{FencingToken, Leadership, LeadershipHandle, Loss, OrderError},
    names::{CandidateName, ElectionName},
    observe::{LeaderWatch, Observer, Snapshot, SnapshotError},
    timing::Ttl,
};

/// Something that candidates can stand on, and that others can ask who leads. Cheap to clone.
///
/// Sealed: [`Etcd`](crate::etcd::Etcd) and [`Peers`](crate::peers::Peers). What is said here holds for each of them; what one of them
/// adds is said at its own methods.
pub trait Backend: sealed::Campaign + Clone + Send + Sync + 'static {
    /// The states of an election, in order: see [`Observer`].
    fn observe(&self, election: ElectionName) -> Observer;

    /// Who is at the front of an election, as it changes. Made for a program that also stands in it: it
    /// costs nobody a question.
    ///
    /// Short terms may be skipped, and nothing is said of a lost connection. A win of this process is
    /// told to its candidate's subscribers ([`Event::Elected`]) before it is shown here.
    fn watch_leader(&self, election: &ElectionName) -> LeaderWatch;

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
    fn drained(&self) -> impl Future<Output = ()> + Send;
}

pub(crate) mod sealed {
    pub trait Campaign {
        /// Takes the order to stand, and answers through `won`, which is closed by a
        /// candidate that no longer wants to win.
        fn stand(&self, standing: super::CampaignRequest, won: super::CampaignReply);
    }
}

/// The span of what is done for a candidate; it has the token from the first win on.
pub(crate) fn span(election: &ElectionName, candidate: &CandidateName) -> Span {
    tracing::info_span!("candidate", %election, %candidate, token = field::Empty)
}

/// Tells the current [`span`] that its candidate leads.
pub(crate) fn in_span_leads(token: FencingToken) {
    Span::current().record("token", token.get());
}

/// Where a backend answers a campaign.
pub(crate) type CampaignReply = oneshot::Sender<Result<Leadership, CampaignError>>;

/// One campaign's order to a backend.
#[derive(Debug)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
pub struct CampaignRequest {
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
    Unobservable {
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
    /// Events were left out here: their reader was too slow.
    Missed {
        /// How many.
        count: u64,
    },
}

/// How many events a slow reader may fall behind before it misses some.
const EVENTS: usize = 64;

/// The events of one candidate, in order: see [`Candidate::subscribe`].
///
/// A reader that falls more than 64 behind misses the oldest, and is told so ([`Event::Missed`]).
#[derive(Debug)]
pub struct Events(BroadcastStream<Event>);

impl Events {
    /// The next event; `None` once the candidate is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }

    /// The next event, if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        match Pin::new(self).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.0).poll_next(cx).map(|next| {
            next.map(|event| {
                event.unwrap_or_else(|BroadcastStreamRecvError::Lagged(count)| Event::Missed { count })
            })
        })
    }
}

/// Whether a candidate's process leads, to be asked from anywhere: a request handler, a health check. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LeadershipStatus {
    latest: watch::Receiver<Option<LeadershipHandle>>,
}

impl LeadershipStatus {
    /// The term of leadership under way; `None` unless this process leads *now*.
    pub fn leadership(&self) -> Option<LeadershipHandle> {
        self.latest.borrow().clone().filter(LeadershipHandle::holds)
    }
}

/// Stands for election by one name, as often as it takes.
#[derive(Debug)]
pub struct Candidate<B> {
    backend: B,
    election: ElectionName,
    name: CandidateName,
    ttl: Ttl,
    announce: bool,
    events: broadcast::Sender<Event>,
    /// The latest term that was won.
    latest: watch::Sender<Option<LeadershipHandle>>,
}

/// How [`Candidate::lead_until`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it says whether leadership was given up before the end"]
#[non_exhaustive]
pub enum Stopped {
    /// This process did not lead when it was told to stop.
    NotLeading,
    /// The work was stopped, then leadership given up.
    Released,
    /// The work was stopped, but the backend did not confirm the release.
    Unconfirmed(String),
}

impl<B: Backend> Candidate<B> {
    /// A candidate, which stands only once it is told to. `ttl` and `announce` mean nothing among peers.
    pub(crate) fn new(
        backend: B,
        election: ElectionName,
        name: CandidateName,
        ttl: Ttl,
        announce: bool,
    ) -> Self {
        let (events, latest) = (broadcast::Sender::new(EVENTS), watch::Sender::new(None));
        Self { backend, election, name, ttl, announce, events, latest }
    }

    /// The events of this candidate from now on.
    pub fn subscribe(&self) -> Events {
        Events(BroadcastStream::new(self.events.subscribe()))
    }

    /// Whether this candidate leads, for other parts of the program.
    pub fn status(&self) -> LeadershipStatus {
        LeadershipStatus { latest: self.latest.subscribe() }
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
        let standing = CampaignRequest {
            election: self.election.clone(),
            name: self.name.clone(),
            ttl: self.ttl,
            announce: self.announce,
            events: self.events.clone(),
        };
        self.backend.stand(standing, won);
        let leadership = outcome.await.unwrap_or(Err(CampaignError::Stopped))?;
        self.latest.send_replace(Some(leadership.handle()));
        Ok(leadership)
    }

    /// Campaigns and runs `work` in each term of leadership, for ever.
    ///
    /// The work is dropped the moment leadership is lost, and called again with the
    /// next one. When it returns `Continue`, leadership is given up and contended for
    /// again; on `Break`, given up for good. A handle that the work leaves somewhere keeps nothing.
    ///
    /// # Errors
    ///
    /// As for [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the work first, then gives leadership up or leaves the
    /// queue, in the background.
    pub async fn lead<T, F>(
        &mut self,
        mut work: impl FnMut(LeadershipHandle) -> F,
    ) -> Result<T, CampaignError>
    where
        F: Future<Output = ControlFlow<T>>,
    {
        loop {
            let leadership = self.campaign().await?;
            let done = leadership.run(work(leadership.handle())).await;
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
    /// Work that returns has given leadership up, and contends again. A function will do, or a closure that returns a
    /// future; the call can be spawned if both can:
    ///
    /// ```no_run
    /// # use leader_election::{etcd::Etcd, LeadershipHandle};
    /// # struct Queue;
    /// async fn work(leadership: LeadershipHandle, queue: std::sync::Arc<Queue>) { /* … */ }
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = std::sync::Arc::new(Queue);
    /// let mut candidate = Etcd::connect("localhost:2379")?.candidate("leader")?.named("server1")?;
    /// let stop = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
    /// let leading = tokio::spawn(async move {
    ///     candidate.lead_until(stop, |leadership| work(leadership, queue.clone())).await
    /// });
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// As for [`lead`](Self::lead).
    pub async fn lead_until<F>(
        &mut self,
        shutdown: impl Future<Output = ()>,
        mut work: impl FnMut(LeadershipHandle) -> F,
    ) -> Result<Stopped, CampaignError>
    where
        F: Future<Output = ()>,
    {
        let mut shutdown = pin!(shutdown);
        loop {
            let leadership = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(Stopped::NotLeading),
                won = self.campaign() => won?,
            };
            tokio::select! {
                biased;
                () = &mut shutdown => {}
                worked = leadership.run(work(leadership.handle())) => {
                    if worked.is_ok() {
                        drop(leadership.resign().await);
                    }
                    continue;
                }
            }
            return Ok(match leadership.resign().await {
                Ok(()) => Stopped::Released,
                Err(OrderError::NotLeading) => Stopped::NotLeading,
                Err(OrderError::Refused(why) | OrderError::Unconfirmed(why)) => Stopped::Unconfirmed(why),
            });
        }
    }
}
