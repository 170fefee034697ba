//! A candidate on etcd: attempts until one is won, then the term itself.
//!
//! ```text
//! attempt:  grant a lease ─► keep it alive ───────────────────────────────┐
//!               ├─► watch our key in the election's view                  │ until the end
//!               └─► put our key ─► win, by the answer and the view ───────┤ of the term
//! term:     renewals, the key, the holder's orders ◄──────────────────────┘
//! ```
//!
//! The key is put by the same transaction as in etcd's own election and Go's concurrency package. Their
//! `Campaign` then blocks until no older key is left under the prefix, which the view shows already. It would
//! also wait for keys of elections whose names lie under ours, and when such a call is cancelled, etcd
//! resigns in the background in the caller's name.
//!
//! An attempt is bound to one lease. While the lease lives, the attempt keeps its place, whatever happens to
//! the connection. On any failure of the lease or the key the attempt is abandoned, its lease revoked, and
//! the next one starts with a new lease.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    EtcdShared, LeaderKey,
    connection::{EndpointConnection, Paused},
    error::{EtcdError, Remedy},
    keepalive::{self, KeepAlive, LeaseEnd, LeaseGuard, Renewal},
    keys::{self, LeaseId, Revision},
    member::StoredMember,
    rights,
    staleness::ReadKind,
    standby::{self, Standby, StandbyStep},
    succession::SittingLeader,
    term,
    view::{KeyWatch, QueuePosition, QueueView},
    win::{AttemptFailure, WinInput, WinRule, WinStep},
};
use crate::{
    candidate::{CampaignError, CampaignReply, CampaignRequest, Event, in_span_leads},
    clock::Timestamp,
    leadership::{ClusterId, Leadership, LeadershipTerm, TermHandle, Ticket},
    names::{ElectionName, displayed},
    timing::{Backoff, Ttl},
    validity::SharedValidity,
};

/// A waiting key that was deleted, as a transfer past it does, is put again without a pause, but not more often
/// than this.
const SELDOM: Duration = Duration::from_secs(1);

/// Renewals that wait to be reported; more are dropped, as the validity has them.
const RENEWALS: usize = 4;

/// Campaigns until the candidate wins or withdraws, then runs the term to its end.
pub(crate) async fn run(shared: Arc<EtcdShared>, request: CampaignRequest, mut won: CampaignReply) {
    let view = QueueView::of(&shared, &request.election);
    let mut backoff = Backoff::new();
    // Lease of the previous attempt, which never led: etcd may have kept its place through an outage.
    let mut kept = None;
    let mut cleared: Option<Timestamp> = None;
    loop {
        tokio::select! {
            biased;
            () = won.closed() => return,
            () = standby::until_willing(&shared, &request, &view) => {}
        }
        let attempt = tokio::select! {
            biased;
            () = won.closed() => return,
            attempt = Attempt::start(&shared, &request, &view, &mut kept) => attempt,
        };
        let ended = match attempt {
            Ok(mut attempt) => {
                let _ = request.events.send(Event::Campaigning);
                let ended = tokio::select! {
                    biased;
                    // Dropping the attempt leaves the queue.
                    () = won.closed() => return,
                    ended = attempt.contend(&request, &mut backoff) => ended,
                };
                match ended {
                    Ok(created) => attempt.win(created, &request),
                    Err(ended) => {
                        kept = ended.keeps_place().then(|| attempt.leave());
                        Err(ended)
                    }
                }
            }
            Err(ended) => Err(ended),
        };
        let now = Timestamp::now();
        let pauses = match &ended {
            // A third party that deletes our keys again and again is met with growing pauses.
            Err(AttemptError::Cleared(_)) => {
                cleared.replace(now).is_some_and(|last| now.since(last) < SELDOM)
            }
            _ => true,
        };
        match ended {
            Ok((leadership, elected)) => return elected.lead(leadership, request, won).await,
            Err(AttemptError::Final(error)) => {
                let _ = won.send(Err(error));
                return;
            }
            Err(AttemptError::Withdrawn) => backoff.reset(),
            Err(AttemptError::Again(error) | AttemptError::Anew(error) | AttemptError::Cleared(error)) => {
                let pause = if pauses { backoff.pause() } else { Duration::ZERO };
                let unreachable = error.remedy == Remedy::Unreachable;
                let _ = request.events.send(Event::Retrying { unreachable, problem: error.message, pause });
                let again = tokio::select! {
                    () = won.closed() => return,
                    again = shared.connections.pause(pause, unreachable) => again,
                };
                if again == Paused::Reachable {
                    backoff.reset();
                }
            }
        }
    }
}

