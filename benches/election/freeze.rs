//! Two leaders at once: the time for which the former leader claims leadership beside the next one.
//!
//! docs/benchmarks.md defines a claim. A trial without an overlap counts as 0.

use std::{thread, time::Duration};

use crate::{
    Bench,
    claims::both_claimed,
    contender::{How, WATCH_EVERY},
    family::Suspended,
    field::Field,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::{Kind, Who},
    },
    support::{
        capture::Mark,
        clock::BootTime,
        proxy::{Mode, Proxy},
    },
    trials::concurrently,
};

const TTL: u64 = 2;

/// Few, as each process prints a thousand lines a second.
const AT_ONCE: usize = 6;

/// Longest observation of a former leader, and the value for one that never stops.
const WATCHED: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Frozen,
    CutOff,
    Suspended,
    Crashed,
}

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let trials = bench.scale.of(25, 3);
    let mut section = Section::new(
        "freeze",
        "Two leaders at once",
        format!(
            "TTL {TTL} s. *Frozen*: SIGSTOP to the leader's process; SIGCONT up to 0.7 s after another one leads. \
             *Cut off*: nothing comes through between the leader and etcd any more, and no connection breaks. *Suspended*: the same for all that belongs to a runner, its command too, as when a machine is suspended. *Crashed*: \
             SIGKILL to the runner, not to its command. The former leader is watched for {} s at most. (`etcdctl elect` \
             has its own TTL of 60 s.)",
            WATCHED.as_secs(),
        ),
    );
    let all = bench.contenders();
    // Peers have no etcd; `make torture` cuts them off from each other.
    let on_etcd: Vec<_> = all.iter().copied().filter(|who| *who != Who::Peers).collect();
    let runners: Vec<_> = all.iter().copied().filter(|who| who.kind() == Kind::Runner).collect();
    let faults = [
        (Fault::Frozen, "frozen", "two lead: leader frozen, then thawed", &all),
        (Fault::CutOff, "cut-off", "two lead: leader cut off from etcd", &on_etcd),
        (Fault::Suspended, "suspended", "two lead: all of it suspended", &runners),
        (Fault::Crashed, "crash-two", "two lead: runner killed", &runners),
    ];
    for (fault, name, what, contenders) in faults {
        let most = WATCHED.as_secs_f64() * 1e3;
        let mut measure = Measure::new(name, what, Unit::Milliseconds, Better::Never)
            .watched_for(most)
            .headline()
            .plotted();
        for (who, sample) in strike_all(bench, contenders, fault, trials) {
            if sample.len() < trials {
                section.failed.push(format!("{} trials of {}, {name}", trials - sample.len(), who.title()));
            }
            measure.add(who, sample);
        }
        section.measures.push(measure);
    }
    section
}

fn strike_all(bench: &Bench, contenders: &[Who], fault: Fault, trials: usize) -> Vec<(Who, Sample)> {
    // `etcdctl elect` takes a minute and makes no claims by itself: all its trials at once, beside the others'.
    let (slow, quick): (Vec<_>, Vec<_>) =
        contenders.iter().copied().partition(|who| *who == Who::EtcdctlElect);
    let run = |contenders: &[Who], at_once: usize| {
        concurrently(contenders.len() * trials, at_once, |index| {
            let who = contenders[index % contenders.len()];
            (who, strike(bench, who, fault))
        })
    };
    let done: Vec<_> = thread::scope(|scope| {
        let slow = scope.spawn(|| run(&slow, trials));
        let quick = run(&quick, AT_ONCE);
        quick.into_iter().chain(slow.join().expect("a trial's panic is caught")).flatten().collect()
    });
    let of = |who: Who| done.iter().filter(move |(of, _)| *of == who).map(|(_, both)| *both);
    contenders.iter().map(|who| (*who, of(*who).collect())).collect()
}

fn strike(bench: &Bench, who: Who, fault: Fault) -> Duration {
    if fault == Fault::CutOff {
        return cut_off(bench, who);
    }
    let mut field = Field::of(who, bench, TTL, How::Claims);
    some_time();
    let (mark, marks) = (field.leader.mark(), field.marks());
    let (next, ran_again) = match fault {
        Fault::Frozen => {
            field.leader.freeze();
            let next = field.wait_for_next(&marks);
            some_time();
            (next, field.leader.thaw())
        }
        Fault::Suspended => {
            let suspended = Suspended::family_of(field.leader.process().id());
            let next = field.wait_for_next(&marks);
            some_time();
            let thawed = BootTime::now();
            suspended.thaw();
            (next, thawed)
        }
        Fault::Crashed => {
            let killed = field.leader.crash();
            (field.wait_for_next(&marks), killed)
        }
        Fault::CutOff => unreachable!("that has a trial of its own"),
    };
    // A runner's command goes on while the runner is frozen.
    let began = if who.kind() == Kind::Runner && fault == Fault::Frozen { next } else { ran_again };
    both_lead(&mut field, mark, began, next)
}

/// Silences the leader's connections.
fn cut_off(bench: &Bench, who: Who) -> Duration {
    let proxy = Proxy::start(&bench.etcd.endpoint());
    let mut field = Field::with_leader_at(&proxy.endpoint(), bench, who, TTL, How::Claims);
    some_time();
    let (mark, marks) = (field.leader.mark(), field.marks());
    proxy.set(Mode::Silence);
    let next = field.wait_for_next(&marks);
    both_lead(&mut field, mark, next, next)
}

/// The time for which the former leader claims leadership beside the next one, from when it `ran_again`.
fn both_lead(field: &mut Field, mark: Mark, ran_again: BootTime, next: BootTime) -> Duration {
    let Some(last) = field.leader.watch_claims(mark, WATCHED) else { return Duration::ZERO };
    let both = both_claimed(last.as_nanos(), ran_again.as_nanos(), next.as_nanos());
    // The observation's resolution is not a millisecond. A leader that still claims at its end never stops.
    if both + WATCH_EVERY >= WATCHED { WATCHED } else { both }
}

/// Random, so that events fall anywhere between two renewals.
fn some_time() {
    thread::sleep(Duration::from_millis(fastrand::u64(0..700)));
}
