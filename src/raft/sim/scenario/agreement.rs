//! 2B: agreement on the log.

use super::{Group, Scenario, test};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "2b_agreement", servers: 5, tell: agreement },
    Scenario { name: "2b_failed_follower", servers: 3, tell: failed_follower },
    Scenario { name: "2b_no_majority", servers: 5, tell: no_majority },
    Scenario { name: "2b_rejoin_of_a_partitioned_leader", servers: 3, tell: rejoin },
    Scenario { name: "2b_fast_backup", servers: 5, tell: fast_backup },
    Scenario { name: "2b_concurrent_proposals", servers: 3, tell: concurrent_proposals },
    Scenario { name: "2b_rpc_count", servers: 3, tell: rpc_count },
];

fn agreement(group: &mut Group) {
    group.leader();
    group.say("records are agreed on, one after the other");
    let mut before = None;
    for _ in 0..3 {
        let at = group.agree();
        assert!(before < Some(at));
        before = Some(at);
    }
}

fn failed_follower(group: &mut Group) {
    let leader = group.leader();
    let failed = group.others(leader)[0];
    group.say("a follower is cut off; the other two agree without it");
    group.disconnect(failed);
    group.agree();
    group.agree();
    group.say("it comes back, and catches up under the same leader");
    group.connect(failed);
    group.agree();
    assert_eq!(group.leader(), leader);
}

fn no_majority(group: &mut Group) {
    let leader = group.leader();
    group.agree();
    group.say("three of five are cut off; what the leader takes is not committed");
    let gone: Vec<_> = group.others(leader).into_iter().take(3).collect();
    gone.iter().for_each(|node| group.disconnect(*node));
    let at = group.propose(leader, 1)[0];
    group.pass(1_000);
    assert!(group.all().all(|node| group.committed(node) < at.index));
    assert_eq!(group.world.valid_leader(), None, "and it does not lead any more");
    group.say("they come back; all agree with the leader");
    gone.iter().for_each(|node| group.connect(*node));
    group.agree();
    group.end_well();
}

fn rejoin(group: &mut Group) {
    let first = group.leader();
    group.agree();
    let term = group.term(first);
    group.say("the leader is cut off, and takes records that no other server has");
    group.disconnect(first);
    let lost = group.propose(first, 3);
    group.say("the others have a leader, and agree on something else");
    let second = group.leader_after(term);
    let kept = group.agree();
    assert_eq!(kept.index.get(), lost[0].index.get() + 1, "after the new leader's first entry");

    group.say("the new leader is cut off, the old one is back: it has lost its records");
    group.disconnect(second);
    group.connect(first);
    group.agree();
    assert!(Group::is_committed(&group.world, first, kept));
    assert!(!Group::is_committed(&group.world, first, lost[0]));
    group.say("all are back");
    group.connect(second);
    group.agree();
    group.end_well();
}

fn fast_backup(group: &mut Group) {
    const RECORDS: usize = 50;
    let first = group.leader();
    let term = group.term(first);
    group.say("a leader with one follower takes 50 records that can't be committed");
    let near = group.others(first)[0];
    let far: Vec<_> = group.others(first).into_iter().skip(1).collect();
    far.iter().for_each(|node| group.disconnect(*node));
    group.propose(first, RECORDS);
    group.pass(300);

    group.say("the other three, without them, agree on 50 others");
    [first, near].iter().for_each(|node| group.disconnect(*node));
    far.iter().for_each(|node| group.connect(*node));
    let second = group.leader_after(term);
    let last = *group.propose(second, RECORDS).last().expect("50 of them");
    group.agree_on(last);

    group.say("all are back: 50 entries are given up for 50 others, in a few messages");
    let before = group.world.rejections();
    [first, near].iter().for_each(|node| group.connect(*node));
    group.agree();
    group.end_well();
    let rejected = group.world.rejections() - before;
    assert!(rejected <= 8, "{rejected} rejections: logs were backed up one by one");
}

fn concurrent_proposals(group: &mut Group) {
    let leader = group.leader();
    group.say("records come faster than they are written");
    let places: Vec<_> = (0..100).flat_map(|_| group.propose(leader, 1)).collect();
    assert!(places.windows(2).all(|pair| pair[0].index.next() == pair[1].index), "in order, no gaps");
    group.agree_on(places[99]);
}

fn rpc_count(group: &mut Group) {
    let leader = group.leader();
    let elected = group.world.sent();
    assert!(elected <= 30, "{elected} messages for an election");

    group.pass(200);
    group.say("ten records at once cost a few messages, not ten times a few");
    let before = group.world.sent();
    let last = group.propose(leader, 10)[9];
    group.agree_on(last);
    let agreed = group.world.sent() - before;
    assert!(agreed <= 4 + 8, "{agreed} messages for ten records");

    group.say("a second of nothing costs twenty heartbeats, and their answers, for each follower");
    let before = group.world.sent();
    group.pass(1_000);
    let idle = group.world.sent() - before;
    assert!((72..=88).contains(&idle), "{idle} messages in an idle second");
}

#[test]
fn scenario_2b_agreement() {
    test("2b_agreement");
}

#[test]
fn scenario_2b_failed_follower() {
    test("2b_failed_follower");
}

#[test]
fn scenario_2b_no_majority() {
    test("2b_no_majority");
}

#[test]
fn scenario_2b_rejoin_of_a_partitioned_leader() {
    test("2b_rejoin_of_a_partitioned_leader");
}

#[test]
fn scenario_2b_fast_backup() {
    test("2b_fast_backup");
}

#[test]
fn scenario_2b_concurrent_proposals() {
    test("2b_concurrent_proposals");
}

#[test]
fn scenario_2b_rpc_count() {
    test("2b_rpc_count");
}
