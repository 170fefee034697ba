//! `elect run` with real commands: they run exactly while their process leads, whatever happens to the supervisor,
//! the guard, or etcd.
//!
//! Claims about a command are checked against its own diary: see `support/worker.rs`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use support::{
    capture::{Mark, Stream, longest_stall},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    run::{Run, elect_run},
    server::{AT_ONCE, ELECTION_NAME, SOON, Status},
    worker::{self, Diary, Entry},
};
use tempfile::TempDir;

/// A worker alone.
const WORKER: &str = "exec $WORKER";

/// A worker that ignores TERM, and a helper that left group and session, as the child of a shell that did.
const DEAF_WITH_A_STRAY: &str = "trap '' TERM; WORKER_LOCK= setsid -f sh -c '$WORKER; exit'; exec $WORKER";

/// Longer than any test takes: waiting for a lease to end would show.
const LONG: &str = "60s";

/// A short TTL, and the longest time for which a leader trusts a renewal, counted from its send: a tenth less.
const SHORT: &str = "3s";
const VALIDITY: Duration = Duration::from_millis(2700);

/// Longer than the window in which a second signal counts as an echo.
const ECHO: Duration = Duration::from_millis(500);

const COMMAND_RUNS: &str = "the command runs";
const COMMAND_ENDED: &str = "the command has ended";

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    worker::main();
}

fn start_worker(name: &str, etcd: &Etcd, ttl: &str, diary: &Diary, script: &str) -> Run {
    Run::start(diary.script(elect_run(name, &etcd.endpoint(), ttl), script))
}

/// A leader whose command runs, with a helper that left its group, and a waiting candidate.
fn leader_and_follower(etcd: &Etcd, ttl: &str, diary: &Diary) -> (Run, u64, Run) {
    let leader = start_worker("a", etcd, ttl, diary, DEAF_WITH_A_STRAY);
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let follower = start_worker("b", etcd, ttl, diary, DEAF_WITH_A_STRAY);
    follower.wait_until_follower();
    (leader, token, follower)
}

fn run(name: &str, etcd: &Etcd, ttl: &str, flags: &[&str], script: &str) -> Run {
    Run::start(elect_run(name, &etcd.endpoint(), ttl).args(flags).args(["--", "sh", "-c", script]))
}

fn stdout_line(run: &Run, line: &str) {
    run.wait_for_line(line, SOON);
}

on_each_etcd! {
    fn the_command_has_its_term_in_the_environment_and_its_exit_code_is_passed_on(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let script = "echo $ELECT_NAME/$ELECT_ELECTION; echo token $ELECT_TOKEN; echo cluster $ELECT_CLUSTER; \
                      echo ${NOTIFY_SOCKET-none} ${WATCHDOG_USEC-none} ${ELECT_PASSWORD-none}; exit 7";
        let elect = elect_run("a", &etcd.endpoint(), "5s").args(["--", "sh", "-c", script]);
        let mut run = Run::start(elect.env("NOTIFY_SOCKET", "/nowhere").env("WATCHDOG_USEC", "1000000"));
        run.exits(7);
        let said = run.stdout();
        let [who, token, cluster, withheld] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!([who.as_str(), withheld], ["a/leader", "none none none"]);
        let cluster_id = etcd.admin().try_status().unwrap().cluster_id;
        assert_eq!(*cluster, format!("cluster {cluster_id:x}"));
        assert!(token.strip_prefix("token ").unwrap().parse::<u64>().unwrap() > 1);
        assert_eq!(etcd.admin().candidates(ELECTION_NAME), [], "released");
    }

    fn a_killed_supervisor_takes_its_command_along_and_leadership_is_released(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let diary = Diary::new();
        let (mut leader, token, _follower) = leader_and_follower(&etcd, LONG, &diary);
        let guard = leader.guard();

        let killed = leader.kill();
        let next = diary.wait_for_term_after(token);
        assert!(next.at - killed < AT_ONCE, "the next one ran after {:?}", next.at - killed);
        eventually(SOON, "the guard to end", || guard.is_gone().then_some(()));
        diary.one_at_a_time();
    }

    fn a_frozen_supervisors_command_is_dead_before_validity_ends(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let diary = Diary::new();
        let (mut leader, token, mut follower) = leader_and_follower(&etcd, SHORT, &diary);

        let frozen = leader.freeze();
        let second = diary.wait_for_term_after(token).token;
        let last = diary.last_of(token);
        let alive = last - frozen;
        let stall = longest_stall(frozen, last);
        assert!(alive < VALIDITY + stall, "alive {alive:?} after the last possible renewal, stalled {stall:?}");
        diary.one_at_a_time();
        leader.thaw();

        // It campaigns again, as a follower, and wins again.
        let queue = Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
        assert_eq!(queue.token, Some(second));
        assert!(leader.stderr().iter().all(|line| !line.contains("guard")), "its guard did what it is for");
        follower.kill();
        let third = diary.wait_for_term_after(second).token;
        diary.wait_for_workers(third, 2);
        diary.one_at_a_time();
    }
}

