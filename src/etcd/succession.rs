//! A leader's decisions to hand over: operators' orders, its own program's, priorities, last resorts.
//!
//! Beside the term, in a task of its own: nothing here can make a process believe that it leads, and a term
//! without it leads on. All it can do to the term is to ask, once, for its end ([`Departure`]).
//!
//! Every transfer goes through `<election>.order`: an operator puts it there on its own lease, and the leader
//! puts it there on its lease for transfers of its own. It asks the target whether it is ready, and bars a
//! second transfer. The rules are those of [`choosing`](crate::choosing).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    LeaderKey,
    contenders::Contenders,
    control,
    error::{EtcdError, Remedy},
    followed::{self, FollowedKeys, KeysSeen},
    history::{HistoryAtStart, TermHistory},
    keepalive::short_pause,
    keys::{self, MadeKey, Revision},
    member::StoredMember,
    order::StoredOrder,
    plan::{EtcdPlan, plan_txn},
    watches::WatchRange,
};
use crate::{
    choosing::{
        Controls, OrderedBy, Priority, TransferError, TransferReason,
        field::{CandidateField, Contender},
        handoff::{HandoffKeys, Plan},
        last_resort::{GiveWay, Willingness},
        order::{OrderVerdict, READY_WITHIN, TransferOrder},
        preference::{PriorityRule, PriorityStep, Tenure, lost_lately},
    },
    clock::{self, Timestamp},
    leadership::{FencingToken, TransferOutcome},
    names::{CandidateName, ElectionName, displayed},
};

/// Time after which a candidate that was not ready is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// An order of the leader's own program.
#[derive(Debug)]
pub(super) struct ProgramOrder {
    pub(super) to: String,
    pub(super) done: oneshot::Sender<TransferOutcome>,
}

/// A planned end of the term.
#[derive(Debug)]
pub(super) enum Departure {
    HandOver(AcceptedTransfer),
    /// There is no fit candidate, and this one must not lead.
    Resign,
}

/// A transfer that nothing stands against any more.
#[derive(Debug)]
pub(super) struct AcceptedTransfer {
    pub(super) keys: HandoffKeys<MadeKey>,
    /// The target, displayable.
    pub(super) shown: String,
    pub(super) reason: TransferReason,
    /// The program that ordered it, which has stopped its work.
    pub(super) done: Option<oneshot::Sender<TransferOutcome>>,
}

/// The leader, as far as its succession depends on it.
pub(super) struct SittingLeader {
    pub(super) leader_key: LeaderKey,
    pub(super) name: CandidateName,
    pub(super) election: ElectionName,
    pub(super) token: FencingToken,
    pub(super) priority: Priority,
    pub(super) never: bool,
    pub(super) min_tenure: Duration,
}

/// The succession of one term.
pub(super) struct Succession {
    leader: SittingLeader,
    rule: PriorityRule,
    contenders: Contenders,
    order: watch::Receiver<KeysSeen>,
    controls: watch::Receiver<KeysSeen>,
    program: mpsc::UnboundedReceiver<ProgramOrder>,
    /// Orders of the program that wait for their turn.
    pending: VecDeque<ProgramOrder>,
    at_hand: Option<TransferAtHand>,
    /// The last order that was refused.
    answered: Option<Revision>,
    /// Candidates that were not ready, and since when.
    failed: HashMap<MadeKey, Timestamp>,
    began: Timestamp,
    /// True if an operator ordered this term.
    ordered: bool,
    /// Number of terms that were lost lately.
    losses: u32,
    /// The history, until it is known.
    history: Option<TermHistory>,
}

/// A transfer whose target is being asked.
struct TransferAtHand {
    order: TransferOrder<MadeKey>,
    /// The order's key.
    key: MadeKey,
    asked: Timestamp,
    origin: TransferOrigin,
    /// The target's record, followed for its answer.
    _record: FollowedKeys,
    answer: watch::Receiver<KeysSeen>,
}

enum TransferOrigin {
    Operator(StoredOrder),
    Program(oneshot::Sender<TransferOutcome>),
    Priority,
    LastResort,
}

impl TransferOrigin {
    fn reason(&self) -> TransferReason {
        match self {
            Self::Operator(order) => TransferReason::Ordered(order.by.clone()),
            Self::Program(_) => TransferReason::Program,
            Self::Priority => TransferReason::Priority,
            Self::LastResort => TransferReason::LastResort,
        }
    }
}

