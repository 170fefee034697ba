//! Each safeguard, removed: the simulation must notice, by the invariant that it protects.

use std::time::Duration;

use super::{
    after_an_order, among_equals, handoff, plan::Plan, run, run_with_bad_disks, run_with_replaced_disks,
    transfer, with_a_hanging_disk, world::World,
};
use crate::raft::{identity::Term, mutant::Mutant, timing::Timing};

/// More than ten times the number that the rarest one takes.
const SEEDS: u64 = 60_000;

/// Runs seeds until one breaks one of these invariants.
fn caught(mutant: Mutant, invariants: &[&str]) {
    caught_in(Plan::of, mutant, invariants);
}

fn caught_in(plan_of: fn(u64) -> Plan, mutant: Mutant, invariants: &[&str]) {
    caught_by(run, plan_of, mutant, invariants);
}

fn caught_by(run: fn(Plan) -> World, plan_of: fn(u64) -> Plan, mutant: Mutant, invariants: &[&str]) {
    let found = (0..SEEDS).find_map(|seed| {
        let plan = Plan { mutant: Some(mutant), ..plan_of(seed) };
        let violation = run(plan).violation().cloned()?;
        invariants.contains(&violation.invariant).then_some((seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{mutant:?} was not noticed in {SEEDS} runs"));
    println!("{mutant:?}: seed {seed} breaks {violation}");
}

#[test]
fn what_is_said_before_it_is_durable_is_noticed() {
    caught(
        Mutant::SkipsFsync,
        &["election safety", "leader completeness", "state machine safety", "log matching"],
    );
}

#[test]
fn a_second_vote_in_a_term_is_noticed() {
    caught(Mutant::VotesTwice, &["election safety"]);
}

#[test]
fn votes_for_shorter_logs_are_noticed() {
    caught(Mutant::IgnoresLogs, &["leader completeness"]);
}

#[test]
fn figure_8_counting_entries_of_old_terms_is_noticed() {
    caught_in(
        Plan::of_short_reigns,
        Mutant::CountsOldTerms,
        &["leader completeness", "state machine safety"],
    );
}

#[test]
fn elections_without_a_pre_vote_are_noticed() {
    caught(Mutant::IgnoresPreVote, &["terms stay"]);
}

#[test]
fn a_proposal_that_is_overtaken_only_in_its_own_place_is_noticed() {
    caught(Mutant::OvertakesPlaceByPlace, &["a proposal is answered"]);
}

#[test]
fn a_proposal_that_is_waited_for_without_end_is_noticed() {
    caught(Mutant::WaitsForProposalsForEver, &["a proposal is answered"]);
}

#[test]
fn validity_that_counts_from_the_answer_is_noticed() {
    caught(Mutant::CountsFromTheAnswer, &["one valid leader"]);
}

#[test]
fn a_restarted_voter_that_votes_at_once_is_noticed() {
    caught(Mutant::ForgetsStickiness, &["one valid leader"]);
}

#[test]
fn a_vote_of_a_deposed_leader_whose_holder_is_at_work_is_noticed() {
    caught_in(Plan::of_depositions, Mutant::VotesBeforeTheHolderLetGo, &["one valid leader"]);
}

/// Invariants that a second vote, given on a new disk, may break.
const FORGOTTEN_VOTES: [&str; 5] =
    ["election safety", "tokens grow", "one valid leader", "leader completeness", "state machine safety"];

#[test]
fn a_vote_of_one_that_has_not_met_all_is_noticed() {
    caught_by(run_with_bad_disks, Plan::of_lost_disks, Mutant::VotesBeforeAllHaveMet, &FORGOTTEN_VOTES);
}

#[test]
fn a_new_disk_that_is_taken_for_the_old_one_is_noticed() {
    caught_by(run_with_bad_disks, Plan::of_lost_disks, Mutant::IgnoresDirectories, &FORGOTTEN_VOTES);
}

#[test]
fn an_old_disk_that_nobody_knows_by_its_starts_is_noticed() {
    caught_by(
        run_with_bad_disks,
        Plan::of_old_disks,
        Mutant::IgnoresRuns,
        &["a disk that went back is noticed"],
    );
}

#[test]
fn an_old_disk_that_nobody_knows_by_its_writes_is_noticed() {
    caught_by(
        run_with_bad_disks,
        Plan::of_old_disks,
        Mutant::IgnoresWrites,
        &["a disk that went back is noticed"],
    );
}

#[test]
fn a_copy_that_takes_the_place_of_one_that_answers_is_noticed() {
    let mutant = Mutant::DoesNotAskTheFirst;
    caught_by(run_with_bad_disks, Plan::of_copied_disks, mutant, &FORGOTTEN_VOTES);
}

#[test]
fn a_copy_that_nobody_knows_by_its_starts_is_noticed() {
    let mutant = Mutant::IgnoresRuns;
    caught_by(run_with_bad_disks, Plan::of_copies_apart, mutant, &["a copy in use is noticed"]);
}

/// Restarts a follower without entries that it has acknowledged. Reports whether it casts no vote from then on.
fn forgets(mutant: Option<Mutant>, entries: usize, seed: u64) -> bool {
    let mut world = World::new(Plan { mutant, ..Plan::fair(3, seed) });
    let patience = Duration::from_secs(5);
    assert!(world.run_until(patience, |world| world.valid_leader().is_some()));
    let leader = world.valid_leader().expect("it was just there");
    let follower = world.members().find(|node| *node != leader).expect("one of three");
    world.propose(leader, 5);
    assert!(world.run_until(patience, World::caught_up));
    world.forget_the_end(follower, entries);
    world.start(follower);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.valid_leader(), Some(leader));
    world.is_revoked(follower)
}

#[test]
fn a_follower_that_lacks_what_it_had_is_noticed() {
    for seed in 0..20 {
        assert!(!forgets(None, 0, seed), "a restart");
        assert!(forgets(None, 1, seed) && forgets(None, 5, seed));
        assert!(!forgets(Some(Mutant::OverlooksLosses), 5, seed));
    }
}

/// Invariants that a server known by the wrong disk may break; or no server can be elected.
const WRONG_DISKS: [&str; 6] = [
    "election safety",
    "tokens grow",
    "one valid leader",
    "leader completeness",
    "state machine safety",
    "a leader again",
];

fn caught_replacing(mutant: Mutant) {
    caught_by(run_with_replaced_disks, Plan::of_replaced_disks, mutant, &WRONG_DISKS);
}

#[test]
fn an_old_disk_that_still_counts_is_noticed() {
    caught_replacing(Mutant::CountsDisksByName);
}

#[test]
fn a_replacement_that_counts_once_it_is_committed_is_noticed() {
    caught_replacing(Mutant::CountsDisksOnceCommitted);
}

#[test]
fn a_new_disk_that_counts_at_once_is_noticed() {
    caught_replacing(Mutant::AdmitsDisksAtOnce);
}

#[test]
fn a_new_disk_that_counts_before_the_old_one_is_replaced_for_good_is_noticed() {
    caught_replacing(Mutant::AdmitsDisksBeforeTheCommit);
}

#[test]
fn leadership_that_is_taken_back_after_a_transfer_is_noticed() {
    caught(Mutant::TakesLeadershipBack, &["one valid leader", "tokens grow"]);
}

#[test]
fn leadership_that_is_taken_back_from_a_named_server_is_noticed() {
    caught_in(Plan::of_orders, Mutant::TakesLeadershipBack, &["one valid leader", "tokens grow"]);
}

#[test]
fn leadership_that_moves_to_an_equal_priority_is_noticed() {
    let terms = (0..10).map(|seed| among_equals(seed, Some(Mutant::MovesToEquals))).min();
    assert!(terms >= Some(5), "{terms:?} in twenty seconds");
}

#[test]
fn an_ordered_term_that_is_moved_by_priority_is_noticed() {
    let terms = (0..10).map(|seed| after_an_order(seed, Some(Mutant::MovesOrderedTerms))).max();
    assert!(terms >= Some(1), "{terms:?}");
}

#[test]
fn a_transfer_before_the_target_has_the_log_is_noticed() {
    let took = (0..40).map(|seed| transfer(3, seed, Some(Mutant::StopsBeforeTheTargetHasAll))).max();
    assert!(took > Some(Duration::from_millis(50)), "{took:?}");
}

/// Its log may be the only complete one.
#[test]
fn a_cordoned_server_that_never_takes_care_is_noticed() {
    caught_in(Plan::of_orders, Mutant::NoCaretaker, &["a leader again"]);
}

#[test]
fn a_handoff_to_a_server_without_a_candidate_is_noticed() {
    let took = (0..100).map(|seed| handoff(3, seed, Some(Mutant::HandsOverToAny))).max();
    assert!(took > Some(Timing::DEFAULT.shortest()), "{took:?}");
}

#[test]
fn a_leader_that_keeps_to_a_hanging_disk_is_noticed() {
    assert!(with_a_hanging_disk(3, 0, Some(Mutant::KeepsToAHangingDisk)) >= Duration::from_secs(4));
}

#[test]
fn a_newest_log_that_nobody_takes_care_of_is_noticed() {
    caught_in(Plan::of_few_candidates, Mutant::NoCaretaker, &["a leader again"]);
}

#[test]
fn a_caretaker_that_claims_is_noticed() {
    caught_in(Plan::of_few_candidates, Mutant::CaretakerClaims, &["one valid leader"]);
}

#[test]
fn a_leader_that_goes_on_without_a_majority_is_noticed() {
    caught(Mutant::IgnoresQuorum, &["a leader again"]);
}

#[test]
fn answers_to_the_newest_ask_alone_are_noticed() {
    caught_in(Plan::of_far_apart, Mutant::CountsOnlyTheLastAsk, &["a leader again"]);
}

#[test]
fn candidates_that_give_way_to_each_other_are_noticed() {
    caught_in(Plan::of_far_apart, Mutant::BothGiveWay, &["a leader again"]);
}

/// A server that is not heard, or hears no other, then keeps all others from trying.
#[test]
fn giving_way_each_time_is_noticed() {
    caught_in(Plan::of_lopsided, Mutant::GivesWayEachTime, &["a leader again"]);
}

#[test]
fn a_candidate_that_does_not_wait_for_its_disk_is_noticed() {
    let after_a_minute = |sync, mutant, seed| {
        let sync = Duration::from_millis(sync);
        let mut world = World::new(Plan { fsync: (sync, sync), mutant, ..Plan::fair(3, seed) });
        world.run_for(Duration::from_secs(60));
        let term = world.members().filter_map(|node| Some(world.server(node)?.term())).max();
        (world.valid_leader().is_some(), term.map_or(0, Term::get))
    };
    for seed in 0..20 {
        assert_eq!(after_a_minute(240, None, seed), (true, 1), "almost the shortest election timeout");
        assert!(after_a_minute(300, None, seed).0, "a little more than it");
        let (led, terms) = after_a_minute(300, Some(Mutant::DoesNotWaitForItsDisk), seed);
        assert!(!led && terms > 100, "term {terms}");
    }
}
