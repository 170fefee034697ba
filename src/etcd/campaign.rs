//! A candidate on etcd: attempt after attempt until one is won, then the term itself.
//!
//! ```text
//! attempt:  grant a lease ─► keep it alive ───────────────────────────────┐
//!               ├─► look at our key in the election's view                │ until the end
//!               └─► put our key ─► win, by the answer and the view ───────┤ of the term
//! term:     renewals, the key, the holder's orders ◄──────────────────────┘
//! ```
//!
//! The key is put by the transaction with which etcd's own election and Go's concurrency package put
//! theirs. Their `Campaign` then blocks until no older key is left under the prefix; that is what the view
//! shows already. It would also wait for keys of elections that are called under ours, and where such a call
//! is cut off, etcd resigns in the background in the caller's name.
//!
//! An attempt is bound to one lease. While that lives, the attempt keeps its place, whatever happens to
//! the connection. Whatever goes wrong with the lease or the key, the attempt is abandoned, its lease
//! revoked, and the next one starts with a new lease.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
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
    staleness::ReadKind,
    term,
    view::{KeyWatch, QueuePosition, QueueView},
    win::{AttemptFailure, WinInput, WinRule, WinStep},
};
use crate::{
    candidate::{CampaignError, CampaignReply, CampaignRequest, Event, in_span_leads},
    clock::Timestamp,
    leadership::{ClusterId, Leadership, LeadershipTerm, TermHandle, Ticket},
    timing::{Backoff, Ttl},
    validity::SharedValidity,
};

/// Renewals that may wait to be told; more are left out.
const RENEWALS: usize = 4;

/// Stands until the campaign is won or called off, then sees the term through.
pub(crate) async fn stand(shared: Arc<EtcdShared>, standing: CampaignRequest, mut won: CampaignReply) {
    let view = QueueView::of(&shared, &standing.election);
    let mut backoff = Backoff::new();
    // Of the attempt before, which never led: etcd may keep our place, though it was out of reach.
    let mut kept = None;
    loop {
        let attempt = tokio::select! {
            biased;
            () = won.closed() => return,
            attempt = Attempt::start(&shared, &standing, &view, &mut kept) => attempt,
        };
        let ended = match attempt {
            Ok(mut attempt) => {
                let _ = standing.events.send(Event::Campaigning);
                let ended = tokio::select! {
                    biased;
                    // Dropping the attempt leaves the queue.
                    () = won.closed() => return,
                    ended = attempt.contend(&standing, &mut backoff) => ended,
                };
                match ended {
                    Ok(created) => attempt.win(created, &standing),
                    Err(ended) => {
                        kept = ended.keeps_place().then(|| attempt.leave());
                        Err(ended)
                    }
                }
            }
            Err(ended) => Err(ended),
        };
        match ended {
            Ok((leadership, elected)) => return elected.lead(leadership, standing, won).await,
            Err(AttemptError::Final(error)) => {
                let _ = won.send(Err(error));
                return;
            }
            Err(AttemptError::Again(trouble) | AttemptError::Anew(trouble)) => {
                let pause = backoff.pause();
                let unreachable = trouble.remedy == Remedy::Unreachable;
                let _ =
                    standing.events.send(Event::Retrying { unreachable, problem: trouble.message, pause });
                let again = tokio::select! {
                    () = won.closed() => return,
                    again = shared.links.pause(pause, unreachable) => again,
                };
                if again == Paused::Reachable {
                    backoff.reset();
                }
            }
        }
    }
}

/// Why an attempt ended without a win.
enum AttemptError {
    /// Try again, with the same lease if etcd still has it.
    Again(EtcdError),
    /// Try again, with a new lease.
    Anew(EtcdError),
    /// Retrying can't fix it.
    Final(CampaignError),
}

impl From<EtcdError> for AttemptError {
    fn from(trouble: EtcdError) -> Self {
        match trouble.remedy {
            Remedy::Human => Self::Final(CampaignError::Refused(trouble.message)),
            Remedy::Elsewhere | Remedy::Unreachable | Remedy::NewLease | Remedy::Request => {
                Self::Again(trouble)
            }
        }
    }
}

impl AttemptError {
    fn keeps_place(&self) -> bool {
        matches!(self, Self::Again(_))
    }
}

/// One lease, one connection, one try.
struct Attempt {
    shared: Arc<EtcdShared>,
    link: EndpointConnection,
    lease: LeaseGuard,
    ttl: Ttl,
    key: Vec<u8>,
    validity: Arc<SharedValidity>,
    keeper: AbortOnDropHandle<LeaseEnd>,
    renewals: mpsc::Receiver<Renewal>,
    look: KeyWatch,
    put: AbortOnDropHandle<Result<Put, EtcdError>>,
}

/// What etcd answered to the transaction that puts our key.
enum Put {
    /// It is there, on our lease, with this `create_revision`.
    Ours(Revision),
    /// There is one of that name, on another lease.
    Taken,
}