enum NextStep {
    /// Something changed: decide again.
    Again,
    /// Nothing to do before this moment, or an event.
    Wait(Option<Timestamp>),
    Leave(Departure),
}

impl Succession {
    pub(super) fn new(
        leader: SittingLeader,
        ordered: bool,
        contenders: Contenders,
        order: watch::Receiver<KeysSeen>,
        controls: watch::Receiver<KeysSeen>,
        program: mpsc::UnboundedReceiver<ProgramOrder>,
    ) -> Self {
        Self {
            rule: PriorityRule::new(leader.leader_key.ttl.as_duration(), leader.min_tenure),
            leader,
            contenders,
            order,
            controls,
            program,
            pending: VecDeque::new(),
            at_hand: None,
            answered: None,
            failed: HashMap::new(),
            began: Timestamp::now(),
            ordered,
            losses: 0,
            history: None,
        }
    }

    /// Decides until the term has to end.
    pub(super) async fn run(mut self, history: TermHistory) -> Departure {
        self.history = Some(history);
        // The caller that waits for the win goes first.
        tokio::task::yield_now().await;
        loop {
            match self.decide().await {
                Ok(NextStep::Leave(departure)) => return departure,
                Ok(NextStep::Again) => {}
                Ok(NextStep::Wait(until)) => self.event(until).await,
                Err(error) => {
                    tracing::debug!(%error, "could not judge who should lead, trying again");
                    tokio::time::sleep(short_pause()).await;
                }
            }
        }
    }

    /// Waits for the next thing that may change a decision.
    async fn event(&mut self, until: Option<Timestamp>) {
        let answer = self.at_hand.as_mut().map(|at_hand| &mut at_hand.answer);
        tokio::select! {
            start = opened(self.history.as_ref()) => {
                self.history = None;
                if let Some(start) = start {
                    self.ordered = start.ordered();
                    self.losses = lost_lately(&start.past, SystemTime::now());
                }
            }
            () = self.contenders.changed() => {}
            () = followed::changed(&mut self.order) => {}
            () = followed::changed(&mut self.controls) => {}
            () = async { match answer {
                Some(answer) => followed::changed(answer).await,
                None => std::future::pending().await,
            } } => {}
            Some(order) = self.program.recv() => self.pending.push_back(order),
            () = async { match until {
                Some(until) => clock::sleep_until(until).await,
                None => std::future::pending().await,
            } } => {}
        }
    }

    async fn decide(&mut self) -> Result<NextStep, EtcdError> {
        let Some(controls) = self.controls() else { return Ok(NextStep::Wait(None)) };
        if !self.contenders.learn().await? {
            return Ok(NextStep::Wait(None));
        }
        self.forget_what_is_gone();
        if let Some(at_hand) = &self.at_hand {
            let ready = at_hand.is_ready().then_some(&at_hand.order.target);
            let field = self.contenders.field(ready, true);
            return self.pursue(&field, &controls).await;
        }
        let field = self.contenders.field(None, true);
        if let Some((stored, created)) = self.ordered_by_operator() {
            let order = stored.order();
            let key = MadeKey { key: keys::order_key(&self.leader.election), created };
            self.at_hand = Some(self.ask(order, key, TransferOrigin::Operator(stored)));
            return Ok(NextStep::Again);
        }
        if let Some(ProgramOrder { to, done }) = self.pending.pop_front() {
            match self.called(&to, &field) {
                Ok((target, shown)) => {
                    return self
                        .propose(target, shown, TransferOrigin::Program(done), &field, &controls)
                        .await;
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                    return Ok(NextStep::Again);
                }
            }
        }
        let SittingLeader { name, priority, never, .. } = &self.leader;
        let willing = Willingness::of(name, *priority, *never, &controls);
        match willing.gives_way(self.ordered, &field, &controls) {
            // A pause would not be seen.
            GiveWay::Stay if *self.controls.borrow() == KeysSeen::Denied => Ok(NextStep::Wait(None)),
            GiveWay::Stay => self.prefer(&field, &controls).await,
            GiveWay::HandOver { to } => self.give_way(to, &field, &controls).await,
            GiveWay::Resign => Ok(NextStep::Leave(Departure::Resign)),
        }
    }

