//! The election protocol under a model checker: every order of events, and every delay.
//!
//! The decisions are the production code itself: [`Campaign`] says when a win is one,
//! [`Validity`] until when it may be believed. Around them stands a model of everything that
//! can happen to a candidate, and the checker walks through all of it:
//!
//! * **etcd** keeps keys in the order of their creation, each on a lease. A lease may end as
//!   soon as its TTL, less what a fast clock takes off, has passed since etcd last handled a
//!   renewal of it; or any time later; or never. A read is answered from the state of one
//!   moment. `Campaign` returns once no older key is left, *whether or not* the own key is
//!   still there: that is how etcd announces phantom wins.
//! * **The network** delivers whatever is under way after any delay, or never: a renewal (to
//!   etcd and back), a look (to etcd and back), `Campaign`'s request and its return, watch
//!   events, the revocation of a lease that was given up. A renewal whose answer does not come
//!   is given up for a new one. A watch may lose events to compaction.
//! * **Candidates** give an attempt up at any time (a connection failed, patience ran out, etcd
//!   said that the lease is gone), resign at any time, and stand again with a new lease.
//!   Freezing and crashing need no step of their own: a candidate that takes no step while time
//!   goes on *is* frozen, and one that takes none ever again has crashed. Whatever arrived
//!   meanwhile may be handled in any order after the thaw.
//! * **A third party** deletes keys and revokes leases; see [`ThirdParty`] for whose.
//!
//! A candidate leads from [`Next::Win`] on, and for as long as its validity holds. Frozen or
//! not, it is never asked what it thinks: the properties look at the validity itself, at every
//! instant.
//!
//! Time is in ticks. No clock is in the state, only ages (of a lease, of an unanswered renewal)
//! and what is left of a validity. So there is no horizon: what holds here holds for ever,
//! for as many renewals as anybody cares to send. What is bounded is the number of candidates
//! and of attempts.
//!
//! Left out: members of etcd that lie or lag ([`progress`](super::progress) has tests of its
//! own); keys that are put by hand, or moved to another lease; leaving when no watch can be had
//! (leaving is always possible here); how many seconds a margin is ([`timing`](crate::timing));
//! whether anybody is elected in the end (the `sometimes` properties show that it can happen,
//! not that it must).

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    campaign::{Campaign, Next, OwnKey, Queue, Seen, Why},
    layout::{LeaseId, Revision},
};
use crate::{
    clock::Timestamp,
    validity::{Bound, Validity},
};

/// Every state is seen from its own present, which is always this moment.
const NOW: Timestamp = Timestamp::from_nanos(1_000);

/// The TTL of every lease, in ticks of a right clock.
const TTL: i8 = 3;

/// By how much a fast clock of etcd's shortens a TTL.
const DRIFT: i8 = 1;

/// What is modelled.
#[derive(Debug, Clone)]
struct Election {
    candidates: usize,
    /// How often they stand, all together.
    attempts: i64,
    third_party: ThirdParty,
    /// Whether a watch may lose the deletion of the own key to compaction.
    ///
    /// Losing other events changes nothing: they make a candidate look, and so does a gap.
    gaps: bool,
    /// What is taken off the TTL on our side.
    margin: i8,
    mutant: Option<Mutant>,
    /// Whether etcd handles renewals and `Campaign`'s request the moment they are sent. Larger
    /// elections are gone through like this: a renewal handled late makes a lease that may end
    /// later, which any lease may; a request handled late comes from a candidate that was
    /// frozen, which any candidate may be. (The answers are late all the same.)
    prompt: bool,
    /// Whether a candidate's state says how its last attempt ended, and what is seen of that.
    ///
    /// A proof does without, for the sake of fewer states.
    remembers: bool,
}

