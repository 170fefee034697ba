//! What an election costs while nothing happens: memory, time on a CPU, and what etcd is asked.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use crate::{
    Bench,
    programs::{FOLLOWER, LEADER, SOON, Side, Stand},
    report::Report,
    support::{capture::Captured, clock::BootTime, etcd::Etcd},
    trials::election,
};

const TTL: u64 = 5;

/// After which nobody does anything but wait and renew.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let seconds = bench.scale.of(60, 10) as u64;
    let how = format!(
        "one leader and two followers, TTL {TTL} s, for {seconds} s; the three twins on an etcd of their own"
    );
    report.section("idle", &how);
    // Their messages are counted, so the twins' must not be among them.
    let twins_etcd = crate::etcd().start();
    let ours = three(Side::Ours, &bench.etcd);
    let twins = three(Side::Twin, &twins_etcd);
    thread::sleep(SETTLE);

    let before = bench.etcd.messages_received();
    let (from, ours_before, twins_before) = (BootTime::now(), usages(&ours), usages(&twins));
    thread::sleep(Duration::from_secs(seconds));
    let (ours_after, twins_after) = (usages(&ours), usages(&twins));
    let passed = from.elapsed();
    let received = difference(&before, &bench.etcd.messages_received());

    for (index, role) in ["leader", "follower", "follower"].iter().enumerate() {
        let (ours, twin) = (&ours_after[index], &twins_after[index]);
        let beside = format!("twin {:.2} ({:.2} anonymous)", twin.resident_mib, twin.anonymous_mib);
        report.at_most(&format!("{role}'s RSS"), "MiB", ours.resident_mib, 8.0, &beside);
        report.note(&format!("of which anonymous: {:.2} MiB", ours.anonymous_mib));
        let share = |after: &Usage, before: &Usage| {
            (after.on_cpu.saturating_sub(before.on_cpu)).as_secs_f64() / passed.as_secs_f64() * 100.0
        };
        let beside = format!("twin {:.3}", share(twin, &twins_before[index]));
        report.at_most(&format!("{role}'s CPU"), "%", share(ours, &ours_before[index]), 0.1, &beside);
    }
    let renewals = received.get("LeaseKeepAlive").copied().unwrap_or(0);
    let others: BTreeMap<_, _> = received.iter().filter(|(method, _)| *method != "LeaseKeepAlive").collect();
    let each = passed.as_secs_f64() * 3.0 / TTL as f64;
    let detail = format!("expected {:.0}, nothing else", each * 3.0);
    // Any span may hold one more or one less of each.
    let wanted = (each.floor() - 1.0) * 3.0..=(each.ceil() + 1.0) * 3.0;
    let as_expected = wanted.contains(&(renewals as f64)) && others.is_empty();
    report.all(
        &format!("messages to etcd: {renewals} renewals, others {others:?}"),
        usize::from(as_expected),
        1,
        &detail,
    );
}

fn three(side: Side, etcd: &Etcd) -> [Captured; 3] {
    let stand = Stand { endpoint: etcd.endpoint(), election: election("idle"), ttl: TTL };
    let leader = side.start(&stand, "leader");
    leader.wait_for_line(LEADER, SOON);
    let followers = ["second", "third"].map(|name| side.start(&stand, name));
    etcd.admin().wait_for_candidates(&stand.election, 3, SOON);
    if side == Side::Ours {
        for follower in &followers {
            follower.wait_for_line(FOLLOWER, SOON);
        }
    }
    let [second, third] = followers;
    [leader, second, third]
}

struct Usage {
    resident_mib: f64,
    anonymous_mib: f64,
    on_cpu: Duration,
}

fn usages(processes: &[Captured]) -> Vec<Usage> {
    processes.iter().map(|process| usage(process.id())).collect()
}

fn usage(process: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux shows it");
        let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        kib.parse::<f64>().expect("it is a number") / 1024.0
    };
    Usage { resident_mib: mib("VmRSS"), anonymous_mib: mib("RssAnon"), on_cpu: on_cpu(process) }
}

/// User and system time. From the scheduler, since `/proc/PID/stat` counts in hundredths of a second.
fn on_cpu(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let nanos = threads.flatten().filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after
        .iter()
        .map(|(method, count)| (method.clone(), count - before.get(method).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}
