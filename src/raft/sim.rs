//! The whole group, simulated: one seed, one thread, one order of events.
//!
//! ```text
//!  seed ─► Plan ─► World ─────────────────────────────► Outcome
//!          clocks   servers (the production code)         no violation
//!          network  disks, clocks, links, timers          or one, with its seed, the command that
//!          faults   └─ each step ─► Invariants             replays it, and a shorter plan
//! ```
//!
//! A seed's plan is made before the run ([`plan`]); invariants are checked after each step ([`invariant`]). Time is
//! the simulation's own, so a run of seconds takes milliseconds. Nothing here waits, and nothing depends on the
//! machine's speed.
//!
//! | to | type |
//! |---|---|
//! | run many more seeds | `make simulate SEEDS=1000000` |
//! | see one run | `make replay SEED=42` |
//! | repeat the scenarios with fresh seeds | `make many N=50` |

pub(crate) mod clock;
mod invariant;
mod mutants;
mod network;
mod plan;
mod scenario;
mod shorten;
pub(crate) mod world;

use std::time::{Duration, Instant};

use self::{
    clock::TrueTime,
    invariant::Violation,
    network::Weather,
    plan::{Fault, Plan, Whom},
    shorten::{Kept, shortened},
    world::World,
};
use crate::{
    choosing::Priority,
    raft::{identity::NodeId, message::Limits, mutant::Mutant, preference::MoveDelays, timing::Timing},
};

/// Time limit for all to catch up with a leader after all faults, on a good network.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Number of lines shown of a failed run.
const LINES_SHOWN: usize = 80;

/// Runs a plan to its end, or to the first violation.
fn run(plan: Plan) -> World {
    finish(World::new(plan))
}

/// The same, with each message in the transcript.
fn run_recorded(plan: Plan) -> World {
    finish(World::new(plan).record(true))
}

fn finish(mut world: World) -> World {
    world.run_for(Duration::from_nanos(world.heals_at().0));
    world.heal();
    world.elect();
    // A sync that had begun keeps its former duration.
    let under_way = world.slowest_sync();
    world.clear_up();
    world.settle(SETTLES_WITHIN + under_way);
    world
}

/// Runs a seed's plan; a violation panics with everything needed to look into it.
fn check(seed: u64) -> World {
    checked(Plan::of(seed))
}

fn checked(plan: Plan) -> World {
    let world = run(plan.clone());
    match world.violation() {
        None => world,
        Some(violation) => panic!("{}", report(&plan, violation)),
    }
}

/// A failure's description.
fn report(plan: &Plan, violation: &Violation) -> String {
    let (kept, shorter) = shortened(plan, violation);
    let world = run_recorded(shorter.clone());
    let lines = world.transcript();
    let faults: Vec<String> =
        shorter.faults.iter().map(|(at, fault)| format!("{:8.1} ms  {fault}", at.millis())).collect();
    format!(
        "seed {} breaks {violation}\n\nreplay it:\n  make replay SEED={} {kept}\n\n{} of {} faults are enough:\n{}\n\n\
         the end of the shorter run:\n{}",
        plan.seed,
        plan.seed,
        shorter.faults.len(),
        plan.faults.len(),
        faults.join("\n"),
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"),
    )
}

/// Seeds that each of the tests below takes: 12,000 in all.
const SEEDS_A_TEST: u64 = 1_500;

fn check_block(block: u64) {
    (block * SEEDS_A_TEST..(block + 1) * SEEDS_A_TEST).for_each(|seed| drop(check(seed)));
}

/// Eight tests instead of one, so that they can run side by side.
macro_rules! blocks {
    ($($name:ident $block:literal)*) => {$(
        #[test]
        fn $name() {
            check_block($block);
        }
    )*};
}

blocks! {
    every_invariant_holds_in_every_run_1 0
    every_invariant_holds_in_every_run_2 1
    every_invariant_holds_in_every_run_3 2
    every_invariant_holds_in_every_run_4 3
    every_invariant_holds_in_every_run_5 4
    every_invariant_holds_in_every_run_6 5
    every_invariant_holds_in_every_run_7 6
    every_invariant_holds_in_every_run_8 7
}

#[test]
fn groups_on_slow_disks_keep_every_invariant() {
    (0..300).for_each(|seed| drop(checked(Plan::of_slow_disks(seed))));
}

#[test]
fn groups_that_are_far_apart_keep_every_invariant() {
    (0..300).for_each(|seed| drop(checked(Plan::of_far_apart(seed))));
}

