//! The election protocol under a model checker: every order of events, and every delay.
//!
//! The decisions are the production code itself: [`WinRule`] decides on a win, [`Queue`] shows the result of
//! a read and the events after it, and [`Validity`] limits how long a win is trusted. Around them is a model
//! of everything that can happen to a candidate, and the checker walks through all of it:
//!
//! * **etcd** keeps keys in the order of their creation, each on a lease. A lease may end as soon as its TTL,
//!   less what a fast clock takes off, has passed since etcd last handled a renewal of it; or any time later;
//!   or never. A read is answered from the state of one moment; a watch delivers every revision after it, in
//!   order. The transaction that puts a key is answered at any later time, *whether or not* the key still
//!   exists.
//! * **The network** delivers each message after any delay, or never: a renewal (to etcd and back), a read of
//!   the queue, the put of a key and its answer, watch events, the revocation of an abandoned lease. A
//!   renewal whose answer does not come is replaced by a new one.
//! * **The view** of a candidate lags behind etcd by any number of events. Its watch breaks at any time, and
//!   the break may be noticed at any later time: until then it is a late watch, as any may be. Then the
//!   position is unsure until the queue is read again, and followed from there; so compaction in between
//!   needs no model of its own. Of several positions that arrived meanwhile, a candidate sees only the
//!   newest.
//! * **Candidates** abandon an attempt at any time (a connection failed, a timeout expired, etcd reported the
//!   lease gone), resign at any time, and campaign again with a new lease. One that has not led may also
//!   begin a new attempt on its present lease and key, once etcd has renewed that lease: even long after its
//!   own proof ended, as after an outage of etcd. Freezing and crashing need no step of their own: a
//!   candidate that takes no step while time passes *is* frozen, and one that never takes a step again has
//!   crashed. Messages that arrived meanwhile may be handled in any order after the thaw.
//! * **A third party** deletes keys and revokes leases; [`ThirdParty`] limits which.
//! * **A witness** releases the terms of processes that died; see [`lifeline`].
//!
//! A candidate leads from [`WinStep::Win`] on, for as long as its validity holds. The properties check the
//! validity itself, at every instant, so it does not matter whether the candidate is frozen.
//!
//! Time is in ticks. The state contains no clock, only ages (of a lease, of an unanswered renewal) and the
//! rest of a validity. So there is no horizon: the result holds for ever, for any number of renewals. Only
//! the number of candidates and of attempts is bounded.
//!
//! Some delays are covered by others. A read is shown the moment that etcd answers it: it is seen late
//! instead. Candidates do not share a view: two views may show the same at the same time. A view applies at
//! once what shows its candidate nothing new. [`Loss::Unobservable`](crate::leadership::Loss::Unobservable)
//! is one of the reasons to resign at any time.
//!
//! Left out: members of etcd that lie or lag ([`staleness`](super::staleness) has its own tests); keys that
//! are put by hand, several at one revision, or moved to another lease, and queues that are kept in part
//! ([`queue`] tests those); the size of a margin in seconds ([`timing`](crate::timing)); the certainty of an
//! election in the end (the `sometimes` properties show that it can happen, not that it must).

mod choosing;
mod lifeline;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    keys::{LeaseId, Revision},
    queue::{self, Queue, QueueEntry, QueuePlace},
    view::QueuePosition,
    win::{AttemptFailure, WinInput, WinRule, WinStep},
};
use crate::{
    clock::Timestamp,
    validity::{Bound, Validity},
};

/// Every state is seen from its own present, which is always this moment.
const NOW: Timestamp = Timestamp::from_nanos(1_000);

/// The TTL of every lease, in ticks of a right clock.
const TTL: i8 = 3;

/// Ticks by which a fast clock of etcd's shortens a TTL.
const DRIFT: i8 = 1;

/// The parameters of the model.
#[derive(Debug, Clone)]
struct Election {
    candidates: usize,
    /// Total number of attempts of all candidates.
    attempts: i64,
    third_party: ThirdParty,
    /// Allows watches to break. An unsure view reads the queue in any case.
    breaks: bool,
    /// Ticks taken off the TTL on our side.
    margin: i8,
    mutant: Option<Mutant>,
    /// Makes etcd handle renewals and puts the moment they are sent, for larger elections: a renewal handled
    /// late makes a lease that may end later, as any may; a request handled late comes from a candidate that
    /// was frozen, as any may be. (The answers are late all the same.)
    prompt: bool,
    /// Allows an attempt on the lease of the one before.
    keeps: bool,
    /// Allows processes to die, and a witness to release their terms.
    lifeline: bool,
    /// Gives each leader a command, which may outlive its process.
    commands: bool,
    /// Keeps in a candidate's state how its last attempt ended, with the reactions to it.
    ///
    /// A proof leaves it out, to have fewer states.
    remembers: bool,
}

/// The keys and leases that a third party deletes and revokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThirdParty {
    /// There is no third party.
    Absent,
    /// Those of waiting candidates: etcd's history has not yet made their key the first.
    ///
    /// From the event on that made it first, its candidate is a leader that does not know it yet. Deposing it
    /// is the same as deposing one that knows: if the candidate has yet to receive the one event, the other
    /// is right behind it.
    Waiting,
    /// Those of any candidate.
    Anyone,
}

