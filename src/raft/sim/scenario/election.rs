//! 2A: elections.

use super::{Group, Scenario, test};
use crate::raft::identity::NodeId;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "2a_initial_election", servers: 3, tell: initial_election },
    Scenario { name: "2a_re_election", servers: 3, tell: re_election },
    Scenario { name: "2a_many_elections", servers: 7, tell: many_elections },
    Scenario { name: "2a_handoff", servers: 3, tell: handoff },
];

fn initial_election(group: &mut Group) {
    group.say("three servers start; one of them is elected");
    let leader = group.leader();
    let term = group.term(leader);

    group.say("nothing happens for two seconds, so nothing changes");
    group.pass(2_000);
    assert_eq!(group.leader(), leader);
    assert!(group.all().all(|node| group.term(node) == term), "all are in the leader's term");
}

fn re_election(group: &mut Group) {
    let first = group.leader();
    let term = group.term(first);
    group.say("the leader is cut off: it stops by itself, and another is elected");
    group.disconnect(first);
    let second = group.leader_after(term);
    assert_ne!(first, second);

    group.say("the old one comes back and disturbs no leader");
    let term = group.term(second);
    group.connect(first);
    group.pass(1_000);
    assert_eq!((group.leader(), group.highest_term()), (second, term));

    group.say("two of three are cut off: no server can lead, and terms stay as they are");
    let third = group.others(second)[0];
    group.disconnect(second);
    group.disconnect(third);
    group.pass(2_000);
    assert_eq!(group.world.valid_leader(), None);
    assert_eq!(group.highest_term(), term);

    group.say("one comes back: two are a majority");
    group.connect(third);
    let leader = group.leader();
    group.say("the other comes back: nothing changes");
    let term = group.term(leader);
    group.connect(second);
    group.pass(1_000);
    assert_eq!((group.leader(), group.highest_term()), (leader, term));
}

fn many_elections(group: &mut Group) {
    let mut rng = fastrand::Rng::with_seed(group.seed);
    group.leader();
    for _ in 0..10 {
        group.say("three of seven are cut off; the other four have a leader, then and after");
        let mut servers: Vec<NodeId> = group.all().collect();
        rng.shuffle(&mut servers);
        servers.iter().take(3).for_each(|node| group.disconnect(*node));
        group.pass(600);
        let leader = group.leader();
        assert!(!group.away.contains(&leader));
        servers.iter().take(3).for_each(|node| group.connect(*node));
    }
    group.say("all are connected again");
    group.end_well();
    let elected = group.highest_term().get();
    assert!(elected <= 12, "{elected} terms for at most eleven leaders: terms ran away");
}

fn handoff(group: &mut Group) {
    let first = group.leader();
    let term = group.term(first);
    group.pass(200);

    group.say("the leader is told to resign: another leads within milliseconds, not a timeout");
    let start = group.world.now();
    group.world.resign(first);
    assert_eq!(group.world.valid_leader(), None, "belief ends before anybody else is told");
    let second = group.leader_after(term);
    assert_ne!(first, second);
    assert_eq!(group.term(second), term.next());
    assert!(group.since(start).as_millis() < 50, "{:?}", group.since(start));
}

#[test]
fn scenario_2a_initial_election() {
    test("2a_initial_election");
}

#[test]
fn scenario_2a_re_election() {
    test("2a_re_election");
}

#[test]
fn scenario_2a_many_elections() {
    test("2a_many_elections");
}

#[test]
fn scenario_2a_handoff() {
    test("2a_handoff");
}
