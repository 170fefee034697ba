//! The same core under a model checker: three servers, every order of events, to the end of a horizon.
//!
//! The simulation takes many long walks at random; this takes every short one. The servers are the production code,
//! so only their surroundings are modelled:
//!
//! * **Time** is in ticks, and the same for all: heartbeats each tick, elections after three. It may move on at any
//!   moment, so every message and every timer may be arbitrarily late; a server that takes no step is frozen, and
//!   one that never takes another is dead.
//! * **The network** has one slot for each ordered pair. A message may be delivered at any time or never, and a
//!   newer one replaces it: then it is lost, or was overtaken for good.
//! * **A disk** is as fast as its server (the simulation has slow ones). A restart forgets everything else.
//! * **A leader** may be told to resign, to hand over to a named server, or to cordon one. The holder of a lost term lets go at any time, or never.
//!
//! In some walks a server that takes no part in elections has the newest log, and no leader was heard for long: it
//! is a caretaker.
//!
//! Bounded are ticks, terms, restarts and resignations. Within these bounds the walk is complete.
//! Draws are all zero, so timeouts are the shortest there are; a longer one is a timer that is late.

mod members;
mod replace;

use std::{
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::{Duration, SystemTime},
};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    action::{
        Actions, Effect, Input, LeadershipChange, NewEntry, Nomination, Now, Proposal, ProposalId, Stored,
    },
    core::CoreConfig,
    identity::{Index, Members, NodeId, Position, Term},
    log::{Entry, Payload, TimeOfDay},
    membership::{DirectoryId, FirstDirectories, VotingRights},
    message::{Envelope, IgnoredCounts, Limits, Message},
    mutant::Mutant,
    node::Node,
    orders::ControlOrder,
    timing::{Random, Timing},
    transfer::TransferRequest,
};
use crate::{
    choosing::{Cordon, OrderedBy, TransferReason},
    clock::Timestamp,
    leadership::{ClusterId, Loss},
};

const SERVERS: usize = 3;

const TICK: Duration = Duration::from_millis(10);

/// The start of the walk: late enough for a mutant's "long ago" to be before.
const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// The time from which a server that has heard no leader since its start may be a caretaker: after two of the
/// longest timeouts.
const CARETAKERS_WAIT: u8 = 8;

/// The entry that only a caretaker's log has.
const NEWEST: Position = Position { term: Term::new(1), index: Index::new(1) };

/// The bounds of a walk.
#[derive(Debug, Clone)]
struct Group {
    /// The last tick.
    horizon: u8,
    /// The last term that is followed.
    terms: u64,
    restarts: u8,
    resignations: u8,
    /// The number of orders to hand over to a named server.
    transfers: u8,
    /// The number of cordons.
    cordons: u8,
    /// The number of servers that take part in elections; all vote.
    standing: usize,
    /// True if the last server, which takes no part, has the newest log, and may be a caretaker at once.
    caretaker: bool,
    /// True if the horizon lets a second leader follow on a first.
    follow_up: bool,
    mutant: Option<Mutant>,
}

/// The state of everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    tick: u8,
    servers: Vec<Server>,
    /// The message from each to each, if one is under way.
    links: Vec<Option<Envelope>>,
    restarts: u8,
    resignations: u8,
    transfers: u8,
    cordons: u8,
    /// The leader of each term.
    leaders: Vec<Option<NodeId>>,
    /// The longest log of committed entries that any server ever had, and the terms they were
    /// committed in.
    committed: Vec<(Position, Term)>,
    broken: Option<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    node: Node,
    disk: Stored,
    /// Its claim: the token, and the time until which it is valid, or its holder may act on it although it is lost.
    claim: Option<(u64, Timestamp)>,
    lost: bool,
}