impl Attempt {
    /// Takes a lease, keeps it alive, looks at its key, and joins the queue.
    ///
    /// The lease that was `kept` is renewed, if etcd still has it. What is proved of it counts from there:
    /// this attempt knows nothing of the one before.
    async fn start(
        shared: &Arc<EtcdShared>,
        standing: &CampaignRequest,
        view: &Arc<QueueView>,
        kept: &mut Option<LeaseGuard>,
    ) -> Result<Self, AttemptError> {
        let link = shared.links.link().await?;
        let ttl = standing.ttl;
        let mut renewed = None;
        if let Some(lease) = kept {
            match keepalive::renew_once(shared, &link, lease.id(), ttl).await {
                Ok(sent) => renewed = kept.take().map(|lease| (lease, sent)),
                Err(trouble) if trouble.remedy == Remedy::NewLease => *kept = None,
                Err(trouble) => return Err(trouble.into()),
            }
        }
        let (lease, sent) = match renewed {
            Some(renewed) => renewed,
            None => granted(shared, &link, ttl).await?,
        };

        let key = keys::candidate_key(&standing.election, lease.id());
        let validity =
            Arc::new(SharedValidity::keeping(ttl.believed_until(sent), Arc::clone(lease.ticket())));
        let look = view.look_at(key.clone());
        let (renewed, renewals) = mpsc::channel(RENEWALS);
        let keeper = KeepAlive {
            shared: Arc::clone(shared),
            lease: lease.id(),
            ttl,
            validity: Arc::clone(&validity),
            granted: sent,
            renewed,
        };
        let name = standing.name.as_str().into();
        let put = put(Arc::clone(shared), link.clone(), key.clone(), name, lease.id(), ttl);
        let put = AbortOnDropHandle::new(shared.spawn(put));
        Ok(Self {
            shared: Arc::clone(shared),
            link,
            lease,
            ttl,
            key,
            validity,
            keeper: AbortOnDropHandle::new(shared.spawn(keeper.keep())),
            renewals,
            look,
            put,
        })
    }

    /// Ends the attempt, and keeps its lease for the next one.
    fn leave(self) -> LeaseGuard {
        self.lease
    }

    /// Waits in the queue until the win is verified; returns the key's `create_revision`.
    async fn contend(
        &mut self,
        standing: &CampaignRequest,
        backoff: &mut Backoff,
    ) -> Result<Revision, AttemptError> {
        let patience = self.shared.call_patience(self.ttl);
        let mut state = WinRule::new(self.lease.id());
        let (mut answered, mut following) = (false, false);
        let mut due = ResponseDeadline::now(patience);
        loop {
            let seen = tokio::select! {
                biased;
                end = &mut self.keeper => return Err(lease_ended(end).into()),
                () = self.shared.links.abandoned(&self.link) => {
                    return Err(EtcdError::elsewhere("the connection failed while waiting in the queue").into());
                }
                sight = self.look.sight() => WinInput::Sight(sight),
                put = &mut self.put, if !answered => {
                    answered = true;
                    match put {
                        Ok(Ok(Put::Ours(created))) => {
                            self.put_ticket(standing, created).await;
                            WinInput::Put { created }
                        }
                        Ok(Ok(Put::Taken)) => return Err(AttemptError::Anew(EtcdError::elsewhere(AttemptFailure::NotOurs.to_string()))),
                        Ok(Err(trouble)) => return Err(trouble.into()),
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
                        let _ = standing.events.send(Event::Following { token: Some(keys::token(created)) });
                    }
                }
                WinStep::Win { created } => return Ok(created),
                WinStep::Abandon(why) => {
                    return Err(AttemptError::Anew(EtcdError::elsewhere(why.to_string())));
                }
            }
        }
    }

    fn blame(&self, why: &str) -> EtcdError {
        self.shared.links.failed(&self.link);
        EtcdError::elsewhere(why)
    }

    fn ticket(&self, created: Revision) -> Option<Ticket> {
        let (key, lease) = (self.key.clone(), self.lease.id().0);
        Some(Ticket { cluster: self.shared.cluster()?, key, created: created.0, lease, ttl: self.ttl })
    }

    /// Lets witnesses know what to release should this process die. Before the win, so that no belief is without one for
    /// longer than it takes.
    async fn put_ticket(&self, standing: &CampaignRequest, created: Revision) {
        if let (Some(lifeline), Some(ticket)) = (&self.shared.lifeline, self.ticket(created)) {
            lifeline.put(standing.name.as_str(), ticket, self.lease.ticket(), &self.shared).await;
        }
    }

    /// A verified win makes a leadership, if this process may still believe its lease.
    fn win(
        self,
        created: Revision,
        standing: &CampaignRequest,
    ) -> Result<(Leadership, Elected), AttemptError> {
        let expired =
            || AttemptError::Again(EtcdError::elsewhere("the lease expired before the win was verified"));
        let ticket = self.ticket(created).ok_or_else(expired)?;
        let cluster = ticket.cluster;
        let term = LeadershipTerm {
            token: keys::token(created),
            cluster: ClusterId(cluster),
            name: standing.name.clone(),
            election: standing.election.clone(),
            validity: Arc::clone(&self.validity),
            ticket: Some(ticket),
        };
        let until = self.validity.until().ok_or_else(expired)?;
        if !self.validity.holds_at(Timestamp::now()) {
            return Err(expired());
        }
        let (leadership, tenure) = Leadership::new(term);
        let elected = Elected { attempt: self, tenure, created, until };
        Ok((leadership, elected))
    }
}