/// If a server that takes no part has the newest log, it is a caretaker.
#[test]
fn contract_12_groups_with_few_candidates_keep_every_invariant() {
    (0..200).for_each(|seed| drop(checked(Plan::of_few_candidates(seed))));
}

/// Transfers to a named server, cordons, pauses and priorities.
#[test]
fn contract_12_groups_under_orders_keep_every_invariant() {
    (0..300).for_each(|seed| drop(checked(Plan::of_orders(seed))));
}

#[test]
fn groups_in_lopsided_networks_keep_every_invariant() {
    (0..150).for_each(|seed| drop(checked(Plan::of_lopsided(seed))));
}

/// The promise of `docs/peers.md`: whatever the timing, if its shortest timeout is at least three round
/// trips and a heartbeat.
#[test]
fn contract_12_at_every_round_trip_a_leader_comes_within_four_timeouts_and_stays() {
    for round_trip in [0, 10, 60, 100, 150, 300] {
        for (heartbeat, spread) in [(10, 12), (50, 20), (round_trip.max(10) * 3 / 2, 12)] {
            let shortest = (3 * round_trip + heartbeat).max(3 * heartbeat);
            let ms = Duration::from_millis;
            let timing = Timing::new(ms(heartbeat), ms(shortest), ms(shortest * spread / 10)).unwrap();
            let half = Duration::from_micros(round_trip * 500 + 200);
            let weather = Weather { delay: (half * 19 / 20, half), ..Weather::FAIR };
            for seed in 0..24 {
                let servers = [2, 3, 5, 7][seed as usize % 4];
                let mut world = World::new(Plan { weather, timing, ..Plan::fair(servers, seed) });
                let led = world.run_until(timing.longest() * 4, |world| world.valid_leader().is_some());
                let leader = world.valid_leader();
                world.run_for(timing.longest() * 2);
                let kept = led && world.valid_leader() == leader;
                assert!(kept, "{servers} servers, {round_trip} ms, {timing:?}, seed {seed}: led {led}");
            }
        }
    }
}

/// A group on a link of that round trip, with the timing that `make bench WHAT=far` gives it.
fn far_apart(round_trip: u64, seed: u64) -> Plan {
    let ms = Duration::from_millis;
    let shortest = ms(((3 * round_trip + 60).div_ceil(50) * 50).max(250));
    let timing = Timing::new(ms(50), shortest, shortest * 2).unwrap();
    let half = Duration::from_micros(round_trip * 500 + 200);
    let weather = Weather { delay: (half * 19 / 20, half), ..Weather::FAIR };
    Plan { weather, timing, ..Plan::fair(3, seed) }
}

/// Seeds at each round trip.
const SEEDS_OF_MINUTES: u64 = 4;

/// Clocks are up to a tenth apart, and timers late by up to 15 ms.
#[test]
fn contract_12_a_leader_that_is_far_from_the_others_is_kept_for_a_minute() {
    for round_trip in [0, 20, 60, 100, 150, 200, 300] {
        for seed in 0..number("MINUTES", SEEDS_OF_MINUTES) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut plan = far_apart(round_trip, seed);
            plan.clocks.iter_mut().for_each(|clock| clock.per_mille = rng.u64(950..=1050));
            plan.late = Duration::from_millis(rng.u64(0..=15));
            let mut world = World::new(plan);
            let led = world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some());
            let leader = world.leading();
            let changes = world.run_until(Duration::from_secs(60), |world| world.leading() != leader);
            assert!(led && !changes, "{round_trip} ms, seed {seed}: at {:.0} ms", world.now().millis());
            assert_eq!(world.violation(), None);
        }
    }
}

/// The longest pause of a leader, or delay of a message, before the leader's time is over: the shortest timeout
/// less the margin, a heartbeat and a round trip.
fn slack(round_trip: u64, timing: &Timing) -> Duration {
    timing.shortest() * 9 / 10 - timing.heartbeat() - Duration::from_millis(round_trip + 1)
}

