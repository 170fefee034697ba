//! 2C: state that survives crashes; and the unreliable network.

use std::time::Duration;

use super::{Group, Scenario, test};
use crate::raft::{
    identity::{NodeId, Position, Term},
    mutant::Mutant,
    sim::world::World,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "2c_persistence", servers: 3, tell: persistence },
    Scenario { name: "2c_figure_8", servers: 5, tell: figure_8 },
    Scenario { name: "2c_figure_8_unreliable", servers: 5, tell: figure_8_unreliable },
    Scenario { name: "2c_churn", servers: 5, tell: churn },
];

fn persistence(group: &mut Group) {
    group.leader();
    let first = group.agree();
    group.say("all are killed, and started: what was agreed on is there");
    group.all().for_each(|node| group.crash(node));
    group.all().for_each(|node| group.start(node));
    let leader = group.leader();
    assert!(Group::is_committed(&group.world, leader, first));

    group.say("a leader is killed; the others go on; it comes back, and catches up");
    group.crash(leader);
    let second = group.agree();
    group.start(leader);
    let third = group.agree();
    assert!(first < second && second < third);
}

/// Figure 8 of the paper, step by step. `count_old_terms` breaks the rule that prevents it.
struct Figure8 {
    group: Group,
    s1: NodeId,
    s2: NodeId,
    s5: NodeId,
    /// The entry that seems safe, and is not.
    doubtful: Position,
}

impl Figure8 {
    /// (a) S1 leads, and copies an entry to S2 alone.
    fn a(mut group: Group) -> Self {
        let s1 = group.leader();
        group.pass(100);
        let others = group.others(s1);
        let (s2, s5) = (others[0], others[3]);
        group.say(&format!("(a) the leader, S1 ({s1}), copies an entry to S2 ({s2}) alone; S5 is {s5}"));
        group.world.cut(|from, to| from == s1 && to != s2);
        let doubtful = group.propose(s1, 1)[0];
        group.wait("the entry on both disks", |world| has(world, s1, doubtful) && has(world, s2, doubtful));
        Self { group, s1, s2, s5, doubtful }
    }

    /// (b) S1 has crashed, S5 leads a later term, and has an entry of its own at the same index.
    fn b(&mut self) {
        let (group, s2, s5) = (&mut self.group, self.s2, self.s5);
        group.say("(b) S1 is killed; S5 is elected without S2, and has another entry there");
        group.crash(self.s1);
        group.pass(2); // Its messages to others are lost.
        group.world.mend();
        group.world.cut(|from, to| from == s2 || to == s2);
        // No other server can win if only S5 is heard; and none hears it any more once it has won.
        group.world.cut(|from, to| from != s5 && to != s5);
        group.wait("S5 elected", |world| world.raft_leader() == Some(s5));
        group.world.cut(|from, _| from == s5);
        let own = group.world.server(s5).map_or(Position::START, |server| server.log().last());
        assert_eq!(own.index, self.doubtful.index);
        group.wait("S5's entry on its disk", |world| has(world, s5, own));
        group.crash(s5);
        group.pass(2);
    }

    /// (c) S1 is back, leads again, and copies its old entry to a majority.
    fn c(&mut self) -> Term {
        let (group, doubtful) = (&mut self.group, self.doubtful);
        group.say("(c) S1 is back, and elected; its old entry gets to a majority");
        group.world.mend();
        group.start(self.s1);
        let s1 = self.s1;
        group.world.cut(|from, to| from != s1 && to != s1);
        let third = |world: &World| world.members().filter(|node| has(world, *node, doubtful)).count() >= 3;
        group.wait("S1 elected", |world| world.raft_leader() == Some(s1));
        group.world.run_until(super::PATIENCE, third);
        assert!(third(&group.world), "never: a majority\n{}", group.world.transcript().join("\n"));
        group.term(s1)
    }

    /// (d) S1 has crashed, S5 is elected, and replaces the entry everywhere.
    fn d(&mut self) {
        let (group, s5) = (&mut self.group, self.s5);
        group.say("(d) S1 is killed; S5 is back, elected by its later term, and replaces the entry");
        group.crash(self.s1);
        group.start(s5);
        group.world.mend();
        group.world.cut(|from, to| from != s5 && to != s5);
        group.world.run_until(super::PATIENCE, |world| world.valid_leader() == Some(s5));
    }
}