#[test]
fn the_command_starts_with_default_signals_and_in_a_group_of_its_own() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o pgid= -p $$ | tr -d ' '; echo $$";
    // In a PID namespace `ps` may know the shell by another id: see containment.rs.
    let mut run = run("a", &etcd, "5s", &["--contain", "none"], script);
    run.exits(0);
    let said = run.stdout();
    let [blocked, ignored, group, pid] = said.as_slice() else { panic!("{said:?}") };
    // 32 and 33 are internal to glibc, which leaves them ignored in child processes.
    let known = |line: &str| u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap() & 0x7fff_ffff;
    assert_eq!((known(blocked), known(ignored)), (0, 0), "{said:?}");
    assert_eq!(group, pid);
}

/// Above all not the pipes: a copy of the guard's order pipe in a command would hide the supervisor's death.
#[test]
fn the_command_inherits_no_descriptor_of_elects() {
    const OPEN: [&str; 2] = ["ls", "/proc/self/fd"];
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut without = support::process::command(OPEN[0]);
    without.arg(OPEN[1]);
    let mut without = support::capture::Captured::start("ls", without);
    without.wait_exit(SOON);
    let mut run = Run::start(elect_run("a", &etcd.endpoint(), "5s").arg("--").args(OPEN));
    run.exits(0);
    assert_eq!(run.stdout(), without.stdout());
}

#[test]
fn the_standard_streams_are_the_commands() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let dir = TempDir::new().unwrap();
    let input = dir.path().join("input");
    std::fs::write(&input, "from the input\n").unwrap();
    // The harness gives no input, so a shell around it does.
    let elect = env!("CARGO_BIN_EXE_elect");
    let script = format!(
        "exec {elect} run --name a --etcd {} -- sh -c 'cat; echo to the errors >&2' < {}",
        etcd.endpoint(),
        input.display()
    );
    let mut command = support::process::command("sh");
    command.args(["-c", &script]);
    let mut run = support::capture::Captured::start("elect run", command);
    assert_eq!(run.wait_exit(SOON).code(), Some(0));
    assert_eq!(run.stdout(), ["from the input"], "and nothing of the log");
    assert!(run.stderr().iter().any(|line| line == "to the errors"));
}

#[test]
fn signals_are_passed_on_and_the_lease_is_renewed_until_the_command_has_ended() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo winch' WINCH; \
                  trap 'echo term; stopping=yes' TERM; trap 'echo int; exit 3' INT; \
                  echo ready; while :; do sleep 0.02; done";
    // The TTL must exceed the time between TERM and KILL.
    let mut run = run("a", &etcd, "9s", &["--kill-after", "2500ms"], script);
    stdout_line(&run, "ready");
    for (signal, line) in [
        (Signal::SIGHUP, "hup"),
        (Signal::SIGUSR1, "usr1"),
        (Signal::SIGUSR2, "usr2"),
        (Signal::SIGWINCH, "winch"),
        (Signal::SIGINT, "int"),
    ] {
        run.signal(signal);
        stdout_line(&run, line);
    }
    run.exits(3);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn a_command_that_does_not_stop_is_killed_and_only_then_released() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--kill-after", "500ms"]);
    let mut leader = Run::start(diary.script(elect, DEAF_WITH_A_STRAY));
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let follower = start_worker("b", &etcd, LONG, &diary, WORKER);
    follower.wait_until_follower();

    let told = BootTime::now();
    leader.signal(Signal::SIGTERM);
    leader.exits(137);
    let next = diary.wait_for_term_after(token);
    let alive = diary.last_of(token) - told;
    assert!(alive >= Duration::from_millis(450), "it had its time: {alive:?}");
    assert!(next.at - told < AT_ONCE);
    diary.one_at_a_time();
}

