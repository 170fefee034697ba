//! The guard that a won campaign returns, the handles that ask about it, and how it ends.
//!
//! [`Leadership`] is the guard: one for each term, which ends with it. A [`LeadershipHandle`] asks about the
//! term and speaks in its name. The thread that renews holds the other ends (`TermHandle`): it extends the validity, says
//! why leadership was lost, and carries out what the guard and the handles order.

use std::{fmt, future::poll_fn, ops::Deref, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use crate::{
    clock::Timestamp,
    names::{CandidateName, ElectionName},
    timing::Ttl,
    validity::SharedValidity,
};

/// Grows with every term of leadership in one election.
///
/// Send it with every write, and have the receiver refuse a write whose token is
/// smaller than the largest it has seen: this is what stops a leader that was paused
/// between its last check and the write. On etcd it is the `create_revision` of the
/// leader's key, among peers Raft's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number, as read back from where it was stored.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, to be stored or sent.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which cluster gave out a [`FencingToken`]. Tokens of two clusters don't compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub(crate) u64);

impl ClusterId {
    /// The number that the cluster calls itself by.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Why a leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was acknowledged in time.
    Expired,
    /// The lease was found gone before its time.
    Revoked,
    /// The leader's key is gone: somebody deleted it, or revoked its lease.
    KeyDeleted,
    /// Somebody else took the leader's place: on etcd by making its key anew, among peers in a later term.
    Superseded,
    /// The leader's key could not be watched for a whole TTL: it may be gone.
    Unobservable,
    /// Leadership was handed to another candidate.
    Transferred,
    /// This process gave leadership up.
    Resigned,
    /// The part of this process that renews has stopped.
    ShutDown,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal was acknowledged in time",
            Self::Revoked => "the lease is gone",
            Self::KeyDeleted => "the leader's key was deleted",
            Self::Superseded => "somebody else took the leader's place",
            Self::Unobservable => "the leader's key could not be watched",
            Self::Transferred => "handed over to another candidate",
            Self::Resigned => "resigned",
            Self::ShutDown => "the renewing thread has stopped",
        })
    }
}

/// Proof that this process won an election and has not yet lost it.
///
/// Only a won campaign makes one, and it is not `Clone`: a function that takes
/// `&Leadership` cannot be called by a follower. It cannot stop a process that is
/// paused between the check and the write, so send [`token`](LeadershipHandle::token) with every
/// write and have the receiver refuse a lower one.
///
/// All that it can be asked is at [`LeadershipHandle`]; what it promises is the [contract](crate::contract).
///
/// Dropping it ends the belief at once and gives leadership up in the background: wait for
/// [`Backend::drained`](crate::candidate::Backend::drained) before the process ends.
/// [`resign`](Self::resign) does the same and says whether it worked.
#[derive(Debug)]
#[must_use = "dropping this gives up leadership"]
pub struct Leadership {
    handle: LeadershipHandle,
    orders: mpsc::UnboundedSender<TermOrder>,
}

impl Leadership {
    /// A leadership for its holder, and the other ends of it for the thread that renews.
    pub(crate) fn new(term: LeadershipTerm) -> (Self, TermHandle) {
        let term = Arc::new(term);
        let (lost, loss) = watch::channel(None);
        // As many orders wait as there are callers: each waits for its answer.
        let (orders, received) = mpsc::unbounded_channel();
        let tenure = TermHandle { term: Arc::clone(&term), lost, orders: received };
        let handle = LeadershipHandle { term, loss, orders: orders.downgrade() };
        (Self { handle, orders }, tenure)
    }

    /// The same term, for other parts of the program.
    pub fn handle(&self) -> LeadershipHandle {
        self.handle.clone()
    }

