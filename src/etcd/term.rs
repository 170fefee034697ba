//! One term of leadership on etcd, from the verified win to its end.
//!
//! Whatever ends the term, belief ends first, then the holder is told, and only then is
//! anything said to etcd.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Seat,
    announcement::Announcement,
    layout::LeaseId,
    lease::{Held, LeaseEnd, Renewal, short_pause},
    progress::Answer,
    stand::look,
    trouble::Trouble,
    watch::{KeyEvent, KeyWatch},
};
use crate::{
    candidate::Event,
    clock::Timestamp,
    leadership::{FencingToken, Loss, Order, OrderError, Outcome, Tenure},
};

/// How long a release is tried, at most: who waits for it is on the way out.
const RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// A term under way.
pub(super) struct Running {
    pub(super) seat: Seat,
    pub(super) lease: Held,
    pub(super) keeper: AbortOnDropHandle<LeaseEnd>,
    pub(super) renewals: mpsc::Receiver<Renewal>,
    pub(super) watch: KeyWatch,
    pub(super) tenure: Tenure,
    pub(super) events: broadcast::Sender<Event>,
}

impl Running {
    pub(super) async fn run(mut self, announce: bool) {
        let token = self.tenure.term.token;
        let _announcing = announce.then(|| {
            let announcing = self.seat.clone().announce(self.lease.id(), self.announcement());
            AbortOnDropHandle::new(self.seat.shared.spawn(announcing))
        });
        // Starts only after a gap in the watch, and ends in a loss or not at all.
        let mut look_again: Option<AbortOnDropHandle<Loss>> = None;
        let ended = loop {
            tokio::select! {
                biased;
                end = &mut self.keeper => break match self.tenure.given_up() {
                    Some(Order::Resign { done }) => Ended::Resigned(done),
                    Some(Order::Proclaim { .. }) | None => Ended::Lost(match end {
                        Ok(LeaseEnd::Expired) => Loss::Expired,
                        Ok(LeaseEnd::Gone) => Loss::Revoked,
                        Err(_panicked) => Loss::ShutDown,
                    }),
                },
                event = self.watch.event() => match self.happened(event) {
                    Happened::Lost(loss) => break Ended::Lost(loss),
                    Happened::LookAgain => {
                        let looking = self.seat.clone().until_lost(self.lease.id());
                        look_again = Some(AbortOnDropHandle::new(self.seat.shared.spawn(looking)));
                    }
                    Happened::Nothing => {}
                },
                Ok(loss) = async { look_again.as_mut().expect("the branch is only taken with a look").await },
                    if look_again.is_some() => break Ended::Lost(loss),
                Some(renewal) = self.renewals.recv() => self.renewed(token, renewal),
                order = self.tenure.order() => match order {
                    Order::Proclaim { value, done } => {
                        let proclaiming = self.seat.clone().proclaim(self.lease.id(), value);
                        self.seat.shared.spawn(async move { done.send(proclaiming.await) });
                    }
                    Order::Resign { done } => break Ended::Resigned(done),
                },
            }
        };
        match ended {
            // Dropping the lease revokes it: the next candidate need not wait for its end.
            Ended::Lost(loss) => self.lose(token, loss),
            Ended::Resigned(done) => {
                self.lose(token, Loss::Resigned);
                let deadline = Timestamp::now() + self.seat.ttl.as_duration().min(RELEASE_WITHIN);
                // Nothing may renew what is being given up.
                drop(self.keeper);
                let revoked = self.lease.revoke(deadline).await;
                let _ = done.send(revoked.map_err(|trouble| OrderError::Unconfirmed(trouble.message)));
            }
        }
    }

    fn lose(&self, token: FencingToken, loss: Loss) {
        self.tenure.lose(loss);
        let _ = self.events.send(Event::Lost { token, loss });
    }

    fn renewed(&self, token: FencingToken, Renewal { until, latency }: Renewal) {
        let _ = self.events.send(Event::Renewed { token, until, latency });
    }