    /// Returns the standing orders; `None` until they are read.
    fn controls(&self) -> Option<Controls> {
        controls_of(&self.leader.election, &self.controls.borrow())
    }

    fn forget_what_is_gone(&mut self) {
        let now = Timestamp::now();
        self.failed.retain(|_, since| now.since(*since) < ASK_AGAIN);
        // The operator took its order back, or its time is over.
        let gone = self.at_hand.as_ref().is_some_and(|at_hand| {
            let created = self.order.borrow().value(&at_hand.key.key).map(|seen| seen.created);
            matches!(at_hand.origin, TransferOrigin::Operator(_)) && created != Some(at_hand.key.created)
        });
        if gone {
            self.at_hand = None;
        }
    }

    /// Returns an operator's order that is not answered yet.
    fn ordered_by_operator(&self) -> Option<(StoredOrder, Revision)> {
        let seen = self.order.borrow();
        let seen = seen.value(&keys::order_key(&self.leader.election))?;
        // One on no lease never ends: it is none of ours. One on ours is our own, from before.
        let operators = seen.lease.0 > 0 && seen.lease != self.leader.leader_key.lease;
        let stored = StoredOrder::from_json(&seen.value)?;
        let open = operators && stored.refused.is_none() && self.answered != Some(seen.created);
        open.then_some((stored, seen.created))
    }

    /// Returns the candidate with this name, or with this key.
    fn called(&self, to: &str, field: &CandidateField<MadeKey>) -> Result<(MadeKey, String), TransferError> {
        let shown_key = |one: &Contender<MadeKey>| displayed(&one.key.key);
        let named = |one: &&Contender<MadeKey>| {
            one.member.as_ref().is_some_and(|member| member.name.as_str() == to) || shown_key(one) == to
        };
        let found: Vec<_> = field.contenders().iter().filter(named).collect();
        match found.as_slice() {
            [] => Err(TransferError::Absent(to.to_owned())),
            [one] => Ok((one.key.clone(), one.shown.clone())),
            several => Err(TransferError::Ambiguous {
                name: to.to_owned(),
                keys: several.iter().map(|one| shown_key(one)).collect(),
            }),
        }
    }

    fn ask(&self, order: TransferOrder<MadeKey>, key: MadeKey, origin: TransferOrigin) -> TransferAtHand {
        let lease = keys::candidate_lease(&self.leader.election, &order.target.key);
        let record = lease.map_or_else(Vec::new, |lease| keys::member_key(&self.leader.election, lease));
        let shared = &self.leader.leader_key.shared;
        let record = FollowedKeys::start(shared, WatchRange::Key(record), "the records of candidates");
        let answer = record.subscribe();
        TransferAtHand { order, key, asked: Timestamp::now(), origin, _record: record, answer }
    }

    /// Places an order of the leader's own, unless it would be refused.
    async fn propose(
        &mut self,
        target: MadeKey,
        shown: String,
        origin: TransferOrigin,
        field: &CandidateField<MadeKey>,
        controls: &Controls,
    ) -> Result<NextStep, EtcdError> {
        let order = TransferOrder { target, shown, token: self.leader.token };
        let controls = origin.binding(controls);
        if let OrderVerdict::Refuse(why) = order.judge(self.leader.token, field, &controls, Duration::ZERO) {
            self.not_proposed(&order.target, origin, why.to_string());
            return Ok(NextStep::Again);
        }
        match self.place(&order).await {
            Ok(Some(key)) => self.at_hand = Some(self.ask(order, key, origin)),
            Ok(None) => {
                let why = "another order is being carried out, or the candidate has just gone; try again";
                self.not_proposed(&order.target, origin, why.to_owned());
            }
            Err(error) => {
                // It may have been written all the same, and would bar all others.
                self.take_back().await;
                let why = format!("the order could not be written to etcd: {}", error.message);
                self.not_proposed(&order.target, origin, why);
                if error.remedy != Remedy::Human {
                    return Err(error);
                }
            }
        }
        Ok(NextStep::Again)
    }

    fn not_proposed(&mut self, target: &MadeKey, origin: TransferOrigin, why: String) {
        match origin {
            TransferOrigin::Program(done) => drop(done.send(Err(self.refused(why)))),
            TransferOrigin::Operator(_) | TransferOrigin::Priority | TransferOrigin::LastResort => {
                tracing::debug!(why, "leadership does not move");
                self.set_aside(target);
            }
        }
    }

