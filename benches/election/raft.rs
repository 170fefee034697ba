//! Peers, without etcd: Raft's expected numbers, beside one fdatasync on the same disk.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Bench,
    claims::{Terms, is_claim},
    contender::SOON,
    floor,
    members::{Conditions, Members, first, marks, next_leader, token},
    programs,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::{
        capture::Captured,
        clock::BootTime,
        elect::unconfigured,
        eventually::eventually,
        peers::Group,
        port::ReservedPort,
        process,
        proxy::{Mode, Proxy},
    },
};

const FAILOVER_MEDIAN_MS: f64 = 400.0;
const FAILOVER_P99_MS: f64 = 1000.0;
/// Limit for the mean number of terms in a failover; each split vote costs one.
const TERMS_A_FAILOVER: f64 = 1.5;
const HANDOFF_FSYNCS: f64 = 12.0;
const PROPOSE_FSYNCS: f64 = 5.0;
const RECORDS_A_SECOND: f64 = 5000.0;

/// Pause of all three between two trials: longer than the longest election timeout.
const SETTLE: Duration = Duration::from_millis(700);

/// Observation of a former leader after the next one leads.
const WATCHED: Duration = Duration::from_secs(1);

pub(crate) fn measure(bench: &Bench, floors: &mut Floors) -> Section {
    let mut section = Section::new(
        "raft",
        "Peers, by Raft",
        "Three `elect server --peers` on this machine, heartbeats of 50 ms, election timeouts of 250 to 500 ms, each with a data \
         directory of its own on one disk. *Failover*: SIGKILL to the leader until another one leads, verified; *terms* is by how many \
         the token grew, where a split vote costs one. *Two lead*: a program that claims each millisecond while its guard holds. \
         *Propose*: 64 bytes, from the call to the commit.",
    );
    fail_over(bench, &mut section);
    hand_over(bench, floors, &mut section);
    both_lead(bench, &mut section);
    propose(bench, floors, &mut section);
    section
}

fn fail_over(bench: &Bench, section: &mut Section) {
    let trials = bench.scale.of(200, 3);
    let mut members = Members::start(Conditions::HERE);
    let (mut leader, mut line) = first(&members);
    let (mut took, mut terms) = (Sample::default(), Sample::default());
    for _ in 0..trials {
        thread::sleep(SETTLE);
        let since = marks(&members);
        let killed = members.servers[leader].kill();
        let (next, next_line) = next_leader(&members, leader, &since);
        took.add_time(next_line.at - killed);
        terms.add((token(&next_line) - token(&line)) as f64);
        members.restart(leader);
        (leader, line) = (next, next_line);
    }
    section.at_most("peers' failover, median", "ms", took.median(), FAILOVER_MEDIAN_MS, "");
    section.at_most("peers' failover, 99 of 100", "ms", took.p99(), FAILOVER_P99_MS, &format!("of {trials}"));
    let mean = terms.values().iter().sum::<f64>() / trials as f64;
    let worst = format!("most for one: {}", terms.max());
    section.at_most("terms for a failover, mean", "", mean, TERMS_A_FAILOVER, &worst);
    let mut measure =
        Measure::new("raft-failover", "peers: SIGKILL to the next leader", Unit::Milliseconds, Better::Less);
    measure.add(Who::Peers, took);
    section.measures.push(measure.plotted());
}

fn hand_over(bench: &Bench, floors: &mut Floors, section: &mut Section) {
    let trials = bench.scale.of(100, 3);
    let mut members = Members::start(Conditions::HERE);
    let (mut leader, _) = first(&members);
    let mut took = Sample::default();
    for _ in 0..trials {
        thread::sleep(SETTLE);
        floor::measure(bench, floors, 1);
        let since = marks(&members);
        let told = BootTime::now();
        members.servers[leader].signal(Signal::SIGTERM);
        let (next, line) = next_leader(&members, leader, &since);
        took.add_time(line.at - told);
        let status = members.servers[leader].wait_exit(SOON);
        assert!(status.success(), "a peer did not end well: {status}");
        members.restart(leader);
        leader = next;
    }
    let limit = HANDOFF_FSYNCS * floors.fdatasync.median();
    let fsyncs = format!("{:.1} × one fdatasync", took.median() / floors.fdatasync.median());
    section.at_most("peers' handoff, median (12 × one fdatasync)", "ms", took.median(), limit, &fsyncs);
    let mut measure =
        Measure::new("raft-handoff", "peers: SIGTERM to the next leader", Unit::Milliseconds, Better::Less);
    measure.add(Who::Peers, took);
    section.measures.push(measure.beside_floors());
}

