//! Choosing who leads, under a model checker: transfers, priorities, cordons, and a foreign candidate.
//!
//! The decisions are the production code itself: the rules of [`choosing`](crate::choosing), [`WinRule`] for a
//! win, and the [`Plan`] of each transaction, which the model executes as etcd does. Around them:
//!
//! * **etcd** has a queue, one order, the cordons, and the last revisions. A lease that is not renewed any more
//!   ends at any later time.
//! * **Candidates of ours** see etcd some revisions late. They queue, claim, lead, judge orders, hand over by
//!   priority or as a last resort, and queue again.
//! * **A foreign candidate**, as `etcdctl elect` and Go's package make it, comes and goes. Once its key is gone,
//!   it believes that it won, and never refuses that.
//! * **An operator** places an order on a lease of its own, which ends at any time, and cordons.
//! * **A transfer's transaction** arrives at any later time, also when its sender has crashed, or leads again.
//! * **Faults**: a candidate's belief or attempt ends before its lease (frozen, cut off); it crashes for good; an
//!   answer is lost, or does not come in time, so that the same is sent again, or the lease is revoked.
//!
//! Time is left out: [`model`](super) has the leases. Belief ends before the lease may, as it shows. The waits of
//! the rule of priority are zero, so it may decide at any moment.
//!
//! Nothing happens without a reason: each step is a reaction to something new, or costs a part of a budget. So
//! liveness is the absence of cycles and dead ends among the states without a leader or with an open order;
//! see [`graph`]. That holds for every schedule, without any assumption of fairness.

use stateright::{Model, Property};

use super::super::{
    keys::{self, LeaseId, Revision},
    queue::{Key, QueuePlace},
    view::QueuePosition,
    win::{AttemptFailure, WinInput, WinRule, WinStep},
};
use crate::{
    choosing::{
        Controls, Cordon, OrderedBy, Priority,
        field::{CandidateField, Contender, MemberRecord},
        handoff::{
            HandoffEnd, HandoffKeys, Plan,
            tests::{PlanStore, execute},
        },
        last_resort::{GiveWay, Willingness},
        order::{OrderVerdict, READY_WITHIN, TransferOrder},
        preference::{PriorityRule, PriorityStep, Tenure},
    },
    clock::Timestamp,
    names::CandidateName,
};

mod graph;

/// The class of the foreign candidate's keys.
const FOREIGN: u8 = u8::MAX;

/// A time of day, and a moment, that matter to no rule.
const EVER: Timestamp = Timestamp::from_nanos(0);

/// A safeguard that is removed, to show that the checker finds the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// Every key in between counts as ours.
    ForeignKeysPass,
    /// Ours believe in a win once their key is gone, as other clients do.
    BelievesPhantoms,
    /// The transfer's transaction does not compare the leader's key.
    NoCompare,
    /// The leader believes until it has the answer to the transfer.
    BelievesUntilTheAnswer,
    /// The order is on no lease.
    OrderWithoutLease,
    /// A last resort gives way to any key.
    GivesWayToAny,
    /// An equal priority moves leadership.
    EqualPriorityMoves,
    /// A term that an operator ordered is moved by priority.
    OrderedTermsMove,
}

/// The parameters of the model.
#[derive(Debug, Clone)]
struct Choice {
    /// The class of each candidate of ours; those of one class are interchangeable.
    ours: Vec<u8>,
    /// The priority of each class.
    priorities: Vec<u32>,
    budget: Budget,
    /// Revisions by which a view may be late.
    late: u8,
    mutant: Option<Mutant>,
    /// Most moves by priority after an outside event.
    moves: u8,
    rule: PriorityRule,
    names: Vec<CandidateName>,
    /// The controls for each set of cordoned classes.
    controls: Vec<Controls>,
}

/// Events from outside that may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    faults: u8,
    orders: u8,
    cordons: u8,
    foreigners: u8,
}

/// A key in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Queued {
    created: u8,
    class: u8,
}