/// Whose keys and leases a third party deletes and revokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThirdParty {
    /// There is none.
    Absent,
    /// Those of candidates that wait: to none of them has etcd said yet that it is first.
    ///
    /// A candidate to which etcd has said so is a leader that does not know it yet. Deposing
    /// it is the same as deposing one that knows: news of the one may be overtaken by news of
    /// the other.
    Waiting,
    /// Anyone's.
    Anyone,
}

/// A safeguard that is taken out, to show that the checker misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// `Campaign`'s return alone is a win.
    NoVerifyingRead,
    /// Leadership is believed until somebody says that it is over.
    NoDeadline,
    /// Validity counts from the answer, not from the send.
    CountsFromTheAnswer,
    /// Once the candidate before us is gone we lead (microsoft/etcd3#176).
    NoLookAfterOneWent,
    /// Where the watch lost events, only the candidate before us is taken to be gone.
    NothingMissed,
}

/// Everything, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    etcd: Etcd,
    candidates: Vec<Candidate>,
    /// Attempts made so far.
    attempts: i64,
    /// The largest token that was led with so far.
    newest: Revision,
    /// A term began with a smaller token, and nobody had deposed its leader.
    went_back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Etcd {
    /// Counts keys made. Deletions don't count here: nothing is compared with them.
    revision: Revision,
    leases: Vec<Lease>,
    /// In the order of creation.
    queue: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lease {
    id: LeaseId,
    /// Ticks since the grant, or since the last renewal was handled.
    age: i8,
    /// Its candidate wants it revoked, and will not come back to it.
    given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    created: Revision,
    lease: LeaseId,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Candidate {
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    Idle(Past),
    Standing(Attempt),
    Leading(Term),
}

/// How the last attempt ended, as far as a property asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Past {
    /// There was none.
    None,
    Other,
    RefusedPhantom,
    Resigned,
}

/// What an attempt and a term hold on to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hold {
    lease: LeaseId,
    validity: Validity,
    renewal: Option<Renewal>,
    look: Option<Look>,
    /// The deletion of our own key was among events that the watch lost.
    blind: bool,
    /// The lease outlived its key. It serves nobody but this candidate, which the model lets
    /// renew it for ever, as a worst case.
    kept: bool,
    /// A third party took the key away from who had been found first. Known to the
    /// properties only.
    deposed: bool,
}

/// A renewal under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Renewal {
    /// Ticks since it was sent.
    age: i8,
    /// etcd has renewed the lease; the answer is on its way.
    answered: bool,
}

/// A look under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Look {
    Asked,
    Answered { own: bool, ahead: Option<Revision> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    hold: Hold,
    campaign: Campaign,
    /// Our key's `create_revision`, once etcd has made it.
    created: Option<Revision>,
    /// The watch has told of the put, or lost it.
    put_told: bool,
    returned: bool,
    /// The key before us, which is watched too.
    ahead: Option<Revision>,
    /// etcd has found us first in answer to a look. Known to the third party only.
    proved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Term {
    hold: Hold,
    token: Revision,
}

/// One thing that happens. The number says to which candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Time goes on.
    Tick,
    /// Stands, with a lease that was granted at once: see [`Election::stand`].
    Stand(usize),
    EtcdPutsKey(usize),
    SeeOwnPut(usize),
    SeeOwnKeyGone(usize),
    SeeAheadGone(usize),
    LoseEvents(usize),
    CampaignReturns(usize),
    EtcdAnswersLook(usize),
    HearOfLook(usize),
    SendRenewal(usize),
    EtcdRenews(usize),
    HearOfRenewal(usize),
    /// Gives the attempt up, or resigns.
    Leave(usize),
    /// The lease expired, or was given up and is revoked.
    EtcdEndsLease(LeaseId),
    OtherDeletesKey(LeaseId),
    OtherRevokes(LeaseId),
}

impl Election {
    /// Two attempts of two candidates, as they should be.
    fn sound() -> Self {
        Self {
            candidates: 2,
            attempts: 2,
            third_party: ThirdParty::Waiting,
            gaps: false,
            margin: DRIFT,
            mutant: None,
            prompt: false,
            remembers: false,
        }
    }

