//! `elect run` among peers: the command runs only while its server leads.

use nix::sys::signal::Signal;

use crate::support::{
    elect::Elect, eventually::eventually, peers::Group, run::Run, server::SOON, worker::Diary,
};

/// Ignores TERM, and has a helper that left its group.
const DEAF_WITH_A_STRAY: &str = "trap '' TERM; WORKER_LOCK= setsid -f sh -c '$WORKER; exit'; exec $WORKER";

/// Leaves time to stop the command, also on a busy machine.
const TIMING: [&str; 4] = ["--heartbeat", "100ms", "--election-timeout", "2s-4s"];

fn start(group: &Group, place: usize, diary: &Diary) -> Run {
    let mut args = group.command_line(place);
    args.splice(..2, ["run".to_owned(), "--name".to_owned(), group.name(place).to_owned()]);
    Run::start(diary.script(Elect::new(args).called(group.name(place)), DEAF_WITH_A_STRAY))
}

/// The server whose command runs in that term.
fn leader(runs: &[Run], token: u64) -> usize {
    eventually(SOON, "its supervisor", || {
        let says = |run: &Run| {
            run.stderr().iter().any(|line| line.contains(&format!("I am the leader. token={token}")))
        };
        runs.iter().position(says)
    })
}

#[test]
fn contract_8_the_command_of_a_killed_supervisor_is_gone_before_the_next_one_starts() {
    let (group, diary) = (Group::of(3).with_timing(TIMING), Diary::new());
    let mut runs: Vec<_> = (0..3).map(|place| start(&group, place, &diary)).collect();
    let first = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(first, 2);
    let place = leader(&runs, first);
    let guard = runs[place].guard();
    runs[place].kill();
    let second = diary.wait_for_term_after(first).token;
    eventually(SOON, "the guard to end", || guard.is_gone().then_some(()));

    // The same for a leader told to stop. The port is free for its successor once it has ended.
    diary.wait_for_workers(second, 2);
    let place = leader(&runs, second);
    runs[place].signal(Signal::SIGTERM);
    runs[place].exits(137);
    runs[place] = start(&group, place, &diary);
    let third = diary.wait_for_term_after(second).token;
    diary.wait_for_workers(third, 2);
    diary.one_at_a_time();
}

#[test]
fn contract_4_the_command_of_a_frozen_supervisor_is_gone_before_the_next_one_starts() {
    let (group, diary) = (Group::of(3).with_timing(TIMING), Diary::new());
    let mut runs: Vec<_> = (0..3).map(|place| start(&group, place, &diary)).collect();
    let first = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(first, 2);
    let place = leader(&runs, first);
    runs[place].freeze();
    let second = diary.wait_for_term_after(first).token;
    runs[place].thaw();
    diary.wait_for_workers(second, 2);
    diary.one_at_a_time();
}
