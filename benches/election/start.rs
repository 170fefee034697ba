//! From the start of a process to its `I am the leader.`, on an etcd with nothing else to do.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    Bench,
    programs::{LEADER, SOON, Side, Stand},
    report::{Report, Target},
    sample::Sample,
    trials::election,
};

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let trials = bench.scale.of(40, 3);
    report.section("start", "from the start of the process to `I am the leader.`, one process at a time");
    let stand = |side: Side| Stand {
        endpoint: bench.etcd.endpoint(),
        election: election(&format!("start-{}", side.name())),
        ttl: 5,
    };
    let stands = Side::BOTH.map(|side| (side, stand(side)));
    let mut samples = [Sample::default(), Sample::default()];
    for trial in 0..=trials {
        for ((side, stand), sample) in stands.iter().zip(&mut samples) {
            let took = start(*side, stand);
            // The first one reads the program from the disk.
            if trial > 0 {
                sample.add(took.as_secs_f64() * 1e3);
            }
        }
    }
    let [ours, twin] = samples;
    report.ratio("process start to leading", "ms", &ours, &twin, "twin", Target::AtMost(1.2));
}

fn start(side: Side, stand: &Stand) -> Duration {
    let mut process = side.start_bare(stand, "only");
    let leads = process.wait_for_line(LEADER, SOON).at;
    let took = leads - process.started();
    process.signal(Signal::SIGTERM);
    assert!(process.wait_exit(SOON).success(), "{} did not end well", side.name());
    took
}