/// A safeguard that is removed, to show that the checker finds the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// The answer to the put counts as a win.
    NoVerification,
    /// Leadership is trusted until its end is reported.
    NoDeadline,
    /// Validity counts from the answer, not from the send.
    CountsFromTheAnswer,
    /// Leads once the candidate right before it is gone (microsoft/etcd3#176). The wait for the answer to the
    /// put is removed too, because it would hide the fault.
    OnlyTheOneBefore,
    /// A broken watch is reopened from the present on, without a read.
    KeepsThePosition,
    /// A kept lease is trusted without a renewal.
    TrustsTheKeptLease,
    /// A safeguard of the witness, or of the tickets that it checks.
    Lifeline(lifeline::Mutant),
}

/// The whole state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    etcd: Etcd,
    candidates: Vec<Candidate>,
    /// Attempts made so far.
    attempts: i64,
    /// The largest token of any term so far.
    newest: Revision,
    /// A term began with a smaller token, although its leader had not been deposed.
    went_back: bool,
    /// A term began with a key that was never the first.
    jumped_the_queue: bool,
    witness: lifeline::Witness,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Etcd {
    revision: Revision,
    leases: Vec<Lease>,
    /// In the order of creation.
    queue: Vec<Key>,
    /// The last events, one a revision: those that a view still has to show.
    history: VecDeque<Event>,
}

/// The creation or deletion of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Event {
    lease: LeaseId,
    put: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lease {
    id: LeaseId,
    /// Ticks since the grant, or since the last renewal was handled.
    age: i8,
    /// Its candidate wants it revoked, and will not use it again.
    given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    created: Revision,
    lease: LeaseId,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Candidate {
    /// `None` while it is unsure.
    view: Option<View>,
    stage: Stage,
}

/// The queue at a revision: a [`Queue`] in a form that can be hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct View {
    at: Revision,
    keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    Idle(Past),
    Standing(Attempt),
    Leading(Term),
}

/// Outcome of the last attempt, as far as a property needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Past {
    /// There was none.
    None,
    Other,
    RefusedPhantom,
    Resigned,
}

/// Data that an attempt and a term hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hold {
    lease: LeaseId,
    validity: Validity,
    renewal: Option<Renewal>,
    /// The view shows a change of our key.
    unseen: bool,
    /// The lease outlived its key. Only this candidate can use it; the model lets it renew it for ever, as a
    /// worst case.
    kept: bool,
    /// etcd's history made the key the first. Only the properties see it.
    came_first: bool,
    /// A third party deleted the key of the candidate that was found first. Only the properties see it.
    deposed: bool,
}

/// A renewal in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Renewal {
    /// Ticks since it was sent.
    age: i8,
    /// etcd has renewed the lease; the answer is on its way.
    answered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    hold: Hold,
    campaign: WinRule,
    /// Our key's `create_revision`, once etcd has made it.
    created: Option<Revision>,
    answered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Term {
    hold: Hold,
    token: Revision,
}

/// One event; the number is the candidate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Time passes.
    Tick,
    /// Starts an attempt, with a lease granted at once: see [`Election::start`].
    Stand(usize),
    /// Begins a new attempt with the present lease and key: etcd has renewed the lease.
    StandAgain(usize),
    EtcdPutsKey(usize),
    PutAnswered(usize),
    /// The queue is read: shown at once, seen at any later time.
    ViewReads(usize),
    /// The view shows the next revision.
    ViewGoesOn(usize),
    /// The break of the watch is noticed.
    ViewBreaks(usize),
    /// The candidate sees its view's position.
    See(usize),
    SendRenewal(usize),
    EtcdRenews(usize),
    HearOfRenewal(usize),
    /// Abandons the attempt, or resigns.
    Leave(usize),
    /// The lease expired, or was given up and is revoked.
    EtcdEndsLease(LeaseId),
    OtherDeletesKey(LeaseId),
    OtherRevokes(LeaseId),
    /// An event of a process, or of the witness.
    Lifeline(lifeline::Action),
}

impl Election {
    /// Two attempts of two candidates, with all safeguards.
    fn sound() -> Self {
        Self {
            candidates: 2,
            attempts: 2,
            third_party: ThirdParty::Waiting,
            breaks: false,
            margin: DRIFT,
            mutant: None,
            prompt: false,
            keeps: false,
            lifeline: false,
            commands: false,
            remembers: false,
        }
    }

    /// The same election without one safeguard, and with fewer delays: the fault shows anyway.
    fn without(safeguard: Mutant) -> Self {
        Self { mutant: Some(safeguard), prompt: true, ..Self::sound() }
    }

    /// Returns the ticks after a send for which its acknowledgement may be trusted.
    fn belief(&self) -> i8 {
        TTL - self.margin
    }

    /// Computes [`Ttl::believed_until`](crate::timing::Ttl::believed_until) in ticks.
    fn believed_until(&self, age: i8) -> Timestamp {
        let left = match self.mutant {
            Some(Mutant::NoDeadline) => i8::MAX,
            Some(Mutant::CountsFromTheAnswer) => self.belief(),
            _ => self.belief() - age,
        };
        NOW + ticks(left.max(0))
    }