    /// The same without one of its safeguards, and with fewer delays: the fault shows anyway.
    fn without(safeguard: Mutant) -> Self {
        Self { mutant: Some(safeguard), prompt: true, ..Self::sound() }
    }

    /// For how many ticks after a send its acknowledgement may be believed.
    fn belief(&self) -> i8 {
        TTL - self.margin
    }

    /// [`Ttl::believed_until`](crate::timing::Ttl::believed_until), in ticks.
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

    /// Whether an acknowledgement of what was sent so long ago proves nothing any more, so
    /// that it need not be followed further.
    fn outdated(&self, age: i8) -> bool {
        age >= self.belief()
    }

    /// What may happen to one candidate, or by it.
    fn steps(&self, world: &World, who: usize, actions: &mut Vec<Action>) {
        let candidate = &world.candidates[who];
        match &candidate.stage {
            Stage::Idle(_) => {
                // All are alike: call the one that stands first the first one.
                let in_turn = who == 0 || world.candidates[who - 1].stage != Stage::Idle(Past::None);
                if in_turn && world.attempts < self.attempts {
                    actions.push(Action::Stand(who));
                }
                return;
            }
            Stage::Standing(attempt) => self.steps_of_attempt(world, who, attempt, actions),
            Stage::Leading(term) => {
                let gone = !world.etcd.has_key(&term.hold);
                if gone && !term.hold.blind {
                    actions.push(Action::SeeOwnKeyGone(who));
                    if self.gaps {
                        actions.push(Action::LoseEvents(who));
                    }
                }
            }
        }
        actions.push(Action::Leave(who));
        let hold = candidate.hold().expect("an attempt and a term hold a lease");
        self.steps_of_renewal(world, who, hold, actions);
        match hold.look {
            Some(Look::Asked) => actions.push(Action::EtcdAnswersLook(who)),
            Some(Look::Answered { .. }) => actions.push(Action::HearOfLook(who)),
            None => {}
        }
    }

    /// A renewal that is lost, or comes too late, is as good as one that is not sent.
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

    fn steps_of_attempt(&self, world: &World, who: usize, attempt: &Attempt, actions: &mut Vec<Action>) {
        let Some(created) = attempt.created else {
            if world.etcd.lease(attempt.hold.lease).is_some() {
                actions.push(Action::EtcdPutsKey(who));
            }
            return;
        };
        let own_gone = !world.etcd.has_key(&attempt.hold) && !attempt.hold.blind;
        let ahead_gone = attempt.ahead.is_some_and(|ahead| !world.etcd.has(ahead));
        if !attempt.put_told {
            actions.push(Action::SeeOwnPut(who));
        } else if own_gone {
            actions.push(Action::SeeOwnKeyGone(who));
        }
        if ahead_gone {
            actions.push(Action::SeeAheadGone(who));
        }
        if self.gaps && own_gone {
            actions.push(Action::LoseEvents(who));
        }
        // Once true this stays true: no key is ever made with a smaller revision.
        if !attempt.returned && world.etcd.right_before(created).is_none() {
            actions.push(Action::CampaignReturns(who));
        }
    }