/// A violation seen in a step; violations in a state are seen in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Broken {
    TwoLeadersOfATerm,
    LeaderLacksCommitted,
    TwoHistories,
    TokenWentBack,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Deliver(usize),
    Timer(usize),
    Tick,
    Restart(usize),
    LetGo(usize),
    Resign(usize),
    Transfer(usize, usize),
    Cordon(usize, usize),
}

impl Group {
    fn timing() -> Timing {
        Timing::new(TICK, TICK * 3, TICK * 4).unwrap()
    }

    fn config(&self, place: usize) -> CoreConfig {
        let members = Members::of(SERVERS).unwrap();
        let (me, cluster, mutant) = (NodeId::new(place as u8), ClusterId(1), self.mutant);
        CoreConfig {
            me,
            members,
            cluster,
            timing: Self::timing(),
            limits: Limits::DEFAULT,
            voting_rights: VotingRights::Full,
            directory: DirectoryId::in_tests(me),
            moves: crate::raft::preference::MoveDelays::DEFAULT,
            founders: FirstDirectories::all_of(members),
            mutant,
        }
    }

    /// The first tick: all servers started at 0.
    fn begins(&self) -> u8 {
        if self.caretaker { CARETAKERS_WAIT } else { 0 }
    }

    /// The first contents of that disk.
    fn disk(&self, place: usize) -> Stored {
        let mut disk = Stored::nothing();
        if self.caretaker {
            disk.ballot.term = Term::new(1);
        }
        if self.caretaker && place == SERVERS - 1 {
            disk.entries = vec![Entry { at: NEWEST, payload: Payload::Record(Arc::from([])) }];
        }
        disk
    }

    fn start(&self, place: usize, disk: &Stored, tick: u8) -> Node {
        let now = at_tick(tick);
        let node = Node::start(self.config(place), disk.clone(), &now).unwrap();
        if place >= self.standing {
            return node;
        }
        node.step(now, Input::Stand(Nomination::of([]))).0
    }

    /// One step of one server, its disk and its messages.
    fn step(&self, world: &mut World, place: usize, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let before = world.servers[place].node.clone();
            let (after, actions) = before.clone().step(at_tick(world.tick), input);
            world.servers[place].node = after;
            world.look(place, &before);
            let Actions { effects, write } = actions;
            effects.into_iter().for_each(|effect| world.carry_out(place, effect));
            if let Some(write) = write {
                world.servers[place].disk.apply(&write);
                inputs.push(Input::Persisted(write.persisted()));
            }
        }
        // The number of its writes makes no difference to its actions.
        world.servers[place].node.forget_writes();
    }
}

fn at_tick(tick: u8) -> Now {
    Now { boot_time: START + TICK * u32::from(tick), today: TimeOfDay(0), draw: Random(0) }
}

impl Server {
    /// The token is kept: later ones are larger.
    fn let_go(&mut self) {
        self.claim = self.claim.map(|(token, _)| (token, START));
        self.lost = false;
    }
}

impl World {
    fn now(&self) -> Timestamp {
        at_tick(self.tick).boot_time
    }

    fn believers(&self) -> usize {
        let believes = |server: &&Server| server.claim.is_some_and(|(_, until)| self.now() < until);
        self.servers.iter().filter(believes).count()
    }

    /// Returns true if a candidate leads, and has the entry that only the caretaker had.
    fn newest_leads(&self) -> bool {
        let believes = |server: &Server| server.claim.is_some_and(|(_, until)| self.now() < until);
        let has_all = |server: &Server| server.node.log().term_at(NEWEST.index) == Some(NEWEST.term);
        self.servers.iter().take(SERVERS - 1).any(|server| believes(server) && has_all(server))
    }

