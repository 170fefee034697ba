//! One term of leadership on etcd, from the verified win to its end.
//!
//! At every end of a term the validity ends first, then the holder is notified, and only then is anything
//! sent to etcd.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    EtcdShared, LeaderKey,
    announcement::Announcement,
    error::{EtcdError, Remedy},
    history::TermHistory,
    keepalive::{LeaseEnd, LeaseGuard, Renewal, short_pause},
    keys::{self, LeaseId, Revision},
    queue::{Key, QueuePlace},
    staleness::ReadKind,
    succession::{Departure, ProgramOrder, Succession},
    view::{KeyWatch, QueuePosition},
};
use crate::{
    candidate::Event,
    choosing::{TermEnding, Transferred, handoff::HandoffEnd},
    clock::{self, Timestamp},
    leadership::{
        ClusterId, FencingToken, Loss, OrderError, OrderOutcome, ReleaseError, Released, TermHandle,
        TermOrder, Ticket,
    },
    names::{ElectionName, displayed},
    timing::Ttl,
};

/// Time limit of a release: its caller is shutting down.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// A term under way.
pub(super) struct ActiveTerm {
    pub(super) leader_key: LeaderKey,
    pub(super) lease: LeaseGuard,
    pub(super) keep_alive: AbortOnDropHandle<LeaseEnd>,
    pub(super) renewals: mpsc::Receiver<Renewal>,
    pub(super) key_watch: KeyWatch,
    pub(super) term_handle: TermHandle,
    /// The address that the candidate advertises.
    pub(super) address: Option<String>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) program: mpsc::UnboundedSender<ProgramOrder>,
}