/// On a busy machine leaders change for no other reason; and no later than that.
#[test]
fn contract_12_a_leader_frozen_for_less_than_its_slack_is_kept() {
    for round_trip in [0, 20, 60, 100, 150, 200, 300] {
        let mut lost = 0;
        for seed in 0..60 {
            let plan = far_apart(round_trip, seed);
            let slack = slack(round_trip, &plan.timing);
            for (span, less) in [(slack, true), (slack * 2 + plan.timing.heartbeat(), false)] {
                let mut world = World::new(plan.clone());
                assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
                world.run_for(Duration::from_millis(500 + 7 * seed));
                let leader = world.leading();
                world.freeze(world.valid_leader().expect("it leads"), span);
                let changes = world.run_until(Duration::from_secs(5), |world| world.leading() != leader);
                assert!(!less || !changes, "{round_trip} ms, seed {seed}: {span:?}");
                lost += u64::from(changes);
            }
        }
        assert!(lost >= 50, "{round_trip} ms: {lost}");
    }
}

/// Duration of a handoff in a group in which some take no part in elections, and at least one besides the leader
/// does.
fn handoff(servers: usize, seed: u64, mutant: Option<Mutant>) -> Duration {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(Plan { mutant, ..Plan::fair(servers, seed) });
    let led = |world: &World| world.valid_leader().is_some();
    assert!(world.run_until(SETTLES_WITHIN, led));
    let leader = world.valid_leader();
    let mut others: Vec<_> = world.members().filter(|node| Some(*node) != leader).collect();
    rng.shuffle(&mut others);
    let idle = rng.usize(1..others.len());
    others.iter().take(idle).for_each(|node| world.withdraw(*node));
    world.run_for(Duration::from_millis(rng.u64(100..300)));
    let start = world.now();
    leader.into_iter().for_each(|leader| world.resign(leader));
    assert!(world.run_until(SETTLES_WITHIN, led));
    assert_eq!(world.violation(), None);
    Duration::from_nanos(world.now().0 - start.0)
}

/// It waits for no election timeout.
#[test]
fn contract_12_a_handoff_goes_to_a_candidate() {
    for seed in 0..200 {
        let took = handoff([3, 5, 7][seed as usize % 3], seed, None);
        assert!(took < Duration::from_millis(50), "seed {seed}: {took:?}");
    }
}

/// Duration without a leader in a transfer to a named server that lacks much of the log, on a link with room for few
/// entries.
fn transfer(servers: usize, seed: u64, mutant: Option<Mutant>) -> Duration {
    let limits = Limits { entries: 4, in_flight: 4, ..Limits::DEFAULT };
    let mut world = World::new(Plan { mutant, limits, ..Plan::fair(servers, seed) });
    assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
    let leader = world.valid_leader().expect("it was just there");
    let target = world.members().filter(|node| *node != leader).nth(seed as usize % (servers - 1));
    let target = target.expect("one of the others");
    world.cut_off(target);
    for _ in 0..20 {
        world.propose(leader, 10);
        world.run_for(Duration::from_millis(20));
    }
    world.mend_all_of(target);
    world.run_for(Timing::DEFAULT.heartbeat());
    world.transfer(leader, target);
    assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader() != Some(leader)));
    let start = world.now();
    world.let_go_at_once(leader);
    assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
    assert!(mutant.is_some() || world.valid_leader() == Some(target), "seed {seed}");
    assert_eq!(world.violation(), None);
    Duration::from_nanos(world.now().0 - start.0)
}

/// The target catches up while the leader leads.
#[test]
fn contract_12_a_transfer_goes_to_the_named_server_and_costs_one_handoff() {
    for seed in 0..100 {
        let took = transfer([3, 5][seed as usize % 2], seed, None);
        assert!(took < Duration::from_millis(50), "seed {seed}: {took:?}");
    }
}

/// A frozen target.
#[test]
fn contract_12_a_leader_leads_on_if_the_target_of_a_transfer_is_frozen() {
    for seed in 0..60 {
        let mut world = World::new(Plan::fair([3, 5][seed as usize % 2], seed));
        assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
        let leading = world.leading();
        let leader = world.valid_leader().expect("it was just there");
        let target = world.members().find(|node| *node != leader).expect("one of the others");
        world.freeze(target, Duration::from_secs(1));
        world.transfer(leader, target);
        assert!(!world.run_until(Duration::from_secs(3), |world| world.leading() != leading), "seed {seed}");
        assert_eq!(world.violation(), None);
    }
}

/// A group of those priorities, in which leadership moves after a second.
fn preferring(priorities: &[u32], seed: u64, mutant: Option<Mutant>) -> World {
    let second = Duration::from_secs(1);
    let moves = MoveDelays { min_tenure: second, standing: second };
    let plan = Plan::fair(priorities.len(), seed);
    let priorities = priorities.iter().map(|number| Priority::new(*number)).collect();
    let mut world = World::new(Plan { priorities, moves, mutant, ..plan });
    assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
    world
}