    fn tick(&self, world: &mut World) {
        for lease in world.etcd.leases.iter_mut().filter(|lease| !lease.given_up) {
            lease.age = (lease.age + 1).min(TTL - DRIFT);
        }
        for who in 0..world.candidates.len() {
            match &mut world.candidates[who].stage {
                Stage::Idle(_) => {}
                Stage::Standing(Attempt { hold, .. }) | Stage::Leading(Term { hold, .. }) => self.age(hold),
            }
        }
        world.witness.tick();
    }

    fn age(&self, hold: &mut Hold) {
        if hold.kept {
            return;
        }
        if self.mutant != Some(Mutant::NoDeadline) {
            hold.validity = one_tick_later(&hold.validity);
        }
        if let Some(renewal) = &mut hold.renewal {
            renewal.age += 1;
        }
        let holds = hold.validity.holds_at(NOW);
        hold.renewal = hold.renewal.filter(|renewal| holds && !self.outdated(renewal.age));
    }

    /// Returns whether an acknowledgement of a send this old proves nothing any more, so that it need not be
    /// followed further.
    fn outdated(&self, age: i8) -> bool {
        age >= self.belief()
    }

    /// Adds the possible events of one candidate.
    fn steps(&self, world: &World, who: usize, actions: &mut Vec<Action>) {
        let candidate = &world.candidates[who];
        match &candidate.stage {
            Stage::Idle(_) => {
                // Candidates are interchangeable: the first to start is number one.
                let in_turn = who == 0 || world.candidates[who - 1].stage != Stage::Idle(Past::None);
                if in_turn && world.attempts < self.attempts {
                    actions.push(Action::Stand(who));
                }
                return;
            }
            Stage::Standing(attempt) => {
                let renewable = world.etcd.lease(attempt.hold.lease).is_some();
                if self.keeps && (renewable || self.mutant == Some(Mutant::TrustsTheKeptLease)) {
                    actions.push(Action::StandAgain(who));
                }
                steps_of_attempt(world, who, attempt, actions);
            }
            Stage::Leading(_) => {}
        }
        actions.push(Action::Leave(who));
        let hold = candidate.hold().expect("an attempt and a term hold a lease");
        self.steps_of_renewal(world, who, hold, actions);
        if hold.unseen {
            actions.push(Action::See(who));
        }
        match &candidate.view {
            None => actions.push(Action::ViewReads(who)),
            Some(view) => {
                if view.at < world.etcd.revision {
                    actions.push(Action::ViewGoesOn(who));
                }
                if self.breaks {
                    actions.push(Action::ViewBreaks(who));
                }
            }
        }
    }

    /// A renewal that is lost or too late equals one that is not sent.
    fn steps_of_renewal(&self, world: &World, who: usize, hold: &Hold, actions: &mut Vec<Action>) {
        if hold.kept || !hold.validity.clone().holds_at(NOW) {
            return;
        }
        let renewable = world.etcd.lease(hold.lease).is_some();
        let just_sent = matches!(hold.renewal, Some(Renewal { age: 0, answered: false }));
        if renewable && !just_sent {
            actions.push(Action::SendRenewal(who));
        }
        match hold.renewal {
            Some(Renewal { answered: true, .. }) => actions.push(Action::HearOfRenewal(who)),
            Some(_) if renewable => actions.push(Action::EtcdRenews(who)),
            Some(_) | None => {}
        }
    }

    /// Adds the possible actions of the third party.
    fn meddling(&self, world: &World, actions: &mut Vec<Action>) {
        for candidate in &world.candidates {
            let Some(hold) = candidate.hold() else { continue };
            let exposed = match self.third_party {
                ThirdParty::Absent => false,
                ThirdParty::Waiting => !world.etcd.is_first(hold.lease),
                ThirdParty::Anyone => true,
            };
            if !exposed {
                continue;
            }
            // Without a key nothing can be won.
            if world.etcd.key(hold.lease).is_some() {
                actions.extend([Action::OtherDeletesKey(hold.lease), Action::OtherRevokes(hold.lease)]);
            }
        }
    }

    fn happen(&self, world: &mut World, action: Action) {
        let World { etcd, candidates, .. } = world;
        match action {
            Action::Tick => self.tick(world),
            Action::EtcdEndsLease(lease) => etcd.end(lease),
            Action::OtherDeletesKey(lease) => {
                world.depose(lease);
                world.keep_without_key(lease);
            }
            Action::OtherRevokes(lease) => {
                world.depose(lease);
                world.etcd.end(lease);
            }
            Action::Lifeline(action) => self.lifeline(world, action),
            Action::Stand(who) => self.start(world, who),
            Action::StandAgain(who) => self.restart(world, who),
            Action::SendRenewal(who) => {
                let hold = candidates[who].holding();
                hold.renewal = Some(Renewal { age: 0, answered: self.prompt });
                if self.prompt {
                    etcd.renew(hold.lease);
                }
            }
            Action::EtcdRenews(who) => {
                let hold = candidates[who].holding();
                etcd.renew(hold.lease);
                hold.renewal.as_mut().expect("a renewal is under way").answered = true;
            }
            Action::HearOfRenewal(who) => self.renewed(world, who),
            Action::Leave(who) => self.leave(world, who),
            Action::ViewReads(who) => {
                let read = View { at: etcd.revision, keys: etcd.queue.clone() };
                candidates[who].show(Some(read));
            }
            Action::ViewGoesOn(who) => self.view_goes_on(world, who),
            Action::ViewBreaks(who) => match &mut candidates[who].view {
                Some(view) if self.mutant == Some(Mutant::KeepsThePosition) => view.at = etcd.revision,
                _ => candidates[who].show(None),
            },
            Action::See(who) if candidates[who].leads() => self.leader_sees(world, who),
            Action::EtcdPutsKey(who) => {
                let Stage::Standing(attempt) = &mut candidates[who].stage else { unreachable!() };
                attempt.created = Some(etcd.put(attempt.hold.lease));
            }
            Action::See(who) | Action::PutAnswered(who) => self.campaign_sees(world, who, action),
        }
    }