    fn announcement(&self) -> Announcement {
        Announcement {
            leader: self.tenure.term.name.to_string(),
            token: self.tenure.term.token,
            since: SystemTime::now(),
        }
    }

    fn happened(&self, event: KeyEvent) -> Happened {
        match event {
            KeyEvent::Deleted { key } if key == self.seat.key => Happened::Lost(Loss::KeyDeleted),
            KeyEvent::Put { key, created, lease } if key == self.seat.key => {
                let ours = created == self.seat.created && lease == self.lease.id();
                if ours { Happened::Nothing } else { Happened::Lost(Loss::Superseded) }
            }
            KeyEvent::Gap => Happened::LookAgain,
            KeyEvent::Blind => Happened::Lost(Loss::Blind),
            KeyEvent::Put { .. } | KeyEvent::Deleted { .. } => Happened::Nothing,
        }
    }
}

enum Ended {
    Lost(Loss),
    Resigned(oneshot::Sender<Outcome>),
}

enum Happened {
    Nothing,
    Lost(Loss),
    LookAgain,
}

impl Seat {
    /// Looks whether our key is still there until one look is answered; then ends only if it
    /// is not. If none is answered for a whole TTL, the key may be gone.
    async fn until_lost(self, lease: LeaseId) -> Loss {
        match timeout(self.ttl.as_duration(), self.looked(lease)).await {
            Ok(Some(loss)) => loss,
            Ok(None) => std::future::pending().await,
            Err(_) => Loss::Blind,
        }
    }

    async fn looked(&self, lease: LeaseId) -> Option<Loss> {
        loop {
            let patience = self.ttl.patience();
            let looked = async {
                let link = self.shared.links.link().await?;
                look(Arc::clone(&self.shared), link, patience, self.key.clone(), self.created).await
            };
            match looked.await {
                Ok(queue) => {
                    return match queue.own {
                        Some(own) if own.created == self.created && own.lease == lease => None,
                        Some(_) => Some(Loss::Superseded),
                        None => Some(Loss::KeyDeleted),
                    };
                }
                Err(trouble) => tracing::debug!(%trouble, "could not look whether the key is there"),
            }
            sleep(short_pause()).await;
        }
    }

    /// A transaction that does something only while our key is the one we won with.
    pub(super) fn guarded(&self, what: impl Into<Vec<TxnOp>>) -> Txn {
        let ours = Compare::create_revision(self.key.clone(), CompareOp::Equal, self.created.0);
        Txn::new().when([ours]).and_then(what)
    }

    async fn proclaim(self, lease: LeaseId, value: Vec<u8>) -> Result<(), OrderError> {
        let put = TxnOp::put(self.key.clone(), value, Some(PutOptions::new().with_lease(lease.0)));
        self.put_guarded(put).await
    }

    async fn put_guarded(&self, put: TxnOp) -> Result<(), OrderError> {
        let patience = self.shared.call_patience(self.ttl);
        let written = async {
            let link = self.shared.links.link().await?;
            let known = self.shared.known();
            let mut client = link.kv();
            let answer = self.shared.links.call(&link, patience, client.txn(self.guarded([put]))).await?;
            self.shared.accept(&link, answer.header(), Answer::Linearizable, known)?;
            Ok(answer.succeeded())
        };
        match written.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(OrderError::NotLeading),
            Err(Trouble { message, .. }) => Err(OrderError::Unconfirmed(message)),
        }
    }

    /// Writes who leads since when beside the queue. Best effort, once.
    async fn announce(self, lease: LeaseId, announcement: Announcement) {
        /// Far more than it takes. The term does not depend on it.
        const PATIENCE: Duration = Duration::from_secs(5);
        let key = self.election_key();
        let put = TxnOp::put(key, announcement.to_json(), Some(PutOptions::new().with_lease(lease.0)));
        match timeout(PATIENCE, self.put_guarded(put)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not announce the leader"),
            Err(_) => tracing::debug!("could not announce the leader in time"),
        }
    }

    /// The key that is called as the election itself: ours, less the last part.
    fn election_key(&self) -> Vec<u8> {
        let slash = self.key.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.key[..slash].to_vec()
    }
}
