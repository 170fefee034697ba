//! Many candidates in one process on one connection: all queue, then each wins and gives way in turn.

use std::{thread, time::Duration};

use etcd_client::GetOptions;
use nix::sys::signal::Signal;

use crate::{
    Bench,
    programs::{SOON, Side, Stand, crowd},
    report::{Report, Target},
    sample::Sample,
    support::{clock::BootTime, etcd::Etcd, eventually::eventually, runtime::wait_within},
    trials::election,
};

/// For all to queue, and for all to have led.
const DEADLINE: Duration = Duration::from_secs(120);

/// After which those that have queued wait for nothing but their turn.
const SETTLE: Duration = Duration::from_secs(1);

const TTL: u64 = 60;

/// The twin has one thread. Ours can share the program's too, or have its own as it usually does.
const CROWDS: [(Side, &str); 3] = [(Side::Ours, "crowd"), (Side::Twin, "crowd"), (Side::Ours, "apart")];

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let (trials, candidates) = (bench.scale.of(30, 2), bench.scale.of(500, 50));
    let how = format!(
        "{candidates} candidates in one process, one connection, TTL {TTL} s: queue, then {} handoffs",
        candidates - 1
    );
    report.section("crowd", &how);
    let mut rates = CROWDS.map(|_| Sample::default());
    let mut queueing = CROWDS.map(|_| Sample::default());
    for trial in 0..trials {
        for turn in 0..CROWDS.len() {
            let index = (trial + turn) % CROWDS.len();
            let (queued, rate) = run(bench, CROWDS[index], candidates);
            queueing[index].add(queued.as_secs_f64() * 1e3);
            rates[index].add(rate);
        }
    }
    let [ours, twin, apart] = &rates;
    report.ratio("handoffs in a row", "1/s", ours, twin, "twin", Target::AtLeast(1.0));
    report.ratio("the same, renewed by another thread", "1/s", apart, twin, "twin", Target::None);
    let [ours, twin, _] = &queueing;
    report.ratio("start until all are queued", "ms", ours, twin, "twin", Target::None);
}

/// How long it took until all were queued, and how many handoffs there were in a second.
fn run(bench: &Bench, (side, how): (Side, &str), candidates: usize) -> (Duration, f64) {
    let election = election(&format!("crowd-{}", side.name()));
    let stand = Stand { endpoint: bench.etcd.endpoint(), election, ttl: TTL };
    let started = BootTime::now();
    let mut process = crowd(side, how, &stand, candidates);
    eventually(DEADLINE, "all candidates to be queued", || {
        (queued(&bench.etcd, &stand.election) >= candidates).then_some(())
    });
    let queued = started.elapsed();
    thread::sleep(SETTLE);
    process.signal(Signal::SIGUSR1);
    let line = process.wait_for_line(|line: &str| line.starts_with("handoffs "), DEADLINE).text;
    let mut words = line.split(' ').skip(1).map(|word| word.parse::<f64>().expect("they are numbers"));
    let (handoffs, nanos) = (words.next(), words.next());
    assert!(process.wait_exit(SOON).success(), "{} did not end well", side.name());
    (queued, handoffs.expect("a count") / nanos.expect("a time") * 1e9)
}

fn queued(etcd: &Etcd, election: &str) -> usize {
    let (mut client, prefix) = (etcd.admin().client(), format!("{election}/"));
    let options = GetOptions::new().with_prefix().with_count_only();
    let counted = wait_within(SOON, async move { client.get(prefix, Some(options)).await });
    let counted = counted.expect("etcd answers in time").expect("etcd counts keys");
    usize::try_from(counted.count()).unwrap_or(0)
}