/// A key of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum AnyKey {
    Candidate(Queued),
    Order(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct StandingOrder {
    id: u8,
    leader: Queued,
    target: Queued,
    answered: bool,
}

/// etcd at one revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Store {
    /// In the order of creation.
    queue: Vec<Queued>,
    /// The newest key ever made.
    newest: u8,
    order: Option<StandingOrder>,
    /// One bit a class.
    cordoned: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Participant {
    class: u8,
    stage: Stage,
    /// Revisions by which its view is late.
    behind: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    Crashed,
    /// Not in the queue; `cleared` if that was by a transfer or a rule, and not by a fault.
    Out {
        cleared: bool,
    },
    Waiting(Queued),
    Leading(Queued),
    /// Its belief has ended, and it waits for the answer to its transfer.
    HandingOver(Handoff),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Handoff {
    keys: HandoffKeys<AnyKey>,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reason {
    Order,
    Priority,
    LastResort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Foreigner {
    Away,
    Waiting(Queued),
    Leading(Queued),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// etcd's last revisions, the present first, as far as a view shows them.
    etcd: Vec<Store>,
    ours: Vec<Participant>,
    foreigner: Foreigner,
    /// Transactions under way.
    sent: Vec<Handoff>,
    /// The target of the last transfer that an operator ordered, from the history.
    ordered: Option<Queued>,
    /// The largest token of any term so far.
    newest_term: u8,
    left: Budget,
    /// Moves by priority that were decided since the last outside event.
    moves: u8,
    violation: Option<Violation>,
}

type EtcdPlan = Plan<AnyKey, ()>;

/// A violation that an event shows, and no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Violation {
    ForeignKeyDeleted,
    TokenWentBack,
    OrderUndone,
}

/// One event; a number is a place in the world's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    ViewGoesOn(usize),
    Queue(usize),
    LeaveQueue(usize),
    Claim(usize),
    /// Sees that its key is gone.
    SeeEnd(usize),
    /// Judges the order; `ready` if the target says so in time.
    Judge {
        who: usize,
        ready: bool,
    },
    MoveByPriority(usize),
    /// Hands over as a last resort, to one of those that the rule names.
    GiveWay {
        who: usize,
        choice: usize,
    },
    SendAgain(usize),
    /// Waits no longer for the answer, and revokes its lease.
    Revoke(usize),
    Arrive {
        sent: usize,
        answered: bool,
    },
    EndLease(Queued),
    EndOrder,
    /// Belief or attempt are over: the candidate was frozen, or cut off.
    Lapse(usize),
    Crash(usize),
    PlaceOrder {
        target: usize,
    },
    /// Cordons a class, or ends that.
    Cordon(u8),
    ForeignerJoins,
    ForeignerClaims,
    ForeignerDies,
}

impl Choice {
    fn of(priorities: &[u32], ours: &[u8], budget: Budget) -> Self {
        let names: Vec<CandidateName> =
            (1..=priorities.len()).map(|number| format!("server{number}").parse().unwrap()).collect();
        let cordon = || Cordon::new(false, OrderedBy::new("operator".into(), std::time::UNIX_EPOCH));
        let controls = (0..1_u32 << names.len()).map(|set| {
            let cordoned = names.iter().enumerate().filter(|(class, _)| set & (1 << class) != 0);
            let cordons = cordoned.map(|(_, name)| (name.clone(), cordon())).collect();
            Controls { cordons, ..Controls::default() }
        });
        Self {
            ours: ours.into(),
            priorities: priorities.into(),
            budget,
            late: 0,
            mutant: None,
            moves: 1,
            rule: PriorityRule::impatient(),
            controls: controls.collect(),
            names,
        }
    }

    fn without(self, safeguard: Mutant) -> Self {
        Self { mutant: Some(safeguard), ..self }
    }

    /// With views that may be so late. A late one may show a newcomer only after the move that it would have
    /// held up, so that another one follows.
    fn late(self, late: u8) -> Self {
        Self { late, moves: if late == 0 { 1 } else { 2 }, ..self }
    }

    fn lacks(&self, safeguard: Mutant) -> bool {
        self.mutant == Some(safeguard)
    }

    fn controls(&self, store: &Store) -> &Controls {
        &self.controls[usize::from(store.cordoned)]
    }

    fn willingness(&self, one: &Participant, store: &Store) -> Willingness {
        let class = usize::from(one.class);
        let priority = Priority::new(self.priorities[class]);
        Willingness::of(&self.names[class], priority, false, self.controls(store))
    }

    /// The other candidates, as a view shows them.
    fn field(&self, store: &Store, own: Option<Queued>, ready: bool) -> CandidateField<Queued> {
        let others = store.queue.iter().filter(|key| Some(**key) != own);
        CandidateField::Queue(others.map(|key| self.contender(*key, ready)).collect())
    }

    fn contender(&self, key: Queued, ready: bool) -> Contender<Queued> {
        let class = match key.class {
            FOREIGN if self.lacks(Mutant::ForeignKeysPass) => Some(0),
            FOREIGN => None,
            ours => Some(usize::from(ours)),
        };
        let member = class.map(|class| MemberRecord {
            name: self.names[class].clone(),
            priority: Priority::new(self.priorities[class]),
            ready,
        });
        Contender { key, shown: String::new(), since: EVER, member }
    }

    /// The same, for a last resort.
    fn field_of_last_resort(&self, store: &Store, own: Option<Queued>) -> CandidateField<Queued> {
        let mut field = self.field(store, own, true);
        if self.lacks(Mutant::GivesWayToAny)
            && let CandidateField::Queue(all) = &mut field
        {
            for member in all.iter_mut().filter_map(|one| one.member.as_mut()) {
                member.priority = Priority::DEFAULT;
            }
        }
        field
    }

    fn queues(&self, one: &Participant, store: &Store, own: Option<Queued>) -> bool {
        let others = self.field_of_last_resort(store, own);
        self.willingness(one, store).queues(&others, self.controls(store))
    }

    fn gives_way(&self, world: &World, who: usize, own: Queued) -> Vec<Queued> {
        let (one, store) = (&world.ours[who], world.view(who));
        let ordered = world.ordered == Some(own);
        let others = self.field_of_last_resort(store, Some(own));
        match self.willingness(one, store).gives_way(ordered, &others, self.controls(store)) {
            GiveWay::HandOver { to } => to,
            GiveWay::Stay => Vec::new(),
            GiveWay::Resign => unreachable!("no cordon is hard here"),
        }
    }

    fn prefers(&self, world: &World, who: usize, own: Queued) -> Option<Queued> {
        let (one, store) = (&world.ours[who], world.view(who));
        let mut field = self.field(store, Some(own), true);
        if self.lacks(Mutant::EqualPriorityMoves)
            && let CandidateField::Queue(all) = &mut field
        {
            for member in all.iter_mut().filter_map(|one| one.member.as_mut()) {
                member.priority = Priority::new(member.priority.get() + 1);
            }
        }
        let ordered = world.ordered == Some(own) && !self.lacks(Mutant::OrderedTermsMove);
        let priority = Priority::new(self.priorities[usize::from(one.class)]);
        let tenure = Tenure { priority, since: EVER, ordered, losses: 0 };
        match self.rule.see(EVER, &tenure, &field, self.controls(store)) {
            PriorityStep::HandOver { to } => Some(to),
            PriorityStep::Stay => None,
            PriorityStep::LookAt(_) => unreachable!("the rule does not wait here"),
        }
    }

    fn judge(&self, world: &World, who: usize, ready: bool) -> Option<OrderVerdict<Queued>> {
        let Stage::Leading(own) = world.ours[who].stage else { return None };
        let store = world.view(who);
        let order = store.order.filter(|order| !order.answered)?;
        let token = |key: Queued| keys::token(revision(key.created));
        let judged = TransferOrder { target: order.target, shown: String::new(), token: token(order.leader) };
        let asked = READY_WITHIN;
        let field = self.field(store, Some(own), ready);
        Some(judged.judge(token(own), &field, self.controls(store), asked))
    }

    /// The next step of the production rule of a win, from the newest position alone.
    fn win(&self, world: &World, who: usize, own: Queued) -> WinStep {
        let store = world.view(who);
        let key = Key { created: revision(own.created), lease: None };
        let place = match store.queue.iter().position(|queued| *queued == own) {
            None => QueuePlace::Absent,
            Some(0) => QueuePlace::First(key),
            Some(_) => QueuePlace::Behind(key),
        };
        let mut rule = WinRule::new(LeaseId(1));
        rule.see(WinInput::Put { created: key.created });
        let position = QueuePosition::At { revision: revision(store.newest), place };
        match rule.see(WinInput::Position(position)) {
            WinStep::Abandon(_) if self.lacks(Mutant::BelievesPhantoms) => {
                WinStep::Win { created: key.created }
            }
            step => step,
        }
    }

    fn steps(&self, world: &World, who: usize, actions: &mut Vec<Action>) {
        let one = &world.ours[who];
        let store = world.view(who);
        if one.stage == Stage::Crashed {
            return;
        }
        if one.behind > 0 {
            actions.push(Action::ViewGoesOn(who));
        }
        match &one.stage {
            Stage::Crashed => {}
            Stage::Out { .. } => {
                if self.queues(one, store, None) {
                    actions.push(Action::Queue(who));
                }
            }
            Stage::Waiting(own) => {
                match self.win(world, who, *own) {
                    WinStep::Win { .. } => actions.push(Action::Claim(who)),
                    WinStep::Abandon(why) => {
                        assert_eq!(why, AttemptFailure::KeyGone);
                        actions.push(Action::SeeEnd(who));
                    }
                    WinStep::Wait | WinStep::Expect | WinStep::Follow { .. } => {}
                }
                if !self.queues(one, store, Some(*own)) {
                    actions.push(Action::LeaveQueue(who));
                }
            }
            Stage::Leading(own) => self.steps_of_leader(world, who, *own, actions),
            Stage::HandingOver(handoff) => {
                let under_way = world.sent.contains(handoff);
                if !under_way || world.left.faults > 0 {
                    actions.extend([Action::SendAgain(who), Action::Revoke(who)]);
                }
            }
        }
        if world.left.faults > 0 {
            actions.push(Action::Crash(who));
            if matches!(one.stage, Stage::Waiting(_) | Stage::Leading(_)) {
                actions.push(Action::Lapse(who));
            }
        }
    }

    fn steps_of_leader(&self, world: &World, who: usize, own: Queued, actions: &mut Vec<Action>) {
        let store = world.view(who);
        if !self.lacks(Mutant::BelievesPhantoms) && !store.queue.contains(&own) {
            // It may do other things before it sees this.
            actions.push(Action::SeeEnd(who));
        }
        for ready in [true, false] {
            let target = store.order.map(|order| order.target);
            match self.judge(world, who, ready) {
                Some(OrderVerdict::Accept { .. }) if target.is_some_and(|key| world.says_ready(key)) => {
                    actions.push(Action::Judge { who, ready });
                }
                Some(OrderVerdict::Refuse(_)) => actions.push(Action::Judge { who, ready }),
                Some(OrderVerdict::Accept { .. } | OrderVerdict::AwaitReady) | None => {}
            }
        }
        if self.prefers(world, who, own).is_some_and(|to| world.says_ready(to)) {
            actions.push(Action::MoveByPriority(who));
        }
        let gives_way = (0..).zip(self.gives_way(world, who, own));
        let ready = gives_way.filter(|(_, to)| to.class == FOREIGN || world.says_ready(*to));
        actions.extend(ready.map(|(choice, _)| Action::GiveWay { who, choice }));
    }

    fn outside(&self, world: &World, actions: &mut Vec<Action>) {
        let (store, left) = (world.now(), world.left);
        for (place, handoff) in world.sent.iter().enumerate() {
            actions.push(Action::Arrive { sent: place, answered: true });
            let awaited = |one: &Participant| matches!(&one.stage, Stage::HandingOver(own) if own == handoff);
            if left.faults > 0 && world.ours.iter().any(awaited) {
                actions.push(Action::Arrive { sent: place, answered: false });
            }
        }
        actions
            .extend(store.queue.iter().filter(|key| !world.renews(**key)).map(|key| Action::EndLease(*key)));
        if store.order.is_some() && !self.lacks(Mutant::OrderWithoutLease) {
            actions.push(Action::EndOrder);
        }
        if left.orders > 0 && store.order.is_none() {
            actions.extend((1..store.queue.len()).map(|target| Action::PlaceOrder { target }));
        }
        if left.cordons > 0 {
            actions.extend((0..).zip(&self.names).map(|(class, _)| Action::Cordon(class)));
        }
        match world.foreigner {
            Foreigner::Away if left.foreigners > 0 => actions.push(Action::ForeignerJoins),
            Foreigner::Away | Foreigner::Leading(_) => {}
            Foreigner::Waiting(own) => {
                if store.queue.first() == Some(&own) || !store.queue.contains(&own) {
                    actions.push(Action::ForeignerClaims);
                }
            }
        }
        if world.foreigner != Foreigner::Away && left.faults > 0 {
            actions.push(Action::ForeignerDies);
        }
    }

    fn happen(&self, world: &mut World, action: Action) {
        match action {
            Action::ViewGoesOn(who) => world.ours[who].behind -= 1,
            Action::Queue(who) => {
                if world.ours[who].stage == (Stage::Out { cleared: false }) {
                    world.moves = 0;
                }
                let key = world.put(world.ours[who].class, self.late);
                world.ours[who].stage = Stage::Waiting(key);
            }
            Action::LeaveQueue(who) => {
                let Stage::Waiting(own) = world.ours[who].stage else { unreachable!() };
                world.ours[who].stage = Stage::Out { cleared: true };
                world.change(self.late, |etcd| etcd.queue.retain(|key| *key != own));
            }
            Action::Claim(who) => {
                let Stage::Waiting(own) = world.ours[who].stage else { unreachable!() };
                world.begin_term(own);
                world.ours[who].stage = Stage::Leading(own);
            }
            Action::SeeEnd(who) => world.ours[who].stage = Stage::Out { cleared: true },
            Action::Judge { who, ready } => {
                let Stage::Leading(own) = world.ours[who].stage else { unreachable!() };
                let order = world.view(who).order.expect("an order is judged");
                let id = AnyKey::Order(order.id);
                match self.judge(world, who, ready).expect("an order is judged") {
                    OrderVerdict::Accept { passed } => {
                        self.hand_over(world, who, order.target, passed, Some(id), Reason::Order);
                    }
                    OrderVerdict::Refuse(_) => {
                        self.run(world, &Plan::refuse_order(AnyKey::Candidate(own), id), None);
                    }
                    OrderVerdict::AwaitReady => unreachable!("readiness is known"),
                }
            }
            Action::MoveByPriority(who) => {
                let Stage::Leading(own) = world.ours[who].stage else { unreachable!() };
                let to = self.prefers(world, who, own).expect("another is preferred");
                world.moves += 1;
                self.pass_on(world, who, to, Reason::Priority);
            }
            Action::GiveWay { who, choice } => {
                let Stage::Leading(own) = world.ours[who].stage else { unreachable!() };
                let to = self.gives_way(world, who, own)[choice];
                self.pass_on(world, who, to, Reason::LastResort);
            }
            Action::SendAgain(who) => {
                let Stage::HandingOver(handoff) = world.ours[who].stage.clone() else { unreachable!() };
                if world.sent.contains(&handoff) {
                    world.left.faults -= 1;
                }
                world.sent.push(handoff);
            }
            Action::Revoke(who) => {
                let Stage::HandingOver(handoff) = &world.ours[who].stage else { unreachable!() };
                if world.sent.contains(handoff) {
                    world.left.faults -= 1;
                }
                world.ours[who].stage = Stage::Out { cleared: false };
            }
            Action::Arrive { sent, answered } => {
                let handoff = world.sent.remove(sent);
                let cleared = self.transfer(world, &handoff);
                if !answered {
                    world.left.faults -= 1;
                    return;
                }
                let awaited = |one: &&mut Participant| one.stage == Stage::HandingOver(handoff.clone());
                if let Some(sender) = world.ours.iter_mut().find(awaited) {
                    sender.stage = Stage::Out { cleared };
                }
            }
            Action::EndLease(gone) => {
                let lost = |handoff: &Handoff| handoff.keys.own == AnyKey::Candidate(gone);
                if world.sent.iter().any(lost) {
                    // The network kept a transfer for longer than a TTL: another one may follow.
                    world.moves = 0;
                }
                world.change(self.late, |etcd| etcd.queue.retain(|key| *key != gone));
            }
            Action::EndOrder => world.change(self.late, |etcd| etcd.order = None),
            Action::Lapse(who) => {
                world.fault();
                world.ours[who].stage = Stage::Out { cleared: false };
            }
            Action::Crash(who) => {
                world.fault();
                world.ours[who].stage = Stage::Crashed;
            }
            Action::PlaceOrder { target } => {
                world.left.orders -= 1;
                world.moves = 0;
                let queue = &world.now().queue;
                let (leader, target) = (queue[0], queue[target]);
                let order = StandingOrder { id: world.unused_order(), leader, target, answered: false };
                let plan = Plan::place_order(AnyKey::Candidate(leader), AnyKey::Candidate(target), ());
                self.run(world, &plan, Some(order));
            }
            Action::Cordon(class) => {
                world.left.cordons -= 1;
                world.moves = 0;
                world.change(self.late, |etcd| etcd.cordoned ^= 1 << class);
            }
            Action::ForeignerJoins => {
                world.left.foreigners -= 1;
                world.moves = 0;
                world.foreigner = Foreigner::Waiting(world.put(FOREIGN, self.late));
            }
            Action::ForeignerClaims => {
                let Foreigner::Waiting(own) = world.foreigner else { unreachable!() };
                world.begin_term(own);
                world.foreigner = Foreigner::Leading(own);
            }
            Action::ForeignerDies => {
                world.fault();
                world.foreigner = Foreigner::Away;
            }
        }
    }

    fn pass_on(&self, world: &mut World, who: usize, to: Queued, reason: Reason) {
        let Stage::Leading(own) = world.ours[who].stage else { unreachable!() };
        let field = self.field(world.view(who), Some(own), true);
        let passed = field.passed(&to).expect("the rule names only those within reach");
        self.hand_over(world, who, to, passed, None, reason);
    }

    /// Belief ends, and the transaction is sent.
    fn hand_over(
        &self,
        world: &mut World,
        who: usize,
        target: Queued,
        passed: Vec<Queued>,
        order: Option<AnyKey>,
        reason: Reason,
    ) {
        let Stage::Leading(own) = world.ours[who].stage else { unreachable!() };
        let passed = passed.into_iter().map(AnyKey::Candidate).collect();
        let (own, target) = (AnyKey::Candidate(own), AnyKey::Candidate(target));
        let handoff = Handoff { keys: HandoffKeys { own, target, passed, order }, reason };
        world.sent.push(handoff.clone());
        world.ours[who].stage = Stage::HandingOver(handoff);
    }

    /// A transfer's transaction arrives at etcd; returns whether it hands over.
    fn transfer(&self, world: &mut World, handoff: &Handoff) -> bool {
        let plan = match handoff.keys.plan() {
            Plan::If { then, otherwise, .. } if self.lacks(Mutant::NoCompare) => {
                Plan::If { there: Vec::new(), absent: Vec::new(), then, otherwise }
            }
            plan => plan,
        };
        if self.run(world, &plan, None) != Some(HandoffEnd::Transferred) {
            // It was decided, but it did not happen.
            world.moves = world.moves.saturating_sub(u8::from(handoff.reason == Reason::Priority));
            return false;
        }
        let (AnyKey::Candidate(own), AnyKey::Candidate(target)) = (handoff.keys.own, handoff.keys.target)
        else {
            unreachable!("a transfer is from a candidate to another")
        };
        match handoff.reason {
            Reason::Order => world.ordered = Some(target),
            Reason::Priority if world.ordered == Some(own) => world.violation = Some(Violation::OrderUndone),
            Reason::Priority | Reason::LastResort => {}
        }
        true
    }

    /// Executes a plan as etcd does, at one revision; returns what it records.
    fn run(&self, world: &mut World, plan: &EtcdPlan, placed: Option<StandingOrder>) -> Option<HandoffEnd> {
        let store = world.now().clone();
        let mut execution = Execution { store, placed, end: None, foreign_key_deleted: false };
        execute(plan, &mut execution);
        let Execution { store, end, foreign_key_deleted, .. } = execution;
        if foreign_key_deleted {
            world.violation = Some(Violation::ForeignKeyDeleted);
        }
        world.change(self.late, |etcd| *etcd = store);
        end
    }

    fn believes(&self, one: &Participant) -> bool {
        match &one.stage {
            Stage::Leading(_) => true,
            Stage::HandingOver(_) => self.lacks(Mutant::BelievesUntilTheAnswer),
            Stage::Crashed | Stage::Out { .. } | Stage::Waiting(_) => false,
        }
    }

    fn leaders(&self, world: &World) -> usize {
        let foreign = usize::from(matches!(world.foreigner, Foreigner::Leading(_)));
        world.ours.iter().filter(|one| self.believes(one)).count() + foreign
    }

    /// A leader, and no order that waits for its end.
    fn is_settled(&self, world: &World) -> bool {
        self.leaders(world) > 0 && world.now().order.is_none_or(|order| order.answered)
    }
}

/// A transaction under way in etcd.
struct Execution {
    store: Store,
    /// The order that an operator places.
    placed: Option<StandingOrder>,
    end: Option<HandoffEnd>,
    foreign_key_deleted: bool,
}

impl PlanStore<AnyKey, ()> for Execution {
    fn has(&self, key: &AnyKey) -> bool {
        match key {
            AnyKey::Candidate(key) => self.store.queue.contains(key),
            AnyKey::Order(id) => self.store.order.is_some_and(|order| order.id == *id),
        }
    }

    fn has_name(&self, (): &()) -> bool {
        self.store.order.is_some()
    }

    fn operate(&mut self, operation: &EtcdPlan) {
        match operation {
            Plan::Delete(AnyKey::Candidate(gone)) => {
                self.foreign_key_deleted |= gone.class == FOREIGN && self.store.queue.contains(gone);
                self.store.queue.retain(|key| key != gone);
            }
            Plan::Delete(AnyKey::Order(_)) => self.store.order = None,
            Plan::Record(end) => self.end = Some(*end),
            Plan::PlaceOrder => self.store.order = self.placed,
            Plan::AnswerOrder => self.store.order.iter_mut().for_each(|order| order.answered = true),
            Plan::If { .. } => unreachable!("a plan is executed operation by operation"),
        }
    }
}

impl World {
    /// The first of ours leads, and the others wait.
    fn new(choice: &Choice) -> Self {
        let queue: Vec<_> =
            (0..).zip(&choice.ours).map(|(created, class)| Queued { created, class: *class }).collect();
        let newest = queue.last().map_or(0, |key| key.created);
        let one = |key: &Queued| {
            let stage = if key.created == 0 { Stage::Leading(*key) } else { Stage::Waiting(*key) };
            Participant { class: key.class, stage, behind: 0 }
        };
        Self {
            ours: queue.iter().map(one).collect(),
            etcd: vec![Store { queue, newest, order: None, cordoned: 0 }],
            foreigner: Foreigner::Away,
            sent: Vec::new(),
            ordered: None,
            newest_term: 0,
            left: choice.budget,
            moves: 0,
            violation: None,
        }
    }

    fn now(&self) -> &Store {
        &self.etcd[0]
    }

    fn view(&self, who: usize) -> &Store {
        &self.etcd[usize::from(self.ours[who].behind)]
    }

    /// Returns whether the key is that of a candidate of ours which could say that it is ready: not one that
    /// its candidate has left behind.
    fn says_ready(&self, key: Queued) -> bool {
        self.ours.iter().any(|one| one.stage == Stage::Waiting(key))
    }

    /// Returns whether a key's lease is renewed.
    fn renews(&self, key: Queued) -> bool {
        let stages = self.ours.iter().map(|one| &one.stage);
        let ours =
            stages.filter(|stage| **stage == Stage::Waiting(key) || **stage == Stage::Leading(key)).count();
        ours > 0 || [Foreigner::Waiting(key), Foreigner::Leading(key)].contains(&self.foreigner)
    }

    /// etcd's next revision; no view is later than `late`.
    fn change(&mut self, late: u8, change: impl FnOnce(&mut Store)) {
        let mut next = self.now().clone();
        change(&mut next);
        if next != *self.now() {
            self.etcd.insert(0, next);
            for one in &mut self.ours {
                one.behind = (one.behind + 1).min(late);
            }
        }
    }

    fn put(&mut self, class: u8, late: u8) -> Queued {
        let key = Queued { created: self.now().newest + 1, class };
        self.change(late, |etcd| {
            etcd.newest = key.created;
            etcd.queue.push(key);
        });
        key
    }

    fn begin_term(&mut self, own: Queued) {
        if own.created <= self.newest_term {
            self.violation = Some(Violation::TokenWentBack);
        }
        self.newest_term = self.newest_term.max(own.created);
    }

    fn fault(&mut self) {
        self.left.faults -= 1;
        self.moves = 0;
    }

    fn unused_order(&mut self) -> u8 {
        let mut most = 0;
        self.each_order(|id| most = most.max(*id + 1));
        most
    }

    fn each_order(&mut self, mut see: impl FnMut(&mut u8)) {
        for order in self.etcd.iter_mut().filter_map(|etcd| etcd.order.as_mut()) {
            see(&mut order.id);
        }
        for handoff in handoffs(&mut self.ours, &mut self.sent) {
            if let Some(AnyKey::Order(id)) = &mut handoff.keys.order {
                see(id);
            }
        }
    }

    fn each_revision(&mut self, mut see: impl FnMut(&mut u8)) {
        for etcd in &mut self.etcd {
            see(&mut etcd.newest);
            etcd.queue.iter_mut().for_each(|key| see(&mut key.created));
            if let Some(order) = &mut etcd.order {
                see(&mut order.leader.created);
                see(&mut order.target.created);
            }
        }
        for one in &mut self.ours {
            if let Stage::Waiting(key) | Stage::Leading(key) = &mut one.stage {
                see(&mut key.created);
            }
        }
        for HandoffKeys { own, target, passed, .. } in
            handoffs(&mut self.ours, &mut self.sent).map(|handoff| &mut handoff.keys)
        {
            for key in [own, target].into_iter().chain(passed) {
                if let AnyKey::Candidate(key) = key {
                    see(&mut key.created);
                }
            }
        }
        if let Foreigner::Waiting(key) | Foreigner::Leading(key) = &mut self.foreigner {
            see(&mut key.created);
        }
        self.ordered.iter_mut().for_each(|key| see(&mut key.created));
        see(&mut self.newest_term);
    }

    /// Leaves out of the state what makes no difference to any later event, to have fewer states.
    fn simplify(&mut self) {
        for one in self.ours.iter_mut().filter(|one| one.stage == Stage::Crashed) {
            one.behind = 0;
        }
        let latest = self.ours.iter().map(|one| one.behind).max().unwrap_or(0);
        self.etcd.truncate(usize::from(latest) + 1);
        let leads_or_waits = |key: &Queued| {
            let holds = |one: &Participant| [Stage::Waiting(*key), Stage::Leading(*key)].contains(&one.stage);
            self.ours.iter().any(holds)
                || self.sent.iter().any(|sent| sent.keys.own == AnyKey::Candidate(*key))
        };
        self.ordered = self.ordered.filter(leads_or_waits);
        // Only the order of revisions matters.
        let (mut known, mut orders) = (0_u64, 0_u64);
        self.each_revision(|created| known |= 1 << *created);
        self.each_revision(|created| *created = rank(known, *created));
        self.each_order(|id| orders |= 1 << *id);
        self.each_order(|id| *id = rank(orders, *id));
        self.ours.sort();
        self.sent.sort();
    }
}

fn rank(known: u64, number: u8) -> u8 {
    (known & ((1 << number) - 1)).count_ones() as u8
}

fn handoffs<'a>(
    ours: &'a mut [Participant],
    sent: &'a mut [Handoff],
) -> impl Iterator<Item = &'a mut Handoff> {
    let waiting = ours.iter_mut().filter_map(|one| match &mut one.stage {
        Stage::HandingOver(handoff) => Some(handoff),
        Stage::Crashed | Stage::Out { .. } | Stage::Waiting(_) | Stage::Leading(_) => None,
    });
    waiting.chain(sent)
}

