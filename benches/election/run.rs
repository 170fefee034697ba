//! `elect run` with parts of it killed or frozen: no two commands at once, none alive when its term is
//! no longer proved, and after the supervisor's death the next command runs at once.
//!
//! Claims about a command are checked against its own diary: see `tests/support/worker.rs`.

use std::{thread, time::Duration};

use crate::{
    Bench,
    contender::SETTLE,
    handoff, programs,
    report::{Floors, Section, sample::Sample, who::Who},
    support::{
        clock::BootTime,
        elect::Elect,
        etcd::Etcd,
        run::Run,
        worker::{Diary, Entry},
    },
    trials::{concurrently, election},
};

const TTL: &str = "3s";

/// Validity of a term after the send of a renewal: a tenth less than the TTL.
const VALIDITY: Duration = Duration::from_millis(2700);

/// Limit for the next command's start, beside three bare handoffs.
const ALLOWED: Duration = Duration::from_millis(50);

/// Trials at a time, of those that mostly wait for a lease to end.
const AT_A_TIME: usize = 5;

/// Ignores TERM, and has a helper that left the group and the session.
const STUBBORN: &str = "trap '' TERM; WORKER_LOCK= setsid -f $WORKER; exec $WORKER";

#[derive(Debug, Clone, Copy)]
enum Fault {
    SupervisorKilled,
    SupervisorFrozen,
    GuardKilled,
    GuardFrozen,
    EtcdLost,
}

const FAULTS: [(Fault, &str); 5] = [
    (Fault::SupervisorKilled, "the supervisor killed"),
    (Fault::SupervisorFrozen, "the supervisor frozen"),
    (Fault::GuardKilled, "the guard killed"),
    (Fault::GuardFrozen, "the guard frozen"),
    (Fault::EtcdLost, "etcd lost"),
];

/// A trial's times, if nothing was violated.
struct Seen {
    /// From the fault to the last sign of life of the processes that ran then.
    outlived: Duration,
    /// From the fault to the next command's first sign of life.
    next: Duration,
}

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let trials = bench.scale.of(50, 2);
    let mut section = Section::new(
        "run",
        "elect run under faults",
        "Two `elect run`, TTL 3 s, with commands that are deaf to TERM and have a helper in a session of its own. A trial \
         went well if at most one command was alive at any time, and none past its term's validity.",
    );
    for (fault, name) in FAULTS {
        let at_a_time = match fault {
            // One at a time, as it is timed.
            Fault::SupervisorKilled => 1,
            _ => AT_A_TIME,
        };
        let seen = concurrently(trials, at_a_time, |_| match fault {
            Fault::EtcdLost => lose_etcd(&mut crate::etcd().start()),
            _ => strike(&bench.etcd, fault),
        });
        let good: Vec<Seen> = seen.into_iter().flatten().collect();
        let outlived: Sample = good.iter().map(|seen| seen.outlived).collect();
        let detail = format!("ended after {:.0} ms, at most {:.0}", outlived.median(), outlived.max());
        section.all(name, good.len(), trials, &detail);
        if matches!(fault, Fault::SupervisorKilled) {
            judge_takeover(bench, &mut section, trials, &good);
        }
    }
    section
}

/// Checks that the next command runs within 50 ms and three bare handoffs.
fn judge_takeover(bench: &Bench, section: &mut Section, trials: usize, good: &[Seen]) {
    let handoffs: Sample = (0..bench.scale.of(20, 3)).map(|_| handoff::hand_over(bench, Who::Twin)).collect();
    let limit = ALLOWED + Duration::from_secs_f64(3.0 * handoffs.median() / 1e3);
    let next: Sample = good.iter().map(|seen| seen.next).collect();
    let in_time = good.iter().filter(|seen| seen.next <= limit).count();
    let limit = limit.as_secs_f64() * 1e3;
    let detail = format!("{:.1} / {:.1} / {:.1} ms of {limit:.1}", next.median(), next.p95(), next.max());
    section.all("the next command runs soon after that", in_time, trials, &detail);
}

fn strike(etcd: &Etcd, fault: Fault) -> Seen {
    let diary = Diary::new();
    let (mut leader, first, _follower) = leader_and_follower(etcd, &diary);
    let mut guard = leader.guard();
    let struck = match fault {
        Fault::SupervisorKilled => leader.kill(),
        Fault::SupervisorFrozen => leader.freeze(),
        Fault::GuardKilled => guard.kill(),
        Fault::GuardFrozen => guard.freeze(),
        Fault::EtcdLost => unreachable!("that has a trial of its own"),
    };
    let next = diary.wait_for_term_after(first.token);
    seen(&diary, &first, struck, &next)
}

fn lose_etcd(etcd: &mut Etcd) -> Seen {
    let diary = Diary::new();
    let (_leader, first, _follower) = leader_and_follower(etcd, &diary);
    let struck = etcd.freeze();
    diary.wait_for_end_of(first.token);
    etcd.thaw();
    let next = diary.wait_for_term_after(first.token);
    seen(&diary, &first, struck, &next)
}

/// The times of a trial whose next term has begun.
fn seen(diary: &Diary, first: &Entry, struck: BootTime, next: &Entry) -> Seen {
    diary.one_at_a_time();
    let outlived = diary.last_of(first.token) - struck;
    assert!(outlived < VALIDITY, "alive {outlived:?} after the fault");
    Seen { outlived, next: next.at - struck }
}

/// A leader whose command and helper run, and a waiting candidate.
fn leader_and_follower(etcd: &Etcd, diary: &Diary) -> (Run, Entry, Run) {
    let election = election("run");
    let start = |name: &str| {
        let args = ["run", "--name", name, "--etcd", &etcd.endpoint(), "--election", &election, "--ttl", TTL];
        Run::start(diary.script(Elect::of(programs::elect(), args), STUBBORN))
    };
    let leader = start("a");
    let first = diary.wait_for_term_after(0);
    diary.wait_for_workers(first.token, 2);
    let follower = start("b");
    follower.wait_until_follower();
    thread::sleep(SETTLE);
    (leader, first, follower)
}