/// Reason that an attempt ended without a win.
enum AttemptError {
    /// Try again, with the same lease if etcd still has it.
    Again(EtcdError),
    /// Try again, with a new lease.
    Anew(EtcdError),
    /// Its waiting key was deleted, as a transfer past it does.
    Cleared(EtcdError),
    /// It left the queue: this candidate leads only while no other can.
    Withdrawn,
    /// Retrying can't fix it.
    Final(CampaignError),
}

impl From<EtcdError> for AttemptError {
    fn from(error: EtcdError) -> Self {
        match error.remedy {
            Remedy::Human => Self::Final(CampaignError::Refused(error.message)),
            Remedy::Elsewhere | Remedy::Unreachable | Remedy::NewLease | Remedy::Request => {
                Self::Again(error)
            }
        }
    }
}

impl AttemptError {
    fn keeps_place(&self) -> bool {
        matches!(self, Self::Again(_))
    }
}

/// One attempt: one lease, one connection.
struct Attempt {
    shared: Arc<EtcdShared>,
    connection: EndpointConnection,
    lease: LeaseGuard,
    ttl: Ttl,
    key: Vec<u8>,
    validity: Arc<SharedValidity>,
    keep_alive: AbortOnDropHandle<LeaseEnd>,
    renewals: mpsc::Receiver<Renewal>,
    key_watch: KeyWatch,
    put: AbortOnDropHandle<Result<Put, EtcdError>>,
    standby: Standby,
}

/// Result of the transaction that puts our key.
enum Put {
    /// The key exists on our lease, with this `create_revision`, and our record or none.
    Ours(Revision, Option<StoredMember>),
    /// A key of that name exists on another lease.
    Taken,
}

impl Attempt {
    /// Takes a lease, keeps it alive, watches its key, and joins the queue.
    ///
    /// The `kept` lease is renewed, if etcd still has it. Its validity counts from that renewal: an attempt
    /// inherits nothing proved by the one before.
    async fn start(
        shared: &Arc<EtcdShared>,
        request: &CampaignRequest,
        view: &Arc<QueueView>,
        kept: &mut Option<LeaseGuard>,
    ) -> Result<Self, AttemptError> {
        let connection = shared.connections.connection().await?;
        let ttl = request.ttl;
        let mut renewed = None;
        if let Some(lease) = kept {
            match keepalive::renew_once(shared, &connection, lease.id(), ttl).await {
                Ok(sent) => renewed = kept.take().map(|lease| (lease, sent)),
                Err(error) if error.remedy == Remedy::NewLease => *kept = None,
                Err(error) => return Err(error.into()),
            }
        }
        let (lease, sent) = match renewed {
            Some(renewed) => renewed,
            None => granted(shared, &connection, ttl).await?,
        };

        let key = keys::candidate_key(&request.election, lease.id());
        let validity =
            Arc::new(SharedValidity::keeping(ttl.believed_until(sent), Arc::clone(lease.ticket())));
        let key_watch = view.watch_key(key.clone());
        let (renewed, renewals) = mpsc::channel(RENEWALS);
        let keep_alive = KeepAlive {
            shared: Arc::clone(shared),
            lease: lease.id(),
            ttl,
            validity: Arc::clone(&validity),
            granted: sent,
            renewed,
        };
        let put = QueuePut {
            shared: Arc::clone(shared),
            connection: connection.clone(),
            election: request.election.clone(),
            member: StoredMember::new(request.name.clone(), request.never, request.profile.clone()),
            lease: lease.id(),
            ttl,
        };
        let put = AbortOnDropHandle::new(shared.spawn(put.put()));
        Ok(Self {
            shared: Arc::clone(shared),
            connection,
            ttl,
            key,
            validity,
            keep_alive: AbortOnDropHandle::new(shared.spawn(keep_alive.keep())),
            renewals,
            key_watch,
            put,
            standby: Standby::new(shared, request, view, lease.id()),
            lease,
        })
    }

    /// Ends the attempt, and keeps its lease for the next one.
    fn leave(self) -> LeaseGuard {
        self.lease
    }