fn revision(created: u8) -> Revision {
    Revision(i64::from(created) + 1)
}

impl Model for Choice {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for who in 0..world.ours.len() {
            self.steps(world, who, actions);
        }
        self.outside(world, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.happen(&mut next, action);
        next.simplify();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_LEADER, |choice: &Self, world: &World| choice.leaders(world) <= 1),
            Property::always(NONE_OF_OTHERS, |_, world: &World| {
                world.violation != Some(Violation::ForeignKeyDeleted)
            }),
            Property::always(TOKENS_GROW, |_, world: &World| {
                world.violation != Some(Violation::TokenWentBack)
            }),
            Property::always(ORDERS_LAST, |_, world: &World| world.violation != Some(Violation::OrderUndone)),
            Property::always(ONE_MOVE, |choice: &Self, world: &World| world.moves <= choice.moves),
        ]
    }
}

const ONE_LEADER: &str = "there are never two leaders";
const NONE_OF_OTHERS: &str = "no foreign key is ever deleted";
const TOKENS_GROW: &str = "tokens grow with every term";
const ORDERS_LAST: &str = "no priority undoes an operator's order";
const ONE_MOVE: &str = "after an outside event leadership moves at most once by priority";

/// Walks through every state, and shows that from each of them every schedule leads to a leader and to the end
/// of the order.
fn prove(choice: &Choice) {
    let explored = graph::explore(choice, None, |world| choice.is_settled(world));
    println!("{explored}");
    assert!(explored.violation.is_none() && explored.stuck.is_none(), "{explored}");
}