    /// What a third party may do.
    fn meddling(&self, world: &World, actions: &mut Vec<Action>) {
        for candidate in &world.candidates {
            let Some(hold) = candidate.hold() else { continue };
            let waits = matches!(&candidate.stage, Stage::Standing(attempt) if !attempt.proved);
            let exposed = match self.third_party {
                ThirdParty::Absent => false,
                ThirdParty::Waiting => waits,
                ThirdParty::Anyone => true,
            };
            if !exposed {
                continue;
            }
            // Before there is a key there is nothing to be won.
            if world.etcd.has_key(hold) {
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
            Action::Stand(who) => self.stand(world, who),
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
            Action::EtcdAnswersLook(who) => answer_look(etcd, &mut candidates[who]),
            Action::Leave(who) => self.leave(world, who),
            Action::HearOfLook(who) if candidates[who].leads() => self.looked_again(world, who),
            Action::SeeOwnKeyGone(who) if candidates[who].leads() => self.leave(world, who),
            Action::LoseEvents(who) if candidates[who].leads() => {
                let hold = candidates[who].holding();
                (hold.blind, hold.look) = (true, Some(Look::Asked));
            }
            Action::EtcdPutsKey(who) => {
                let Stage::Standing(attempt) = &mut candidates[who].stage else { unreachable!() };
                attempt.created = Some(etcd.put(attempt.hold.lease));
            }
            Action::SeeOwnPut(who)
            | Action::SeeOwnKeyGone(who)
            | Action::SeeAheadGone(who)
            | Action::LoseEvents(who)
            | Action::CampaignReturns(who)
            | Action::HearOfLook(who) => self.campaign_sees(world, who, action),
        }
    }

    /// An attempt starts: `Attempt::start`.
    ///
    /// A grant may be late as a renewal may, and renewals are modelled. Handled late, it makes
    /// a lease that may end later, which any lease may; heard of late, it is heard of by a
    /// candidate that was frozen, which any candidate may be.
    fn stand(&self, world: &mut World, who: usize) {
        world.attempts += 1;
        let lease = LeaseId(world.attempts);
        world.etcd.leases.push(Lease { id: lease, age: 0, given_up: false });
        let validity = Validity::new(self.believed_until(0));
        let hold =
            Hold { lease, validity, renewal: None, look: None, blind: false, kept: false, deposed: false };
        world.candidates[who].stage = Stage::Standing(Attempt {
            hold,
            campaign: Campaign::new(lease),
            created: self.prompt.then(|| world.etcd.put(lease)),
            put_told: false,
            returned: false,
            ahead: None,
            proved: false,
        });
    }

    /// An answer to a renewal: `Keeper::renew_over_a_stream`.
    fn renewed(&self, world: &mut World, who: usize) {
        let hold = world.candidates[who].holding();
        let renewal = hold.renewal.take().expect("a renewal is under way");
        let until = self.believed_until(renewal.age);
        if hold.validity.extend(Bound::FIRST, until, NOW).is_err() {
            self.leave(world, who);
        }
    }

    /// The answer to a look that a leader took after a gap: `Seat::until_lost`.
    fn looked_again(&self, world: &mut World, who: usize) {
        let look = world.candidates[who].holding().look.take();
        if matches!(look, Some(Look::Answered { own: false, .. })) {
            self.leave(world, who);
        }
    }

    /// What an attempt sees: `Attempt::contend`.
    fn campaign_sees(&self, world: &mut World, who: usize, action: Action) {
        let Stage::Standing(attempt) = &mut world.candidates[who].stage else { unreachable!() };
        let created = attempt.created.expect("all of this happens to a key");
        let seen = attempt.seen(action, &world.etcd);
        let skips_the_look = match self.mutant {
            Some(Mutant::NoVerifyingRead) => matches!(seen, Seen::Returned { .. }),
            Some(Mutant::NoLookAfterOneWent) => matches!(seen, Seen::AheadGone),
            _ => false,
        };
        let seen = match seen {
            Seen::Missed if self.mutant == Some(Mutant::NothingMissed) => Seen::AheadGone,
            seen => seen,
        };
        let next = if skips_the_look { Next::Win { created } } else { attempt.campaign.see(seen) };
        match next {
            Next::Wait | Next::ExpectReturn => {}
            Next::Look { created: ours } => {
                assert_eq!(ours, created);
                assert_eq!(attempt.hold.look.replace(Look::Asked), None, "one look at a time");
            }
            Next::WatchAhead { key, .. } => attempt.ahead = Some(revision_of(&key)),
            Next::Win { created: ours } => {
                assert_eq!(ours, created);
                self.win(world, who, created);
            }
            Next::Abandon(why) => {
                let phantom = attempt.returned && matches!(why, Why::KeyGone | Why::Phantom);
                self.give_up(world, who, if phantom { Past::RefusedPhantom } else { Past::Other });
            }
        }
    }

    /// A verified win: `Attempt::win`.
    fn win(&self, world: &mut World, who: usize, token: Revision) {
        let hold = world.candidates[who].holding();
        if !hold.validity.holds_at(NOW) {
            return self.give_up(world, who, Past::Other);
        }
        let hold = hold.clone();
        world.went_back |= token <= world.newest && !hold.deposed;
        world.newest = world.newest.max(token);
        world.candidates[who].stage = Stage::Leading(Term { hold, token });
    }

    /// An attempt is given up, or a term is over: belief ends first.
    fn leave(&self, world: &mut World, who: usize) {
        let resigns = world.candidates[who].believes().is_some();
        self.give_up(world, who, if resigns { Past::Resigned } else { Past::Other });
    }

    /// Back to the start, and the lease to be revoked, if that ever gets through.
    fn give_up(&self, world: &mut World, who: usize, past: Past) {
        let candidate = &mut world.candidates[who];
        world.etcd.give_up(candidate.holding().lease);
        candidate.stage = Stage::Idle(if self.remembers { past } else { Past::Other });
    }
}

impl Attempt {
    /// `Attempt::interpret`, and what the driver keeps in mind besides.
    fn seen(&mut self, action: Action, etcd: &Etcd) -> Seen {
        let created = self.created.expect("all of this happens to a key");
        match action {
            Action::SeeOwnPut(_) => {
                self.put_told = true;
                Seen::Queued { created }
            }
            Action::SeeOwnKeyGone(_) => Seen::OwnKeyGone,
            Action::SeeAheadGone(_) => {
                self.ahead = None;
                Seen::AheadGone
            }
            Action::LoseEvents(_) => {
                self.put_told = true;
                self.hold.blind = !etcd.has_key(&self.hold);
                self.ahead = self.ahead.filter(|ahead| etcd.has(*ahead));
                Seen::Missed
            }
            Action::CampaignReturns(_) => {
                self.returned = true;
                Seen::Returned { created }
            }
            Action::HearOfLook(_) => {
                let Some(Look::Answered { own, ahead }) = self.hold.look.take() else { unreachable!() };
                let own = own.then_some(OwnKey { created, lease: self.hold.lease });
                Seen::Looked(Queue { revision: etcd.revision, own, ahead: ahead.map(key_of) })
            }
            other => unreachable!("{other:?} is nothing that a campaign sees"),
        }
    }
}

impl World {
    fn new(election: &Election) -> Self {
        let candidate = Candidate { stage: Stage::Idle(Past::None) };
        Self {
            etcd: Etcd { revision: Revision(0), leases: Vec::new(), queue: Vec::new() },
            candidates: vec![candidate; election.candidates],
            attempts: 0,
            newest: Revision(0),
            went_back: false,
        }
    }