    /// Starts an attempt: `Attempt::start`.
    ///
    /// A grant may be late as a renewal may, and renewals are modelled. Handled late, it makes a lease that
    /// may end later, as any may; received late, it comes to a candidate that was frozen, as any may be.
    fn start(&self, world: &mut World, who: usize) {
        world.attempts += 1;
        let lease = LeaseId(world.attempts);
        world.etcd.leases.push(Lease { id: lease, age: 0, given_up: false });
        let validity = Validity::new(self.believed_until(0));
        // A watch of a key starts with a position (`QueueView::watch_key`), and a win rule starts unsure.
        let unseen = world.candidates[who].view.is_some();
        let hold =
            Hold { lease, validity, renewal: None, unseen, kept: false, came_first: false, deposed: false };
        world.candidates[who].stage = Stage::Standing(Attempt {
            hold,
            campaign: WinRule::new(lease),
            created: self.prompt.then(|| world.etcd.put(lease)),
            answered: false,
        });
    }

    /// Starts an attempt with the lease of the one before: `Attempt::start`, with a `kept` lease.
    ///
    /// The renewal is handled and received at once, for the same reasons as a grant.
    fn restart(&self, world: &mut World, who: usize) {
        let until = self.believed_until(0);
        let candidate = &mut world.candidates[who];
        let unseen = candidate.view.is_some();
        let Stage::Standing(attempt) = &mut candidate.stage else { unreachable!() };
        if self.mutant != Some(Mutant::TrustsTheKeptLease) {
            world.etcd.renew(attempt.hold.lease);
        }
        if self.mutant == Some(Mutant::Lifeline(lifeline::Mutant::MapsAnew)) {
            world.witness.finds_dead(world.etcd.key(attempt.hold.lease));
        }
        attempt.begin_anew();
        attempt.hold.validity = Validity::new(until);
        attempt.hold.unseen = unseen;
    }

    /// An answer to a renewal: `KeepAlive::renew_over_a_stream`.
    fn renewed(&self, world: &mut World, who: usize) {
        let hold = world.candidates[who].holding();
        let renewal = hold.renewal.take().expect("a renewal is under way");
        let until = self.believed_until(renewal.age);
        if hold.validity.extend(Bound::FIRST, until, NOW).is_err() {
            self.leave(world, who);
        }
    }

    /// The next message of the watch: `QueueView::apply`.
    fn view_goes_on(&self, world: &mut World, who: usize) {
        let World { etcd, candidates, .. } = world;
        let candidate = &mut candidates[who];
        let view = candidate.view.as_ref().expect("only a view that is sure goes on");
        let (at, event) = etcd.after(view.at);
        let before_us = candidate.hold().and_then(|hold| view.right_before(hold.lease));
        let next = view.carried_on(at, event);
        candidate.show(Some(next));
        let one_less = !event.put && before_us == Some(event.lease);
        if one_less && self.mutant == Some(Mutant::OnlyTheOneBefore) {
            let created = candidate.created().expect("a candidate behind another has a key");
            self.win(world, who, created);
        }
    }

    /// A leader sees its position: `ActiveTerm::shown`.
    fn leader_sees(&self, world: &mut World, who: usize) {
        let Stage::Leading(term) = &mut world.candidates[who].stage else { unreachable!() };
        term.hold.unseen = false;
        let token = term.token;
        match world.candidates[who].position() {
            QueuePosition::Unsure { .. } => {}
            QueuePosition::At { place: QueuePlace::First(key), .. } if key.created == token => {}
            QueuePosition::At { .. } => self.leave(world, who),
        }
    }

    /// An attempt sees its position: `Attempt::contend`.
    fn campaign_sees(&self, world: &mut World, who: usize, action: Action) {
        let position = world.candidates[who].position();
        let Stage::Standing(attempt) = &mut world.candidates[who].stage else { unreachable!() };
        let next = match (action, attempt.created) {
            (Action::PutAnswered(_), Some(created)) => {
                attempt.answered = true;
                match self.mutant {
                    Some(Mutant::NoVerification) => WinStep::Win { created },
                    _ => attempt.campaign.see(WinInput::Put { created }),
                }
            }
            _ => {
                attempt.hold.unseen = false;
                attempt.campaign.see(WinInput::Position(position))
            }
        };
        match next {
            WinStep::Wait | WinStep::Expect | WinStep::Follow { .. } => {}
            WinStep::Win { created } => {
                assert_eq!(attempt.created, Some(created));
                self.win(world, who, created);
            }
            WinStep::Abandon(why) => {
                let phantom = attempt.answered && why == AttemptFailure::KeyGone;
                self.give_up(world, who, if phantom { Past::RefusedPhantom } else { Past::Other });
            }
        }
    }