/// Finds a path to a violation, and prints it.
fn refute(choice: &Choice, property: &'static str) {
    let explored = graph::explore(choice, Some(property), |world| choice.is_settled(world));
    println!("{explored}");
    assert_eq!(explored.violation.map(|found| found.0), Some(property));
}

/// Finds a schedule that never leads to a leader and the end of the order, and prints it.
fn refute_liveness(choice: &Choice) {
    let explored = graph::explore(choice, Some("none"), |world| choice.is_settled(world));
    println!("{explored}");
    assert!(explored.stuck.is_some());
}

/// Three of one priority, and a foreign candidate: transfers alone.
fn orders(faults: u8, orders: u8) -> Choice {
    let budget = Budget { faults, orders, cordons: 0, foreigners: 1 };
    Choice::of(&[100], &[0, 0, 0], budget).late(1)
}

/// Three priorities; the lowest leads first.
fn priorities(faults: u8) -> Choice {
    let budget = Budget { faults, orders: 1, cordons: 0, foreigners: 0 };
    Choice::of(&[50, 100, 150], &[0, 1, 2], budget)
}

/// Two last resorts by their priority, and a usual candidate; cordons come and go.
fn last_resorts(faults: u8, foreigners: u8) -> Choice {
    let budget = Budget { faults, orders: 0, cordons: 2, foreigners };
    Choice::of(&[0, 100], &[0, 0, 1], budget)
}