    /// Gives leadership up, and waits until the next candidate may lead.
    ///
    /// Stop the work first: belief ends the moment this is called. The lease, which holds no place
    /// any more, is given back in the background: see
    /// [`Backend::drained`](crate::candidate::Backend::drained).
    ///
    /// # Errors
    ///
    /// [`OrderError::NotLeading`] if it was lost already. [`OrderError::Unconfirmed`] if
    /// the backend could not be told before the deadline: the lease then ends by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call goes on resigning in the background.
    pub async fn resign(self) -> Result<(), OrderError> {
        if !self.holds() {
            return Err(OrderError::NotLeading);
        }
        // The order goes first: to the renewing thread, a belief that ends without one is a loss.
        let (done, outcome) = oneshot::channel();
        let _ = self.orders.send(TermOrder::Resign { done });
        self.term.validity.end();
        outcome.await.unwrap_or(Err(OrderError::NotLeading))
    }
}

impl Deref for Leadership {
    type Target = LeadershipHandle;

    fn deref(&self) -> &LeadershipHandle {
        &self.handle
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // A holder that finds the deadline behind it, and goes, has not resigned.
        let order = if self.holds() { TermOrder::resign() } else { TermOrder::Lapsed };
        // The order goes first, as in `resign`.
        let _ = self.orders.send(order);
        self.term.validity.end();
    }
}

/// One term of leadership, to be asked about and acted for: by the work, an HTTP handler, a metric.
///
/// Cheap to clone, and it holds nothing: the term ends with its [`Leadership`], however many handles there are.
/// From then on [`holds`](Self::holds) says no, and [`lost`](Self::lost) why.
#[derive(Debug, Clone)]
pub struct LeadershipHandle {
    term: Arc<LeadershipTerm>,
    loss: watch::Receiver<Option<Loss>>,
    /// Weak: the last strong one's end orders to resign.
    orders: mpsc::WeakUnboundedSender<TermOrder>,
}

impl LeadershipHandle {
    /// This term's fencing token.
    pub fn token(&self) -> FencingToken {
        self.term.token
    }

    /// The cluster whose [`token`](Self::token) this is.
    pub fn cluster(&self) -> ClusterId {
        self.term.cluster
    }

    /// The name of this process's candidate.
    pub fn name(&self) -> &CandidateName {
        &self.term.name
    }

    /// The election that was won.
    pub fn election(&self) -> &ElectionName {
        &self.term.election
    }

    /// Whether this process leads *now*, by the boot-time clock.
    ///
    /// Costs a clock read and an atomic load. Ask before every step that only a
    /// leader may take: after a freeze this says no before any timer had a chance to.
    /// Once it has said no it never says yes again.
    pub fn holds(&self) -> bool {
        self.term.validity.holds_at(Timestamp::now())
    }

    /// Until when leadership is proved so far (boot-time clock); `None` once it is known to be
    /// lost. It may lie in the past: ask [`holds`](Self::holds).
    pub fn deadline(&self) -> Option<Timestamp> {
        self.term.validity.until()
    }