impl ActiveTerm {
    pub(super) async fn run(mut self, announce: bool, succession: Succession) {
        let token = self.term_handle.term.token;
        let (history, _telling) = self.tell(announce);
        let deciding = self.leader_key.shared.spawn(succession.run(history.clone()));
        let mut deciding = Some(AbortOnDropHandle::new(deciding));
        let mut unobservable: Option<UnobservableSince> = None;
        let ended = loop {
            tokio::select! {
                biased;
                end = &mut self.keep_alive => break match self.term_handle.given_up() {
                    Some(TermOrder::Resign { done }) => TermEnd::Resigned(done),
                    Some(_) | None => TermEnd::Lost(match end {
                        Ok(LeaseEnd::Expired) => Loss::Expired,
                        Ok(LeaseEnd::Gone) => Loss::Revoked,
                        Err(_panicked) => Loss::ShutDown,
                    }),
                },
                position = self.key_watch.position() => match self.key_state(position) {
                    LeaderKeyState::Seated => unobservable = None,
                    LeaderKeyState::Lost(loss) => break TermEnd::Lost(loss),
                    LeaderKeyState::Nothing { since } => unobservable = Some(UnobservableSince { since, reported: false }),
                },
                blind = blind(&mut unobservable, self.leader_key.ttl) => match blind {
                    UnobservableUntil::Until(until) => drop(self.events.send(Event::Unobservable { token, until })),
                    UnobservableUntil::ForTooLong => break TermEnd::Lost(Loss::Unobservable),
                },
                Some(renewal) = self.renewals.recv() => self.renewed(token, renewal),
                order = self.term_handle.order() => match order {
                    TermOrder::Proclaim { value, done } => {
                        let proclaiming = self.leader_key.clone().proclaim(value);
                        self.leader_key.shared.spawn(async move { done.send(proclaiming.await) });
                    }
                    TermOrder::Transfer { to, done } => {
                        if let Err(late) = self.program.send(ProgramOrder { to, done }) {
                            TermOrder::Transfer { to: late.0.to, done: late.0.done }.too_late();
                        }
                    }
                    TermOrder::Resign { done } => break TermEnd::Resigned(done),
                    TermOrder::Lapsed => break TermEnd::Lost(Loss::Expired),
                },
                departure = decided(&mut deciding) => break TermEnd::Planned(departure),
            }
        };
        drop(deciding);
        match ended {
            TermEnd::Planned(Departure::HandOver(transfer)) => {
                self.lose(token, Loss::Transferred);
                drop(self.keep_alive);
                // A program that ordered it has stopped its work, and keeps the guard until the answer.
                if transfer.done.is_none() {
                    self.leader_key.let_go(&mut self.term_handle).await;
                }
                let ended = SystemTime::now();
                let (to, reason) = (transfer.shown.clone(), transfer.reason.clone());
                let transferred = history.ending_soon(TermEnding::Transferred { to, reason }, ended).await;
                let void = history.ending(TermEnding::Resigned, ended);
                let record = |end| match end {
                    HandoffEnd::Transferred => transferred.clone(),
                    HandoffEnd::Void => void.clone(),
                };
                let outcome = self.leader_key.hand_over(self.lease, &transfer, record).await;
                match &outcome {
                    Ok(Transferred { to, token }) => tracing::info!(to, %token, "handed over"),
                    Err(error) => tracing::warn!(%error, "did not hand over as planned"),
                }
                if let Some(done) = transfer.done {
                    let _ = done.send(outcome);
                }
            }
            TermEnd::Planned(Departure::Resign) => {
                self.lose(token, Loss::Resigned);
                drop(self.keep_alive);
                self.leader_key.let_go(&mut self.term_handle).await;
                let deadline = Timestamp::now() + self.leader_key.ttl.as_duration().min(RELEASE_WITHIN);
                let resigned = history.ending_soon(TermEnding::Resigned, SystemTime::now()).await;
                if let Err(error) = self.leader_key.release(self.lease, resigned, deadline).await {
                    tracing::debug!(%error, "the release is not confirmed");
                }
            }
            TermEnd::Lost(loss) => {
                self.lose(token, loss);
                drop(self.keep_alive);
                // The work may still be stopping: no other candidate should lead before it has stopped, or
                // the lease has expired.
                let _ = timeout(self.leader_key.ttl.as_duration(), self.term_handle.let_go()).await;
                // Dropping the lease revokes it: the next candidate need not wait for its expiry.
            }
            TermEnd::Resigned(done) => {
                self.lose(token, Loss::Resigned);
                let deadline = Timestamp::now() + self.leader_key.ttl.as_duration().min(RELEASE_WITHIN);
                let keep_alive = self.keep_alive;
                let resigned = history.ending_soon(TermEnding::Resigned, SystemTime::now()).await;
                let (released, ()) = tokio::join! {
                    biased;
                    // Sent first, so that the next candidate need not wait for our cleanup.
                    self.leader_key.release(self.lease, resigned, deadline),
                    // A lease that is being given up must not be renewed.
                    async { drop(keep_alive) },
                };
                let _ = done.send(released.map_err(|error| OrderError::Unconfirmed(error.message)));
            }
        }
    }

    fn lose(&self, token: FencingToken, loss: Loss) {
        self.term_handle.lose(loss);
        let _ = self.events.send(Event::Lost { token, loss });
    }

    fn renewed(&self, token: FencingToken, Renewal { until, latency, left }: Renewal) {
        let _ = self.events.send(Event::Renewed { token, until, latency, left });
    }

    /// Announces the leader if it wants that, and writes its term to the history.
    fn tell(&self, announce: bool) -> (TermHistory, AbortOnDropHandle<()>) {
        let since = SystemTime::now();
        let announcement = announce.then(|| self.announcement(since));
        let (writer, history) = TermHistory::new();
        let key = self.leader_key.clone();
        let (election, leader) = (self.term_handle.term.election.clone(), self.term_handle.term.name.clone());
        let telling = self.leader_key.shared.spawn(async move {
            // The caller that waits for the win goes first.
            tokio::task::yield_now().await;
            if let Some(announcement) = announcement {
                key.clone().announce(announcement).await;
            }
            writer.open(key, election, leader.to_string(), since).await;
        });
        (history, AbortOnDropHandle::new(telling))
    }

    fn announcement(&self, since: SystemTime) -> Announcement {
        Announcement {
            leader: self.term_handle.term.name.to_string(),
            token: self.term_handle.term.token,
            since,
            address: self.address.clone(),
        }
    }

