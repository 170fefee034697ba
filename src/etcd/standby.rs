//! A waiting candidate: its answer to an order, and candidates that lead only while no other can.
//!
//! An order names its target by the key as it was made. The target answers in its record that it is alive and
//! would claim: a leader that handed over to a frozen one would leave the election without a leader for a TTL.
//!
//! A last resort stays out of the queue, or leaves it, while a candidate stands there that is none. Nothing
//! here yields a win: a candidate that is the first leads, and then hands over.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    EtcdShared,
    contenders::Contenders,
    error::EtcdError,
    followed::{self, KeysSeen},
    keepalive::short_pause,
    keys::{self, LeaseId, MadeKey, Revision},
    member::StoredMember,
    order::StoredOrder,
    queue::PATIENCE,
    staleness::ReadKind,
    succession::{ProgramOrder, SittingLeader, Succession, controls_of},
    view::QueueView,
};
use crate::{
    candidate::CampaignRequest,
    choosing::{Controls, Priority, last_resort::Willingness},
    names::{CandidateName, ElectionName},
};

/// Tries to write an answer. The leader waits for 3 s.
const TRIES: usize = 10;

/// A candidate in the queue, beside its attempt to win.
pub(super) struct Standby {
    shared: Arc<EtcdShared>,
    preferences: Preferences,
    lease: LeaseId,
    key: Vec<u8>,
    /// Our key's `create_revision`, once it is known.
    created: Option<Revision>,
    record: Option<StoredMember>,
    order: watch::Receiver<KeysSeen>,
    controls: watch::Receiver<KeysSeen>,
    contenders: Contenders,
    /// True while its place depends on the other candidates.
    depends: bool,
    /// True if something changed that was not judged yet.
    due: bool,
    answered: Option<AnsweredOrder>,
    answering: Option<AbortOnDropHandle<()>>,
}

/// A candidate's own preferences.
#[derive(Clone)]
struct Preferences {
    election: ElectionName,
    name: CandidateName,
    priority: Priority,
    never: bool,
}

/// The last order that was answered.
#[derive(Clone, Copy)]
struct AnsweredOrder {
    order: Revision,
    /// True if it is an operator's: its key is not on the leader's lease.
    operator: bool,
}

/// The next step of a waiting candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandbyStep {
    Stay,
    /// Leave the queue.
    Leave,
}

impl Preferences {
    fn of(request: &CampaignRequest) -> Self {
        let CampaignRequest { election, name, profile, never, .. } = request;
        let (election, name) = (election.clone(), name.clone());
        Self { election, name, priority: profile.priority, never: *never }
    }

    fn willingness(&self, controls: &Controls) -> Willingness {
        Willingness::of(&self.name, self.priority, self.never, controls)
    }
}

impl Standby {
    pub(super) fn new(
        shared: &Arc<EtcdShared>,
        request: &CampaignRequest,
        view: &Arc<QueueView>,
        lease: LeaseId,
    ) -> Self {
        let (order, controls) = view.orders(shared);
        let key = keys::candidate_key(&request.election, lease);
        let contenders = Contenders::new(shared, &request.election, view, key.clone());
        Self {
            shared: Arc::clone(shared),
            preferences: Preferences::of(request),
            lease,
            key,
            created: None,
            record: None,
            order,
            controls,
            contenders,
            depends: false,
            due: true,
            answered: None,
            answering: None,
        }
    }

    /// Our key is in the queue, with our record or without.
    pub(super) fn queued(&mut self, created: Revision, record: Option<StoredMember>) {
        (self.created, self.record) = (Some(created), record);
        self.due = true;
    }

    /// Waits for an order or another change that concerns a waiting candidate, and heeds it.
    ///
    /// Cancel safe.
    pub(super) async fn heed(&mut self) -> StandbyStep {
        while !self.due {
            tokio::select! {
                () = followed::changed(&mut self.order) => {}
                () = followed::changed(&mut self.controls) => {}
                () = self.contenders.changed(), if self.depends => {}
            }
            self.due = true;
        }
        self.answer();
        match self.stays().await {
            Ok(stays) => {
                self.due = false;
                if stays { StandbyStep::Stay } else { StandbyStep::Leave }
            }
            Err(error) => {
                tracing::debug!(%error, "could not read the other candidates' records, trying again");
                sleep(short_pause()).await;
                StandbyStep::Stay
            }
        }
    }