    /// A third party takes the key away. It matters to who has been found first.
    fn depose(&mut self, lease: LeaseId) {
        for candidate in &mut self.candidates {
            let elected = match &candidate.stage {
                Stage::Standing(attempt) => attempt.proved,
                stage => matches!(stage, Stage::Leading(_)),
            };
            if let Some(hold) = candidate.hold_mut().filter(|hold| hold.lease == lease) {
                hold.deposed = elected;
            }
        }
    }

    /// The key is gone, and the lease goes on.
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

    /// Who believes now to lead, in the order of their tokens.
    fn believers(&self) -> Vec<&Term> {
        let mut terms: Vec<_> = self.candidates.iter().filter_map(Candidate::believes).collect();
        terms.sort_by_key(|term| term.token);
        terms
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
        self.hold_mut().expect("this happens only to who holds a lease")
    }

    fn leads(&self) -> bool {
        matches!(self.stage, Stage::Leading(_))
    }

    fn believes(&self) -> Option<&Term> {
        match &self.stage {
            Stage::Leading(term) => term.hold.validity.clone().holds_at(NOW).then_some(term),
            _ => None,
        }
    }
}

impl Etcd {
    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id == id)
    }

    fn key(&self, lease: LeaseId) -> Option<Key> {
        self.queue.iter().copied().find(|key| key.lease == lease)
    }

    fn has_key(&self, hold: &Hold) -> bool {
        self.key(hold.lease).is_some()
    }

    fn has(&self, created: Revision) -> bool {
        self.queue.iter().any(|key| key.created == created)
    }

    fn right_before(&self, created: Revision) -> Option<Revision> {
        self.queue.iter().map(|key| key.created).filter(|other| *other < created).max()
    }

    fn put(&mut self, lease: LeaseId) -> Revision {
        self.revision = self.revision.next();
        self.queue.push(Key { created: self.revision, lease });
        self.revision
    }

    fn renew(&mut self, id: LeaseId) {
        let lease = self.leases.iter_mut().find(|lease| lease.id == id);
        lease.expect("only a lease that is there is renewed").age = 0;
    }

    /// A lease without a key is as good as gone: nobody will come back to it.
    fn give_up(&mut self, id: LeaseId) {
        let has_key = self.key(id).is_some();
        self.leases.retain(|lease| lease.id != id || has_key);
        for lease in self.leases.iter_mut().filter(|lease| lease.id == id) {
            (lease.given_up, lease.age) = (true, 0);
        }
    }

    fn delete(&mut self, lease: LeaseId) {
        self.queue.retain(|key| key.lease != lease);
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.retain(|known| known.id != lease);
        self.delete(lease);
    }
}