    /// Leaves out of the state what makes no difference to any later event, to have fewer states.
    fn simplify(&self, world: &mut World) {
        for who in 0..world.candidates.len() {
            // A candidate that can't lead any more may leave, and nothing else that it does matters. But one
            // that has not led may campaign again with the same key, for which only its lease counts.
            let over = |hold: &Hold| !self.remembers && !hold.validity.clone().holds_at(NOW);
            if world.candidates[who].hold().is_some_and(over) {
                let World { etcd, candidates, .. } = world;
                match &mut candidates[who].stage {
                    Stage::Standing(attempt) if self.keeps && etcd.lease(attempt.hold.lease).is_some() => {
                        attempt.begin_anew();
                        attempt.hold.unseen = false;
                    }
                    _ => self.give_up(world, who, Past::Other),
                }
            }
            let idle = matches!(world.candidates[who].stage, Stage::Idle(_));
            if idle && world.attempts == self.attempts {
                world.candidates[who].view = None;
            }
            let World { etcd, candidates, .. } = world;
            if let Some(hold) = candidates[who].hold_mut() {
                hold.came_first |= etcd.is_first(hold.lease);
            }
            world.candidates[who].pass_over(&world.etcd, self.mutant);
        }
        world.witness.forget_what_is_gone(&world.etcd);
        world.witness.follow(&world.candidates);
        let views = world.candidates.iter().filter_map(|one| one.view.as_ref());
        let oldest = views.map(|view| view.at).min().unwrap_or(world.etcd.revision);
        let wanted = usize::try_from(world.etcd.revision.0 - oldest.0).expect("no view is ahead of etcd");
        world.etcd.history.drain(..world.etcd.history.len() - wanted);
    }

    /// A verified win: `Attempt::win`.
    fn win(&self, world: &mut World, who: usize, token: Revision) {
        let hold = world.candidates[who].holding();
        if !hold.validity.holds_at(NOW) {
            return self.give_up(world, who, Past::Other);
        }
        let hold = hold.clone();
        world.jumped_the_queue |= !hold.came_first;
        world.went_back |= token <= world.newest && !hold.deposed;
        world.newest = world.newest.max(token);
        world.candidates[who].stage = Stage::Leading(Term { hold, token });
    }

    /// An attempt is abandoned, or a term is over: the validity ends first.
    fn leave(&self, world: &mut World, who: usize) {
        let resigns = world.candidates[who].believes();
        self.give_up(world, who, if resigns { Past::Resigned } else { Past::Other });
    }

    /// Back to the start; the lease is to be revoked, if that ever succeeds.
    fn give_up(&self, world: &mut World, who: usize, past: Past) {
        let candidate = &mut world.candidates[who];
        world.etcd.give_up(candidate.holding().lease);
        candidate.stage = Stage::Idle(if self.remembers { past } else { Past::Other });
    }
}

impl World {
    fn new(election: &Election) -> Self {
        let candidate = Candidate { view: None, stage: Stage::Idle(Past::None) };
        Self {
            etcd: Etcd {
                revision: Revision(0),
                leases: Vec::new(),
                queue: Vec::new(),
                history: VecDeque::new(),
            },
            candidates: vec![candidate; election.candidates],
            attempts: 0,
            newest: Revision(0),
            went_back: false,
            jumped_the_queue: false,
            witness: lifeline::Witness::default(),
        }
    }

    /// A third party deletes the key. It matters to a candidate that came first.
    fn depose(&mut self, lease: LeaseId) {
        let first = self.etcd.is_first(lease);
        let holds = self.candidates.iter_mut().filter_map(Candidate::hold_mut);
        for hold in holds.filter(|hold| hold.lease == lease) {
            hold.deposed = first;
        }
    }

    /// The key is gone, and the lease lives on.
    fn keep_without_key(&mut self, lease: LeaseId) {
        self.etcd.end(lease);
        let holds = self.candidates.iter_mut().filter_map(Candidate::hold_mut);
        for hold in holds.filter(|hold| hold.lease == lease) {
            if hold.validity.holds_at(NOW) {
                hold.validity = Validity::new(NOW + ticks(1));
                (hold.kept, hold.renewal) = (true, None);
            }
        }
    }

    /// Returns the candidates that trust now that they lead, in the order of their tokens.
    fn believers(&self) -> Vec<&Candidate> {
        let mut leaders: Vec<_> = self.candidates.iter().filter(|one| one.believes()).collect();
        leaders.sort_by_key(|one| one.created());
        leaders
    }

    /// Returns whether a candidate will learn that its key is gone.
    fn learns_its_end(&self, one: &Candidate) -> bool {
        let (Some(hold), Some(view)) = (one.hold(), &one.view) else { return true };
        let mut coming = self.etcd.history.iter().rev().zip(0..self.etcd.revision.0 - view.at.0);
        let event = Event { lease: hold.lease, put: false };
        (hold.unseen && !view.has(hold.lease)) || coming.any(|(next, _)| *next == event)
    }
}

