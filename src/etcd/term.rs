//! One term of leadership on etcd, from the verified win to its end.
//!
//! Whatever ends the term, belief ends first, then the holder is told, and only then is
//! anything said to etcd.

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
    keepalive::{LeaseEnd, LeaseGuard, Renewal, short_pause},
    keys::{self, LeaseId, Revision},
    queue::{Key, QueuePlace},
    staleness::ReadKind,
    view::{KeyWatch, QueuePosition},
};
use crate::{
    candidate::Event,
    clock::{self, Timestamp},
    leadership::{
        ClusterId, FencingToken, Loss, OrderError, OrderOutcome, ReleaseError, Released, TermHandle,
        TermOrder, Ticket,
    },
    names::displayed,
    timing::Ttl,
};

/// How long a release is tried, at most: who waits for it is on the way out.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// A term under way.
pub(super) struct ActiveTerm {
    pub(super) seat: LeaderKey,
    pub(super) lease: LeaseGuard,
    pub(super) keeper: AbortOnDropHandle<LeaseEnd>,
    pub(super) renewals: mpsc::Receiver<Renewal>,
    pub(super) look: KeyWatch,
    pub(super) tenure: TermHandle,
    pub(super) events: broadcast::Sender<Event>,
}

impl ActiveTerm {
    pub(super) async fn run(mut self, announce: bool) {
        let token = self.tenure.term.token;
        let _announcing = announce.then(|| {
            let announcing = self.seat.clone().announce(self.announcement());
            AbortOnDropHandle::new(self.seat.shared.spawn(announcing))
        });
        let mut blindness: Option<UnobservableSince> = None;
        let ended = loop {
            tokio::select! {
                biased;
                end = &mut self.keeper => break match self.tenure.given_up() {
                    Some(TermOrder::Resign { done }) => TermEnd::Resigned(done),
                    Some(TermOrder::Proclaim { .. } | TermOrder::Lapsed) | None => TermEnd::Lost(match end {
                        Ok(LeaseEnd::Expired) => Loss::Expired,
                        Ok(LeaseEnd::Gone) => Loss::Revoked,
                        Err(_panicked) => Loss::ShutDown,
                    }),
                },
                sight = self.look.sight() => match self.shown(sight) {
                    LeaderKeyState::Seated => blindness = None,
                    LeaderKeyState::Lost(loss) => break TermEnd::Lost(loss),
                    LeaderKeyState::Nothing { since } => blindness = Some(UnobservableSince { since, told: false }),
                },
                blind = blind(&mut blindness, self.seat.ttl) => match blind {
                    UnobservableUntil::Until(until) => drop(self.events.send(Event::Unobservable { token, until })),
                    UnobservableUntil::ForTooLong => break TermEnd::Lost(Loss::Unobservable),
                },
                Some(renewal) = self.renewals.recv() => self.renewed(token, renewal),
                order = self.tenure.order() => match order {
                    TermOrder::Proclaim { value, done } => {
                        let proclaiming = self.seat.clone().proclaim(value);
                        self.seat.shared.spawn(async move { done.send(proclaiming.await) });
                    }
                    TermOrder::Resign { done } => break TermEnd::Resigned(done),
                    TermOrder::Lapsed => break TermEnd::Lost(Loss::Expired),
                },
            }
        };
        match ended {
            TermEnd::Lost(loss) => {
                self.lose(token, loss);
                drop(self.keeper);
                // The work may be stopping yet: nobody should lead because of us before it has, or the
                // lease has ended by itself.
                let _ = timeout(self.seat.ttl.as_duration(), self.tenure.let_go()).await;
                // Dropping the lease revokes it: the next candidate need not wait for its end.
            }
            TermEnd::Resigned(done) => {
                self.lose(token, Loss::Resigned);
                let deadline = Timestamp::now() + self.seat.ttl.as_duration().min(RELEASE_WITHIN);
                let keeper = self.keeper;
                let (released, ()) = tokio::join! {
                    biased;
                    // Sent first, so that the next candidate need not wait for our tidying up.
                    self.seat.release(self.lease, deadline),
                    // Nothing may renew what is being given up.
                    async { drop(keeper) },
                };
                let _ = done.send(released.map_err(|trouble| OrderError::Unconfirmed(trouble.message)));
            }
        }
    }

    fn lose(&self, token: FencingToken, loss: Loss) {
        self.tenure.lose(loss);
        let _ = self.events.send(Event::Lost { token, loss });
    }

    fn renewed(&self, token: FencingToken, Renewal { until, latency, left }: Renewal) {
        let _ = self.events.send(Event::Renewed { token, until, latency, left });
    }

    fn announcement(&self) -> Announcement {
        Announcement {
            leader: self.tenure.term.name.to_string(),
            token: self.tenure.term.token,
            since: SystemTime::now(),
        }
    }

