//! A planned change of leaders: the leader is told to leave, and the next one leads.

use std::time::Duration;

use crate::{
    Bench,
    contender::How,
    field::Field,
    floor,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        who::Who,
    },
    trials::take_turns,
};

const TTL: u64 = 5;

/// Limit for a planned handoff by Raft, in multiples of one fdatasync.
const RAFT_FDATASYNCS: f64 = 12.0;

pub(crate) fn measure(bench: &Bench, floors: &mut Floors) -> Section {
    let mut section = Section::new(
        "handoff",
        "Planned handoff",
        "From SIGTERM to the leader until the next one says that it leads; a runner's next command says so itself. \
         (`etcdctl lock` passes no signal on, so its process group is told.) Two candidates, nothing else \
         to do.",
    );
    let trials = bench.scale.of(80, 3);
    let mut beside = 0;
    let samples = take_turns(&bench.contenders(), trials, &mut section.failed, |who| {
        // In between the trials, so that both see the same load.
        if beside < trials {
            floor::measure(bench, floors, 1);
            beside += 1;
        }
        hand_over(bench, who)
    });
    let mut handoff = Measure::new("handoff", "planned handoff", Unit::Milliseconds, Better::Less)
        .headline()
        .plotted()
        .beside_floors();
    for (who, sample) in samples {
        handoff.add(who, sample);
    }
    if let Some(raft) = handoff.sample(Who::Peers) {
        let times = raft.median() / floors.fdatasync.median();
        let what = format!("{}: planned handoff", Who::Peers.title());
        section.at_most(&what, "× fdatasync", times, RAFT_FDATASYNCS, "");
    }
    section.measures.push(handoff);
    section
}

/// A leader and one waiting candidate (two among peers).
pub(crate) fn hand_over(bench: &Bench, who: Who) -> Duration {
    let mut field = Field::of(who, bench, TTL, How::Quiet);
    let marks = field.marks();
    let told = field.leader.leave();
    let took = field.wait_for_next(&marks) - told;
    field.leader.wait_gone();
    field.dismiss();
    took
}