/// The number of terms that begin within that time.
fn terms_in(world: &mut World, span: Duration) -> u64 {
    let term =
        |world: &World| world.members().filter_map(|node| world.server(node)).map(|it| it.term()).max();
    let before = term(world).map_or(0, |term| term.get());
    world.run_for(span);
    assert_eq!(world.violation(), None);
    term(world).map_or(0, |term| term.get()) - before
}

#[test]
fn leadership_moves_to_the_highest_priority_once_and_stays() {
    for seed in 0..60 {
        let mut world = preferring(&[100, 200, 100, 50, 150], seed, None);
        let preferred = Some(NodeId::new(1));
        let moves = u64::from(world.valid_leader() != preferred);
        assert_eq!(terms_in(&mut world, Duration::from_secs(20)), moves, "seed {seed}");
        assert_eq!(world.valid_leader(), preferred, "seed {seed}");
    }
}

/// Terms in twenty seconds among equals.
fn among_equals(seed: u64, mutant: Option<Mutant>) -> u64 {
    terms_in(&mut preferring(&[100; 3], seed, mutant), Duration::from_secs(20))
}

#[test]
fn among_equals_leadership_never_moves() {
    (0..40).for_each(|seed| assert_eq!(among_equals(seed, None), 0, "seed {seed}"));
}

/// Terms in twenty seconds after an operator has handed leadership to the server of the lowest priority.
fn after_an_order(seed: u64, mutant: Option<Mutant>) -> u64 {
    let mut world = preferring(&[200, 150, 100], seed, mutant);
    let (lowest, leader) = (NodeId::new(2), world.valid_leader().expect("it was just there"));
    world.transfer(leader, lowest);
    assert!(
        world.run_until(SETTLES_WITHIN, |world| world.valid_leader() == Some(lowest)) || leader == lowest
    );
    if leader == lowest { 0 } else { terms_in(&mut world, Duration::from_secs(20)) }
}

#[test]
fn a_term_that_an_operator_ordered_is_not_moved_by_priority() {
    (0..40).for_each(|seed| assert_eq!(after_an_order(seed, None), 0, "seed {seed}"));
}

#[test]
fn a_pause_holds_priorities_and_a_cordon_moves_all_the_same() {
    for seed in 0..40 {
        let mut world = preferring(&[100, 100, 200], seed, None);
        let leader = world.valid_leader().expect("it was just there");
        world.pause(true);
        assert_eq!(terms_in(&mut world, Duration::from_secs(10)), 0, "seed {seed}");
        world.cordon(leader, seed % 2 == 0);
        let moved = |world: &World| world.valid_leader().is_some_and(|next| next != leader);
        assert!(world.run_until(SETTLES_WITHIN, moved), "seed {seed}");
    }
}

/// Time that a leader leads on after its disk began to hang, for five seconds.
fn with_a_hanging_disk(servers: usize, seed: u64, mutant: Option<Mutant>) -> Duration {
    let propose_every = Duration::from_millis(20);
    let mut world = World::new(Plan { mutant, propose_every, ..Plan::fair(servers, seed) });
    assert!(world.run_until(SETTLES_WITHIN, |world| world.valid_leader().is_some()));
    let leader = world.valid_leader().expect("it was just there");
    let start = world.now();
    world.fault(Fault::SlowDisk(leader, 5_000));
    let led_by_another = |world: &World| world.valid_leader().is_some_and(|next| next != leader);
    world.run_until(Duration::from_secs(4), led_by_another);
    assert_eq!(world.violation(), None);
    Duration::from_nanos(world.now().0 - start.0)
}

/// Two longest timeouts; then the holder stops, in its proved time.
#[test]
fn contract_12_a_leader_whose_disk_hangs_is_followed() {
    for seed in 0..60 {
        let took = with_a_hanging_disk([3, 5][seed as usize % 2], seed, None);
        assert!(took < Duration::from_millis(1_500), "seed {seed}: {took:?}");
    }
}

/// Seeds of runs in which leaders are deposed.
const SEEDS_OF_DEPOSITIONS: u64 = 150;

#[test]
fn contract_8_a_leader_that_is_deposed_has_its_proved_time() {
    (0..SEEDS_OF_DEPOSITIONS).for_each(|seed| drop(checked(Plan::of_depositions(seed))));
}

/// Seeds of runs in which disks are lost, and in which they are put back.
const SEEDS_OF_DISKS: u64 = 500;