#[test]
fn a_second_signal_kills_at_once() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    // 12 s from TERM to KILL.
    let mut leader = start_worker("a", &etcd, LONG, &diary, DEAF_WITH_A_STRAY);
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let told = BootTime::now();
    leader.signal(Signal::SIGTERM);
    // A signal right after the first counts as its echo, so time itself is awaited here.
    thread::sleep(ECHO);
    let again = BootTime::now();
    leader.signal(Signal::SIGTERM);
    leader.exits(137);
    assert!(again.elapsed() < AT_ONCE);
    assert!(diary.last_of(token) - told > ECHO / 2, "the first signal alone did not end it");
    eventually(SOON, "the lease to be given back", || {
        etcd.admin().candidates(ELECTION_NAME).is_empty().then_some(())
    });
}

#[test]
fn what_the_command_leaves_behind_dies_with_it() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    // The command ends as soon as its helper works, which has left the group.
    let script = "WORKER_LOCK= setsid -f sh -c \"$WORKER; exit\"; until grep -qs alive $WORKER_DIARY; do sleep 0.01; done; exit 4";
    let mut first = start_worker("a", &etcd, LONG, &diary, script);
    first.exits(4);
    let ended = BootTime::now();
    let token = diary.wait_for_term_after(0).token;
    assert!(diary.last_of(token) < ended);
    assert!(diary.wait_for_end_of(token) < ended, "a process wrote after the end");
}

#[test]
fn the_rest_of_a_group_that_was_told_to_stop_has_its_time_too() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    // The shell itself dies of TERM at once.
    let script =
        "sh -c 'trap \"sleep 0.3; echo done; exit\" TERM; echo ready; while :; do sleep 0.02; done' & wait";
    let mut run = run("a", &etcd, LONG, &[], script);
    stdout_line(&run, "ready");
    run.signal(Signal::SIGTERM);
    run.exits(143);
    stdout_line(&run, "done");
}

#[test]
fn one_that_waits_leaves_the_queue_when_told_to_stop() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (_leader, token, mut follower) = leader_and_follower(&etcd, LONG, &diary);
    follower.signal(Signal::SIGTERM);
    follower.exits(0);
    assert_eq!(Status::read(&etcd.endpoint()).queue(), ["a"]);
    assert!(diary.entries().iter().all(|entry| entry.token == token), "it ran no command");
}

#[test]
fn a_killed_guard_takes_the_command_along_and_leadership_passes_on() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (leader, token, mut follower) = leader_and_follower(&etcd, LONG, &diary);
    let killed = leader.guard().kill();
    let second = diary.wait_for_term_after(token);
    assert!(second.at - killed < AT_ONCE);

    // It has a new guard, and campaigns again.
    Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
    follower.kill();
    let third = diary.wait_for_term_after(second.token);
    diary.wait_for_workers(third.token, 2);
    diary.one_at_a_time();
}

#[test]
fn a_guard_that_dies_while_the_supervisor_is_frozen_takes_the_command_along() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let mut leader = start_worker("a", &etcd, LONG, &diary, WORKER);
    let token = diary.wait_for_term_after(0).token;
    leader.freeze();
    let killed = leader.guard().kill();
    let last = diary.wait_for_end_of(token);
    assert!(last - killed < AT_ONCE, "alive for {:?}", last - killed);
    leader.thaw();
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

#[test]
fn one_that_waits_gets_a_new_guard_before_it_leads() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (mut leader, token, follower) = leader_and_follower(&etcd, LONG, &diary);
    follower.guard().kill();
    follower.wait_for_log(Mark::START, "the guard is dead; a new one is started");
    leader.signal(Signal::SIGKILL);
    leader.kill();
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