    fn carry_out(&mut self, place: usize, effect: Effect) {
        match effect {
            Effect::Send(envelope) => {
                let link = place * SERVERS + envelope.to.place();
                self.links[link] = Some(envelope);
            }
            Effect::Leadership(LeadershipChange::Gained { token, until }) => {
                let largest =
                    self.servers.iter().filter_map(|server| server.claim).map(|(token, _)| token).max();
                if largest.is_some_and(|largest| token.get() <= largest) {
                    self.broken = Some(Broken::TokenWentBack);
                }
                self.servers[place].claim = Some((token.get(), until));
            }
            Effect::Leadership(LeadershipChange::Extended { token, until }) => {
                self.servers[place].claim = Some((token.get(), until));
            }
            Effect::Leadership(LeadershipChange::Lost {
                loss: Loss::Superseded | Loss::Transferred, ..
            }) => self.servers[place].lost = true,
            Effect::Leadership(LeadershipChange::Lost { .. }) => self.servers[place].let_go(),
            _ => {}
        }
    }

    fn look(&mut self, place: usize, before: &Node) {
        let node = &self.servers[place].node;
        let term = node.term();
        let elected =
            matches!(node, Node::Leader(_)) && !(matches!(before, Node::Leader(_)) && before.term() == term);
        if *node.refusals() != IgnoredCounts::default() {
            self.broken = Some(Broken::Refused);
        }
        if elected {
            let lacks = |(at, in_term): &&(Position, Term)| {
                *in_term < term && node.log().term_at(at.index) != Some(at.term)
            };
            if self.committed.iter().any(|entry| lacks(&entry)) {
                self.broken = Some(Broken::LeaderLacksCommitted);
            }
            let slot = &mut self.leaders[term.get() as usize];
            if slot.is_some_and(|first| first.place() != place) {
                self.broken = Some(Broken::TwoLeadersOfATerm);
            }
            *slot = Some(NodeId::new(place as u8));
        }
        for entry in node.log().entries().iter().take(node.committed().get() as usize) {
            let place = entry.at.index.previous().after(Index::ZERO);
            match self.committed.get(place) {
                Some((at, _)) if *at == entry.at => {}
                Some(_) => self.broken = Some(Broken::TwoHistories),
                None => self.committed.push((entry.at, term)),
            }
        }
    }

    /// Removes messages that every server ignores, so that worlds which differ only in them are one.
    fn forget_the_dead(&mut self) {
        let now = self.now();
        for link in &mut self.links {
            let Some(envelope) = link else { continue };
            let node = &self.servers[envelope.to.place()].node;
            let (term, ours) = (envelope.term, node.term());
            let dead = match envelope.message {
                Message::VoteGranted => term < ours || term == ours && !matches!(node, Node::Candidate(_)),
                Message::Appended { .. } | Message::Rejected { .. } => {
                    term < ours || term == ours && !matches!(node, Node::Leader(_))
                }
                Message::PreVoteGranted { echo } => !matches!(node, Node::PreCandidate(_)) && echo < now,
                Message::Outdated => term <= ours,
                Message::TimeoutNow { .. } => term < ours,
                _ => false,
            };
            if dead {
                *link = None;
            }
        }
    }

    /// Returns true if two logs that agree at an index agree on all before (Figure 3, Log Matching).
    fn logs_match(&self) -> bool {
        let logs = || self.servers.iter().map(|server| server.node.log().entries());
        logs().all(|one| {
            logs().all(|other| {
                let pairs = || one.iter().zip(other);
                let last = pairs().rposition(|(a, b)| a.at == b.at);
                last.is_none_or(|last| pairs().take(last).all(|(a, b)| a == b))
            })
        })
    }
}

