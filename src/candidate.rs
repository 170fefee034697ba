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
    choosing::{self, CandidateProfile},
    clock::Timestamp,
    leadership::{FencingToken, Leadership, LeadershipHandle, Loss, OrderError},
    names::{CandidateName, ElectionName},
    observe::{LeaderWatch, Observer, Snapshot, SnapshotError},
    timing::Ttl,
};

/// Runs elections and answers who leads. Cheap to clone.
///
/// Sealed: [`Etcd`](crate::etcd::Etcd) and [`Peer`](crate::peers::Peer). The documentation here holds for
/// both; their own methods add what is special to one.
pub trait Backend: sealed::Campaign + Clone + Send + Sync + 'static {
    /// The states of an election, in order: see [`Observer`].
    fn observe(&self, election: ElectionName) -> Observer;

    /// Watches the head of an election's queue. For a program that also takes part in it: causes no requests
    /// of its own.
    ///
    /// Short terms may be skipped, and a lost connection is not reported. A win of this process reaches its
    /// candidate's subscribers ([`Event::Elected`]) before it is shown here.
    fn watch_leader(&self, election: &ElectionName) -> LeaderWatch;

    /// Reads an election once: the leader, and the candidates that wait.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] if there was no answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn snapshot(
        &self,
        election: ElectionName,
    ) -> impl Future<Output = Result<Snapshot, SnapshotError>> + Send;

    /// Time of the last contact that proves the backend alive (boot-time clock): on etcd the last accepted
    /// response; among peers the last heartbeat of the leader or, as leader, of a majority's answers. `None`
    /// if there was none yet.
    fn last_contact(&self) -> Option<Timestamp>;

    /// Waits until this backend has no candidate left: each release in the background is confirmed, or its
    /// lease has expired.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    fn drained(&self) -> impl Future<Output = ()> + Send;
}

pub(crate) mod sealed {
    pub trait Campaign {
        /// Starts a campaign and answers through `won`. The candidate closes `won` when it withdraws.
        fn campaign(&self, request: super::CampaignRequest, won: super::CampaignReply);
    }
}

/// Creates the span of a candidate's work; it gets the token with the first win.
pub(crate) fn span(election: &ElectionName, candidate: &CandidateName) -> Span {
    tracing::info_span!("candidate", %election, %candidate, token = field::Empty)
}

/// Records in the current [`span`] that its candidate leads.
pub(crate) fn in_span_leads(token: FencingToken) {
    Span::current().record("token", token.get());
}

/// The backend's channel for the result of a campaign.
pub(crate) type CampaignReply = oneshot::Sender<Result<Leadership, CampaignError>>;

/// A candidate's request to the backend to campaign.
#[derive(Debug)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
pub struct CampaignRequest {
    pub(crate) election: ElectionName,
    pub(crate) name: CandidateName,
    pub(crate) ttl: Ttl,
    pub(crate) announce: bool,
    pub(crate) profile: CandidateProfile,
    pub(crate) never: bool,
    pub(crate) min_tenure: Duration,
    pub(crate) events: broadcast::Sender<Event>,
}

/// Reason that a campaign ended for good. Every other failure is retried, for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// The backend refuses this user, password or certificate.
    #[error("refused: {0}")]
    Refused(String),
    /// etcd raised the time to live to its minimum.
    #[error("asked for a lease of {asked}, and etcd grants at least {granted}")]
    TtlTooShort {
        /// The requested time to live.
        asked: Ttl,
        /// The time to live that etcd granted.
        granted: Ttl,
    },
    /// The backend had to stop, for example because its disk is full; with the reason.
    #[error("the backend had to stop: {0}")]
    Failed(String),
    /// The backend's thread has ended.
    #[error("the backend has stopped")]
    Stopped,
}

/// An event of a candidate, in order, for logs and metrics.
///
/// Nothing here permits work: only [`Leadership`] does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A new attempt began: the backend was reached and a lease granted.
    Campaigning,
    /// Waiting in the queue behind another candidate.
    Following {
        /// The token that this candidate will have once it leads. `None` among peers, where there is no
        /// queue.
        token: Option<FencingToken>,
    },
    /// Verified as the leader.
    Elected {
        /// The new term's token.
        token: FencingToken,
        /// Deadline that is proved so far (boot-time clock).
        until: Timestamp,
    },
    /// A renewal was acknowledged.
    Renewed {
        /// The term that was renewed.
        token: FencingToken,
        /// Deadline that is proved now (boot-time clock).
        until: Timestamp,
        /// Time from the send to the answer.
        latency: Duration,
        /// Time that was left of the previous deadline when the answer came.
        left: Duration,
    },
    /// The leader's key can't be watched, though its lease is renewed, so its deletion would go unnoticed.
    /// The term ends unless the watch is restored.
    Unobservable {
        /// The term.
        token: FencingToken,
        /// End of the term unless the key can be watched again by then (boot-time clock).
        until: Timestamp,
    },
    /// Leadership ended.
    Lost {
        /// The term that ended.
        token: FencingToken,
        /// The reason.
        loss: Loss,
    },
    /// An attempt failed, and another follows.
    Retrying {
        /// The error.
        problem: String,
        /// True if no endpoint could be reached at all.
        unreachable: bool,
        /// The pause before the next attempt.
        pause: Duration,
    },
    /// Events were left out here because the subscriber was too slow.
    Missed {
        /// Number of events left out.
        count: u64,
    },
}