#[test]
fn a_stuck_guard_does_not_keep_the_command_alive_past_validity() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (leader, token, _follower) = leader_and_follower(&etcd, SHORT, &diary);
    let mut guard = leader.guard();
    // etcd still answers: without this the guard's failure would show only when it is needed.
    let frozen = guard.freeze();
    diary.wait_for_term_after(token);
    let last = diary.last_of(token);
    assert!(last - frozen < VALIDITY, "alive {:?} after the last thing its guard heard", last - frozen);
    Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
    diary.one_at_a_time();
}

#[test]
fn a_stuck_guard_and_a_lost_etcd_leave_nothing_alive_past_validity() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let leader = start_worker("a", &etcd, SHORT, &diary, DEAF_WITH_A_STRAY);
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let mut guard = leader.guard();
    let frozen = guard.freeze();
    etcd.freeze();
    let last = diary.wait_for_end_of(token);
    assert!(last - frozen < VALIDITY, "alive for {:?}", last - frozen);
    etcd.thaw();
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

#[test]
fn when_all_of_it_is_stopped_the_kernel_ends_the_command_before_validity_ends() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let mut leader = start_worker("a", &etcd, SHORT, &diary, WORKER);
    let Entry { token, at: began, .. } = diary.wait_for_term_after(0);
    let _follower = start_worker("b", &etcd, SHORT, &diary, WORKER);
    // Renewals extend the kernel's timer.
    eventually(SOON, "a term that needed renewals", || {
        (diary.last_of(token) - began > VALIDITY).then_some(())
    });
    let mut guard = leader.guard();
    let command = guard.command();
    let frozen = leader.freeze();
    guard.freeze();
    command.stop();

    let ended = eventually(SOON, "a stopped command to end", || command.has_ended().then(BootTime::now));
    assert!(ended - frozen < VALIDITY, "only after {:?}", ended - frozen);
    diary.wait_for_term_after(token);
    leader.thaw();
    leader.wait_for_log(Mark::START, "the guard is dead: what it guarded is killed");
    Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
    diary.one_at_a_time();
}

#[test]
fn a_stuck_guard_does_not_hold_up_a_stop_for_ever() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--kill-after", "300ms"]);
    let mut leader = Run::start(diary.script(elect, DEAF_WITH_A_STRAY));
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let mut guard = leader.guard();
    guard.freeze();
    leader.signal(Signal::SIGTERM);
    leader.exits(137);
    let ended = BootTime::now();
    assert!(diary.wait_for_end_of(token) < ended);
}

#[test]
fn without_etcd_the_command_is_told_to_stop_and_is_dead_before_validity_ends() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let polite = "sh -c 'trap \"echo told >&2; exit\" TERM; while :; do sleep 0.02; done' & trap '' TERM; exec $WORKER";
    let leader = start_worker("a", &etcd, SHORT, &diary, polite);
    let token = diary.wait_for_term_after(0).token;
    let killed = BootTime::now();
    etcd.kill();
    let gone = BootTime::now();
    leader.wait_for_line("told", SOON);
    leader.wait_for_log(Mark::START, COMMAND_ENDED);
    let last = diary.last_of(token);
    assert!(last - gone < VALIDITY, "alive {:?} after etcd's death", last - gone);
    assert!(last > killed);

    etcd.restart();
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

/// etcd gives the lease of the lost term its whole TTL again when it is back. The next term does not wait for that, however
/// long ago that lease was given up.
#[test]
fn contract_12_etcd_back_after_longer_than_the_ttl_runs_the_command_again_at_once() {
    const TTL: Duration = Duration::from_secs(4);
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let leader = start_worker("a", &etcd, "4s", &diary, WORKER);
    let mut token = diary.wait_for_term_after(0).token;
    for outage in [TTL, TTL * 3] {
        let mark = leader.mark();
        let back = etcd.kill() + outage + Duration::from_millis(1500);
        leader.wait_for_log(mark, COMMAND_ENDED);
        eventually(SOON, "the outage to be long enough", || (BootTime::now() > back).then_some(()));

        etcd.restart();
        let serves = BootTime::now();
        let next = diary.wait_for_term_after(token);
        let took = if next.at > serves { next.at - serves } else { Duration::ZERO };
        assert!(took < TTL / 2 + longest_stall(serves, next.at), "{outage:?}: again after {took:?}");
        token = next.token;
    }
    diary.one_at_a_time();
}