    fn key_state(&self, position: QueuePosition) -> LeaderKeyState {
        match position {
            QueuePosition::Unsure { since } => LeaderKeyState::Nothing { since },
            QueuePosition::At { place: QueuePlace::Absent, .. } => LeaderKeyState::Lost(Loss::KeyDeleted),
            QueuePosition::At { place: QueuePlace::First(key), .. } if self.ours(key) => {
                LeaderKeyState::Seated
            }
            // No key can come before ours while it is the one we won with.
            QueuePosition::At { place: QueuePlace::First(_) | QueuePlace::Behind(_), .. } => {
                LeaderKeyState::Lost(Loss::Superseded)
            }
        }
    }

    fn ours(&self, key: Key) -> bool {
        key.created == self.leader_key.created && key.lease.is_none_or(|lease| lease == self.lease.id())
    }
}

/// Time since when the queue is unknown, so that a deletion of our key would go unnoticed.
struct UnobservableSince {
    since: Timestamp,
    /// True once it was reported.
    reported: bool,
}

enum UnobservableUntil {
    /// Long enough to report it; the term ends then, unless the queue is known before.
    Until(Timestamp),
    ForTooLong,
}

/// Waits until unobservability has to be reported, or must end the term.
///
/// Cancel safe.
async fn blind(unobservable: &mut Option<UnobservableSince>, ttl: Ttl) -> UnobservableUntil {
    let Some(UnobservableSince { since, reported }) = unobservable else {
        return std::future::pending().await;
    };
    let end = *since + ttl.as_duration();
    if *reported {
        clock::sleep_until(end).await;
        return UnobservableUntil::ForTooLong;
    }
    // Longer than a reconnection takes, and early enough for an operator to act.
    clock::sleep_until(*since + ttl.as_duration() / 3).await;
    *reported = true;
    UnobservableUntil::Until(end)
}

/// Waits for a planned end of the term. Cancel safe.
async fn decided(deciding: &mut Option<AbortOnDropHandle<Departure>>) -> Departure {
    if let Some(task) = deciding {
        if let Ok(departure) = task.await {
            return departure;
        }
        // It panicked: the term goes on without it.
        *deciding = None;
    }
    std::future::pending().await
}

enum TermEnd {
    Lost(Loss),
    Planned(Departure),
    Resigned(oneshot::Sender<OrderOutcome>),
}

/// The state of the leader's key in the view of the queue.
enum LeaderKeyState {
    Seated,
    Lost(Loss),
    /// Unknown, since then.
    Nothing {
        since: Timestamp,
    },
}

/// Returns whether one of the nested transactions was run, and not its alternative.
pub(super) fn any_succeeded(answer: &TxnResponse) -> bool {
    let ran = |inner: &TxnOpResponse| matches!(inner, TxnOpResponse::Txn(inner) if inner.succeeded() || any_succeeded(inner));
    answer.op_responses().iter().any(ran)
}

fn is_announcement(kv: &KeyValue) -> bool {
    kv.lease() > 0 && Announcement::from_json(kv.value()).is_some()
}

/// Releases the term of a process that is gone: see [`Etcd::release`](super::Etcd::release).
pub(crate) async fn release(
    shared: Arc<EtcdShared>,
    ticket: Ticket,
    deadline: Timestamp,
) -> Result<Released, ReleaseError> {
    let lease = LeaseId(ticket.lease);
    if ticket.created <= 0 || !keys::is_candidates_key(&ticket.key, lease) {
        return Err(ReleaseError::Malformed);
    }
    loop {
        let left = deadline.since(Timestamp::now());
        let tried = timeout(left, delete_for(&shared, &ticket)).await;
        let error = match tried.unwrap_or_else(|_| Err(NotReleased::Error(EtcdError::unanswered(left)))) {
            Ok(Released::GivenUp) => {
                // The key was on this lease, so it is the candidate's own.
                LeaseGuard::new(shared, lease, ticket.ttl).revoke_at_leisure();
                return Ok(Released::GivenUp);
            }
            // Also after a deletion whose answer did not come. The lease holds nothing any more, and without
            // proof that it is ours it is left to expire.
            Ok(Released::NothingHeld) => return Ok(Released::NothingHeld),
            Err(NotReleased::OtherCluster(answered)) => {
                let ticket = ClusterId(ticket.cluster);
                return Err(ReleaseError::OtherCluster { ticket, answered: ClusterId(answered) });
            }
            Err(NotReleased::Error(error)) => error,
        };
        if matches!(error.remedy, Remedy::Human | Remedy::Request) {
            return Err(ReleaseError::Refused(error.message));
        }
        if Timestamp::now() >= deadline {
            return Err(ReleaseError::Unconfirmed(error.message));
        }
        sleep(short_pause()).await;
    }
}

