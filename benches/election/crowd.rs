//! Many candidates in one process on one connection: all queue, then each wins and gives way in turn.

use std::{thread, time::Duration};

use etcd_client::GetOptions;
use nix::sys::signal::Signal;

use crate::{
    Bench,
    contender::{SOON, Stand, many},
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::{clock::BootTime, etcd::Etcd, eventually::eventually, runtime::wait_within},
    trials::election,
};

/// Time limit for all to queue, and for all to have led.
const DEADLINE: Duration = Duration::from_secs(120);

/// Time after which the queued candidates wait only for their turn.
const SETTLE: Duration = Duration::from_secs(1);

const TTL: u64 = 60;

/// The twin has one thread. Ours can share the program's too, or use its own, which is the default.
const CROWDS: [(Who, &str); 4] =
    [(Who::Elect, "crowd"), (Who::Twin, "crowd"), (Who::Go, "crowd"), (Who::Elect, "apart")];

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let (trials, candidates) = (bench.scale.of(20, 2), bench.scale.of(500, 50));
    let mut section = Section::new(
        "crowd",
        "Many candidates in one election",
        format!(
            "{candidates} candidates in one process on one connection, TTL {TTL} s: all queue, then each gives way at once when it \
             leads, {} handoffs in a row.",
            candidates - 1
        ),
    );
    let present = bench.contenders();
    let crowds: Vec<_> = CROWDS.into_iter().filter(|(who, _)| present.contains(who)).collect();
    let mut rates = vec![Sample::default(); crowds.len()];
    let mut queueing = rates.clone();
    for trial in 0..trials {
        for turn in 0..crowds.len() {
            let index = (trial + turn) % crowds.len();
            let (queued, rate) = run(bench, crowds[index], candidates);
            queueing[index].add_time(queued);
            rates[index].add(rate);
        }
    }
    let what = format!("{candidates} candidates: handoffs in a row");
    let mut handoffs = Measure::new("crowd", what, Unit::PerSecond, Better::More).headline().plotted();
    let what = "start until all are queued";
    let mut until_queued = Measure::new("crowd-queued", what, Unit::Milliseconds, Better::Neither);
    for (((who, mode), rate), queued) in crowds.into_iter().zip(rates).zip(queueing) {
        if mode == "apart" {
            section.note(format!(
                "Ours with the renewals on a thread of their own, as `Etcd::start` has them: {} (p95 {}).",
                Unit::PerSecond.of(rate.median()),
                Unit::PerSecond.of(rate.p95()),
            ));
        } else {
            handoffs.add(who, rate);
            until_queued.add(who, queued);
        }
    }
    section.measures.extend([handoffs, until_queued]);
    section
}

/// The time until all were queued, and the handoffs a second.
fn run(bench: &Bench, (who, mode): (Who, &str), candidates: usize) -> (Duration, f64) {
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("crowd"), ttl: TTL };
    let started = BootTime::now();
    let mut process = many(who, mode, &stand, candidates).expect("these have such a program");
    eventually(DEADLINE, "all candidates to be queued", || {
        (queued(&bench.etcd, &stand.election) >= candidates).then_some(())
    });
    let queued = started.elapsed();
    thread::sleep(SETTLE);
    process.signal(Signal::SIGUSR1);
    let line = process.wait_for_line(|line: &str| line.starts_with("handoffs "), DEADLINE).text;
    let mut words = line.split(' ').skip(1).map(|word| word.parse::<f64>().expect("they are numbers"));
    let (handoffs, nanos) = (words.next(), words.next());
    assert!(process.wait_exit(SOON).success(), "{} did not end well", who.title());
    (queued, handoffs.expect("a count") / nanos.expect("a time") * 1e9)
}

fn queued(etcd: &Etcd, election: &str) -> usize {
    let (mut client, prefix) = (etcd.admin().client(), format!("{election}/"));
    let options = GetOptions::new().with_prefix().with_count_only();
    let counted = wait_within(SOON, async move { client.get(prefix, Some(options)).await });
    let counted = counted.expect("etcd answers in time").expect("etcd counts keys");
    usize::try_from(counted.count()).unwrap_or(0)
}