    /// How much of the proved time is left (boot-time clock); zero once lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().map_or(Duration::ZERO, |until| until.since(Timestamp::now()))
    }

    /// What it takes to give this term up after this process is gone.
    ///
    /// `None` where there is nothing to give up: a term among peers is over as soon as its leader is not
    /// heard any more.
    pub fn ticket(&self) -> Option<&Ticket> {
        self.term.ticket.as_ref()
    }

    /// Waits until leadership can no longer be proved, and says why.
    ///
    /// Returns by the [`deadline`](Self::deadline) even if the backend never answers again, and
    /// even if the thread that renews is stuck. In a `select!`, put it first and say `biased;`.
    ///
    /// Call it on a Tokio runtime with its timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a call dropped in `select!` gives nothing up, and a later call sees
    /// everything since.
    pub async fn lost(&self) -> Loss {
        let mut told = self.loss.clone();
        tokio::select! {
            biased;
            told = told.wait_for(Option::is_some) => match told.map(|loss| *loss) {
                Ok(Some(loss)) => loss,
                Ok(None) | Err(_) => {
                    self.term.validity.end();
                    Loss::ShutDown
                }
            },
            () = self.expired() => Loss::Expired,
        }
    }

    /// Waits until the deadline has passed, by our own look at the clock.
    async fn expired(&self) {
        /// What ends belief before the deadline says at once why.
        const REASON_FOLLOWS: Duration = Duration::from_millis(100);
        loop {
            let Some(until) = self.deadline() else {
                return tokio::time::sleep(REASON_FOLLOWS).await;
            };
            if !self.holds() {
                return;
            }
            tokio::time::sleep(until.since(Timestamp::now())).await;
        }
    }

    /// Runs `work` for as long as this process leads.
    ///
    /// The clock is read before each poll of the work, so that after a freeze not one step
    /// of it runs, even if it is ready before the news of the loss is.
    ///
    /// # Errors
    ///
    /// The [`Loss`], if it came before the work was done. The work is dropped then.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `work` is.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Loss> {
        let mut work = pin!(work);
        let guarded = poll_fn(|cx| if self.holds() { work.as_mut().poll(cx) } else { Poll::Pending });
        tokio::select! {
            biased;
            loss = self.lost() => Err(loss),
            done = guarded => Ok(done),
        }
    }

    /// Announces a new value to observers, in place of the candidate's name.
    ///
    /// # Errors
    ///
    /// [`OrderError::NotLeading`] if leadership is over, [`OrderError::Refused`] if the backend
    /// does not take this value, and never made it visible, [`OrderError::Unconfirmed`] if
    /// it did not confirm it in time: it may or may not be visible.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves it open whether the value is announced.
    pub async fn proclaim(&self, value: impl Into<Vec<u8>>) -> Result<(), OrderError> {
        if !self.holds() {
            return Err(OrderError::NotLeading);
        }
        let (done, answer) = oneshot::channel();
        let orders = self.orders.upgrade().ok_or(OrderError::NotLeading)?;
        orders.send(TermOrder::Proclaim { value: value.into(), done }).map_err(|_| OrderError::NotLeading)?;
        // While this waits, the guard alone keeps the term.
        drop(orders);
        answer.await.unwrap_or(Err(OrderError::NotLeading))
    }
}

/// Names a term of leadership, so that another process can give it up once this one is gone:
/// see [`Etcd::release`](crate::etcd::Etcd::release).
///
/// It has nothing secret, and is of no use to anybody who may not write to the election.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ticket {
    /// The number of the cluster that has the key. Another one may have the same keys and leases: it was
    /// restored from the same snapshot.
    pub(crate) cluster: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) lease: i64,
    pub(crate) ttl: Ttl,
}

/// What came of a [`Ticket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it says whether there was anything to give up"]
pub enum Released {
    /// The term was given up: the next candidate may lead.
    GivenUp,
    /// The ticket's key was not there any more, or not that of its term and lease. Nothing was changed.
    NothingHeld,
}

/// Why a [`Ticket`] did not give its term up for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nothing was changed: the ticket is for another cluster than the one that answers.
    #[error("the ticket is for cluster {ticket}, and cluster {answered} answers")]
    OtherCluster {
        /// The cluster that has the key.
        ticket: ClusterId,
        /// The cluster that was asked.
        answered: ClusterId,
    },
    /// Nothing was changed: no election makes such a ticket.
    #[error("the ticket names no candidate's key")]
    Malformed,
    /// etcd refuses this caller, and will again.
    #[error("refused: {0}")]
    Refused(String),
    /// etcd did not confirm it in time: the lease then ends by itself.
    #[error("not confirmed in time: {0}")]
    Unconfirmed(String),
}