#[test]
fn contract_1_one_leader_whatever_operators_order() {
    prove(&orders(1, 2));
}

#[test]
fn contract_12_leadership_moves_up_once_and_orders_last() {
    prove(&priorities(0));
    prove(&priorities(0).late(1));
    // A candidate that a transfer cleared, and that queues again only after a fault, is an outside event that
    // is not counted as one.
    prove(&Choice { moves: u8::MAX, ..priorities(1) });
}

#[test]
fn contract_12_last_resorts_lead_while_no_other_can() {
    prove(&last_resorts(1, 1));
    prove(&last_resorts(1, 0).late(1));
}

#[test]
#[ignore = "millions of states: make model"]
fn contract_1_one_leader_whatever_operators_order_and_however_late() {
    prove(&orders(2, 1).late(1));
    prove(&orders(1, 1).late(3));
}

#[test]
#[ignore = "millions of states: make model"]
fn contract_1_one_leader_with_two_faults_and_two_orders() {
    prove(&orders(2, 2).late(1));
}

#[test]
#[ignore = "millions of states: make model"]
fn contract_12_leadership_moves_up_though_views_are_late() {
    prove(&Choice { moves: u8::MAX, ..priorities(1).late(1) });
    prove(&last_resorts(1, 1).late(1));
}