impl Model for Group {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let server = |place| {
            let disk = self.disk(place);
            let mut node = self.start(place, &disk, 0);
            node.forget_writes();
            Server { node, disk, claim: None, lost: false }
        };
        vec![World {
            tick: self.begins(),
            servers: (0..SERVERS).map(server).collect(),
            links: vec![None; SERVERS * SERVERS],
            restarts: 0,
            resignations: 0,
            transfers: 0,
            cordons: 0,
            leaders: vec![None; self.terms as usize + 2],
            committed: Vec::new(),
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let due = |server: &Server| server.node.deadline() <= world.now();
        let under_way = world.links.iter().enumerate().filter(|(_, link)| link.is_some());
        actions.extend(under_way.map(|(link, _)| Action::Deliver(link)));
        for (place, server) in world.servers.iter().enumerate() {
            if due(server) {
                actions.push(Action::Timer(place));
            }
            if server.lost {
                actions.push(Action::LetGo(place));
            }
            if world.restarts < self.restarts && world.tick > self.begins() {
                actions.push(Action::Restart(place));
            }
            if world.resignations < self.resignations && matches!(server.node, Node::Leader(_)) {
                actions.push(Action::Resign(place));
            }
            if matches!(server.node, Node::Leader(_)) {
                for to in (0..SERVERS).filter(|to| *to != place && world.transfers < self.transfers) {
                    actions.push(Action::Transfer(place, to));
                }
                for whom in (0..SERVERS).filter(|_| world.cordons < self.cordons) {
                    actions.push(Action::Cordon(place, whom));
                }
            }
        }
        if world.tick < self.horizon {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Deliver(link) => {
                let envelope = next.links[link].take()?;
                self.step(&mut next, envelope.to.place(), Input::Receive(envelope));
            }
            Action::Timer(place) => self.step(&mut next, place, Input::Tick),
            Action::Tick => next.tick += 1,
            Action::Restart(place) => {
                next.restarts += 1;
                let node = self.start(place, &next.servers[place].disk, next.tick);
                let server = &mut next.servers[place];
                server.node = node;
                server.node.forget_writes();
                server.let_go();
            }
            Action::LetGo(place) => {
                next.servers[place].let_go();
                self.step(&mut next, place, Input::LetGo);
            }
            Action::Resign(place) => {
                next.resignations += 1;
                self.step(&mut next, place, Input::Resign);
            }
            Action::Transfer(place, to) => {
                next.transfers += 1;
                let (id, to, within) = (ProposalId(0), NodeId::new(to as u8), TICK * 4);
                let reason = TransferReason::Program;
                let request = TransferRequest { id, to, term: None, within, reason };
                self.step(&mut next, place, Input::Transfer(request));
            }
            Action::Cordon(place, whom) => {
                next.cordons += 1;
                let by = OrderedBy::new(String::new(), SystemTime::UNIX_EPOCH);
                let (member, cordon) = (NodeId::new(whom as u8), Cordon::new(false, by));
                let content = NewEntry::Control(ControlOrder::Cordon { member, cordon });
                self.step(&mut next, place, Input::Propose(vec![Proposal { id: ProposalId(0), content }]));
            }
        }
        next.forget_the_dead();
        (next != *world).then_some(next)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.servers.iter().all(|server| server.node.term().get() <= self.terms)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_VALID, |_, world: &World| world.believers() <= 1),
            Property::always(FIGURE_3, |_, world: &World| world.broken.is_none() && world.logs_match()),
            Property::sometimes("a server validly leads", |_, world: &World| world.believers() == 1),
        ];
        if self.caretaker {
            properties
                .push(Property::sometimes("the newest log leads", |_, world: &World| world.newest_leads()));
        }
        if self.follow_up {
            properties.push(Property::sometimes("another leads after it", |_, world: &World| {
                let led = world.servers.iter().filter(|server| server.claim.is_some()).count();
                led == 2 && world.believers() == 1
            }));
        }
        properties
    }
}

/// No two leaderships are valid at one instant.
const ONE_VALID: &str = "one valid leader";

/// Figure 3, all but Leader Append-Only (which is about steps: the simulation has it); tokens grow; and no message
/// is refused.
const FIGURE_3: &str = "figure 3";

impl Group {
    fn bounded() -> Self {
        Self {
            horizon: 6,
            terms: 2,
            restarts: 0,
            resignations: 0,
            transfers: 0,
            cordons: 0,
            standing: 2,
            caretaker: false,
            follow_up: true,
            mutant: None,
        }
    }