/// When something that etcd owes us must have come: our key in the queue at first, then whichever
/// is missing of the two that make a win.
struct ResponseDeadline {
    patience: Duration,
    /// Nothing is owed to one who waits behind somebody, or who can't see.
    at: Option<Instant>,
    expecting: bool,
}

impl ResponseDeadline {
    fn now(patience: Duration) -> Self {
        Self { patience, at: Some(Instant::now() + patience), expecting: false }
    }

    fn follow(&mut self, seen: WinInput, next: WinStep) {
        match next {
            // The view blames its own link for that.
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
    matches!(seen, WinInput::Sight(QueuePosition::Unsure { .. }))
}

/// Puts our key on our lease, unless there is one of that name: so asking twice changes nothing.
async fn put(
    shared: Arc<EtcdShared>,
    link: EndpointConnection,
    key: Vec<u8>,
    name: Vec<u8>,
    lease: LeaseId,
    ttl: Ttl,
) -> Result<Put, EtcdError> {
    let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
    let put = TxnOp::put(key.clone(), name, Some(PutOptions::new().with_lease(lease.0)));
    let once = Txn::new().when([absent]).and_then([put]).or_else([TxnOp::get(key, None)]);
    let known = shared.known();
    let mut client = link.kv();
    let answer = shared.links.call(&link, shared.call_patience(ttl), client.txn(once)).await?;
    let revision = shared.accept(&link, answer.header(), ReadKind::Linearizable, known)?;
    if answer.succeeded() {
        return Ok(Put::Ours(revision));
    }
    match answer.op_responses().first() {
        Some(TxnOpResponse::Get(there)) => Ok(match there.kvs().first() {
            Some(kv) if kv.lease() == lease.0 => Put::Ours(Revision(kv.create_revision())),
            _ => Put::Taken,
        }),
        _ => Err(EtcdError::elsewhere("etcd's answer has not the form of the question")),
    }
}

/// A lease that etcd granted just now, and when it was asked for.
async fn granted(
    shared: &Arc<EtcdShared>,
    link: &EndpointConnection,
    ttl: Ttl,
) -> Result<(LeaseGuard, Timestamp), AttemptError> {
    let known = shared.known();
    let sent = Timestamp::now();
    let (lease, grant) = grant(shared, link, ttl).await?;
    shared.accept(link, grant.header(), ReadKind::Linearizable, known)?;
    if grant.ttl() != i64::from(ttl.as_secs()) {
        return Err(raised(ttl, grant.ttl()));
    }
    Ok((lease, sent))
}

/// Asks for a lease.
///
/// Goes on in a task of its own where the caller is dropped, so that a lease which etcd grants
/// to nobody is known, and given back.
async fn grant(
    shared: &Arc<EtcdShared>,
    link: &EndpointConnection,
    ttl: Ttl,
) -> Result<(LeaseGuard, etcd_client::LeaseGrantResponse), EtcdError> {
    let (asking, link) = (Arc::clone(shared), link.clone());
    let (granted, grant) = oneshot::channel();
    shared.spawn_counted(async move {
        let mut client = link.leases();
        let granting = client.grant(i64::from(ttl.as_secs()), None);
        let answer = asking.links.call(&link, asking.call_patience(ttl), granting).await;
        // From here on, whatever happens, the lease is given back.
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
        Err(_panicked) => "the lease is not renewed any more",
    })
}

/// A won attempt, which goes on to be a term.
pub(crate) struct Elected {
    attempt: Attempt,
    tenure: TermHandle,
    created: Revision,
    until: Timestamp,
}

impl Elected {
    /// Hands the leadership to whoever campaigned, and sees the term through.
    async fn lead(self, leadership: Leadership, standing: CampaignRequest, won: CampaignReply) {
        let CampaignRequest { events, announce, .. } = standing;
        let token = leadership.token();
        in_span_leads(token);
        let mut attempt = self.attempt;
        // Renewals while it waited are none of the term's.
        while attempt.renewals.try_recv().is_ok() {}
        let _ = events.send(Event::Elected { token, until: self.until });
        // Whoever campaigned may be gone: then the leadership is dropped with the answer,
        // which orders the term to end.
        let _ = won.send(Ok(leadership));
        let Attempt { shared, lease, ttl, key, keeper, renewals, look, .. } = attempt;
        let seat = LeaderKey { shared, key, created: self.created, lease: lease.id(), ttl };
        let term = term::ActiveTerm { seat, lease, keeper, renewals, look, tenure: self.tenure, events };
        term.run(announce).await;
    }
}
