//! etcd is killed and comes back: nobody gives up, one leads, and leadership can still be handed over.

use std::{collections::BTreeMap, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Bench,
    contender::{CHANGE, Candidate, FOLLOWER, How, LEADER, REFRESHING, SOON, Stand},
    report::{Floors, Section, who::Who},
    support::{capture::Captured, client::Admin},
    trials::{concurrently, election},
};

const TTLS: [u64; 2] = [2, 5];
/// Elections with each TTL on one etcd, so that one outage is a trial for each of them.
const ELECTIONS: usize = 5;
const CANDIDATES: usize = 3;
const OUTAGE: Duration = Duration::from_secs(3);
const AFTERWARDS: Duration = Duration::from_secs(20);

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let rounds = bench.scale.of(3, 1);
    let how = format!(
        "etcd is killed, is back after {OUTAGE:?}, and is looked at {AFTERWARDS:?} later: {CANDIDATES} `elect server` in each \
         of {ELECTIONS} elections a TTL, {rounds} outages. Nobody may have given up, one leads, and leadership can still be \
         handed over."
    );
    let mut section = Section::new("outage", "etcd lost for a while", how);
    let mut outcomes: BTreeMap<u64, Vec<Outcome>> = BTreeMap::new();
    for _ in 0..rounds {
        for (ttl, outcome) in outage() {
            outcomes.entry(ttl).or_default().push(outcome);
        }
    }
    for ttl in TTLS {
        let outcomes = outcomes.remove(&ttl).unwrap_or_default();
        let all = |outcome: &&Outcome| outcome.all_running && outcome.leaders == 1 && outcome.handed_over;
        let good = outcomes.iter().filter(all).count();
        let count = |what: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| what(outcome)).count();
        let detail = format!(
            "running {}, one leader {}, handoff {}",
            count(|outcome| outcome.all_running),
            count(|outcome| outcome.leaders == 1),
            count(|outcome| outcome.handed_over),
        );
        section.all(&format!("TTL {ttl} s: running, one leader, handoff"), good, rounds * ELECTIONS, &detail);
        let queued = count(|outcome| outcome.queued == CANDIDATES);
        section.all(&format!("TTL {ttl} s: all are in the queue"), queued, rounds * ELECTIONS, "");
    }
    section
}

struct Outcome {
    all_running: bool,
    leaders: usize,
    queued: usize,
    handed_over: bool,
}

/// One outage of an etcd of its own, with all the elections on it.
fn outage() -> Vec<(u64, Outcome)> {
    let mut etcd = crate::etcd().start();
    let admin = etcd.admin();
    let of_ttls = |index: usize| TTLS[index % TTLS.len()];
    let elections = concurrently(TTLS.len() * ELECTIONS, 4, |index| {
        let stand = Stand { endpoint: etcd.endpoint(), election: election("outage"), ttl: of_ttls(index) };
        let first = Candidate::start(Who::Elect, &stand, "s1", How::Quiet);
        let first = first.into_process();
        first.wait_for_line(REFRESHING, SOON);
        let others = (2..=CANDIDATES).map(|number| {
            Candidate::start(Who::Elect, &stand, &format!("s{number}"), How::Quiet).into_process()
        });
        let candidates: Vec<_> = std::iter::once(first).chain(others).collect();
        admin.wait_for_candidates(&stand.election, CANDIDATES, SOON);
        (stand, candidates)
    });
    thread::sleep(Duration::from_millis(fastrand::u64(500..1500)));

    etcd.kill();
    thread::sleep(OUTAGE);
    etcd.restart();
    thread::sleep(AFTERWARDS);
    let admin = etcd.admin();
    let outcomes = elections.into_iter().flatten().map(|(stand, candidates)| {
        let ttl = stand.ttl;
        (ttl, look(&admin, &stand, candidates))
    });
    outcomes.collect()
}

fn look(admin: &Admin, stand: &Stand, mut candidates: Vec<Captured>) -> Outcome {
    let all_running = candidates.iter_mut().all(|candidate| candidate.status().is_none());
    let queued = admin.candidates(&stand.election).len();
    let leading: Vec<_> = (0..candidates.len()).filter(|index| leads(&candidates[*index])).collect();
    let handed_over = match leading[..] {
        [leader] => hand_over(&mut candidates, leader),
        _ => false,
    };
    let outcome = Outcome { all_running, leaders: leading.len(), queued, handed_over };
    if !outcome.handed_over || !outcome.all_running {
        for candidate in &candidates {
            eprintln!("--- outage, TTL {} s\n{}", stand.ttl, candidate.stdout().join("\n"));
        }
    }
    outcome
}

/// By the last that it said of itself.
fn leads(candidate: &Captured) -> bool {
    let lines = candidate.stdout();
    let of_itself = [LEADER, REFRESHING, CHANGE, FOLLOWER];
    let last = lines.iter().rev().find(|line| of_itself.contains(&line.as_str()));
    last.is_some_and(|line| line == LEADER || line == REFRESHING)
}

/// SIGTERM to the leader: it ends well, and another one leads before its lease could have expired.
fn hand_over(candidates: &mut Vec<Captured>, leader: usize) -> bool {
    const AT_ONCE: Duration = Duration::from_secs(1);
    let mut leader = candidates.remove(leader);
    let marks: Vec<_> = candidates.iter().map(Captured::mark).collect();
    leader.signal(Signal::SIGTERM);
    let ended_well = leader.wait_exit(SOON).success();
    thread::sleep(AT_ONCE);
    let led = |(candidate, mark): (&Captured, _)| {
        candidate.lines_since(mark).iter().any(|line| line.text == LEADER)
    };
    ended_well
        && candidates.iter().zip(marks).filter(|(candidate, mark)| led((candidate, *mark))).count() == 1
}