    /// Waits in the queue until the win is verified; returns the key's `create_revision`.
    async fn contend(
        &mut self,
        request: &CampaignRequest,
        backoff: &mut Backoff,
    ) -> Result<Revision, AttemptError> {
        let patience = self.shared.call_patience(self.ttl);
        let mut state = WinRule::new(self.lease.id());
        let (mut answered, mut following) = (false, false);
        let mut due = ResponseDeadline::now(patience);
        loop {
            let seen = tokio::select! {
                biased;
                end = &mut self.keep_alive => return Err(lease_ended(end).into()),
                () = self.shared.connections.abandoned(&self.connection) => {
                    return Err(EtcdError::elsewhere("the connection failed while waiting in the queue").into());
                }
                position = self.key_watch.position() => WinInput::Position(position),
                leaves = self.standby.heed() => match leaves {
                    StandbyStep::Stay => continue,
                    StandbyStep::Leave => return Err(AttemptError::Withdrawn),
                },
                put = &mut self.put, if !answered => {
                    answered = true;
                    match put {
                        Ok(Ok(Put::Ours(created, member))) => {
                            self.put_ticket(request, created).await;
                            self.standby.queued(created, member);
                            WinInput::Put { created }
                        }
                        Ok(Ok(Put::Taken)) => return Err(AttemptError::Anew(EtcdError::elsewhere(AttemptFailure::NotOurs.to_string()))),
                        Ok(Err(error)) => return Err(error.into()),
                        Err(_panicked) => return Err(EtcdError::elsewhere("the campaign failed").into()),
                    }
                }
                () = due.passed() => {
                    return Err(self.blame("etcd did not show the key in the queue").into());
                }
            };
            let next = state.see(seen);
            due.follow(seen, next);
            following &= !is_unsure(seen);
            match next {
                WinStep::Wait | WinStep::Expect => {}
                WinStep::Follow { created } => {
                    backoff.reset();
                    if !following {
                        following = true;
                        let _ = request.events.send(Event::Following { token: Some(keys::token(created)) });
                    }
                }
                WinStep::Win { created } => return Ok(created),
                WinStep::Abandon(why @ AttemptFailure::KeyGone) if following => {
                    return Err(AttemptError::Cleared(EtcdError::elsewhere(why.to_string())));
                }
                WinStep::Abandon(why) => {
                    return Err(AttemptError::Anew(EtcdError::elsewhere(why.to_string())));
                }
            }
        }
    }

    fn blame(&self, why: &str) -> EtcdError {
        self.shared.connections.failed(&self.connection);
        EtcdError::elsewhere(why)
    }

    fn ticket(&self, created: Revision) -> Option<Ticket> {
        let (key, lease) = (self.key.clone(), self.lease.id().0);
        Some(Ticket { cluster: self.shared.cluster()?, key, created: created.0, lease, ttl: self.ttl })
    }

    /// Tells witnesses which key to release should this process die. Before the win, so that a leader is without a
    /// ticket for no longer than necessary.
    async fn put_ticket(&self, request: &CampaignRequest, created: Revision) {
        if let (Some(lifeline), Some(ticket)) = (&self.shared.lifeline, self.ticket(created)) {
            lifeline.put(request.name.as_str(), ticket, self.lease.ticket(), &self.shared).await;
        }
    }

    /// Turns a verified win into a leadership, if the lease is still certain.
    fn win(
        self,
        created: Revision,
        request: &CampaignRequest,
    ) -> Result<(Leadership, Elected), AttemptError> {
        let expired =
            || AttemptError::Again(EtcdError::elsewhere("the lease expired before the win was verified"));
        let ticket = self.ticket(created).ok_or_else(expired)?;
        let cluster = ticket.cluster;
        let term = LeadershipTerm {
            token: keys::token(created),
            cluster: ClusterId(cluster),
            name: request.name.clone(),
            election: request.election.clone(),
            validity: Arc::clone(&self.validity),
            ticket: Some(ticket),
        };
        let until = self.validity.until().ok_or_else(expired)?;
        if !self.validity.holds_at(Timestamp::now()) {
            return Err(expired());
        }
        let (leadership, term_handle) = Leadership::new(term);
        let elected = Elected { attempt: self, term_handle, created, until };
        Ok((leadership, elected))
    }
}

/// Deadline for etcd's next response: first our key in the queue, then the missing one of the two that make a
/// win.
struct ResponseDeadline {
    patience: Duration,
    /// `None` while another candidate is first, or the view is unsure: then no response is due.
    at: Option<Instant>,
    expecting: bool,
}

impl ResponseDeadline {
    fn now(patience: Duration) -> Self {
        Self { patience, at: Some(Instant::now() + patience), expecting: false }
    }