/// Events that a slow subscriber may fall behind before it misses some.
const EVENTS: usize = 64;

/// The events of one candidate, in order: see [`Candidate::subscribe`].
///
/// A subscriber that falls more than 64 behind misses the oldest and gets [`Event::Missed`].
#[derive(Debug)]
pub struct Events(BroadcastStream<Event>);

impl Events {
    /// Returns the next event; `None` once the candidate is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }

    /// Returns the next event if it is there already.
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

/// Tells whether a candidate's process leads, from anywhere: a request handler, a health check. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct LeadershipStatus {
    latest: watch::Receiver<Option<LeadershipHandle>>,
}

impl LeadershipStatus {
    /// Returns the current term; `None` unless this process leads *now*.
    pub fn leadership(&self) -> Option<LeadershipHandle> {
        self.latest.borrow().clone().filter(LeadershipHandle::holds)
    }
}

/// Takes part in an election under one name, as often as needed.
#[derive(Debug)]
pub struct Candidate<B> {
    backend: B,
    election: ElectionName,
    name: CandidateName,
    ttl: Ttl,
    announce: bool,
    profile: CandidateProfile,
    never: bool,
    min_tenure: Duration,
    events: broadcast::Sender<Event>,
    /// The latest term that this candidate won.
    latest: watch::Sender<Option<LeadershipHandle>>,
}

/// Outcome of [`Candidate::lead_until`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "tells whether leadership was given up before the end"]
#[non_exhaustive]
pub enum Stopped {
    /// This process did not lead when `shutdown` resolved.
    NotLeading,
    /// The work was stopped, then leadership given up.
    Released,
    /// The work was stopped, but the backend did not confirm the release.
    Unconfirmed(String),
}

impl<B: Backend> Candidate<B> {
    /// Creates a candidate that has not entered the election yet. `ttl` and `announce` mean nothing among
    /// peers.
    pub(crate) fn new(
        backend: B,
        election: ElectionName,
        name: CandidateName,
        ttl: Ttl,
        announce: bool,
    ) -> Self {
        let (events, latest) = (broadcast::Sender::new(EVENTS), watch::Sender::new(None));
        let (profile, never, min_tenure) = (CandidateProfile::default(), false, choosing::MIN_TENURE);
        Self { backend, election, name, ttl, announce, profile, never, min_tenure, events, latest }
    }

    /// Sets what the candidate publishes about itself.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "peers have it in their settings"))]
    pub(crate) fn with_profile(self, profile: CandidateProfile) -> Self {
        Self { profile, ..self }
    }

    /// Sets whether it stands at all, and for how long it leads at least before it hands over by priority.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "peers have it in their settings"))]
    pub(crate) fn with_stance(self, never: bool, min_tenure: Duration) -> Self {
        Self { never, min_tenure, ..self }
    }

    /// Subscribes to the events of this candidate from now on.
    pub fn subscribe(&self) -> Events {
        Events(BroadcastStream::new(self.events.subscribe()))
    }

    /// Returns a handle that tells other parts of the program whether this candidate leads.
    pub fn status(&self) -> LeadershipStatus {
        LeadershipStatus { latest: self.latest.subscribe() }
    }

    /// Waits in the queue until this process leads.
    ///
    /// Retries for ever, with growing and jittered pauses.
    ///
    /// # Errors
    ///
    /// Failures that retrying can't fix: see [`CampaignError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves the queue, in the background. A later call joins the queue at its end.
    pub async fn campaign(&mut self) -> Result<Leadership, CampaignError> {
        let (won, outcome) = oneshot::channel();
        let request = CampaignRequest {
            election: self.election.clone(),
            name: self.name.clone(),
            ttl: self.ttl,
            announce: self.announce,
            profile: self.profile.clone(),
            never: self.never,
            min_tenure: self.min_tenure,
            events: self.events.clone(),
        };
        self.backend.campaign(request, won);
        let leadership = outcome.await.unwrap_or(Err(CampaignError::Stopped))?;
        self.latest.send_replace(Some(leadership.handle()));
        Ok(leadership)
    }

    /// Campaigns and runs `work` in each term of leadership, for ever.
    ///
    /// The work is dropped the moment leadership is lost, and called again with the next term. On `Continue`
    /// leadership is given up and the candidate campaigns again; on `Break` it is given up for good. A leaked
    /// handle does not keep the term open.
    ///
    /// # Errors
    ///
    /// As for [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the work first, then gives leadership up or leaves the queue, in the
    /// background.
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

    /// Campaigns and runs `work` in each term of leadership until `shutdown` resolves; then stops the work,
    /// gives leadership up, and returns whether that was confirmed.
    ///
    /// Work that returns gives leadership up, and the candidate campaigns again. `work` is a function,
    /// or a closure that returns a future; the call can be spawned if both can:
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