    async fn stays(&mut self) -> Result<bool, EtcdError> {
        let controls = controls_of(&self.preferences.election, &self.controls.borrow());
        let Some(controls) = controls else { return Ok(true) };
        let willing = self.preferences.willingness(&controls);
        self.depends = matches!(willing, Willingness::LastResort | Willingness::Cordoned);
        if self.depends && !self.contenders.learn().await? {
            return Ok(true);
        }
        Ok(willing.queues(&self.contenders.field(None, false), &controls))
    }

    /// Answers the order to hand over to us.
    fn answer(&mut self) {
        // Without a record there is no transfer to us.
        let (Some(created), Some(record)) = (self.created, &self.record) else { return };
        let own = MadeKey { key: self.key.clone(), created };
        let election = &self.preferences.election;
        let asked = {
            let seen = self.order.borrow();
            seen.value(&keys::order_key(election)).and_then(|seen| {
                let order = StoredOrder::from_json(&seen.value)?;
                let open = seen.lease.0 > 0 && order.refused.is_none() && order.target == own;
                open.then_some((seen.created, seen.lease))
            })
        };
        let Some((question, on)) = asked else { return };
        if self.answered.is_some_and(|answered| answered.order == question) {
            return;
        }
        self.answered =
            Some(AnsweredOrder { order: question, operator: self.contenders.leaders_lease() != Some(on) });
        let record = StoredMember { ready: Some(question), ..record.clone() };
        let answering = say_ready(Arc::clone(&self.shared), election.clone(), self.lease, record, question);
        self.answering = Some(AbortOnDropHandle::new(self.shared.spawn(answering)));
    }

    /// Turns the waiting candidate into the one whose succession is decided.
    pub(super) fn succession(
        self,
        incumbent: SittingLeader,
        program: mpsc::UnboundedReceiver<ProgramOrder>,
    ) -> Succession {
        let ordered = self.answered.is_some_and(|answered| answered.operator);
        Succession::new(incumbent, ordered, self.contenders, self.order, self.controls, program)
    }
}

/// Waits until a candidate may join the queue: at once, unless it is a last resort.
pub(super) async fn until_willing(
    shared: &Arc<EtcdShared>,
    request: &CampaignRequest,
    view: &Arc<QueueView>,
) {
    let preferences = Preferences::of(request);
    let (_, mut controls) = view.orders(shared);
    let mut contenders = Contenders::new(shared, &request.election, view, Vec::new());
    loop {
        let seen = controls_of(&request.election, &controls.borrow_and_update());
        // An order that is not read yet does not delay a start: who is cordoned leaves the queue again.
        let willing = preferences.willingness(&seen.clone().unwrap_or_default());
        if willing == Willingness::Always {
            return;
        }
        if let Some(controls) = seen {
            match contenders.learn().await {
                Ok(true) if willing.queues(&contenders.field(None, false), &controls) => return,
                Ok(_) => {}
                Err(_) => {
                    sleep(short_pause()).await;
                    continue;
                }
            }
        }
        tokio::select! {
            () = followed::changed(&mut controls) => {}
            () = contenders.changed() => {}
        }
    }
}

/// Writes our record, which says that we are ready.
async fn say_ready(
    shared: Arc<EtcdShared>,
    election: ElectionName,
    lease: LeaseId,
    record: StoredMember,
    question: Revision,
) {
    for _ in 0..TRIES {
        match put_record(&shared, &election, lease, &record, question).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "could not answer that this candidate is ready"),
        }
        sleep(short_pause()).await;
    }
}

async fn put_record(
    shared: &EtcdShared,
    election: &ElectionName,
    lease: LeaseId,
    record: &StoredMember,
    question: Revision,
) -> Result<(), EtcdError> {
    let connection = shared.connections.connection().await?;
    let key = keys::member_key(election, lease);
    let ours = Compare::lease(key.clone(), CompareOp::Equal, lease.0);
    // An order whose time is over needs no answer any more, however late the views are.
    let asked = Compare::create_revision(keys::order_key(election), CompareOp::Equal, question.0);
    let put = TxnOp::put(key, record.to_json(), Some(PutOptions::new().with_ignore_lease()));
    let known = shared.known();
    let mut client = connection.kv();
    let writing = client.txn(Txn::new().when([ours, asked]).and_then([put]));
    let answer = shared.connections.call(&connection, PATIENCE, writing).await?;
    shared.accept(&connection, answer.header(), ReadKind::Linearizable, known)?;
    Ok(())
}