    fn shown(&self, sight: QueuePosition) -> LeaderKeyState {
        match sight {
            QueuePosition::Unsure { since } => LeaderKeyState::Nothing { since },
            QueuePosition::At { place: QueuePlace::Absent, .. } => LeaderKeyState::Lost(Loss::KeyDeleted),
            QueuePosition::At { place: QueuePlace::First(key), .. } if self.ours(key) => {
                LeaderKeyState::Seated
            }
            // Nobody can be before us while the key is the one we won with.
            QueuePosition::At { place: QueuePlace::First(_) | QueuePlace::Behind(_), .. } => {
                LeaderKeyState::Lost(Loss::Superseded)
            }
        }
    }

    fn ours(&self, key: Key) -> bool {
        key.created == self.seat.created && key.lease.is_none_or(|lease| lease == self.lease.id())
    }
}

/// The queue can't be seen, so that nobody would notice if our key were deleted.
struct UnobservableSince {
    since: Timestamp,
    /// Whether that was told.
    told: bool,
}

enum UnobservableUntil {
    /// For long enough to tell of it; the term ends then, unless the queue is seen before.
    Until(Timestamp),
    ForTooLong,
}

/// Waits until a blindness is to be told of, or must end the term.
///
/// Cancel safe.
async fn blind(blindness: &mut Option<UnobservableSince>, ttl: Ttl) -> UnobservableUntil {
    let Some(UnobservableSince { since, told }) = blindness else { return std::future::pending().await };
    let end = *since + ttl.as_duration();
    if *told {
        clock::sleep_until(end).await;
        return UnobservableUntil::ForTooLong;
    }
    // Longer than it takes to connect anew, and early enough to do something about it.
    clock::sleep_until(*since + ttl.as_duration() / 3).await;
    *told = true;
    UnobservableUntil::Until(end)
}

enum TermEnd {
    Lost(Loss),
    Resigned(oneshot::Sender<OrderOutcome>),
}

/// What the view of the queue says of the leader.
enum LeaderKeyState {
    Seated,
    Lost(Loss),
    /// Nothing, since then.
    Nothing {
        since: Timestamp,
    },
}

/// Whether one of the transactions in a transaction was run, and not what it has in its place.
fn any_succeeded(answer: &TxnResponse) -> bool {
    let ran = |inner: &TxnOpResponse| matches!(inner, TxnOpResponse::Txn(inner) if inner.succeeded() || any_succeeded(inner));
    answer.op_responses().iter().any(ran)
}

fn is_announcement(kv: &KeyValue) -> bool {
    kv.lease() > 0 && Announcement::from_json(kv.value()).is_some()
}

/// Gives up the term of a process that is gone: see [`Etcd::release`](super::Etcd::release).
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
        let trouble = match tried.unwrap_or_else(|_| Err(NotReleased::Trouble(EtcdError::unanswered(left)))) {
            Ok(Released::GivenUp) => {
                // The key was on this lease, so it is the candidate's own.
                LeaseGuard::new(shared, lease, ticket.ttl).revoke_at_leisure();
                return Ok(Released::GivenUp);
            }
            // Also after a deletion whose answer did not come. The lease holds nothing any more, and
            // without proof that it is ours it is left to expire.
            Ok(Released::NothingHeld) => return Ok(Released::NothingHeld),
            Err(NotReleased::OtherCluster(answered)) => {
                let ticket = ClusterId(ticket.cluster);
                return Err(ReleaseError::OtherCluster { ticket, answered: ClusterId(answered) });
            }
            Err(NotReleased::Trouble(trouble)) => trouble,
        };
        if matches!(trouble.remedy, Remedy::Human | Remedy::Request) {
            return Err(ReleaseError::Refused(trouble.message));
        }
        if Timestamp::now() >= deadline {
            return Err(ReleaseError::Unconfirmed(trouble.message));
        }
        sleep(short_pause()).await;
    }
}

enum NotReleased {
    OtherCluster(u64),
    Trouble(EtcdError),
}

impl From<EtcdError> for NotReleased {
    fn from(trouble: EtcdError) -> Self {
        Self::Trouble(trouble)
    }
}

/// Deletes a ticket's key if it is the very one that the ticket is for.
///
/// The cluster is asked who it is before that, over the same connection: what answers may have the same keys,
/// revisions and leases, and be another one.
async fn delete_for(shared: &EtcdShared, ticket: &Ticket) -> Result<Released, NotReleased> {
    let link = shared.links.link().await?;
    let patience = shared.call_patience(ticket.ttl);
    let mut client = link.kv();

    let known = shared.known();
    let asked = client.get(&*ticket.key, Some(GetOptions::new().with_keys_only()));
    let answer = shared.links.call(&link, patience, asked).await?;
    let answered = answer.header().map(ResponseHeader::cluster_id);
    if let Some(answered) = answered.filter(|answered| *answered != ticket.cluster) {
        return Err(NotReleased::OtherCluster(answered));
    }
    shared.accept(&link, answer.header(), ReadKind::Linearizable, known)?;

    let same_term = Compare::create_revision(&*ticket.key, CompareOp::Equal, ticket.created);
    let same_lease = Compare::lease(&*ticket.key, CompareOp::Equal, ticket.lease);
    let delete = Txn::new().when([same_term, same_lease]).and_then([TxnOp::delete(&*ticket.key, None)]);
    let known = shared.known();
    let answer = shared.links.call(&link, patience, client.txn(delete)).await?;
    shared.accept(&link, answer.header(), ReadKind::Linearizable, known)?;
    Ok(if answer.succeeded() { Released::GivenUp } else { Released::NothingHeld })
}

