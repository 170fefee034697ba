//! The guard that a won campaign returns, the handles that ask about it, and how it ends.
//!
//! [`Leadership`] is the guard: one for each term, which ends with it. A [`LeadershipHandle`] asks about the
//! term and acts in its name. The renewing thread holds the other ends (`TermHandle`): it extends the
//! validity, reports the reason of a loss, and carries out the orders of the guard and the handles.

use std::{fmt, future::poll_fn, ops::Deref, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use crate::{
    choosing::{TransferError, Transferred},
    clock::Timestamp,
    names::{CandidateName, ElectionName},
    timing::Ttl,
    validity::SharedValidity,
};

/// Number that grows with every term of leadership in one election.
///
/// Send it with every write, and have the receiver refuse a write whose token is smaller than the largest it
/// has seen: this stops a leader that was paused between its last check and the write. On etcd it is the
/// `create_revision` of the leader's key, among peers Raft's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Restores a token from its stored number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number, to be stored or sent.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies the cluster that issued a [`FencingToken`]. Tokens of two clusters don't compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub(crate) u64);

impl ClusterId {
    /// Returns the cluster's own id.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Reason that a term of leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was acknowledged in time.
    Expired,
    /// The lease was found gone before its time.
    Revoked,
    /// The leader's key is gone: it was deleted, or its lease revoked.
    KeyDeleted,
    /// Another candidate took the leader's place: on etcd by creating its key anew, among peers in a later
    /// term.
    Superseded,
    /// The leader's key could not be watched for a whole TTL: it may be gone.
    Unobservable,
    /// Leadership was handed to another candidate.
    Transferred,
    /// This process gave leadership up.
    Resigned,
    /// The renewing thread of this process has stopped.
    ShutDown,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal was acknowledged in time",
            Self::Revoked => "the lease is gone",
            Self::KeyDeleted => "the leader's key was deleted",
            Self::Superseded => "another candidate took the leader's place",
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
/// [`LeadershipHandle`] has the questions that it answers, the [contract](crate::contract) its guarantee.
///
/// Dropping it invalidates the term at once and gives leadership up in the background: wait for
/// [`Backend::drained`](crate::candidate::Backend::drained) before the process ends. [`resign`](Self::resign)
/// does the same and reports whether it worked.
#[derive(Debug)]
#[must_use = "dropping this gives up leadership"]
pub struct Leadership {
    handle: LeadershipHandle,
    orders: mpsc::UnboundedSender<TermOrder>,
}

impl Leadership {
    /// Creates a term's guard, and the renewing thread's ends of it.
    pub(crate) fn new(term: LeadershipTerm) -> (Self, TermHandle) {
        let term = Arc::new(term);
        let (lost, loss) = watch::channel(None);
        // Unbounded, but never longer than there are callers: each waits for its answer.
        let (orders, received) = mpsc::unbounded_channel();
        let term_handle = TermHandle { term: Arc::clone(&term), lost, orders: received };
        let handle = LeadershipHandle { term, loss, orders: orders.downgrade() };
        (Self { handle, orders }, term_handle)
    }

    /// Returns a handle to this term, for other parts of the program.
    pub fn handle(&self) -> LeadershipHandle {
        self.handle.clone()
    }

    /// Gives leadership up, and waits until the next candidate may lead.
    ///
    /// Stop the work first: the term is invalid from the moment of the call. The lease, which holds no key
    /// any more, is revoked in the background: see [`Backend::drained`](crate::candidate::Backend::drained).
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
        // The order goes first: the renewing thread takes a validity that ends without an order for a loss.
        let (done, outcome) = oneshot::channel();
        let _ = self.orders.send(TermOrder::Resign { done });
        self.term.validity.end();
        outcome.await.unwrap_or(Err(OrderError::NotLeading))
    }

    /// Hands leadership over to the waiting candidate of this name, and returns its term.
    ///
    /// Stop the work first. If the transfer is refused, this process still leads, with the same token, and may
    /// go on. Once it is accepted the term is over, whatever becomes of the transfer: [`lost`](LeadershipHandle::lost)
    /// returns [`Loss::Transferred`]. An operator's order does the same to a leader at work: its work then
    /// stops on the loss, and leadership passes on once the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`TransferError::Refused`], [`TransferError::Absent`] and [`TransferError::Ambiguous`]: nothing has
    /// changed. [`TransferError::Void`] and [`TransferError::Unconfirmed`]: the term is over, and another
    /// candidate may lead. [`TransferError::NoLeader`] if the term was over already.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call goes on with the transfer in the background.
    pub async fn transfer_to(&self, name: impl Into<String>) -> Result<Transferred, TransferError> {
        let over = || TransferError::NoLeader(OrderError::NotLeading.to_string());
        if !self.holds() {
            return Err(over());
        }
        let (done, outcome) = oneshot::channel();
        let _ = self.orders.send(TermOrder::Transfer { to: name.into(), done });
        outcome.await.unwrap_or_else(|_| Err(over()))
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
        // A guard that is dropped after its deadline has not resigned.
        let order = if self.holds() { TermOrder::resign() } else { TermOrder::Lapsed };
        // The order goes first, as in `resign`.
        let _ = self.orders.send(order);
        self.term.validity.end();
    }
}

/// One term of leadership, for the work, an HTTP handler, a metric.
///
/// Cheap to clone. A handle does not keep the term open: it ends with its [`Leadership`], however many
/// handles there are. From then on [`holds`](Self::holds) is false, and [`lost`](Self::lost) returns the
/// reason.
#[derive(Debug, Clone)]
pub struct LeadershipHandle {
    term: Arc<LeadershipTerm>,
    loss: watch::Receiver<Option<Loss>>,
    /// Weak: the drop of the last strong sender is an order to resign.
    orders: mpsc::WeakUnboundedSender<TermOrder>,
}

impl LeadershipHandle {
    /// Returns this term's fencing token.
    pub fn token(&self) -> FencingToken {
        self.term.token
    }

    /// Returns the cluster that issued the [`token`](Self::token).
    pub fn cluster(&self) -> ClusterId {
        self.term.cluster
    }

    /// Returns the name of this process's candidate.
    pub fn name(&self) -> &CandidateName {
        &self.term.name
    }

    /// Returns the election that was won.
    pub fn election(&self) -> &ElectionName {
        &self.term.election
    }

    /// Returns whether this process leads *now*, by the boot-time clock.
    ///
    /// Costs a clock read and an atomic load. Ask before every step that only a leader may take: after a
    /// freeze this is false before any timer had a chance to fire. Once false it stays false.
    pub fn holds(&self) -> bool {
        self.term.validity.holds_at(Timestamp::now())
    }

    /// Returns the deadline that is proved so far (boot-time clock); `None` once leadership is known to be
    /// lost. It may lie in the past: ask [`holds`](Self::holds).
    pub fn deadline(&self) -> Option<Timestamp> {
        self.term.validity.until()
    }

    /// Returns the time left until the deadline (boot-time clock); zero once lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().map_or(Duration::ZERO, |until| until.since(Timestamp::now()))
    }

    /// Returns the ticket that releases this term after this process is gone.
    ///
    /// `None` among peers, where nothing has to be released: a term is over once the leader's heartbeats
    /// stop.
    pub fn ticket(&self) -> Option<&Ticket> {
        self.term.ticket.as_ref()
    }

    /// Waits until leadership can no longer be proved, and returns the reason.
    ///
    /// Returns by the [`deadline`](Self::deadline) even if the backend never answers again, and
    /// even if the thread that renews is stuck. In a `select!`, put it first and say `biased;`.
    ///
    /// Call it on a Tokio runtime with its timers enabled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a call dropped in `select!` gives nothing up, and a later call sees everything since.
    pub async fn lost(&self) -> Loss {
        let mut loss = self.loss.clone();
        tokio::select! {
            biased;
            loss = loss.wait_for(Option::is_some) => match loss.map(|loss| *loss) {
                Ok(Some(loss)) => loss,
                Ok(None) | Err(_) => {
                    self.term.validity.end();
                    Loss::ShutDown
                }
            },
            () = self.expired() => Loss::Expired,
        }
    }

    /// Waits until this task itself finds the deadline behind the clock.
    async fn expired(&self) {
        /// A loss before the deadline sends its reason within this time; it crosses one channel.
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
    /// The clock is read before each poll of the work, so after a freeze not one step of it runs, even if it
    /// is ready before the report of the loss arrives.
    ///
    /// # Errors
    ///
    /// The [`Loss`], if it came before the work was done. The work is then dropped.
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
    /// [`OrderError::NotLeading`] if leadership is over. [`OrderError::Refused`] if the backend does not take
    /// this value and never made it visible. [`OrderError::Unconfirmed`] if it was not confirmed in time: the
    /// value may or may not be visible.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether the value is announced.
    pub async fn proclaim(&self, value: impl Into<Vec<u8>>) -> Result<(), OrderError> {
        if !self.holds() {
            return Err(OrderError::NotLeading);
        }
        let (done, answer) = oneshot::channel();
        let orders = self.orders.upgrade().ok_or(OrderError::NotLeading)?;
        orders.send(TermOrder::Proclaim { value: value.into(), done }).map_err(|_| OrderError::NotLeading)?;
        // Only the guard keeps the term open during the wait.
        drop(orders);
        answer.await.unwrap_or(Err(OrderError::NotLeading))
    }
}

/// Identifies a term of leadership, so that another process can release it once this one is gone: see
/// [`Etcd::release`](crate::etcd::Etcd::release).
///
/// It contains no secret, and is useless to a client without write access to the election.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ticket {
    /// The id of the cluster that has the key. Another cluster may have the same keys and leases, if it was
    /// restored from the same snapshot.
    pub(crate) cluster: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) lease: i64,
    pub(crate) ttl: Ttl,
}

