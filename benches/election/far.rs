//! Peers that are far apart, and peers on slow disks, with suitable timing: they elect a leader, keep it, and
//! replace it.

use std::{thread, time::Duration};

use crate::{
    Bench,
    contender::{CHANGE, FOLLOWER, SOON},
    members::{Conditions, Members, first, marks, next_leader},
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::clock::BootTime,
    trials::concurrently,
};

/// Round trips at which leaders are elected and kept, in milliseconds.
const ELECTED_AT: [u64; 7] = [0, 20, 60, 100, 150, 200, 300];

/// Round trips at which leaders are killed, with the names of the measures.
const KILLED_AT: [(u64, &str); 5] =
    [(0, "far-0ms"), (20, "far-20ms"), (50, "far-50ms"), (100, "far-100ms"), (200, "far-200ms")];

/// Additional sync times at which leaders are killed, with the names of the measures.
const SYNCED_IN: [(u64, &str); 3] = [(1, "sync-1ms"), (20, "sync-20ms"), (100, "sync-100ms")];

/// Groups at a time, which mostly wait.
const AT_ONCE: usize = 4;

/// Longest election timeouts within which a leader must come.
const TIMEOUTS: u32 = 4;

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let mut section = Section::new(
        "far",
        "Peers far apart, and on slow disks",
        format!(
            "Three `elect server --peers` on this machine, each behind a link that holds every byte back, or with syncs that take longer. \
             Heartbeats of 50 ms; the shortest election timeout is three round trips and 90 ms, or five syncs, rounded up to 50 ms, and \
             at least the default's 250 ms; the longest is twice that. {AT_ONCE} groups at a time. *Elected*: within {TIMEOUTS} of the longest \
             election timeouts from the start of the last process. *Kept*: one leader, and no other, for a minute. *Failover*: SIGKILL to the \
             leader until another one leads, verified.",
        ),
    );
    elect(bench, &mut section);
    keep(bench, &mut section);
    fail_over(bench, &mut section);
    section
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// In steps of 50 ms, and no less than the default.
fn at_least(millis: u64) -> Option<Duration> {
    Some(ms((millis.div_ceil(50) * 50).max(250)))
}

fn far_apart(round_trip: u64) -> Conditions {
    Conditions { round_trip: ms(round_trip), shortest: at_least(3 * round_trip + 90), ..Conditions::HERE }
}

fn on_slow_disks(sync: u64) -> Conditions {
    Conditions { sync: ms(sync), shortest: at_least(5 * sync), ..Conditions::HERE }
}

fn timing(conditions: &Conditions) -> String {
    let longest = conditions.longest().as_millis();
    format!("{}–{longest} ms", longest / 2)
}

fn elect(bench: &Bench, section: &mut Section) {
    let runs = bench.scale.of(20, 3);
    let took = concurrently(ELECTED_AT.len() * runs, AT_ONCE, |index| {
        let round_trip = ELECTED_AT[index / runs];
        let members = Members::start(far_apart(round_trip));
        let started = members.servers.iter().map(|server| server.started()).max().expect("three");
        (round_trip, first(&members).1.at - started)
    });
    for round_trip in ELECTED_AT {
        let conditions = far_apart(round_trip);
        let of_one = took.iter().flatten().filter(|(of, _)| *of == round_trip).map(|(_, took)| *took);
        let (within, times) = (conditions.longest() * TIMEOUTS, of_one.clone().collect::<Sample>());
        let good = of_one.filter(|took| *took <= within).count();
        let (median, most) = (times.median(), times.max());
        let detail = format!("median {median:.0} ms, most {most:.0} of {} ms", within.as_millis());
        let what = format!("elected: round trip {round_trip} ms, timeouts {}", timing(&conditions));
        section.all(&what, good, runs, &detail);
    }
}

fn keep(bench: &Bench, section: &mut Section) {
    let span = ms(bench.scale.of(60_000, 5_000) as u64);
    let kept = concurrently(ELECTED_AT.len(), ELECTED_AT.len(), |index| {
        let members = Members::start(far_apart(ELECTED_AT[index]));
        let (leader, _) = first(&members);
        thread::sleep(span);
        let changes = members.servers[leader].lines().iter().any(|line| line.text.contains(CHANGE));
        (ELECTED_AT[index], !changes)
    });
    let kept: Vec<u64> = kept.into_iter().flatten().filter(|(_, kept)| *kept).map(|(at, _)| at).collect();
    let lost = ELECTED_AT.iter().filter(|round_trip| !kept.contains(round_trip));
    let lost: Vec<_> = lost.map(|round_trip| format!("lost at {round_trip} ms")).collect();
    let what = format!("kept for {span:?}, at each of these round trips");
    section.all(&what, kept.len(), ELECTED_AT.len(), &lost.join(", "));
}

fn fail_over(bench: &Bench, section: &mut Section) {
    let trials = bench.scale.of(30, 3);
    let far = KILLED_AT
        .map(|(round_trip, name)| (far_apart(round_trip), name, format!("round trip {round_trip} ms")));
    let slow = SYNCED_IN.map(|(sync, name)| (on_slow_disks(sync), name, format!("sync {sync} ms")));
    let cases = [&far[..], &slow[..]].concat();
    let times = concurrently(cases.len(), AT_ONCE, |index| (cases[index].1, killed(cases[index].0, trials)));
    for (conditions, name, what) in cases {
        let what = format!("peers: failover, {what}, timeouts {}", timing(&conditions));
        let Some((_, times)) = times.iter().flatten().find(|(of, _)| *of == name) else {
            section.failed.push(what);
            continue;
        };
        let mut measure = Measure::new(name, what, Unit::Milliseconds, Better::Neither);
        measure.add(Who::Peers, times.clone());
        section.measures.push(measure);
    }
}

fn killed(conditions: Conditions, trials: usize) -> Sample {
    let mut members = Members::start(conditions);
    let (mut leader, _) = first(&members);
    let mut follower = None;
    (0..trials)
        .map(|_| {
            // All of them are connected, and none is about to campaign.
            for place in (0..3).filter(|place| *place != leader && follower.is_none_or(|one| one == *place)) {
                members.servers[place].wait_for_line(|line: &str| line.contains(FOLLOWER), SOON);
            }
            thread::sleep(conditions.longest() + ms(200) + ms(fastrand::u64(0..50)));
            let since = marks(&members);
            let killed: BootTime = members.servers[leader].kill();
            let (next, line) = next_leader(&members, leader, &since);
            members.restart(leader);
            follower = Some(leader);
            leader = next;
            line.at - killed
        })
        .collect()
}