impl Candidate {
    fn hold(&self) -> Option<&Hold> {
        match &self.stage {
            Stage::Standing(Attempt { hold, .. }) | Stage::Leading(Term { hold, .. }) => Some(hold),
            Stage::Idle(_) => None,
        }
    }

    fn hold_mut(&mut self) -> Option<&mut Hold> {
        match &mut self.stage {
            Stage::Standing(Attempt { hold, .. }) | Stage::Leading(Term { hold, .. }) => Some(hold),
            Stage::Idle(_) => None,
        }
    }

    fn holding(&mut self) -> &mut Hold {
        self.hold_mut().expect("only a candidate that holds a lease gets here")
    }

    /// Its key's `create_revision`, once etcd has made it.
    fn created(&self) -> Option<Revision> {
        match &self.stage {
            Stage::Standing(attempt) => attempt.created,
            Stage::Leading(term) => Some(term.token),
            Stage::Idle(_) => None,
        }
    }

    /// The position of its key that the view shows.
    fn position(&self) -> QueuePosition {
        let lease = self.hold().expect("only a candidate that holds a lease has a position").lease;
        self.view.as_ref().map_or(QueuePosition::Unsure { since: NOW }, |view| view.position(lease))
    }

    /// Events that show the candidate nothing new are applied at once.
    fn pass_over(&mut self, etcd: &Etcd, mutant: Option<Mutant>) {
        let own = self.hold().map(|hold| hold.lease);
        while let Some(view) = self.view.as_ref().filter(|view| view.at < etcd.revision) {
            let (at, event) = etcd.after(view.at);
            let next = view.carried_on(at, event);
            let shows = own.is_some_and(|own| place(next.position(own)) != place(view.position(own)));
            let counts = mutant == Some(Mutant::OnlyTheOneBefore) && !event.put;
            if shows || counts {
                return;
            }
            self.view = Some(next);
        }
    }

    /// The view shows something; a watcher is notified only if it is new.
    fn show(&mut self, view: Option<View>) {
        let before = place(self.position());
        self.view = view;
        let after = place(self.position());
        let leads = self.leads();
        let hold = self.holding();
        hold.unseen |= before != after;
        // Any other change is nothing to a leader.
        hold.unseen &= !leads || after == Some(QueuePlace::Absent);
    }

    fn leads(&self) -> bool {
        matches!(self.stage, Stage::Leading(_))
    }

    fn believes(&self) -> bool {
        matches!(&self.stage, Stage::Leading(term) if term.hold.validity.clone().holds_at(NOW))
    }
}

impl Attempt {
    /// Nothing seen before counts any more.
    fn begin_anew(&mut self) {
        self.campaign = WinRule::new(self.hold.lease);
        self.answered = false;
        self.hold.renewal = None;
    }
}

impl Etcd {
    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id == id)
    }

    fn key(&self, lease: LeaseId) -> Option<Key> {
        self.queue.iter().copied().find(|key| key.lease == lease)
    }

    fn is_first(&self, lease: LeaseId) -> bool {
        self.queue.first().is_some_and(|first| first.lease == lease)
    }

    /// The event after a revision.
    fn after(&self, at: Revision) -> (Revision, Event) {
        let behind = usize::try_from(self.revision.0 - at.0).expect("no view is ahead of etcd");
        (Revision(at.0 + 1), self.history[self.history.len() - behind])
    }

    fn apply(&mut self, lease: LeaseId, put: bool) {
        self.revision = Revision(self.revision.0 + 1);
        self.history.push_back(Event { lease, put });
    }

    fn has(&self, created: Revision) -> bool {
        self.queue.iter().any(|key| key.created == created)
    }

    fn any_before(&self, created: Revision) -> bool {
        self.queue.iter().any(|key| key.created < created)
    }

    fn put(&mut self, lease: LeaseId) -> Revision {
        self.apply(lease, true);
        self.queue.push(Key { created: self.revision, lease });
        self.revision
    }

    fn renew(&mut self, id: LeaseId) {
        let lease = self.leases.iter_mut().find(|lease| lease.id == id);
        lease.expect("only a lease that is there is renewed").age = 0;
    }

    /// A lease without a key is as good as gone: no candidate will use it again.
    fn give_up(&mut self, id: LeaseId) {
        let has_key = self.key(id).is_some();
        self.leases.retain(|lease| lease.id != id || has_key);
        for lease in self.leases.iter_mut().filter(|lease| lease.id == id) {
            (lease.given_up, lease.age) = (true, 0);
        }
    }

    fn delete(&mut self, lease: LeaseId) {
        if self.key(lease).is_some() {
            self.queue.retain(|key| key.lease != lease);
            self.apply(lease, false);
        }
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.retain(|known| known.id != lease);
        self.delete(lease);
    }
}

impl View {
    fn queue(&self) -> Queue {
        Queue::read(self.at, self.keys.iter().map(|key| (name(key.lease), entry(key.created, None))))
    }

    fn position(&self, lease: LeaseId) -> QueuePosition {
        QueuePosition::At { revision: self.at, place: self.queue().place(&name(lease)) }
    }

    fn has(&self, lease: LeaseId) -> bool {
        self.keys.iter().any(|key| key.lease == lease)
    }