/// Time limit for servers to meet after all faults.
const MEET_WITHIN: Duration = Duration::from_secs(1);

/// Runs a plan that may leave no majority of disks: there need not be a leader in the end.
fn run_with_bad_disks(plan: Plan) -> World {
    let mut world = World::new(plan);
    world.run_for(Duration::from_nanos(world.heals_at().0));
    world.heal();
    world.run_for(MEET_WITHIN);
    world.find_the_forgetful();
    world.find_the_copy();
    world
}

#[test]
fn contract_11_disks_that_are_lost_make_no_second_leader_and_no_token_twice() {
    for seed in 0..SEEDS_OF_DISKS {
        let world = run_with_bad_disks(Plan::of_lost_disks(seed));
        assert_eq!(world.violation(), None, "seed {seed}");
    }
}

/// No more is claimed: until it is noticed, a vote may have been given twice.
#[test]
fn contract_11_a_disk_that_was_put_back_is_noticed() {
    for seed in 0..SEEDS_OF_DISKS {
        let world = run_with_bad_disks(Plan::of_old_disks(seed));
        let of_disks = ["members are known", "a disk that went back is noticed"];
        let violation = world.violation().filter(|violation| of_disks.contains(&violation.invariant));
        assert_eq!(violation, None, "seed {seed}");
    }
}

/// A copy that is started while all are connected with the original does no harm, and no server admits it.
#[test]
fn contract_11_a_copy_of_a_disk_that_is_in_use_is_let_in_by_none() {
    for seed in 0..SEEDS_OF_DISKS {
        let world = checked_with_a_copy(Plan::of_copied_disks(seed));
        assert_eq!((world.violation(), world.has_let_a_copy_in()), (None, false), "seed {seed}");
    }
}

/// Runs a plan in which a copy is started while all hear the original. In the end there is a leader, and all have
/// its log.
fn checked_with_a_copy(plan: Plan) -> World {
    let mut world = run_with_bad_disks(plan);
    world.clear_up();
    world.settle(SETTLES_WITHIN);
    world
}

/// No more is claimed: until one of them is refused, each of the two may have voted.
#[test]
fn contract_11_a_copy_of_a_disk_and_its_original_do_not_both_vote_once_all_have_met_them() {
    for seed in 0..SEEDS_OF_DISKS {
        let world = run_with_bad_disks(Plan::of_copies_apart(seed));
        let of_disks = ["members are known", "a copy in use is noticed"];
        let violation = world.violation().filter(|violation| of_disks.contains(&violation.invariant));
        assert_eq!(violation, None, "seed {seed}");
    }
}

/// Not prevented, as the head of `membership` says: a copy and its original that different members admit vote once
/// each.
#[test]
fn two_leaders_of_a_term_by_the_votes_of_a_copy_and_its_original() {
    let at = TrueTime(0).plus(Duration::from_secs(1));
    let [a, b, c, copy] = std::array::from_fn(|place| NodeId::new(place as u8));
    let [one, other, copied] = [a, b, c].map(Whom::Server);
    // All are started once more, the copy, too. `a` hears only the copy, and `b` only the original.
    let faults = [
        Fault::Withdraw(copied),
        Fault::Copy(copied, Duration::ZERO),
        Fault::PowerCut,
        Fault::Sides(copied, 0b001),
        Fault::OneWay(one, other),
        Fault::OneWay(other, one),
        Fault::StartAll,
    ];
    for seed in 0..20 {
        let faults = faults.map(|fault| (at, fault)).to_vec();
        let mut world = World::new(Plan { faults, disks: true, ..Plan::fair(3, seed) });
        world.run_for(Duration::from_secs(3));
        let violation = world.violation().expect("two leaders");
        assert_eq!(violation.invariant, "election safety", "{violation}");
        let [by_the_copy, by_the_original] = [copy, c].map(|machine| world.stored(machine).ballot);
        assert_eq!(by_the_copy.term, by_the_original.term);
        assert_eq!((by_the_copy.vote, by_the_original.vote), (Some(a), Some(b)));
    }
}

/// Runs a plan in which one server's disk is replaced. In the end an operator completes that, and from then on any
/// majority elects: each of the others is away once.
fn run_with_replaced_disks(plan: Plan) -> World {
    let whom = plan.replaced.expect("a plan of replaced disks");
    let mut world = World::new(plan);
    world.run_for(Duration::from_nanos(world.heals_at().0));
    world.heal();
    world.clear_up();
    world.see_through(whom, SETTLES_WITHIN);
    world.settle(SETTLES_WITHIN);
    for away in world.members().filter(|node| *node != whom) {
        world.elect_without(away, SETTLES_WITHIN);
    }
    world
}

