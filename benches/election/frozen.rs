//! What a leader claims that slept through the end of its lease, or whose connection fell silent; and a
//! standby that slept through its turn. None may claim what has passed to another.
//!
//! `elect server` is judged by its lines, and the library by a program that asks the guard every
//! millisecond and prints each claim (`benches/library`).

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    Bench,
    claims::{Claims, is_claim},
    programs::{CHANGE, LEADER, REFRESHING, SOON, Side, Stand, claimant},
    report::Report,
    sample::Sample,
    support::{
        eventually::eventually,
        proxy::{Mode, Proxy},
    },
    trials::{concurrently, election},
};

const TTL: u64 = 2;

/// Trials that wait at the same time, each in an election of its own.
const SERVERS_AT_ONCE: usize = 10;
/// Fewer, as each prints a thousand lines a second.
const CLAIMANTS_AT_ONCE: usize = 6;

/// For wrong claims to show after the thaw, or after the next leader's first claim.
const AFTERMATH: Duration = Duration::from_millis(800);

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let trials = bench.scale.of(50, 3);
    report.section("frozen", &format!("TTL {TTL} s; SIGSTOP until another one leads, then SIGCONT"));

    let servers = concurrently(trials, SERVERS_AT_ONCE, |_| thawed_server_claims_for(bench));
    let good = servers.iter().flatten().filter(|claimed| claimed.is_zero()).count();
    let longest = servers.iter().flatten().max().copied().unwrap_or_default();
    report.all("elect: no claim after SIGCONT", good, trials, &format!("longest {longest:?}"));

    let frozen = concurrently(trials, CLAIMANTS_AT_ONCE, |_| frozen_claimant(bench));
    overlaps(report, "library: frozen leader, no overlap", trials, &frozen);

    let silent = concurrently(trials, CLAIMANTS_AT_ONCE, |_| silenced_claimant(bench));
    overlaps(report, "library: silent connection, no overlap", trials, &silent);

    let standbys = concurrently(trials, CLAIMANTS_AT_ONCE, |_| thawed_standby_keeps_quiet(bench));
    let good = standbys.iter().flatten().filter(|quiet| **quiet).count();
    report.all(
        "library: thawed standby never claims its old turn",
        good,
        trials,
        "and leads in its next one",
    );
}

/// A trial's shortest gap between the terms, or by how long they overlapped.
type Gap = Result<Duration, Duration>;

fn overlaps(report: &mut Report, what: &str, trials: usize, gaps: &[Option<Gap>]) {
    let good: Sample = gaps.iter().flatten().filter_map(|gap| gap.ok()).collect();
    let overlap = gaps.iter().flatten().filter_map(|gap| gap.err()).max();
    let detail = match overlap {
        Some(overlap) => format!("longest overlap {overlap:?}"),
        None => format!("gap {:.0} ms, least {:.0}", good.median(), good.min()),
    };
    report.all(what, good.len(), trials, &detail);
}

fn stand(bench: &Bench) -> Stand {
    Stand { endpoint: bench.etcd.endpoint(), election: election("frozen"), ttl: TTL }
}

/// So that events fall anywhere between two renewals.
fn some_time() {
    thread::sleep(Duration::from_millis(fastrand::u64(0..700)));
}

/// How long after SIGCONT it still said that it leads, before it said that it does not.
fn thawed_server_claims_for(bench: &Bench) -> Duration {
    let stand = stand(bench);
    let mut leader = Side::Ours.start(&stand, "first");
    leader.wait_for_line(REFRESHING, SOON);
    let next = Side::Ours.start(&stand, "second");
    bench.etcd.admin().wait_for_candidates(&stand.election, 2, SOON);
    some_time();
    leader.freeze();
    next.wait_for_line(LEADER, SOON);
    some_time();

    let mark = leader.mark();
    let thawed = leader.thaw();
    let noticed = leader.wait_for_line_since(mark, CHANGE, SOON);
    let lines = leader.lines_since(mark);
    let claims = lines.iter().filter(|line| line.mark() < noticed.mark());
    let claims = claims.filter(|line| line.text == REFRESHING || line.text == LEADER);
    claims.map(|line| line.at - thawed).max().unwrap_or_default()
}

fn frozen_claimant(bench: &Bench) -> Gap {
    let stand = stand(bench);
    let mut leader = claimant(&stand, "first");
    leader.wait_for_line(is_claim, SOON);
    let next = claimant(&stand, "second");
    bench.etcd.admin().wait_for_candidates(&stand.election, 2, SOON);
    some_time();
    leader.freeze();
    next.wait_for_line(is_claim, SOON);
    some_time();
    leader.thaw();
    thread::sleep(AFTERMATH);
    gap(&Claims::of(&[&leader, &next]))
}

fn silenced_claimant(bench: &Bench) -> Gap {
    let direct = stand(bench);
    let proxy = Proxy::start(&bench.etcd.endpoint());
    let leader = claimant(&Stand { endpoint: proxy.endpoint(), ..direct.clone() }, "first");
    leader.wait_for_line(is_claim, SOON);
    let next = claimant(&direct, "second");
    bench.etcd.admin().wait_for_candidates(&direct.election, 2, SOON);
    some_time();
    proxy.set(Mode::Silence);
    next.wait_for_line(is_claim, SOON);
    thread::sleep(AFTERMATH);
    gap(&Claims::of(&[&leader, &next]))
}

fn gap(claims: &Claims) -> Gap {
    claims.shortest_gap().map(|gap| gap.expect("two terms were claimed"))
}

/// Freezes the second of three until its key has expired, lets the third one lead, and thaws.
///
/// etcd answers the second one's Campaign meanwhile: with a win, for a key that is gone.
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
    let quiet = Claims::of(&[&standby]).tokens().is_empty();

    // It must not have given up either.
    third.signal(Signal::SIGTERM);
    standby.wait_for_line(is_claim, SOON);
    let old_token = u64::try_from(old.create_revision).expect("revisions are positive");
    let never_old = !Claims::of(&[&standby]).tokens().contains(&old_token);
    let no_overlap = Claims::of(&[&leader, &standby, &third]).shortest_gap().is_ok();
    quiet && never_old && no_overlap
}