#[test]
fn contract_10_a_foreign_key_is_deleted_if_all_in_between_count_as_ours() {
    refute(&orders(1, 1).without(Mutant::ForeignKeysPass), NONE_OF_OTHERS);
}

#[test]
fn contract_1_two_leaders_if_foreign_keys_are_passed() {
    refute(&orders(1, 1).without(Mutant::ForeignKeysPass), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_ours_believe_phantom_wins() {
    refute(&orders(1, 1).without(Mutant::BelievesPhantoms), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_a_transfer_does_not_compare_the_leaders_key() {
    refute(&orders(1, 1).without(Mutant::NoCompare), ONE_LEADER);
}

#[test]
fn contract_5_tokens_go_back_if_a_transfer_does_not_compare_the_leaders_key() {
    refute(&orders(1, 1).without(Mutant::NoCompare), TOKENS_GROW);
}

#[test]
fn contract_1_two_leaders_if_belief_lasts_until_the_answer() {
    refute(&orders(1, 1).without(Mutant::BelievesUntilTheAnswer), ONE_LEADER);
}

#[test]
fn contract_12_an_order_without_a_lease_never_ends() {
    // A foreign leader knows of no orders.
    let budget = Budget { faults: 2, orders: 1, cordons: 0, foreigners: 1 };
    refute_liveness(&Choice::of(&[100], &[0, 0], budget).without(Mutant::OrderWithoutLease));
}

#[test]
fn contract_12_vacancy_for_ever_if_a_last_resort_gives_way_to_any() {
    let two = Choice::of(&[0], &[0, 0], Budget { faults: 1, orders: 0, cordons: 0, foreigners: 0 });
    refute_liveness(&two.late(1).without(Mutant::GivesWayToAny));
}

#[test]
fn contract_12_leadership_flaps_if_an_equal_priority_moves_it() {
    let equal = Choice::of(&[100, 100], &[0, 1], Budget { faults: 0, orders: 0, cordons: 0, foreigners: 0 });
    refute(&equal.without(Mutant::EqualPriorityMoves), ONE_MOVE);
}

#[test]
fn contract_12_priority_undoes_orders_if_ordered_terms_move() {
    refute(&priorities(0).without(Mutant::OrderedTermsMove), ORDERS_LAST);
}