#[test]
fn a_lease_that_is_revoked_ends_the_command_at_once() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (leader, token, _follower) = leader_and_follower(&etcd, LONG, &diary);
    let admin = etcd.admin();
    let lease = admin.leader(ELECTION_NAME).unwrap().lease;
    let revoked = BootTime::now();
    admin.revoke(lease);
    leader.wait_for_log(Mark::START, COMMAND_ENDED);
    let last = diary.wait_for_end_of(token);
    // KILL would follow TERM after 12 s, and the end of validity after 54 s.
    assert!(last - revoked < AT_ONCE, "alive {:?} after it was deposed", last - revoked);
    diary.wait_for_term_after(token);
    Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
}

#[test]
fn once_ends_with_75_when_leadership_is_lost() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = elect_run("a", &etcd.endpoint(), LONG).arg("--once");
    let mut leader = Run::start(diary.script(elect, WORKER));
    let token = diary.wait_for_term_after(0).token;
    etcd.admin().delete(etcd.admin().leader(ELECTION_NAME).unwrap().key);
    leader.exits(75);
    let ended = BootTime::now();
    assert!(diary.wait_for_end_of(token) < ended);
}

#[test]
fn a_command_that_fails_is_restarted_in_the_same_term() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let dir = TempDir::new().unwrap();
    let script = "echo run $ELECT_TOKEN; echo x >> $ATTEMPTS; test $(wc -l < $ATTEMPTS) -ge 3";
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--restart", "on-failure"]);
    let elect = elect.env("ATTEMPTS", dir.path().join("attempts")).args(["--", "sh", "-c", script]);
    let mut run = Run::start(elect);
    run.exits(0);
    let said = run.stdout();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|line| *line == said[0]), "one term, one token: {said:?}");
}

#[test]
fn a_command_that_is_always_restarted_stops_when_told_also_between_two_runs() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut run = run("a", &etcd, LONG, &["--restart", "always"], "exit 6");
    // From the fourth pause on they are long: 800 ms and more.
    let mut mark = Mark::START;
    for _ in 0..5 {
        mark = run.wait_for_log(mark, "the command is started again");
    }
    run.signal(Signal::SIGTERM);
    run.exits(6);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn a_server_whose_check_fails_does_not_stand_and_a_leader_hands_over() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let dir = TempDir::new().unwrap();
    let (fit, asked) = (dir.path().join("fit"), dir.path().join("asked"));
    let diary = Diary::new();
    let check = format!("echo asked >> {}; test -e {}", asked.display(), fit.display());
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--check", &check]).args([
        "--check-interval",
        "50ms",
        "--check-failures",
        "2",
    ]);
    let leader = Run::start(diary.script(elect, WORKER));
    let times = || std::fs::read_to_string(&asked).unwrap_or_default().lines().count();
    eventually(SOON, "some checks", || (times() >= 5).then_some(()));
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);

    std::fs::write(&fit, "").unwrap();
    let token = diary.wait_for_term_after(0).token;
    let follower = start_worker("b", &etcd, LONG, &diary, WORKER);
    follower.wait_until_follower();
    let unfit = BootTime::now();
    std::fs::remove_file(&fit).unwrap();
    let next = diary.wait_for_term_after(token);
    assert!(next.at - unfit < AT_ONCE + AT_ONCE);
    leader.wait_for_log(Mark::START, "the check fails");
    Status::wait_for_queue(&etcd.endpoint(), &["b"]);

    std::fs::write(&fit, "").unwrap();
    Status::wait_for_queue(&etcd.endpoint(), &["b", "a"]);
    diary.one_at_a_time();
}