/// Why an order of the leader's was not carried out for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// This process does not lead any more.
    #[error("leadership is over")]
    NotLeading,
    /// The backend did not take it, and will not.
    #[error("refused: {0}")]
    Refused(String),
    /// The backend did not confirm it in time.
    #[error("not confirmed in time: {0}")]
    Unconfirmed(String),
}

/// What the holder and the renewing thread share about one term of leadership.
#[derive(Debug)]
pub(crate) struct LeadershipTerm {
    pub(crate) token: FencingToken,
    pub(crate) cluster: ClusterId,
    pub(crate) name: CandidateName,
    pub(crate) election: ElectionName,
    pub(crate) validity: Arc<SharedValidity>,
    /// `None` among peers: the term itself is in everything that peers say to each other.
    pub(crate) ticket: Option<Ticket>,
}

/// The renewing thread's ends of a [`Leadership`].
#[derive(Debug)]
pub(crate) struct TermHandle {
    pub(crate) term: Arc<LeadershipTerm>,
    lost: watch::Sender<Option<Loss>>,
    orders: mpsc::UnboundedReceiver<TermOrder>,
}

impl TermHandle {
    /// The next order; a dropped [`Leadership`] orders to resign.
    pub(crate) async fn order(&mut self) -> TermOrder {
        self.orders.recv().await.unwrap_or_else(TermOrder::resign)
    }

    /// Whether the holder has given leadership up, and is only not heard yet.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
    pub(crate) fn given_up(&mut self) -> Option<TermOrder> {
        loop {
            match self.orders.try_recv() {
                Ok(TermOrder::Proclaim { done, .. }) => drop(done.send(Err(OrderError::NotLeading))),
                Ok(resign @ TermOrder::Resign { .. }) => return Some(resign),
                Ok(TermOrder::Lapsed) => return None,
                Err(TryRecvError::Disconnected) => return Some(TermOrder::resign()),
                Err(TryRecvError::Empty) => return None,
            }
        }
    }

    /// Waits until the holder of a lost leadership has dropped it.
    pub(crate) async fn let_go(&mut self) {
        while let Some(TermOrder::Proclaim { done, .. }) = self.orders.recv().await {
            let _ = done.send(Err(OrderError::NotLeading));
        }
    }

    /// Ends the belief, then tells the holder why.
    pub(crate) fn lose(&self, loss: Loss) {
        self.term.validity.end();
        self.lost.send_replace(Some(loss));
    }
}

pub(crate) type OrderOutcome = Result<(), OrderError>;

/// An order of a [`Leadership`] or one of its handles.
#[derive(Debug)]
pub(crate) enum TermOrder {
    Proclaim {
        value: Vec<u8>,
        done: oneshot::Sender<OrderOutcome>,
    },
    Resign {
        done: oneshot::Sender<OrderOutcome>,
    },
    /// To end what the holder found to have ended at its deadline.
    Lapsed,
}

impl TermOrder {
    /// To resign, with no caller that waits for it.
    fn resign() -> Self {
        Self::Resign { done: oneshot::channel().0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::SharedValidity;

    fn tenure(validity: Arc<SharedValidity>) -> TermHandle {
        let (lost, _) = watch::channel(None);
        let (_, orders) = mpsc::unbounded_channel();
        let term = Arc::new(LeadershipTerm {
            token: FencingToken::new(1),
            cluster: ClusterId(1),
            name: "a".parse().unwrap(),
            election: "leader".parse().unwrap(),
            validity,
            ticket: None,
        });
        TermHandle { term, lost, orders }
    }

    #[test]
    fn contract_4_belief_has_ended_when_the_loss_is_told() {
        let far = Timestamp::now() + Duration::from_secs(60);
        let tenure = tenure(Arc::new(SharedValidity::new(far)));
        let told = tenure.lost.subscribe();
        tenure.lose(Loss::KeyDeleted);
        assert_eq!(*told.borrow(), Some(Loss::KeyDeleted));
        assert!(!tenure.term.validity.holds_at(Timestamp::now()));
    }
}
