//! A candidate on etcd: attempt after attempt until one is won, then the term itself.
//!
//! ```text
//! attempt:  grant a lease ─► keep it alive ───────────────────────────────┐
//!               ├─► look at our key in the election's view                │ until the end
//!               └─► Campaign (blocking) ─► win, by view and return ───────┤ of the term
//! term:     renewals, the key, the holder's orders ◄──────────────────────┘
//! ```
//!
//! An attempt is bound to one connection and one lease. Whatever goes wrong with either,
//! the attempt is abandoned, its lease revoked, and the next one starts with a new lease:
//! a cancelled `Campaign` makes etcd resign that lease's key in the background, so a retry
//! on the same lease could lose what it had won.

use std::{sync::Arc, time::Duration};

use etcd_client::CampaignResponse;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Seat, Shared,
    campaign::{Campaign, Next, Seen},
    layout::{self, LeaseId, Revision},
    lease::{Held, Keeper, LeaseEnd, Renewal},
    link::Link,
    progress::Answer,
    term,
    trouble::{Remedy, Trouble},
    view::{Look, Sight, View},
};
use crate::{
    candidate::{CampaignError, Event, Standing, Won},
    clock::Timestamp,
    leadership::{Backing, ClusterId, Leadership, Tenure, Term},
    timing::{Backoff, Ttl},
    validity::SharedValidity,
};

/// Renewals that may wait to be told; more are left out.
const RENEWALS: usize = 4;