/// Outcome of the release of a [`Ticket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "tells whether there was anything to give up"]
pub enum Released {
    /// The term was released: the next candidate may lead.
    GivenUp,
    /// The key was already gone, or belonged to another term or lease. Nothing was changed.
    NothingHeld,
}

/// Reason that a [`Ticket`]'s term was not released for certain.
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
    /// etcd refuses this caller, and a retry can't help.
    #[error("refused: {0}")]
    Refused(String),
    /// etcd did not confirm it in time: the lease then ends by itself.
    #[error("not confirmed in time: {0}")]
    Unconfirmed(String),
}

/// Reason that an order of the leader was not carried out for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// This process does not lead any more.
    #[error("leadership is over")]
    NotLeading,
    /// The backend refused it, and will refuse it again.
    #[error("refused: {0}")]
    Refused(String),
    /// The backend did not confirm it in time.
    #[error("not confirmed in time: {0}")]
    Unconfirmed(String),
}

/// State of one term that the guard and the renewing thread share.
#[derive(Debug)]
pub(crate) struct LeadershipTerm {
    pub(crate) token: FencingToken,
    pub(crate) cluster: ClusterId,
    pub(crate) name: CandidateName,
    pub(crate) election: ElectionName,
    pub(crate) validity: Arc<SharedValidity>,
    /// `None` among peers: every message between them carries the term.
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
    /// Waits for the next order; a dropped [`Leadership`] orders to resign.
    pub(crate) async fn order(&mut self) -> TermOrder {
        self.orders.recv().await.unwrap_or_else(TermOrder::resign)
    }