    fn right_before(&self, lease: LeaseId) -> Option<LeaseId> {
        let own = self.keys.iter().position(|key| key.lease == lease)?;
        Some(self.keys[own.checked_sub(1)?].lease)
    }

    /// The view at the next revision.
    fn carried_on(&self, revision: Revision, event: Event) -> Self {
        let mut queue = self.queue();
        let now = event.put.then(|| entry(revision, Some(event.lease)));
        queue.apply(revision, &name(event.lease), now);
        let leases = self.keys.iter().map(|key| key.lease).chain(event.put.then_some(event.lease));
        let key = |lease| match queue.place(&name(lease)) {
            QueuePlace::Absent => None,
            QueuePlace::Behind(key) | QueuePlace::First(key) => Some(Key { created: key.created, lease }),
        };
        Self { at: revision, keys: leases.filter_map(key).collect() }
    }
}

fn place(position: QueuePosition) -> Option<QueuePlace> {
    match position {
        QueuePosition::At { place, .. } => Some(place),
        QueuePosition::Unsure { .. } => None,
    }
}

fn entry(created: Revision, lease: Option<LeaseId>) -> QueueEntry {
    QueueEntry { key: queue::Key { created, lease }, candidate: true, name: None }
}

fn name(lease: LeaseId) -> Vec<u8> {
    lease.0.to_be_bytes().into()
}

fn steps_of_attempt(world: &World, who: usize, attempt: &Attempt, actions: &mut Vec<Action>) {
    match attempt.created {
        None if world.etcd.lease(attempt.hold.lease).is_some() => actions.push(Action::EtcdPutsKey(who)),
        // A position from before it was first equals one from when it was: until then the candidate waits,
        // answered or not. Once true this stays true: no key is ever made with a smaller revision.
        Some(created) if !attempt.answered && !world.etcd.any_before(created) => {
            actions.push(Action::PutAnswered(who));
        }
        None | Some(_) => {}
    }
}

/// A tick is the clock's smallest step.
fn ticks(count: i8) -> Duration {
    Duration::from_nanos(count.unsigned_abs().into())
}

/// The same validity, seen from a present one tick later.
fn one_tick_later(validity: &Validity) -> Validity {
    let mut later = Validity::new(validity.until() - ticks(1));
    if !validity.clone().holds_at(NOW) || !later.holds_at(NOW) {
        later = Validity::new(NOW);
        later.end();
    }
    later
}