    /// Walks through every state, and prints their number.
    fn prove(self) {
        let checker = self.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("holds in all of {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

/// Finds a way to break a property of that model, and prints it.
fn refute<M>(model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(1).finish_when(wanted).spawn_bfs().join();
    let path = checker.assert_any_discovery(property).into_actions();
    println!("found in {} states: {path:?}", checker.unique_state_count());
}

#[test]
fn one_leader_in_every_order_of_events() {
    Group::bounded().prove();
}

#[test]
fn one_leader_with_three_candidates() {
    Group { standing: 3, horizon: 4, follow_up: false, ..Group::bounded() }.prove();
}

#[test]
fn one_leader_when_a_server_restarts() {
    Group { restarts: 1, horizon: 4, follow_up: false, ..Group::bounded() }.prove();
}

#[test]
fn one_leader_when_a_leader_hands_over_to_a_named_server() {
    Group { transfers: 1, horizon: 4, follow_up: true, ..Group::bounded() }.prove();
}

#[test]
fn one_leader_when_a_leader_cordons() {
    Group { cordons: 1, horizon: 4, follow_up: false, ..Group::bounded() }.prove();
}

#[test]
fn a_token_is_used_twice_if_leadership_is_taken_back_from_a_named_server() {
    let mutant = Some(Mutant::TakesLeadershipBack);
    refute(Group { mutant, transfers: 1, ..Group::bounded() }, FIGURE_3);
}

#[test]
fn one_leader_when_a_leader_resigns() {
    Group { resignations: 1, horizon: 5, ..Group::bounded() }.prove();
}

impl Group {
    fn with_a_caretaker() -> Self {
        let (horizon, terms) = (CARETAKERS_WAIT + 1, 3);
        Self { standing: 1, caretaker: true, horizon, terms, follow_up: false, ..Self::bounded() }
    }
}

#[test]
fn contract_12_a_caretaker_makes_a_leader_and_never_two() {
    Group::with_a_caretaker().prove();
}

#[test]
fn two_leaders_if_a_caretaker_claims() {
    let mutant = Some(Mutant::CaretakerClaims);
    refute(Group { mutant, ..Group::with_a_caretaker() }, ONE_VALID);
}

#[test]
fn two_leaders_if_a_voter_votes_twice() {
    refute(Group { mutant: Some(Mutant::VotesTwice), horizon: 4, ..Group::bounded() }, FIGURE_3);
}

#[test]
#[ignore = "make model: half a minute"]
fn two_leaders_if_validity_counts_from_the_answer() {
    refute(Group { mutant: Some(Mutant::CountsFromTheAnswer), ..Group::bounded() }, ONE_VALID);
}

#[test]
fn a_token_is_used_twice_if_leadership_is_taken_back() {
    let mutant = Some(Mutant::TakesLeadershipBack);
    refute(Group { mutant, resignations: 1, ..Group::bounded() }, FIGURE_3);
}

#[test]
#[ignore = "make model: some minutes"]
fn one_leader_in_every_longer_order_of_events() {
    // With another tick it takes more than a quarter of an hour on a busy machine.
    Group { restarts: 1, horizon: 5, follow_up: false, ..Group::bounded() }.prove();
    Group { resignations: 1, ..Group::bounded() }.prove();
    Group { standing: 3, horizon: 5, follow_up: false, ..Group::bounded() }.prove();
}

#[test]
#[ignore = "make model: some minutes"]
fn contract_12_a_caretaker_that_restarts_makes_never_two_leaders() {
    Group { restarts: 1, ..Group::with_a_caretaker() }.prove();
}

#[test]
#[ignore = "make model: a minute"]
fn two_leaders_if_a_restarted_voter_votes_at_once() {
    let mutant = Some(Mutant::ForgetsStickiness);
    refute(Group { mutant, restarts: 1, ..Group::bounded() }, ONE_VALID);
}
