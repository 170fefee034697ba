//! Short scenarios of a group, with the names that the course on Raft gave its tests (2A, 2B, 2C).
//!
//! Each is a function of a [`Group`] with its actions and expectations in order. Its test runs it with one seed,
//! compares the run with the transcript in `scenario/transcripts/`, which is there for people to read, and runs it
//! with a few more seeds. `make many N=50` runs all of them with fresh ones, and counts.
//!
//! An outdated transcript is rewritten by `BLESS=1 cargo test scenario`: read it.

mod agreement;
mod election;
mod persistence;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use super::{clock::TrueTime, network::Weather, number, plan::Plan, world::World};
use crate::raft::{
    action::ProposalId,
    identity::{Index, NodeId, Position, Term},
    message::Limits,
    mutant::Mutant,
    node::Node,
};

/// A scenario.
pub(super) struct Scenario {
    name: &'static str,
    servers: usize,
    tell: fn(&mut Group),
}

/// The seed of the transcripts.
const TOLD_WITH: u64 = 1;

/// Seeds that each scenario's test takes besides.
const MORE_SEEDS: u64 = 20;

/// Time limit for an election, or an agreement: many times what it takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn all() -> impl Iterator<Item = &'static Scenario> {
    election::SCENARIOS.iter().chain(agreement::SCENARIOS).chain(persistence::SCENARIOS)
}

/// A group, with the operations of a scenario.
pub(super) struct Group {
    world: World,
    seed: u64,
    /// The servers that are cut off.
    away: Vec<NodeId>,
}

impl Group {
    fn of(servers: usize, seed: u64) -> Self {
        Self::planned(Plan::fair(servers, seed))
    }

    fn planned(plan: Plan) -> Self {
        let seed = plan.seed;
        Self { world: World::new(plan).record(false), seed, away: Vec::new() }
    }

    /// A group that sends entry by entry, with a mutant or without.
    fn by_single_entries(servers: usize, seed: u64, mutant: Option<Mutant>) -> Self {
        let limits = Limits { entries: 1, ..Limits::DEFAULT };
        Self::planned(Plan { limits, mutant, ..Plan::fair(servers, seed) })
    }

    /// Adds a line to the transcript.
    fn say(&mut self, line: &str) {
        let line = format!("# {line}");
        self.world.note(|| line);
    }

    fn fine(&self) {
        if let Some(violation) = self.world.violation() {
            panic!("{violation}\n{}", self.world.transcript().join("\n"));
        }
    }

    fn pass(&mut self, millis: u64) {
        self.world.run_for(Duration::from_millis(millis));
        self.fine();
    }

    fn wait(&mut self, what: &str, done: impl FnMut(&World) -> bool) {
        let came = self.world.run_until(PATIENCE, done);
        self.fine();
        assert!(came, "never: {what}\n{}", self.world.transcript().join("\n"));
    }

    /// Waits until a connected server validly leads.
    fn leader(&mut self) -> NodeId {
        self.leader_after(Term::ZERO)
    }

    /// Waits until a server validly leads a later term.
    fn leader_after(&mut self, term: Term) -> NodeId {
        let away = self.away.clone();
        let leads = |world: &World| {
            let leader = world.valid_leader().filter(|leader| !away.contains(leader))?;
            world.server(leader).filter(|server| server.term() > term).map(|_| leader)
        };
        self.wait("a leader", |world| leads(world).is_some());
        leads(&self.world).expect("it was just there")
    }

    fn term(&self, node: NodeId) -> Term {
        self.world.server(node).map_or(Term::ZERO, Node::term)
    }

    fn highest_term(&self) -> Term {
        self.all().map(|node| self.term(node)).max().unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.world.members()
    }

    fn others(&self, than: NodeId) -> Vec<NodeId> {
        self.all().filter(|node| *node != than).collect()
    }

    /// Servers that live and are connected.
    fn present(&self) -> Vec<NodeId> {
        let here = |node: &NodeId| self.world.server(*node).is_some() && !self.away.contains(node);
        self.all().filter(here).collect()
    }

    fn disconnect(&mut self, node: NodeId) {
        self.away.push(node);
        self.world.cut_off(node);
    }

    fn connect(&mut self, node: NodeId) {
        self.away.retain(|away| *away != node);
        self.world.mend_all_of(node);
        // Mending all links of one would also mend those to servers that are still away.
        let away = self.away.clone();
        self.world.cut(|from, to| away.contains(&from) || away.contains(&to));
    }