    fn refused(&self, why: String) -> TransferError {
        TransferError::Refused { leader: self.leader.name.to_string(), why }
    }

    fn set_aside(&mut self, target: &MadeKey) {
        self.contenders.failed(target);
        self.failed.insert(target.clone(), Timestamp::now());
    }

    /// Puts the order's key on our own lease; `None` if there is one, or the target is gone.
    async fn place(&self, order: &TransferOrder<MadeKey>) -> Result<Option<MadeKey>, EtcdError> {
        let key = keys::order_key(&self.leader.election);
        let stored = StoredOrder {
            target: order.target.clone(),
            shown: order.shown.clone(),
            token: order.token,
            by: OrderedBy::new(self.leader.name.to_string(), SystemTime::now()),
            refused: None,
        };
        let options = PutOptions::new().with_lease(self.leader.leader_key.lease.0);
        let put = TxnOp::put(key.clone(), stored.to_json(), Some(options));
        let plan: EtcdPlan = Plan::place_order(self.own(), order.target.clone(), key.clone());
        let txn = plan_txn(&plan, &|plan| matches!(plan, Plan::PlaceOrder).then(|| put.clone()));
        let answer = self.leader.leader_key.commit(txn).await?;
        let created = answer.header().map(|header| Revision(header.revision()));
        Ok(created.filter(|_| answer.succeeded()).map(|created| MadeKey { key, created }))
    }

    /// Deletes an order that is on our own lease.
    async fn take_back(&self) {
        let (key, lease) = (keys::order_key(&self.leader.election), self.leader.leader_key.lease);
        let ours = Compare::lease(key.clone(), CompareOp::Equal, lease.0);
        self.persist(Txn::new().when([ours]).and_then([TxnOp::delete(key, None)])).await;
    }

    fn own(&self) -> MadeKey {
        let LeaderKey { key, created, .. } = &self.leader.leader_key;
        MadeKey { key: key.clone(), created: *created }
    }

    /// Judges the transfer at hand.
    async fn pursue(
        &mut self,
        field: &CandidateField<MadeKey>,
        controls: &Controls,
    ) -> Result<NextStep, EtcdError> {
        let Some(at_hand) = self.at_hand.take() else { return Ok(NextStep::Again) };
        let asked = Timestamp::now().since(at_hand.asked);
        let controls = at_hand.origin.binding(controls);
        match at_hand.order.judge(self.leader.token, field, &controls, asked) {
            OrderVerdict::Accept { passed } => {
                let TransferAtHand { order, key, origin, .. } = at_hand;
                let keys = HandoffKeys { own: self.own(), target: order.target, passed, order: Some(key) };
                let reason = origin.reason();
                let done = match origin {
                    TransferOrigin::Program(done) => Some(done),
                    _ => None,
                };
                // Its name, where the order may have its key.
                let shown = field.find(&keys.target).map_or(order.shown, |one| one.shown.clone());
                let accepted = AcceptedTransfer { keys, shown, reason, done };
                Ok(NextStep::Leave(Departure::HandOver(accepted)))
            }
            OrderVerdict::AwaitReady => {
                let until = at_hand.asked + READY_WITHIN;
                self.at_hand = Some(at_hand);
                Ok(NextStep::Wait(Some(until)))
            }
            OrderVerdict::Refuse(why) => {
                self.refuse(at_hand, why.to_string()).await?;
                Ok(NextStep::Again)
            }
        }
    }

    /// Answers an order, and leads on.
    async fn refuse(&mut self, at_hand: TransferAtHand, why: String) -> Result<(), EtcdError> {
        let TransferAtHand { order, key, origin, .. } = at_hand;
        tracing::info!(target = order.shown, why, "does not hand over");
        let (plan, answer): (EtcdPlan, _) = match origin {
            TransferOrigin::Operator(stored) => {
                self.answered = Some(key.created);
                let refused = stored.refuse(&why).to_json();
                let put = TxnOp::put(key.key.clone(), refused, Some(PutOptions::new().with_ignore_lease()));
                (Plan::refuse_order(self.own(), key), Some(put))
            }
            origin => {
                self.set_aside(&order.target);
                if let TransferOrigin::Program(done) = origin {
                    let _ = done.send(Err(self.refused(why)));
                }
                let delete = vec![Plan::Delete(key.clone())];
                (Plan::If { there: vec![key], absent: vec![], then: delete, otherwise: vec![] }, None)
            }
        };
        let txn =
            plan_txn(&plan, &|plan| matches!(plan, Plan::AnswerOrder).then(|| answer.clone()).flatten());
        self.persist(txn).await;
        Ok(())
    }