/// Stands until the campaign is won or called off, then sees the term through.
pub(crate) async fn stand(shared: Arc<Shared>, standing: Standing, mut won: Won) {
    let view = View::of(&shared, &standing.election);
    let mut backoff = Backoff::new();
    loop {
        let attempt = tokio::select! {
            biased;
            () = won.closed() => return,
            attempt = Attempt::start(&shared, &standing, &view) => attempt,
        };
        let ended = match attempt {
            Ok(attempt) => {
                let _ = standing.events.send(Event::Campaigning);
                tokio::select! {
                    biased;
                    // Dropping the attempt leaves the queue.
                    () = won.closed() => return,
                    ended = attempt.contend(&standing, &mut backoff) => ended,
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
            Err(AttemptError::Again(trouble)) => {
                let pause = backoff.pause();
                let _ = standing.events.send(Event::Retrying {
                    unreachable: trouble.remedy == Remedy::Unreachable,
                    problem: trouble.message,
                    pause,
                });
                tokio::select! {
                    () = won.closed() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Why an attempt ended without a win.
enum AttemptError {
    /// Try again, with a new lease.
    Again(Trouble),
    /// Retrying can't fix it.
    Final(CampaignError),
}

impl From<Trouble> for AttemptError {
    fn from(trouble: Trouble) -> Self {
        match trouble.remedy {
            Remedy::Human => Self::Final(CampaignError::Refused(trouble.message)),
            Remedy::Elsewhere | Remedy::Unreachable | Remedy::NewLease | Remedy::Request => {
                Self::Again(trouble)
            }
        }
    }
}

/// One lease, one connection, one try.
struct Attempt {
    shared: Arc<Shared>,
    link: Link,
    lease: Held,
    ttl: Ttl,
    key: Vec<u8>,
    validity: Arc<SharedValidity>,
    keeper: AbortOnDropHandle<LeaseEnd>,
    renewals: mpsc::Receiver<Renewal>,
    look: Look,
    campaign: AbortOnDropHandle<Result<CampaignResponse, etcd_client::Error>>,
}

impl Attempt {
    /// Takes a lease, keeps it alive, looks at its key, and joins the queue.
    async fn start(
        shared: &Arc<Shared>,
        standing: &Standing,
        view: &Arc<View>,
    ) -> Result<Self, AttemptError> {
        let link = shared.links.link().await?;
        let ttl = standing.ttl;
        let known = shared.known();
        let sent = Timestamp::now();
        let (lease, grant) = grant(shared, &link, ttl).await?;
        shared.accept(&link, grant.header(), Answer::Linearizable, known)?;
        if grant.ttl() != i64::from(ttl.as_secs()) {
            return Err(raised(ttl, grant.ttl()));
        }

        let key = layout::candidate_key(&standing.election, lease.id());
        let validity = Arc::new(SharedValidity::new(ttl.believed_until(sent)));
        let look = view.look_at(key.clone());
        let (renewed, renewals) = mpsc::channel(RENEWALS);
        let keeper = Keeper {
            shared: Arc::clone(shared),
            lease: lease.id(),
            ttl,
            validity: Arc::clone(&validity),
            granted: sent,
            renewed,
        };
        let mut client = link.elections();
        let (election, name, id) = (standing.election.as_str(), standing.name.as_str(), lease.id());
        let (election, name) = (election.to_owned(), name.to_owned());
        let campaign = shared.spawn(async move { client.campaign(election, name, id.0).await });
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
            campaign: AbortOnDropHandle::new(campaign),
        })
    }

    /// Waits in the queue until the win is verified.
    async fn contend(
        mut self,
        standing: &Standing,
        backoff: &mut Backoff,
    ) -> Result<(Leadership, Elected), AttemptError> {
        let patience = self.shared.call_patience(self.ttl);
        let mut state = Campaign::new(self.lease.id());
        let mut returned = false;
        let mut due = Due::now(patience);
        loop {
            let seen = tokio::select! {
                biased;
                end = &mut self.keeper => return Err(lease_ended(end).into()),
                () = self.shared.links.abandoned(&self.link) => {
                    return Err(Trouble::elsewhere("the connection failed while waiting in the queue").into());
                }
                sight = self.look.sight() => Seen::Sight(sight),
                response = &mut self.campaign, if !returned => {
                    returned = true;
                    self.returned(response)?
                }
                () = due.passed() => {
                    return Err(self.blame("etcd did not show the key in the queue, or did not answer Campaign").into());
                }
            };
            let next = state.see(seen);
            due.follow(seen, next);
            match next {
                Next::Wait | Next::Expect => {}
                Next::Follow { created } => {
                    backoff.reset();
                    let _ = standing.events.send(Event::Following { token: Some(layout::token(created)) });
                }
                Next::Win { created } => return self.win(created, standing),
                Next::Abandon(why) => {
                    return Err(AttemptError::Again(Trouble::elsewhere(why.to_string())));
                }
            }
        }
    }

    fn returned(
        &self,
        response: Result<Result<CampaignResponse, etcd_client::Error>, JoinError>,
    ) -> Result<Seen, Trouble> {
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let trouble = Trouble::from(error);
                self.shared.links.blame(&self.link, &trouble);
                return Err(trouble);
            }
            Err(_panicked) => return Err(Trouble::elsewhere("the campaign failed")),
        };
        match response.leader() {
            Some(leader) if leader.key() == self.key && leader.lease() == self.lease.id().0 => {
                Ok(Seen::Returned { created: Revision(leader.rev()) })
            }
            _ => Err(self.blame("etcd's Campaign returned another key than ours")),
        }
    }

    fn blame(&self, why: &str) -> Trouble {
        self.shared.links.failed(&self.link);
        Trouble::elsewhere(why)
    }

    /// A verified win makes a leadership, if this process may still believe its lease.
    fn win(self, created: Revision, standing: &Standing) -> Result<(Leadership, Elected), AttemptError> {
        let expired =
            || AttemptError::Again(Trouble::elsewhere("the lease expired before the win was verified"));
        let cluster = self.shared.cluster().ok_or_else(expired)?;
        let term = Term {
            token: layout::token(created),
            cluster: ClusterId(cluster),
            name: standing.name.clone(),
            election: standing.election.clone(),
            validity: Arc::clone(&self.validity),
        };
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        let seat = Seat { shared, key, created, lease: self.lease.id(), ttl: self.ttl };
        let until = self.validity.until().ok_or_else(expired)?;
        if !self.validity.holds_at(Timestamp::now()) {
            return Err(expired());
        }
        let (leadership, tenure) = Leadership::new(term, Backing::Etcd(seat));
        let elected = Elected { attempt: self, tenure, created, until };
        Ok((leadership, elected))
    }
}

/// When something that etcd owes us must have come: our key in the queue at first, then whichever
/// is missing of the two that make a win.
struct Due {
    patience: Duration,
    /// Nothing is owed to one who waits behind somebody, or who can't see.
    at: Option<Instant>,
    expecting: bool,
}

impl Due {
    fn now(patience: Duration) -> Self {
        Self { patience, at: Some(Instant::now() + patience), expecting: false }
    }

    fn follow(&mut self, seen: Seen, next: Next) {
        let unsure = matches!(seen, Seen::Sight(Sight::Unsure { .. }));
        match next {
            // The view blames its own link for that.
            _ if unsure => (self.at, self.expecting) = (None, false),
            Next::Expect if !self.expecting => {
                (self.at, self.expecting) = (Some(Instant::now() + self.patience), true);
            }
            Next::Expect => {}
            Next::Wait => {
                self.at.get_or_insert_with(|| Instant::now() + self.patience);
            }
            Next::Follow { .. } | Next::Win { .. } | Next::Abandon(_) => {
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

/// Asks for a lease.
///
/// Goes on in a task of its own where the caller is dropped, so that a lease which etcd grants
/// to nobody is known, and given back.
async fn grant(
    shared: &Arc<Shared>,
    link: &Link,
    ttl: Ttl,
) -> Result<(Held, etcd_client::LeaseGrantResponse), Trouble> {
    let (asking, link) = (Arc::clone(shared), link.clone());
    let (granted, grant) = oneshot::channel();
    shared.spawn_counted(async move {
        let mut client = link.leases();
        let granting = client.grant(i64::from(ttl.as_secs()), None);
        let answer = asking.links.call(&link, asking.call_patience(ttl), granting).await;
        // From here on, whatever happens, the lease is given back.
        let _ = granted.send(answer.map(|grant| {
            let lease = Held::new(Arc::clone(&asking), LeaseId(grant.id()), ttl);
            (lease, grant)
        }));
    });
    grant.await.unwrap_or_else(|_| Err(Trouble::elsewhere("the backend has stopped")))
}

fn raised(asked: Ttl, granted: i64) -> AttemptError {
    let seconds = Duration::from_secs(u64::try_from(granted).unwrap_or(0));
    match Ttl::new(seconds) {
        Ok(granted) if granted > asked => AttemptError::Final(CampaignError::TtlTooShort { asked, granted }),
        _ => {
            AttemptError::Again(Trouble::elsewhere(format!("etcd granted a lease of {granted}s for {asked}")))
        }
    }
}

fn lease_ended(end: Result<LeaseEnd, JoinError>) -> Trouble {
    Trouble::elsewhere(match end {
        Ok(LeaseEnd::Expired) => "the lease could not be renewed in time while waiting",
        Ok(LeaseEnd::Gone) => "the lease was revoked while waiting",
        Err(_panicked) => "the lease is not renewed any more",
    })
}

/// A won attempt, which goes on to be a term.
pub(crate) struct Elected {
    attempt: Attempt,
    tenure: Tenure,
    created: Revision,
    until: Timestamp,
}

impl Elected {
    /// Hands the leadership to whoever campaigned, and sees the term through.
    async fn lead(self, leadership: Leadership, standing: Standing, won: Won) {
        let Standing { events, announce, .. } = standing;
        let token = leadership.token();
        let mut attempt = self.attempt;
        // Renewals while it waited are none of the term's.
        while attempt.renewals.try_recv().is_ok() {}
        let _ = events.send(Event::Elected { token, until: self.until });
        // Whoever campaigned may be gone: then the leadership is dropped with the answer,
        // which orders the term to end.
        let _ = won.send(Ok(leadership));
        let Attempt { shared, lease, ttl, key, keeper, renewals, look, campaign, .. } = attempt;
        drop(campaign);
        let seat = Seat { shared, key, created: self.created, lease: lease.id(), ttl };
        let term = term::Running { seat, lease, keeper, renewals, look, tenure: self.tenure, events };
        term.run(announce).await;
    }
}