impl Model for Election {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        for who in 0..world.candidates.len() {
            self.steps(world, who, actions);
        }
        for lease in &world.etcd.leases {
            if lease.given_up || lease.age >= TTL - DRIFT {
                actions.push(Action::EtcdEndsLease(lease.id));
            }
        }
        self.meddling(world, actions);
        if self.lifeline {
            self.deaths(world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.happen(&mut next, action);
        self.simplify(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(DEPOSED_ONLY, |_, world| overlaps_are_of_deposed_leaders(world)),
            Property::always(FIRST_ONCE, |_, world: &World| !world.jumped_the_queue),
            Property::always(TOKENS_GROW, |_, world: &World| !world.went_back),
        ];
        if self.third_party != ThirdParty::Anyone {
            properties.push(Property::always(ONE_LEADER, |_, world: &World| world.believers().len() <= 1));
        }
        if self.commands {
            properties.push(lifeline::one_command());
        }
        if self.third_party == ThirdParty::Anyone {
            let overlap = |_: &Self, world: &World| world.believers().len() == 2;
            properties.push(Property::sometimes("a deposed leader does not know it yet", overlap));
            let blind = |_: &Self, world: &World| {
                let deposed = |one: &Candidate| one.hold().is_some_and(|hold| hold.deposed);
                world.believers().into_iter().any(|one| deposed(one) && one.view.is_none())
            };
            properties.push(Property::sometimes("a leader is deposed while its watch is broken", blind));
        }
        if self.remembers {
            properties.extend(not_vacuous());
            properties.extend(self.lifeline.then(lifeline::is_of_use));
            properties.extend(self.commands.then(lifeline::is_of_use_with_commands));
        }
        properties
    }
}

/// No two leaderships are valid at one instant.
const ONE_LEADER: &str = "one leader at a time";

/// Where a third party deposes leaders, two leaderships are valid at one instant only if
///
/// * the older one was deposed by that third party (its key was deleted, at once or with its lease), and
/// * the report is on its way to it: the deletion's event, or the read that follows on the break of its
///   watch, or the position from either, and
/// * its deadline has not passed (else it would not be valid), and
/// * the newer one has the larger token.
///
/// That holds from the event on that made a key the first, whether or not its candidate has claimed: between
/// that event and the claim, a deposed candidate may still claim, on a position from before its deposition,
/// and with a smaller token than the present leader's.
///
/// No lock service can do better: the deletion happens elsewhere, and its report takes time. Tokens are for
/// this case.
const DEPOSED_ONLY: &str = "an older leadership is valid only until news of its deposition arrives";

fn overlaps_are_of_deposed_leaders(world: &World) -> bool {
    let believers = world.believers();
    let older = believers.split_last().map_or(&[][..], |(_newest, older)| older);
    older.iter().all(|one| {
        let deposed = one.hold().is_some_and(|hold| hold.deposed);
        let gone = one.created().is_some_and(|token| !world.etcd.has(token));
        deposed && gone && world.learns_its_end(one)
    })
}

/// The key that wins was once the first in etcd's queue. (It may be gone since.)
const FIRST_ONCE: &str = "every leader's key was once first";

/// A term's token is larger than those of all terms that began before it, unless its leader was deposed
/// before it knew that it led.
const TOKENS_GROW: &str = "tokens grow with every term";

/// Guards against a model in which nothing happens, which would prove anything.
fn not_vacuous() -> [Property<Election>; 5] {
    [
        Property::sometimes("a leader is elected", |_, world: &World| world.believers().len() == 1),
        Property::sometimes("a failover happens", |_, world: &World| {
            let frozen = |one: &Candidate| one.leads() && !one.believes();
            world.candidates.iter().any(frozen) && world.believers().len() == 1
        }),
        Property::sometimes("a handoff happens", |_, world: &World| {
            let resigned = |one: &Candidate| one.stage == Stage::Idle(Past::Resigned);
            world.candidates.iter().any(resigned) && world.believers().len() == 1
        }),
        Property::sometimes("a phantom win is refused", |_, world: &World| {
            world.candidates.iter().any(|one| one.stage == Stage::Idle(Past::RefusedPhantom))
        }),
        Property::sometimes(
            "a term ends at its deadline, and its leader had no report",
            |_, world: &World| {
                // A reported end would have ended the stage as well.
                world.candidates.iter().any(|one| one.leads() && !one.believes())
            },
        ),
    ]
}

/// Walks through every state, and prints their number.
fn prove(election: Election) {
    let start = Instant::now();
    let checker = election.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("holds in all of {} states, checked in {:.1?}", checker.unique_state_count(), start.elapsed());
    checker.assert_properties();
}

/// Finds a path to two leaders, or to another violation of a property, and prints it.
fn refute(election: Election, property: &'static str) {
    let start = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = election.checker().threads(1).finish_when(wanted).spawn_bfs().join();
    let path = checker.assert_any_discovery(property).into_actions();
    let (states, took) = (checker.unique_state_count(), start.elapsed());
    println!("found in {states} states and {took:.1?}: {path:?}");
}

#[test]
fn contract_1_one_leader_however_late_messages_are() {
    prove(Election::sound());
}

#[test]
fn contract_1_one_leader_of_three_candidates() {
    let third_party = ThirdParty::Absent;
    prove(Election { candidates: 3, attempts: 3, prompt: true, third_party, ..Election::sound() });
}

#[test]
fn contract_1_one_leader_when_candidates_stand_again() {
    prove(Election { attempts: 3, prompt: true, ..Election::sound() });
}

#[test]
fn contract_1_one_leader_when_candidates_keep_their_place_beyond_their_proof() {
    prove(Election { keeps: true, breaks: true, prompt: true, ..Election::sound() });
}

#[test]
fn contract_1_one_leader_though_watches_break() {
    prove(Election { breaks: true, prompt: true, ..Election::sound() });
}

#[test]
fn contract_4_a_deposed_leader_leads_on_only_until_the_report_arrives() {
    let third_party = ThirdParty::Anyone;
    prove(Election { third_party, breaks: true, prompt: true, ..Election::sound() });
}

#[test]
fn the_model_shows_elections_failovers_handoffs_and_phantoms() {
    prove(Election { remembers: true, prompt: true, ..Election::sound() });
}

#[test]
fn contract_1_two_leaders_without_verification() {
    refute(Election { attempts: 3, ..Election::without(Mutant::NoVerification) }, ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_only_the_one_right_before_counts() {
    refute(Election { attempts: 3, ..Election::without(Mutant::OnlyTheOneBefore) }, ONE_LEADER);
}

#[test]
fn contract_2_two_leaders_if_a_kept_lease_is_not_renewed_first() {
    refute(Election { keeps: true, ..Election::without(Mutant::TrustsTheKeptLease) }, ONE_LEADER);
}

#[test]
fn contract_2_two_leaders_without_the_own_deadline() {
    refute(Election::without(Mutant::NoDeadline), ONE_LEADER);
}

#[test]
fn contract_2_two_leaders_if_validity_counts_from_the_answer() {
    refute(Election::without(Mutant::CountsFromTheAnswer), ONE_LEADER);
}

#[test]
fn contract_2_two_leaders_without_a_margin_where_clocks_drift() {
    refute(Election { margin: 0, prompt: true, ..Election::sound() }, ONE_LEADER);
}

#[test]
fn contract_2_two_leaders_if_belief_outlasts_the_ttl() {
    refute(Election { margin: -1, prompt: true, ..Election::sound() }, ONE_LEADER);
}

#[test]
fn contract_1_a_dead_key_wins_if_a_position_is_kept_when_the_watch_breaks() {
    refute(Election { breaks: true, ..Election::without(Mutant::KeepsThePosition) }, FIRST_ONCE);
}

#[test]
fn contract_4_two_leaders_without_end_if_a_position_is_kept_when_the_watch_breaks() {
    let third_party = ThirdParty::Anyone;
    let careless = Election { third_party, breaks: true, ..Election::without(Mutant::KeepsThePosition) };
    refute(careless, DEPOSED_ONLY);
}
