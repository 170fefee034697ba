//! Many elections in one process on one connection, alone in each: the cost of each, and whether all are
//! renewed in time.

use std::{path::Path, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Bench,
    contender::{SOON, Stand, many},
    family::usage,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::capture::Captured,
    trials::election,
};

const CONTENDERS: [Who; 3] = [Who::Elect, Who::Twin, Who::Go];

const DEADLINE: Duration = Duration::from_secs(120);

/// Time to free memory that only the start needs.
const SETTLE: Duration = Duration::from_millis(500);

const TTL: u64 = 10;

/// The library trusts a lease for nine tenths of the TTL, and renews each third. This is left if no renewal is late.
const LEFT_AT_BEST: Duration = Duration::from_millis(TTL * (900 - 333));

/// Limit for late renewals: a tenth of the TTL.
const LATE_AT_MOST: Duration = Duration::from_secs(TTL / 10);

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let (trials, count) = (bench.scale.of(20, 2), bench.scale.of(1000, 50));
    let watched = Duration::from_secs(bench.scale.of(60, 10) as u64);
    let mut section = Section::new(
        "elections",
        "Many elections in one process",
        format!(
            "{count} elections, one candidate in each, all in one process with one thread on one connection, TTL {TTL} s. Memory is \
             what the process has more of when it leads them all than when it had connected, by election. In the last \
             trial of each it goes on leading for {} s.",
            watched.as_secs()
        ),
    );
    let present = bench.contenders();
    let contenders: Vec<_> = CONTENDERS.into_iter().filter(|who| present.contains(who)).collect();
    let mut seen: Vec<(Who, Vec<Seen>)> = contenders.iter().map(|who| (*who, Vec::new())).collect();
    for trial in 0..trials {
        for turn in 0..contenders.len() {
            let (who, seen) = &mut seen[(trial + turn) % contenders.len()];
            let watched = if trial + 1 == trials { watched } else { Duration::ZERO };
            seen.push(lead_all(bench, *who, count, watched));
        }
    }

    let of = |what: &str| format!("{count} elections: {what}");
    let mut until = Measure::new("elections", of("until all are led"), Unit::Milliseconds, Better::Less)
        .headline()
        .plotted();
    let mut memory = Measure::new("elections-memory", of("memory of each"), Unit::Kibibytes, Better::Less)
        .not_judged()
        .headline()
        .plotted();
    let mut tasks =
        Measure::new("elections-tasks", of("tasks (goroutines) of each"), Unit::Count, Better::Neither);
    for (who, seen) in seen {
        let each = |value: fn(&Seen) -> f64| seen.iter().map(value).collect::<Sample>();
        until.add(who, each(|seen| seen.led_after.as_secs_f64() * 1e3));
        memory.add(who, each(|seen| seen.kib).divided_by(count as f64));
        tasks.add(who, each(|seen| seen.tasks).divided_by(count as f64));
        let last = seen.last().expect("there is a trial");
        judge(&mut section, who, count, watched, last);
    }
    section.measures.extend([until, memory, tasks]);
    section
}

fn judge(section: &mut Section, who: Who, count: usize, watched: Duration, last: &Seen) {
    let expected = count as f64 * watched.as_secs_f64() / (TTL as f64 / 3.0);
    let kept = format!(
        "{} of {count} kept for {} s; {:.1} % of the renewals that one every TTL/3 makes",
        last.kept,
        watched.as_secs(),
        last.renewals as f64 / expected * 100.0
    );
    if who != Who::Elect {
        section.note(format!("{}: {kept}.", who.title()));
        return;
    }
    section.all("elections that were led throughout", last.kept, count, &kept);
    let late = LEFT_AT_BEST.saturating_sub(last.least_left);
    let detail = format!("the least time left to believe was {:.2} s", last.least_left.as_secs_f64());
    section.at_most(
        "the latest renewal's delay",
        "s",
        late.as_secs_f64(),
        LATE_AT_MOST.as_secs_f64(),
        &detail,
    );
}

struct Seen {
    led_after: Duration,
    /// Additional memory, in all.
    kib: f64,
    tasks: f64,
    kept: usize,
    renewals: u64,
    /// The least validity left at any time; only the library reports it.
    least_left: Duration,
}

fn lead_all(bench: &Bench, who: Who, count: usize, watched: Duration) -> Seen {
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("many"), ttl: TTL };
    let mut process = many(who, "elections", &stand, count).expect("these have such a program");
    process.wait_for_line("ready", SOON);
    let before = memory(&process);
    process.signal(Signal::SIGUSR1);
    let led = numbers(&process, "led ");
    thread::sleep(SETTLE);
    let after = memory(&process);
    let renewed = renewals(bench);
    thread::sleep(watched);
    let renewals = renewals(bench) - renewed;
    process.signal(Signal::SIGTERM);
    let kept = numbers(&process, "kept ");
    assert!(process.wait_exit(DEADLINE).success(), "{} did not end well", who.title());
    Seen {
        led_after: Duration::from_nanos(led[1]),
        kib: (after - before) * 1024.0,
        tasks: led[2] as f64,
        kept: usize::try_from(kept[0]).unwrap_or(0),
        renewals,
        least_left: Duration::from_nanos(kept.get(1).copied().unwrap_or(0)),
    }
}

/// The numbers in the line with this prefix.
fn numbers(process: &Captured, begins: &str) -> Vec<u64> {
    let line = process.wait_for_line(|line: &str| line.starts_with(begins), DEADLINE).text;
    line[begins.len()..].split(' ').map(|word| word.parse().expect("they are numbers")).collect()
}

/// In MiB. Anonymous memory only: the program file's pages are no cost of an election.
fn memory(process: &Captured) -> f64 {
    usage(process.id(), Path::new("")).anonymous_mib
}

fn renewals(bench: &Bench) -> u64 {
    bench.etcd.messages_received().get("LeaseKeepAlive").copied().unwrap_or(0)
}
