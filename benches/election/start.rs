//! The time from a process's start until it leads, on an otherwise idle etcd.

use std::time::Duration;

use crate::{
    Bench,
    contender::{Candidate, Stand},
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        who::Who,
    },
    trials::{election, take_turns},
};

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let mut section = Section::new(
        "start",
        "Start",
        "From the start of the process until it says that it leads, one process at a time. The first trial of each \
         is not counted: it reads the program from the disk.",
    );
    // Three peers have to find each other first, which is another measurement.
    let contenders: Vec<_> = bench.contenders().into_iter().filter(|who| *who != Who::Peers).collect();
    for who in &contenders {
        start(bench, *who);
    }
    let trials = bench.scale.of(40, 3);
    let samples = take_turns(&contenders, trials, &mut section.failed, |who| start(bench, who));
    let mut measure = Measure::new("start", "start until leading", Unit::Milliseconds, Better::Less)
        .headline()
        .plotted()
        .beside_floors();
    for (who, sample) in samples {
        measure.add(who, sample);
    }
    section.measures.push(measure);
    section
}

fn start(bench: &Bench, who: Who) -> Duration {
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("start"), ttl: 5 };
    let mut candidate = Candidate::start_bare(who, &stand, "only");
    let took = candidate.wait_until_leader() - candidate.process().started();
    candidate.leave();
    candidate.wait_gone();
    took
}