    fn follow(&mut self, seen: WinInput, next: WinStep) {
        match next {
            // The view blames its own connection for that.
            _ if is_unsure(seen) => (self.at, self.expecting) = (None, false),
            WinStep::Expect if !self.expecting => {
                (self.at, self.expecting) = (Some(Instant::now() + self.patience), true);
            }
            WinStep::Expect => {}
            WinStep::Wait => {
                self.at.get_or_insert_with(|| Instant::now() + self.patience);
            }
            WinStep::Follow { .. } | WinStep::Win { .. } | WinStep::Abandon(_) => {
                (self.at, self.expecting) = (None, false);
            }
        }
    }

    async fn passed(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

fn is_unsure(seen: WinInput) -> bool {
    matches!(seen, WinInput::Position(QueuePosition::Unsure { .. }))
}

/// The request that joins the queue.
struct QueuePut {
    shared: Arc<EtcdShared>,
    connection: EndpointConnection,
    election: ElectionName,
    member: StoredMember,
    lease: LeaseId,
    ttl: Ttl,
}

impl QueuePut {
    /// Puts our record and our key on our lease, unless a key of that name exists: asking twice changes
    /// nothing.
    ///
    /// Both in one transaction, which costs no round trip more than the key alone, and shows no reader the
    /// key without the record. If etcd denies the record, or another program has its key, the key alone.
    async fn put(self) -> Result<Put, EtcdError> {
        let (key, record) = (keys::candidate_key(&self.election, self.lease), self.record_key());
        let name: Vec<u8> = self.member.name.as_str().into();
        let on_lease = || Some(PutOptions::new().with_lease(self.lease.0));
        let absent = |key: &Vec<u8>| Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.clone(), name, on_lease());
        let put_record = TxnOp::put(record.clone(), self.member.to_json(), on_lease());
        let get = TxnOp::get(key.clone(), None);

        let both = Txn::new()
            .when([absent(&key), absent(&record)])
            .and_then([put_record, put.clone()])
            .or_else([get.clone(), TxnOp::get(record.clone(), None)]);
        match self.answer(both).await {
            Ok(PutAnswer::Done(revision)) => return Ok(Put::Ours(revision, Some(self.member))),
            Ok(PutAnswer::There(there)) => match there.as_slice() {
                [] => {}
                [kv, others @ ..] if kv.key() == key => return Ok(self.there(kv, others.first())),
                [_another_programs, ..] => {
                    let record = displayed(&record);
                    tracing::warn!(
                        record,
                        "this key is another program's, so it has no record of this candidate"
                    );
                }
            },
            Err(error) if error.is_denied() => {
                let (key, remedy) =
                    (keys::member_prefix(&self.election), rights::grant_members(&self.election));
                let consequence = "this candidate has no priority, and no transfer passes it";
                self.shared.denials.report(&key, consequence, &remedy);
            }
            Err(error) => return Err(error),
        }
        let alone = Txn::new().when([absent(&key)]).and_then([put]).or_else([get]);
        Ok(match self.answer(alone).await? {
            PutAnswer::Done(revision) => Put::Ours(revision, None),
            PutAnswer::There(there) => there.first().map_or(Put::Taken, |kv| self.there(kv, None)),
        })
    }

    /// A key of our name exists: ours, if it is on our lease.
    fn there(&self, kv: &KeyValue, record: Option<&KeyValue>) -> Put {
        if kv.lease() != self.lease.0 {
            return Put::Taken;
        }
        let record = record.filter(|record| record.lease() == self.lease.0);
        let member = record.and_then(|record| StoredMember::from_json(record.value()));
        Put::Ours(Revision(kv.create_revision()), member)
    }

    fn record_key(&self) -> Vec<u8> {
        keys::member_key(&self.election, self.lease)
    }

    async fn answer(&self, put: Txn) -> Result<PutAnswer, EtcdError> {
        let (shared, connection) = (&self.shared, &self.connection);
        let known = shared.known();
        let mut client = connection.kv();
        let answer =
            shared.connections.call(connection, shared.call_patience(self.ttl), client.txn(put)).await?;
        let revision = shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
        if answer.succeeded() {
            return Ok(PutAnswer::Done(revision));
        }
        let mut there = Vec::new();
        for response in answer.op_responses() {
            match response {
                TxnOpResponse::Get(mut there_too) => there.extend(there_too.take_kvs()),
                _ => return Err(EtcdError::elsewhere("etcd's answer does not have the form of the request")),
            }
        }
        Ok(PutAnswer::There(there))
    }
}

/// etcd's answer to a [`QueuePut`].
enum PutAnswer {
    /// Done, at this revision.
    Done(Revision),
    /// Nothing done: some of the keys exist.
    There(Vec<KeyValue>),
}

/// Takes a new lease; returns it with the time of the request.
async fn granted(
    shared: &Arc<EtcdShared>,
    connection: &EndpointConnection,
    ttl: Ttl,
) -> Result<(LeaseGuard, Timestamp), AttemptError> {
    let known = shared.known();
    let sent = Timestamp::now();
    let (lease, grant) = grant(shared, connection, ttl).await?;
    shared.accept(connection, grant.header(), ReadKind::Linearizable, known)?;
    if grant.ttl() != i64::from(ttl.as_secs()) {
        return Err(raised(ttl, grant.ttl()));
    }
    Ok((lease, sent))
}

/// Requests a lease.
///
/// Continues in a task of its own if the caller is dropped, so that a lease granted too late is known, and
/// revoked.
pub(super) async fn grant(
    shared: &Arc<EtcdShared>,
    connection: &EndpointConnection,
    ttl: Ttl,
) -> Result<(LeaseGuard, etcd_client::LeaseGrantResponse), EtcdError> {
    let (asking, connection) = (Arc::clone(shared), connection.clone());
    let (granted, grant) = oneshot::channel();
    shared.spawn_counted(async move {
        let mut client = connection.leases();
        let granting = client.grant(i64::from(ttl.as_secs()), None);
        let answer = asking.connections.call(&connection, asking.call_patience(ttl), granting).await;
        // From here on the lease is revoked in every case.
        let _ = granted.send(answer.map(|grant| {
            let lease = LeaseGuard::new(Arc::clone(&asking), LeaseId(grant.id()), ttl);
            (lease, grant)
        }));
    });
    grant.await.unwrap_or_else(|_| Err(EtcdError::elsewhere("the backend has stopped")))
}

fn raised(asked: Ttl, granted: i64) -> AttemptError {
    let seconds = Duration::from_secs(u64::try_from(granted).unwrap_or(0));
    match Ttl::new(seconds) {
        Ok(granted) if granted > asked => AttemptError::Final(CampaignError::TtlTooShort { asked, granted }),
        _ => AttemptError::Again(EtcdError::elsewhere(format!(
            "etcd granted a lease of {granted}s for {asked}"
        ))),
    }
}

fn lease_ended(end: Result<LeaseEnd, JoinError>) -> EtcdError {
    EtcdError::elsewhere(match end {
        Ok(LeaseEnd::Expired) => "the lease could not be renewed in time while waiting",
        Ok(LeaseEnd::Gone) => "the lease was revoked while waiting",
        Err(_panicked) => "the renewal of the lease has stopped",
    })
}

/// A won attempt that becomes a term.
pub(crate) struct Elected {
    attempt: Attempt,
    term_handle: TermHandle,
    created: Revision,
    until: Timestamp,
}

impl Elected {
    /// Delivers the leadership to the caller of `campaign`, and runs the term to its end.
    async fn lead(self, leadership: Leadership, request: CampaignRequest, won: CampaignReply) {
        let CampaignRequest { events, announce, name, election, profile, never, min_tenure, .. } = request;
        let token = leadership.token();
        in_span_leads(token);
        let mut attempt = self.attempt;
        // Renewals during the wait do not belong to the term.
        while attempt.renewals.try_recv().is_ok() {}
        let _ = events.send(Event::Elected { token, until: self.until });
        // If that caller is gone, the leadership is dropped with the answer, which orders the term to end.
        let _ = won.send(Ok(leadership));
        let Attempt { shared, lease, ttl, key, keep_alive, renewals, key_watch, standby, .. } = attempt;
        let leader_key = LeaderKey { shared, key, created: self.created, lease: lease.id(), ttl };
        let incumbent = SittingLeader {
            leader_key: leader_key.clone(),
            name,
            election,
            token,
            priority: profile.priority,
            never,
            min_tenure,
        };
        let (program, program_orders) = mpsc::unbounded_channel();
        let succession = standby.succession(incumbent, program_orders);
        let term = term::ActiveTerm {
            leader_key,
            lease,
            keep_alive,
            renewals,
            key_watch,
            term_handle: self.term_handle,
            address: profile.address,
            events,
            program,
        };
        term.run(announce, succession).await;
    }
}