#[test]
fn a_check_that_hangs_is_killed_and_has_failed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let flags =
        ["--check", "echo pid $$ >&2; sleep 30", "--check-timeout", "100ms", "--check-interval", "50ms"];
    let run = run("a", &etcd, LONG, &flags, "exit 0");
    let mut pids = Vec::new();
    let mut mark = Mark::START;
    for _ in 0..3 {
        let line = run.wait_for_line_since(mark, |line: &str| line.starts_with("pid "), SOON);
        mark = line.mark();
        pids.push(line.text["pid ".len()..].parse().unwrap());
    }
    let first = nix::unistd::Pid::from_raw(pids[0]);
    eventually(SOON, "the first check to be gone", || nix::sys::signal::killpg(first, None).err());
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn a_command_that_is_not_found_or_cannot_run_has_the_codes_that_shells_use() {
    // There is no etcd: the missing program is reported before any request.
    for (command, code) in [("no-such-command", 127), ("/no/such/command", 127), ("/etc/passwd", 126)] {
        let mut run = Run::start(elect_run("a", "127.0.0.1:1", "5s").args(["--", command]));
        run.exits(code);
        assert!(run.stderr().join("\n").contains(command), "{:?}", run.stderr());
    }
}

#[test]
fn an_impossible_budget_is_refused_with_the_smallest_ttl_that_would_do() {
    let refused = |ttl: &str| {
        let elect = elect_run("a", "127.0.0.1:1", ttl).args(["--kill-after", "10s", "--", "true"]);
        let mut run = Run::start(elect);
        run.exits(2);
        run.stderr().join("\n")
    };
    for ttl in ["5s", "29s"] {
        let said = refused(ttl);
        assert!(said.contains("--kill-after 10s") && said.contains("--ttl 30s is the smallest"), "{said}");
    }
    let explained = ["--kill-after", "10s", "--explain"];
    let mut run = Run::start(elect_run("a", "127.0.0.1:1", "30s").args(explained));
    run.exits(0);
}

#[test]
fn explain_prints_when_what_is_sent() {
    let mut run = Run::start(elect_run("a", "127.0.0.1:1", "5s").arg("--explain"));
    run.exits(0);
    let said = run.stdout().join("\n");
    for row in [
        "kill after        1s",
        "grace             250ms",
        "3s 250ms          TERM",
        "4s 250ms          KILL",
    ] {
        assert!(said.contains(row), "{row:?} in\n{said}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_flag() {
    for (flags, part) in [
        (vec!["run"], "<COMMAND>"),
        (vec!["run", "--check-interval", "0s", "--", "true"], "--check-interval"),
        (vec!["run", "--check-failures", "0", "--", "true"], "--check-failures"),
        (vec!["run", "--hook-timeout", "soon", "--", "true"], "--hook-timeout"),
        (vec!["run", "--restart", "sometimes", "--", "true"], "--restart"),
    ] {
        let mut run = Run::start(Elect::new(&flags));
        run.exits(2);
        let said = run.stderr().join("\n");
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn the_file_has_the_long_flags_as_keys() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("elect.toml");
    let keys = format!(
        "etcd = \"{}\"\nname = \"from-the-file\"\nttl = \"9s\"\nkill-after = \"2s\"\nrestart = \"never\"\nonce = true\ncontain = \"none\"\n\
         check = \"true\"\ncheck-interval = \"1s\"\ncheck-timeout = \"1s\"\ncheck-failures = 2\n\
         on-leading = \"echo hook >&2\"\non-following = \"true\"\non-change = \"true\"\nhook-timeout = \"5s\"\n",
        etcd.endpoint()
    );
    std::fs::write(&file, keys).unwrap();
    let config = file.to_str().unwrap();
    let mut run =
        Run::start(Elect::new(["run", "--config", config, "--", "sh", "-c", "echo $ELECT_NAME; sleep 0.3"]));
    run.exits(0);
    assert_eq!(run.stdout(), ["from-the-file"]);
    assert!(run.stderr().iter().any(|line| line == "hook"), "{:?}", run.stderr());

    std::fs::write(&file, "kill-after = \"soon\"\n").unwrap();
    let mut run = Run::start(Elect::new(["run", "--config", config, "--", "true"]));
    run.exits(2);
    assert!(run.stderr().join("\n").contains("kill-after"), "{:?}", run.stderr());
}

#[test]
fn a_run_stands_under_the_hosts_name_unless_told_otherwise() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let elect = Elect::new(["run", "--etcd", &etcd.endpoint(), "--", "sh", "-c", "echo $ELECT_NAME"]);
    let mut run = Run::start(elect);
    run.exits(0);
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    assert_eq!(run.stdout(), [host]);
    assert!(run.lines().iter().any(|line| line.stream == Stream::Stderr && line.text.contains(COMMAND_RUNS)));
}