    /// Sends until etcd has answered: an order of ours that stays would bar all others.
    async fn persist(&self, txn: Txn) {
        while let Err(error) = self.leader.leader_key.commit(txn.clone()).await {
            tracing::debug!(%error, "could not answer an order");
            if matches!(error.remedy, Remedy::Human | Remedy::Request) {
                return;
            }
            tokio::time::sleep(short_pause()).await;
        }
    }

    /// Hands over to the best candidate that is not known as a last resort.
    async fn give_way(
        &mut self,
        to: Vec<MadeKey>,
        field: &CandidateField<MadeKey>,
        controls: &Controls,
    ) -> Result<NextStep, EtcdError> {
        for target in to {
            let fit = !self.failed.contains_key(&target) && self.contenders.can_lead(&target);
            let Some(contender) = field.find(&target).filter(|_| fit) else { continue };
            let shown = contender.shown.clone();
            if contender.member.is_some() {
                return self.propose(target, shown, TransferOrigin::LastResort, field, controls).await;
            }
            // It can't say that it is ready.
            let Ok(passed) = field.passed(&target) else { continue };
            let keys = HandoffKeys { own: self.own(), target, passed, order: None };
            let (reason, done) = (TransferReason::LastResort, None);
            let accepted = AcceptedTransfer { keys, shown, reason, done };
            return Ok(NextStep::Leave(Departure::HandOver(accepted)));
        }
        Ok(NextStep::Wait(self.failed.values().min().map(|since| *since + ASK_AGAIN)))
    }

    async fn prefer(
        &mut self,
        field: &CandidateField<MadeKey>,
        controls: &Controls,
    ) -> Result<NextStep, EtcdError> {
        let SittingLeader { priority, .. } = self.leader;
        let tenure = Tenure { priority, since: self.began, ordered: self.ordered, losses: self.losses };
        match self.rule.see(Timestamp::now(), &tenure, field, controls) {
            PriorityStep::Stay => Ok(NextStep::Wait(None)),
            PriorityStep::LookAt(at) => Ok(NextStep::Wait(Some(at))),
            PriorityStep::HandOver { to } => {
                let shown = field.find(&to).map_or_else(String::new, |one| one.shown.clone());
                self.propose(to, shown, TransferOrigin::Priority, field, controls).await
            }
        }
    }
}

impl TransferOrigin {
    /// Returns the standing orders that bind such a transfer: a pause does not hold a last resort, which the
    /// rule for those has allowed for already.
    fn binding(&self, controls: &Controls) -> Controls {
        match self {
            Self::LastResort => Controls { paused: None, ..controls.clone() },
            Self::Operator(_) | Self::Program(_) | Self::Priority => controls.clone(),
        }
    }
}

impl TransferAtHand {
    /// Returns whether the target has answered this very order.
    fn is_ready(&self) -> bool {
        let seen = self.answer.borrow();
        let KeysSeen::Read(keys) = &*seen else { return false };
        let member = keys.values().next().and_then(|seen| StoredMember::from_json(&seen.value));
        member.is_some_and(|member| member.record(Some(self.key.created)).ready)
    }
}

/// Waits until the history is known; for ever once it is.
async fn opened(history: Option<&TermHistory>) -> Option<Arc<HistoryAtStart>> {
    match history {
        Some(history) => history.opened().await,
        None => std::future::pending().await,
    }
}

/// Parses the standing orders; `None` until they are read. A user that can't read them obeys none.
pub(super) fn controls_of(election: &ElectionName, seen: &KeysSeen) -> Option<Controls> {
    let mut controls = Controls::default();
    match seen {
        KeysSeen::Unread => return None,
        KeysSeen::Denied => {}
        KeysSeen::Read(keys) => {
            for (key, seen) in keys {
                control::apply_control(&mut controls, election, key, Some(&seen.value));
            }
        }
    }
    Some(controls)
}