enum NotReleased {
    OtherCluster(u64),
    Error(EtcdError),
}

impl From<EtcdError> for NotReleased {
    fn from(error: EtcdError) -> Self {
        Self::Error(error)
    }
}

/// Deletes a ticket's key if it is the very one that the ticket is for.
///
/// Asks for the cluster's id first, over the same connection: another cluster may have the same keys,
/// revisions and leases.
async fn delete_for(shared: &EtcdShared, ticket: &Ticket) -> Result<Released, NotReleased> {
    let connection = shared.connections.connection().await?;
    let patience = shared.call_patience(ticket.ttl);
    let mut client = connection.kv();

    let known = shared.known();
    let asked = client.get(&*ticket.key, Some(GetOptions::new().with_keys_only()));
    let answer = shared.connections.call(&connection, patience, asked).await?;
    let answered = answer.header().map(ResponseHeader::cluster_id);
    if let Some(answered) = answered.filter(|answered| *answered != ticket.cluster) {
        return Err(NotReleased::OtherCluster(answered));
    }
    shared.accept(&connection, answer.header(), ReadKind::Linearizable, known)?;

    let same_term = Compare::create_revision(&*ticket.key, CompareOp::Equal, ticket.created);
    let same_lease = Compare::lease(&*ticket.key, CompareOp::Equal, ticket.lease);
    let delete = Txn::new().when([same_term, same_lease]).and_then([TxnOp::delete(&*ticket.key, None)]);
    let known = shared.known();
    let answer = shared.connections.call(&connection, patience, client.txn(delete)).await?;
    shared.accept(&connection, answer.header(), ReadKind::Linearizable, known)?;
    Ok(if answer.succeeded() { Released::GivenUp } else { Released::NothingHeld })
}

impl LeaderKey {
    /// Returns the key that a ticket names.
    pub(super) fn of(shared: Arc<EtcdShared>, ticket: &Ticket) -> Self {
        let Ticket { key, created, lease, ttl, .. } = ticket.clone();
        Self { shared, key, created: Revision(created), lease: LeaseId(lease), ttl }
    }

    /// Runs a transaction with effect only while our key is the one we won with; the answer shows whether it
    /// was.
    pub(super) async fn guarded(&self, what: impl Into<Vec<TxnOp>>) -> Result<TxnResponse, EtcdError> {
        let ours = Compare::create_revision(self.key.clone(), CompareOp::Equal, self.created.0);
        self.commit(Txn::new().when([ours]).and_then(what)).await
    }

    /// Runs a transaction.
    pub(super) async fn commit(&self, txn: Txn) -> Result<TxnResponse, EtcdError> {
        let connection = self.shared.connections.connection().await?;
        let known = self.shared.known();
        let patience = self.shared.call_patience(self.ttl);
        let mut client = connection.kv();
        let answer = self.shared.connections.call(&connection, patience, client.txn(txn)).await?;
        self.shared.accept(&connection, answer.header(), ReadKind::Linearizable, known)?;
        Ok(answer)
    }

