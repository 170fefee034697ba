//! A standby that was frozen when its turn came: it must not claim a leadership that has passed to another.
//!
//! Checked by a program that asks the guard every millisecond and prints each claim (`benches/library`).

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Bench,
    claims::{Terms, is_claim},
    contender::{Candidate, How, SOON, Stand},
    report::{Floors, Section, who::Who},
    support::{capture::Captured, eventually::eventually},
    trials::{concurrently, election},
};

const TTL: u64 = 2;

/// Trials at a time, which mostly wait, each in an election of its own. Few, as each prints a thousand lines a second.
const AT_ONCE: usize = 6;

/// Time for wrong claims after the thaw.
const AFTERMATH: Duration = Duration::from_millis(800);

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let trials = bench.scale.of(50, 3);
    let mut section = Section::new(
        "standby",
        "A standby that slept",
        format!(
            "TTL {TTL} s. The second of three is frozen until its key has expired, the third leads, then it runs again; \
             etcd has meanwhile answered its Campaign with a win."
        ),
    );
    let standbys = concurrently(trials, AT_ONCE, |_| thawed_standby_keeps_quiet(bench));
    let good = standbys.iter().flatten().filter(|quiet| **quiet).count();
    let detail = "and leads in its next one";
    section.all("thawed standby never claims its old turn", good, trials, detail);
    section
}

fn claimant(stand: &Stand, name: &str) -> Captured {
    Candidate::start(Who::Elect, stand, name, How::Claims).into_process()
}

/// All claims of these so far.
fn terms(claimants: &[&Captured]) -> Terms {
    Terms::of(claimants.iter().flat_map(|claimant| claimant.lines()).map(|line| line.text))
}

fn stand(bench: &Bench) -> Stand {
    Stand { endpoint: bench.etcd.endpoint(), election: election("standby"), ttl: TTL }
}

/// Random, so that events fall anywhere between two renewals.
fn some_time() {
    thread::sleep(Duration::from_millis(fastrand::u64(0..700)));
}

/// Freezes the second of three until its key has expired, lets the third one lead, and thaws.
///
/// Meanwhile etcd answers the second one's Campaign with a win, for a key that is gone.
fn thawed_standby_keeps_quiet(bench: &Bench) -> bool {
    let (stand, admin) = (stand(bench), bench.etcd.admin());
    let leader = claimant(&stand, "first");
    leader.wait_for_line(is_claim, SOON);
    let mut standby = claimant(&stand, "second");
    let old = admin.wait_for_candidates(&stand.election, 2, SOON).remove(1);
    let third = claimant(&stand, "third");
    admin.wait_for_candidates(&stand.election, 3, SOON);
    some_time();

    standby.freeze();
    eventually(SOON, "the standby's key to expire", || {
        let queue = admin.candidates(&stand.election);
        queue.iter().all(|candidate| candidate.key != old.key).then_some(())
    });
    leader.signal(Signal::SIGTERM);
    third.wait_for_line(is_claim, SOON);
    some_time();
    standby.thaw();
    thread::sleep(AFTERMATH);
    let quiet = terms(&[&standby]).tokens().is_empty();

    // It must not have given up either.
    third.signal(Signal::SIGTERM);
    standby.wait_for_line(is_claim, SOON);
    let old_token = u64::try_from(old.create_revision).expect("revisions are positive");
    let never_old = !terms(&[&standby]).tokens().contains(&old_token);
    let no_overlap = terms(&[&leader, &standby, &third]).shortest_gap().is_ok();
    quiet && never_old && no_overlap
}