/// etcd reads the candidate's own key, and the one right before it, at one moment.
fn answer_look(etcd: &Etcd, candidate: &mut Candidate) {
    let created = match &candidate.stage {
        Stage::Standing(attempt) => attempt.created.expect("only a key is looked for"),
        Stage::Leading(term) => term.token,
        Stage::Idle(_) => unreachable!(),
    };
    let (own, ahead) = (etcd.has(created), etcd.right_before(created));
    if let Stage::Standing(attempt) = &mut candidate.stage {
        attempt.proved |= own && ahead.is_none();
    }
    candidate.holding().look = Some(Look::Answered { own, ahead });
}

fn key_of(created: Revision) -> Vec<u8> {
    created.0.to_be_bytes().into()
}

fn revision_of(key: &[u8]) -> Revision {
    Revision(i64::from_be_bytes(key.try_into().expect("made by `key_of`")))
}

/// A tick is the clock's smallest step.
fn ticks(count: i8) -> Duration {
    Duration::from_nanos(count.unsigned_abs().into())
}

/// The same validity, seen from a present that is one tick further on.
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
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.happen(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(DEPOSED_ONLY, |_, world| overlaps_are_of_deposed_leaders(world)),
            Property::always(TOKENS_GROW, |_, world: &World| !world.went_back),
        ];
        if self.third_party != ThirdParty::Anyone {
            properties.push(Property::always(ONE_LEADER, |_, world: &World| world.believers().len() <= 1));
        }
        if self.third_party == ThirdParty::Anyone {
            let overlap = |_: &Self, world: &World| world.believers().len() == 2;
            properties.push(Property::sometimes("a deposed leader has not heard of it yet", overlap));
        }
        if self.remembers {
            properties.extend(not_vacuous());
        }
        properties
    }
}

/// No two leaderships are valid at one instant.
const ONE_LEADER: &str = "one leader at a time";