    /// Deletes our key, and then has the lease revoked: it is ours, even if the key is gone.
    ///
    /// The next candidate waits for our key to go, and not for our lease: deleting one key is the cheapest
    /// request for etcd. The end of the term is `recorded` along with it.
    async fn release(
        &self,
        lease: LeaseGuard,
        recorded: Option<TxnOp>,
        deadline: Timestamp,
    ) -> Result<(), EtcdError> {
        let delete = TxnOp::delete(self.key.clone(), None);
        let what: Vec<_> = [delete].into_iter().chain(recorded).collect();
        match timeout(deadline.since(Timestamp::now()), self.guarded(what)).await {
            // If it was not ours any more, there is nothing to delete.
            Ok(Ok(_deleted)) => {
                lease.revoke_at_leisure();
                Ok(())
            }
            Ok(Err(_)) | Err(_) => lease.revoke(deadline).await,
        }
    }

    async fn proclaim(self, value: Vec<u8>) -> Result<(), OrderError> {
        let put = TxnOp::put(self.key.clone(), value, Some(PutOptions::new().with_lease(self.lease.0)));
        self.put_guarded(put).await
    }

    async fn put_guarded(&self, put: TxnOp) -> Result<(), OrderError> {
        match self.guarded([put]).await {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(_) => Err(OrderError::NotLeading),
            Err(EtcdError { message, .. }) => Err(OrderError::Unconfirmed(message)),
        }
    }

    /// Writes the leader and the start of its term beside the queue. Best effort, once.
    async fn announce(self, announcement: Announcement) {
        /// Far more than it takes. The term does not depend on it.
        const PATIENCE: Duration = Duration::from_secs(5);
        match timeout(PATIENCE, self.try_to_announce(announcement)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not announce the leader"),
            Err(_) => tracing::debug!("could not announce the leader in time"),
        }
    }

    /// Writes only where there is no such key, or the announcement of another leader. A foreign key of that
    /// name stays as it is, and does not get our lease.
    async fn try_to_announce(&self, announcement: Announcement) -> Result<(), OrderError> {
        /// Another program may change it between the read and the write.
        const ATTEMPTS: usize = 3;
        let key = self.election_key();
        for _ in 0..ATTEMPTS {
            let there =
                self.read(key.clone()).await.map_err(|error| OrderError::Unconfirmed(error.message))?;
            if there.as_ref().is_some_and(|kv| !is_announcement(kv)) {
                let key = displayed(&key);
                tracing::info!(
                    key,
                    "this key is another program's, so the start of the leader's term is not announced there"
                );
                return Ok(());
            }
            let unless = |revision, other: Vec<TxnOp>| {
                let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
                let options = PutOptions::new().with_lease(self.lease.0);
                let put = TxnOp::put(key.clone(), announcement.to_json(), Some(options));
                TxnOp::txn(Txn::new().when([unchanged]).and_then([put]).or_else(other))
            };
            // The old leader's announcement may go in between, with its lease.
            let absent = unless(0, Vec::new());
            let put = there.map_or(absent.clone(), |kv| unless(kv.mod_revision(), vec![absent]));
            let answer = self.guarded([put]).await.map_err(|error| OrderError::Unconfirmed(error.message))?;
            if !answer.succeeded() {
                return Err(OrderError::NotLeading);
            }
            if any_succeeded(&answer) {
                return Ok(());
            }
        }
        Err(OrderError::Unconfirmed("another program writes to the same key".into()))
    }

    pub(super) async fn read(&self, key: Vec<u8>) -> Result<Option<KeyValue>, EtcdError> {
        let connection = self.shared.connections.connection().await?;
        let known = self.shared.known();
        let mut client = connection.kv();
        let mut answer = self
            .shared
            .connections
            .call(&connection, self.shared.call_patience(self.ttl), client.get(key, None))
            .await?;
        self.shared.accept(&connection, answer.header(), ReadKind::Linearizable, known)?;
        Ok(answer.take_kvs().into_iter().next())
    }

    /// Returns the election that the key is in.
    pub(super) fn election(&self) -> Option<ElectionName> {
        std::str::from_utf8(&self.election_key()).ok()?.parse().ok()
    }

    /// Returns the key named as the election itself: ours, less the last part.
    fn election_key(&self) -> Vec<u8> {
        let slash = self.key.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.key[..slash].to_vec()
    }
}