    /// Returns an order to give up that has arrived but was not received yet.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
    pub(crate) fn given_up(&mut self) -> Option<TermOrder> {
        loop {
            match self.orders.try_recv() {
                Ok(resign @ TermOrder::Resign { .. }) => return Some(resign),
                Ok(TermOrder::Lapsed) => return None,
                Ok(late @ (TermOrder::Proclaim { .. } | TermOrder::Transfer { .. })) => late.too_late(),
                Err(TryRecvError::Disconnected) => return Some(TermOrder::resign()),
                Err(TryRecvError::Empty) => return None,
            }
        }
    }

    /// Waits until the guard of a lost term is dropped.
    pub(crate) async fn let_go(&mut self) {
        while let Some(order @ (TermOrder::Proclaim { .. } | TermOrder::Transfer { .. })) =
            self.orders.recv().await
        {
            order.too_late();
        }
    }

    /// Invalidates the term, then reports the reason.
    pub(crate) fn lose(&self, loss: Loss) {
        self.term.validity.end();
        self.lost.send_replace(Some(loss));
    }
}

pub(crate) type OrderOutcome = Result<(), OrderError>;

pub(crate) type TransferOutcome = Result<Transferred, TransferError>;

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
    /// Hand over to this candidate. A refusal leaves the term as it is. Once accepted the term ends at once:
    /// the caller has stopped its work, and keeps the guard until the answer.
    Transfer {
        to: String,
        done: oneshot::Sender<TransferOutcome>,
    },
    /// The guard found its deadline passed: end the term.
    Lapsed,
}

impl TermOrder {
    /// An order to resign that no caller waits for.
    fn resign() -> Self {
        Self::Resign { done: oneshot::channel().0 }
    }

    /// Answers an order that came after the end of its term.
    pub(crate) fn too_late(self) {
        let over = OrderError::NotLeading;
        match self {
            Self::Proclaim { done, .. } | Self::Resign { done } => drop(done.send(Err(over))),
            Self::Transfer { done, .. } => drop(done.send(Err(TransferError::NoLeader(over.to_string())))),
            Self::Lapsed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::SharedValidity;

    fn term_handle(validity: Arc<SharedValidity>) -> TermHandle {
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
    fn contract_4_validity_has_ended_when_the_loss_is_reported() {
        let far = Timestamp::now() + Duration::from_secs(60);
        let term_handle = term_handle(Arc::new(SharedValidity::new(far)));
        let loss = term_handle.lost.subscribe();
        term_handle.lose(Loss::KeyDeleted);
        assert_eq!(*loss.borrow(), Some(Loss::KeyDeleted));
        assert!(!term_handle.term.validity.holds_at(Timestamp::now()));
    }
}