/// Freezes and thaws the leader, or silences its connections: does it claim leadership beside the next one?
fn both_lead(bench: &Bench, section: &mut Section) {
    let trials = bench.scale.of(50, 3);
    for (what, strike) in [("frozen", frozen as fn(&Cast) -> u64), ("cut off", cut_off as fn(&Cast) -> u64)] {
        let both: Vec<u64> = (0..trials).map(|_| strike(&Cast::of_claimants())).collect();
        let clean = both.iter().filter(|nanos| **nanos == 0).count();
        let worst = both.iter().max().map_or(0.0, |nanos| *nanos as f64 / 1e6);
        section.all(
            &format!("peers, leader {what}: two never lead"),
            clean,
            trials,
            &format!("at most {worst} ms"),
        );
    }
}

/// A leader that the others reach through a proxy, and two followers ready to succeed it.
struct Cast {
    servers: Vec<Captured>,
    proxy: Proxy,
    _group: Group,
    _ports: Vec<ReservedPort>,
}

/// The last by name: the others call it, and it calls none.
const LEADER: usize = 2;

impl Cast {
    /// Members that claim leadership repeatedly.
    fn of_claimants() -> Self {
        let cast = Self::of(["voter"; 3]);
        cast.servers[LEADER].wait_for_line(is_claim, SOON);
        for server in &cast.servers[..LEADER] {
            server.signal(Signal::SIGUSR1);
        }
        thread::sleep(SETTLE + Duration::from_millis(fastrand::u64(0..100)));
        cast
    }

    /// Members of these kinds, of which the last one campaigns.
    fn of(kinds: [&str; 3]) -> Self {
        let ports: Vec<_> = kinds.iter().map(|_| ReservedPort::new()).collect();
        let proxy = Proxy::start(&ports[LEADER].address());
        let group = Group::at(vec![ports[0].address(), ports[1].address(), proxy.endpoint()]);
        let start = |(place, kind): (usize, &&str)| {
            let mut command = process::command(programs::library());
            let (name, list, listen) = (group.name(place), group.list(), ports[place].address());
            unconfigured(&mut command).args([*kind, name, &list, &listen]).arg(group.data(place));
            Captured::start(name, command)
        };
        let servers: Vec<_> = kinds.iter().enumerate().map(start).collect();
        for server in &servers {
            server.wait_for_line("votes", SOON);
        }
        servers[LEADER].signal(Signal::SIGUSR1);
        Self { servers, proxy, _group: group, _ports: ports }
    }

    fn wait_for_next(&self) {
        eventually(SOON, "another one to lead", || {
            let others = &self.servers[..LEADER];
            others.iter().any(|other| other.lines().iter().any(|line| is_claim(&line.text))).then_some(())
        });
    }

    /// The time, in nanoseconds, for which a former leader claimed beside the next one.
    fn both(&self) -> u64 {
        let claims = self.servers.iter().flat_map(|server| server.lines()).map(|line| line.text);
        let terms = Terms::of(claims);
        assert!(terms.tokens().len() > 1, "both have claimed");
        terms.shortest_gap().err().map_or(0, |overlap| overlap.as_nanos() as u64)
    }
}

fn frozen(cast: &Cast) -> u64 {
    cast.servers[LEADER].signal(Signal::SIGSTOP);
    cast.wait_for_next();
    thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
    cast.servers[LEADER].signal(Signal::SIGCONT);
    thread::sleep(WATCHED);
    cast.both()
}

fn cut_off(cast: &Cast) -> u64 {
    cast.proxy.set(Mode::Silence);
    cast.wait_for_next();
    thread::sleep(WATCHED);
    cast.both()
}

fn propose(bench: &Bench, floors: &mut Floors, section: &mut Section) {
    let runs = bench.scale.of(5, 1);
    let (mut alone, mut together) = (Sample::default(), Sample::default());
    for _ in 0..runs {
        floor::measure(bench, floors, 10);
        let cast = Cast::of(["voter", "voter", "proposer"]);
        let leader = &cast.servers[LEADER];
        let line = leader.wait_for_line(|line: &str| line.starts_with("together "), SOON);
        let numbers: Vec<f64> = line.text.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
        together.add(numbers[0] / (numbers[1] / 1e9));
        let lines = leader.lines();
        let micros = lines.iter().filter_map(|line| line.text.strip_prefix("alone ")?.parse::<f64>().ok());
        micros.for_each(|micros| alone.add(micros / 1e3));
    }
    let limit = PROPOSE_FSYNCS * floors.fdatasync.median();
    let fsyncs = format!("{:.1} × one fdatasync", alone.median() / floors.fdatasync.median());
    section.at_most("propose to commit, median (5 × one fdatasync)", "ms", alone.median(), limit, &fsyncs);
    section.at_least("records a second, 512 under way", "/s", together.median(), RECORDS_A_SECOND);
    let mut one = Measure::new("propose", "peers: propose to commit", Unit::Milliseconds, Better::Less);
    one.add(Who::Peers, alone);
    let mut many = Measure::new("records", "peers: records a second", Unit::PerSecond, Better::More);
    many.add(Who::Peers, together);
    section.measures.extend([one.beside_floors(), many]);
}