impl LeaderKey {
    /// The place that a ticket names.
    pub(super) fn of(shared: Arc<EtcdShared>, ticket: &Ticket) -> Self {
        let Ticket { key, created, lease, ttl, .. } = ticket.clone();
        Self { shared, key, created: Revision(created), lease: LeaseId(lease), ttl }
    }

    /// Runs a transaction that does something only while our key is the one we won with; whether
    /// it was is in the answer.
    pub(super) async fn guarded(&self, what: TxnOp) -> Result<TxnResponse, EtcdError> {
        let ours = Compare::create_revision(self.key.clone(), CompareOp::Equal, self.created.0);
        let guarded = Txn::new().when([ours]).and_then([what]);
        let link = self.shared.links.link().await?;
        let known = self.shared.known();
        let patience = self.shared.call_patience(self.ttl);
        let mut client = link.kv();
        let answer = self.shared.links.call(&link, patience, client.txn(guarded)).await?;
        self.shared.accept(&link, answer.header(), ReadKind::Linearizable, known)?;
        Ok(answer)
    }

    /// Gives our place in the queue up, and has the lease revoked after that: it is ours, whatever became of
    /// the key.
    ///
    /// The next candidate waits for our key to go, and not for our lease: deleting one key is the
    /// least that etcd can do for it.
    async fn release(&self, lease: LeaseGuard, deadline: Timestamp) -> Result<(), EtcdError> {
        let delete = TxnOp::delete(self.key.clone(), None);
        match timeout(deadline.since(Timestamp::now()), self.guarded(delete)).await {
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
        match self.guarded(put).await {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(_) => Err(OrderError::NotLeading),
            Err(EtcdError { message, .. }) => Err(OrderError::Unconfirmed(message)),
        }
    }

    /// Writes who leads since when beside the queue. Best effort, once.
    async fn announce(self, announcement: Announcement) {
        /// Far more than it takes. The term does not depend on it.
        const PATIENCE: Duration = Duration::from_secs(5);
        // Whoever waits for the win goes first.
        tokio::task::yield_now().await;
        match timeout(PATIENCE, self.try_to_announce(announcement)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not announce the leader"),
            Err(_) => tracing::debug!("could not announce the leader in time"),
        }
    }

    /// Only where there is no such key, or the announcement of another leader. A key of somebody else's
    /// by that name stays as it is, and does not go with our lease.
    async fn try_to_announce(&self, announcement: Announcement) -> Result<(), OrderError> {
        /// Somebody else may change it between the read and the write.
        const ATTEMPTS: usize = 3;
        let key = self.election_key();
        for _ in 0..ATTEMPTS {
            let there =
                self.read(key.clone()).await.map_err(|trouble| OrderError::Unconfirmed(trouble.message))?;
            if there.as_ref().is_some_and(|kv| !is_announcement(kv)) {
                let key = displayed(&key);
                tracing::info!(
                    key,
                    "this key is another program's, so since when the leader leads is not announced there"
                );
                return Ok(());
            }
            let unless = |revision, other: Vec<TxnOp>| {
                let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
                let options = PutOptions::new().with_lease(self.lease.0);
                let put = TxnOp::put(key.clone(), announcement.to_json(), Some(options));
                TxnOp::txn(Txn::new().when([unchanged]).and_then([put]).or_else(other))
            };
            // The old leader's may go in between, with its lease.
            let absent = unless(0, Vec::new());
            let put = there.map_or(absent.clone(), |kv| unless(kv.mod_revision(), vec![absent]));
            let answer =
                self.guarded(put).await.map_err(|trouble| OrderError::Unconfirmed(trouble.message))?;
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
        let link = self.shared.links.link().await?;
        let known = self.shared.known();
        let mut client = link.kv();
        let mut answer =
            self.shared.links.call(&link, self.shared.call_patience(self.ttl), client.get(key, None)).await?;
        self.shared.accept(&link, answer.header(), ReadKind::Linearizable, known)?;
        Ok(answer.take_kvs().into_iter().next())
    }

    /// The key that is called as the election itself: ours, less the last part.
    fn election_key(&self) -> Vec<u8> {
        let slash = self.key.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.key[..slash].to_vec()
    }
}