    fn crash(&mut self, node: NodeId) {
        self.world.crash(node);
    }

    fn start(&mut self, node: NodeId) {
        self.world.start(node);
    }

    /// Proposes that many records; returns their positions.
    fn propose(&mut self, leader: NodeId, count: usize) -> Vec<Position> {
        let taken = self.world.accepted().len();
        let ids: Vec<ProposalId> = self.world.propose(leader, count);
        let accepted = &self.world.accepted()[taken..];
        let places: Vec<Position> = accepted.iter().map(|(_, at)| *at).collect();
        assert_eq!(accepted.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids, "the leader takes them all");
        if let (Some(first), Some(last)) = (places.first(), places.last()) {
            let line = format!("{leader} takes {count} records, {first} .. {last}");
            self.world.note(|| line);
        }
        places
    }

    fn is_committed(world: &World, node: NodeId, at: Position) -> bool {
        world.server(node).is_some_and(|server| {
            let there = server.log().term_at(at.index);
            server.committed() >= at.index && there.is_none_or(|term| term == at.term)
        })
    }

    /// Waits until all that are present have applied up to there.
    fn agree_on(&mut self, at: Position) {
        let present = self.present();
        self.wait("agreement", |world| present.iter().all(|node| Self::is_committed(world, *node, at)));
        let names: Vec<String> = present.iter().map(NodeId::to_string).collect();
        let line = format!("{} have applied {at}", names.join(", "));
        self.world.note(|| line);
    }

    /// Proposes a record to the present leader until one is committed.
    fn agree(&mut self) -> Position {
        let leader = self.leader();
        let places = self.propose(leader, 1);
        self.agree_on(places[0]);
        places[0]
    }

    fn committed(&self, node: NodeId) -> Index {
        self.world.server(node).map_or(Index::ZERO, Node::committed)
    }

    /// The conditions of the course's unreliable network: slow, lossy, out of order.
    fn storm(&mut self) {
        let delay = (Duration::from_millis(1), Duration::from_millis(27));
        self.world.change_weather(Weather { delay, lost: 100, doubled: 30, held_up: 60 });
    }

    fn calm(&mut self) {
        self.world.change_weather(Weather::FAIR);
    }

    fn since(&self, start: TrueTime) -> Duration {
        Duration::from_nanos(self.world.now().0 - start.0)
    }

    /// All faults end, and all agree.
    fn end_well(&mut self) {
        self.away.clear();
        self.world.heal();
        self.world.settle(PATIENCE);
        self.fine();
    }
}

impl Scenario {
    fn run(&self, seed: u64) -> Group {
        let mut group = Group::of(self.servers, seed);
        (self.tell)(&mut group);
        group.fine();
        group
    }

    /// The test of a scenario: its transcript, and a few more seeds.
    fn test(&self) {
        let told = self.run(TOLD_WITH).world.transcript().join("\n") + "\n";
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/raft/sim/scenario/transcripts")
            .join(format!("{}.txt", self.name));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &told).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            told == written,
            "{} is not what happens any more. What happens:\n{told}\nIf that is right: BLESS=1",
            path.display()
        );
        (0..MORE_SEEDS).for_each(|seed| drop(self.run(1000 + seed)));
    }
}

/// The test of the scenario with this name.
fn test(name: &str) {
    all().find(|scenario| scenario.name == name).expect("a scenario of this name").test();
}

#[test]
#[ignore = "make many N=n"]
fn many() {
    let (runs, first) = (number("N", 50), number("FIRST", fastrand::u64(..1 << 40)));
    println!("{runs} runs each, seeds from {first} on");
    let mut failures = Vec::new();
    for scenario in all() {
        let fails = |seed: &u64| catch_unwind(AssertUnwindSafe(|| drop(scenario.run(*seed)))).is_err();
        let failed: Vec<u64> = (first..first + runs).filter(fails).collect();
        println!("{:40} {:6} passed {:6} failed", scenario.name, runs - failed.len() as u64, failed.len());
        failures.extend(failed.into_iter().map(|seed| (scenario.name, seed)));
    }
    println!("{} runs, {} failures", runs * all().count() as u64, failures.len());
    assert!(failures.is_empty(), "once more: make many N=1 FIRST=seed: {failures:?}");
}