/// Seeds of runs in which a disk is replaced.
const SEEDS_OF_REPLACED_DISKS: u64 = 300;

#[test]
fn contract_11_a_disk_is_replaced_and_any_majority_elects() {
    for seed in 0..SEEDS_OF_REPLACED_DISKS {
        let world = run_with_replaced_disks(Plan::of_replaced_disks(seed));
        assert_eq!(world.violation(), None, "seed {seed}");
    }
}

/// A number from the environment, for the `make` targets.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "make simulate SEEDS=n"]
fn simulate() {
    let (seeds, first) = (number("SEEDS", 100_000), number("FIRST", 1_000_000));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let started = Instant::now();
    let steps: u64 = std::thread::scope(|scope| {
        let part = |thread| (first + thread..first + seeds).step_by(threads as usize);
        let run = |thread| scope.spawn(move || part(thread).map(|seed| check(seed).steps()).sum::<u64>());
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("no violation")).sum()
    });
    let took = started.elapsed();
    let (seconds, threads) = (took.as_secs_f64(), threads as f64);
    let (each, all) = (steps as f64 / seconds / threads, seeds as f64 / seconds);
    println!(
        "{seeds} seeds from {first} in {took:.1?}: {all:.0} seeds a second; {steps} steps, {each:.0} a second and \
         thread; no violation"
    );
}

#[test]
#[ignore = "make replay SEED=n"]
fn replay() {
    let plan = Kept::from_environment().of(Plan::of(number("SEED", 0)));
    let world = run_recorded(plan.clone());
    println!("{plan:#?}");
    world.transcript().iter().for_each(|line| println!("{line}"));
    if let Some(violation) = world.violation() {
        panic!("seed {} breaks {violation}", plan.seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let (one, other) = (run_recorded(Plan::of(seed)), run_recorded(Plan::of(seed)));
        assert_eq!(one.transcript(), other.transcript());
    }
}

/// Every family of plans is among the seeds of the normal run, and the plain ones are most of it.
#[test]
fn every_family_of_plans_is_among_the_seeds() {
    let plans: Vec<Plan> = (0..8 * SEEDS_A_TEST).map(Plan::of).collect();
    let families: [fn(&Plan) -> bool; 5] = [
        |plan| plan.lopsided.is_some(),
        |plan| !plan.slow.is_empty(),
        |plan| plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::Withdraw(_))),
        |plan| plan.lopsided.is_none() && plan.timing != Timing::DEFAULT && plan.slow.is_empty(),
        |plan| plan.timing == Timing::DEFAULT,
    ];
    for (place, family) in families.into_iter().enumerate() {
        let count = plans.iter().filter(|plan| family(plan)).count();
        assert!(count > plans.len() / 10, "family {place}: {count} of {}", plans.len());
    }
}

/// A simulation in which nothing happens finds nothing.
#[test]
fn what_can_go_wrong_does_go_wrong() {
    let mut missing: Vec<&str> = vec![
        "LEADS with token",
        "begins anew from a snapshot",
        "compacts its log",
        "is a pre-candidate",
        "I gave up, campaign at once",
        "the leader asked me to",
        "your term is over",
        "nothing at",
        "not what I have at",
        "is killed",
        "is started",
        "is frozen",
        "goes on",
        "nothing gets from",
        "takes 50 times as long",
        "is told to resign",
        "does not stand any more",
        "is a caretaker",
    ];
    for seed in 0..200 {
        let world = run_recorded(Plan::of(seed));
        missing.retain(|what| !world.transcript().iter().any(|line| line.contains(what)));
        if missing.is_empty() {
            return;
        }
    }
    panic!("never happened: {missing:?}");
}

/// The margin is the allowed difference of the clocks. Beyond it the invariant must break, or it would be too weak.
#[test]
fn clocks_further_apart_than_the_margin_make_two_leaders() {
    let found = (0..20_000).find(|seed| {
        let mut plan = Plan::of(*seed);
        for (place, clock) in plan.clocks.iter_mut().enumerate() {
            clock.per_mille = if place % 2 == 0 { 700 } else { 1300 };
        }
        run(plan).violation().is_some_and(|violation| violation.invariant == "one valid leader")
    });
    assert!(found.is_some());
}