fn has(world: &World, node: NodeId, at: Position) -> bool {
    world.stored(node).entries.iter().any(|entry| entry.at == at)
}

fn figure_8(group: &mut Group) {
    let seed = group.seed;
    let mut story = Figure8::a(Group::by_single_entries(5, seed, None));
    story.b();
    let term = story.c();
    let doubtful = story.doubtful;
    assert!(term > doubtful.term);
    story.group.say("it is on a majority, and yet not committed: it is of an older term");
    assert!(story.group.all().all(|node| story.group.committed(node) < doubtful.index));
    story.d();
    assert_eq!(story.group.leader(), story.s5);
    story.group.end_well();
    assert!(story.group.all().all(|node| !Group::is_committed(&story.group.world, node, doubtful)));
    *group = story.group;
}

/// The same scenario without the rule ends in a violation: so it tests the rule.
#[test]
fn figure_8_goes_wrong_if_old_terms_are_counted() {
    let group = Group::by_single_entries(5, super::TOLD_WITH, Some(Mutant::CountsOldTerms));
    let mut story = Figure8::a(group);
    story.b();
    story.c();
    // It is counted with the answer that makes the majority, which is under way.
    let (s1, index) = (story.s1, story.doubtful.index);
    let committed = story.group.world.run_until(Duration::from_millis(20), |world| {
        world.server(s1).is_some_and(|server| server.committed() >= index)
    });
    assert!(committed, "the old entry is counted");
    story.d();
    let violation = story.group.world.violation().expect("two histories");
    assert_eq!(violation.invariant, "leader completeness");
}

/// The fourth seed's test that failed once in a hundred runs, by terms that ran away.
fn figure_8_unreliable(group: &mut Group) {
    const ROUNDS: u64 = 100;
    let mut rng = fastrand::Rng::with_seed(group.seed);
    group.say("messages are slow, lost, doubled and out of order");
    group.storm();
    for _ in 0..ROUNDS {
        if let Some(leader) = group.world.raft_leader() {
            group.world.propose(leader, 1);
            if rng.u8(0..2) == 0 {
                group.disconnect(leader);
            }
        }
        let wait = if rng.u8(0..10) == 0 { rng.u64(0..500) } else { rng.u64(0..30) };
        group.pass(wait);
        while group.away.len() > 2 {
            let back = group.away[rng.usize(0..group.away.len())];
            group.connect(back);
        }
    }
    group.say("all is well again");
    group.end_well();
    let term = group.highest_term().get();
    assert!(term <= ROUNDS / 2, "term {term}: terms ran away");
}

fn churn(group: &mut Group) {
    let mut rng = fastrand::Rng::with_seed(group.seed);
    group.say("servers are killed, started and cut off, on a bad network, under proposals");
    group.storm();
    let mut applied = Position::START;
    for _ in 0..40 {
        let node = NodeId::new(rng.u8(0..5));
        let spare = group.present().len() > 3;
        match rng.u8(0..3) {
            0 if spare => group.crash(node),
            1 if spare => group.disconnect(node),
            _ => {
                group.start(node);
                group.connect(node);
            }
        }
        for _ in 0..3 {
            if let Some(leader) = group.world.raft_leader() {
                group.world.propose(leader, 1);
            }
            group.pass(rng.u64(1..80));
            let states = group.all().filter_map(|node| group.world.applied(node));
            applied = states.map(|state| state.at).fold(applied, Position::max);
        }
    }
    group.say("all is well again; what was applied anywhere is applied everywhere");
    group.calm();
    group.end_well();
    assert!(applied > Position::START, "something was applied");
    let caught_up = |node| group.world.applied(node).is_some_and(|state| state.at >= applied);
    assert!(group.all().all(caught_up));
}

#[test]
fn scenario_2c_persistence() {
    test("2c_persistence");
}

#[test]
fn scenario_2c_figure_8() {
    test("2c_figure_8");
}

#[test]
fn seed_4_scenario_2c_figure_8_unreliable() {
    test("2c_figure_8_unreliable");
}

#[test]
fn scenario_2c_churn() {
    test("2c_churn");
}