/// Where a third party deposes leaders, two leaderships are valid at one instant only if
///
/// * the older one was deposed by that third party (its key was deleted, at once or with its
///   lease), and
/// * news of that is on its way to it: the deletion's event, or the answer to the look that
///   is taken where the watch lost events, and
/// * it is before its deadline (else it would not be valid), and
/// * the newer one has the larger token.
///
/// No lock service can do better: the deletion happens elsewhere, and light takes its time.
/// This is what tokens are for.
const DEPOSED_ONLY: &str = "an older leadership is valid only until news of its deposition arrives";

fn overlaps_are_of_deposed_leaders(world: &World) -> bool {
    let believers = world.believers();
    let older = believers.split_last().map_or(&[][..], |(_newest, older)| older);
    older.iter().all(|Term { hold, token }| {
        let news_on_its_way = !hold.blind || hold.look.is_some();
        hold.deposed && news_on_its_way && !world.etcd.has(*token)
    })
}

/// A term's token is larger than those of all terms that began before it, unless its leader was
/// deposed before it knew that it led.
const TOKENS_GROW: &str = "tokens grow with every term";

/// The model would prove anything if nothing happened in it.
fn not_vacuous() -> [Property<Election>; 5] {
    [
        Property::sometimes("a leader is elected", |_, world: &World| world.believers().len() == 1),
        Property::sometimes("a failover happens", |_, world: &World| {
            let frozen = |one: &Candidate| one.leads() && one.believes().is_none();
            world.candidates.iter().any(frozen) && world.believers().len() == 1
        }),
        Property::sometimes("a handoff happens", |_, world: &World| {
            let resigned = |one: &Candidate| one.stage == Stage::Idle(Past::Resigned);
            world.candidates.iter().any(resigned) && world.believers().len() == 1
        }),
        Property::sometimes("a phantom win is refused", |_, world: &World| {
            world.candidates.iter().any(|one| one.stage == Stage::Idle(Past::RefusedPhantom))
        }),
        Property::sometimes("a term ends at its deadline, and nobody told its leader", |_, world: &World| {
            // Anything told would have ended the stage as well.
            world.candidates.iter().any(|one| one.leads() && one.believes().is_none())
        }),
    ]
}

/// Walks through every state, and says how many there are.
fn prove(election: Election) {
    let start = Instant::now();
    let checker = election.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("holds in all of {} states, checked in {:.1?}", checker.unique_state_count(), start.elapsed());
    checker.assert_properties();
}

/// Finds a way to two leaders, against a property, and prints it.
fn refute(election: Election, property: &'static str) {
    let start = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = election.checker().threads(1).finish_when(wanted).spawn_bfs().join();
    let path = checker.assert_any_discovery(property).into_actions();
    let (states, took) = (checker.unique_state_count(), start.elapsed());
    println!("two leaders, found in {states} states and {took:.1?}: {path:?}");
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
fn contract_4_a_deposed_leader_leads_on_only_until_it_hears() {
    let third_party = ThirdParty::Anyone;
    prove(Election { third_party, gaps: true, prompt: true, ..Election::sound() });
}

#[test]
fn the_model_shows_elections_failovers_handoffs_and_phantoms() {
    prove(Election { remembers: true, prompt: true, ..Election::sound() });
}

#[test]
fn contract_1_two_leaders_without_the_verifying_read() {
    refute(Election::without(Mutant::NoVerifyingRead), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_without_a_look_after_one_predecessor_went() {
    refute(Election { attempts: 3, ..Election::without(Mutant::NoLookAfterOneWent) }, ONE_LEADER);
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
fn contract_4_two_leaders_if_a_gap_in_the_watch_is_made_light_of() {
    let third_party = ThirdParty::Anyone;
    let careless = Election { third_party, gaps: true, ..Election::without(Mutant::NothingMissed) };
    refute(careless, DEPOSED_ONLY);
}
