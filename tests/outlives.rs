//! Nothing outlives its term: the command of `elect run`, all its descendants, and the term's hooks, also if
//! they are hard to see, to signal, or to tie to another process.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use support::{
    capture::Mark,
    cgroup::FreezerGroup,
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    privilege::{self, Programs},
    run::{Run, elect_run},
    server::{AT_ONCE, ELECTION_NAME, SOON},
    tool,
    worker::{self, Diary},
};

const WORKER: &str = "exec $WORKER";

/// Longer than any test takes: a follower that had to wait for a lease to end would show.
const LONG: &str = "60s";

/// A short TTL, and the longest time for which a leader trusts a renewal, counted from its send: a tenth less.
const SHORT: &str = "3s";
const VALIDITY: Duration = Duration::from_millis(2700);

/// A worker without a lock whose main thread ends at once: `/proc` shows a zombie, and its other thread continues.
const MAIN_THREAD_ENDS: &str = "
import ctypes, os, platform, threading, time
diary, token = os.environ['WORKER_DIARY'], os.environ['ELECT_TOKEN']
def write(what):
    line = '%s %s %d\\n' % (what, token, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    with open(diary, 'a') as to:
        to.write(line)
def work():
    while open('/proc/self/stat').read().rsplit(')', 1)[1].split()[0] != 'Z':
        time.sleep(0.002)
    write('help')
    while os.path.exists(diary):
        write('alive')
        time.sleep(0.002)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)
";

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    worker::main();
}

/// A leader whose script has `$HELPER` for such a worker, or `None` without Python.
fn with_a_helper(etcd: &Etcd, ttl: &str, diary: &Diary, script: &str) -> Option<Run> {
    let python = tool::find_where_present("python3")?;
    let elect = elect_run("a", &etcd.endpoint(), ttl).env("HELPER", MAIN_THREAD_ENDS);
    let script = script.replace("$HELPER", &format!("{} -c \"$HELPER\"", python.display()));
    Some(Run::start(diary.script(elect, &script)))
}

fn follower(etcd: &Etcd, ttl: &str, diary: &Diary) -> Run {
    let follower = Run::start(diary.script(elect_run("b", &etcd.endpoint(), ttl), WORKER));
    follower.wait_until_follower();
    follower
}

#[test]
fn contract_13_a_helper_whose_main_thread_has_ended_dies_with_the_command() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let script = "setsid -f $HELPER; until grep -qs alive $WORKER_DIARY; do sleep 0.01; done; exit 4";
    let Some(mut run) = with_a_helper(&etcd, LONG, &diary, script) else { return };
    run.exits(4);
    let ended = BootTime::now();
    let token = diary.wait_for_term_after(0).token;
    assert!(diary.wait_for_end_of(token) < ended, "it lived on");
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn contract_13_a_helper_whose_main_thread_has_ended_is_dead_before_the_next_term() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let Some(mut leader) = with_a_helper(&etcd, SHORT, &diary, "setsid -f $HELPER; exec $WORKER") else {
        return;
    };
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let _follower = follower(&etcd, SHORT, &diary);
    leader.freeze();
    diary.wait_for_term_after(token);
    diary.wait_for_end_of(token);
    diary.one_at_a_time();
    leader.thaw();
}

#[test]
fn contract_13_after_the_guards_death_a_member_of_the_group_without_a_main_thread_is_killed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let Some(leader) = with_a_helper(&etcd, LONG, &diary, "$HELPER & exec $WORKER") else { return };
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let killed = leader.guard().kill();
    let next = diary.wait_for_term_after(token);
    assert!(next.at - killed < AT_ONCE);
    diary.wait_for_end_of(token);
    diary.one_at_a_time();
}

/// The shell dies of TERM at once; another member of its group uses its time to stop, and looks like a zombie.
#[test]
fn a_member_of_the_group_without_a_main_thread_has_its_time_to_stop() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let deaf = "(trap '' TERM; exec $HELPER) & until grep -qs alive $WORKER_DIARY; do sleep 0.01; done; echo ready; wait";
    let Some(python) = tool::find_where_present("python3") else { return };
    let script = deaf.replace("$HELPER", &format!("{} -c \"$HELPER\"", python.display()));
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--kill-after", "700ms"]);
    let mut run = Run::start(diary.script(elect.env("HELPER", MAIN_THREAD_ENDS), &script));
    run.wait_for_line("ready", SOON);
    let told = BootTime::now();
    run.signal(Signal::SIGTERM);
    run.exits(143);
    let ended = BootTime::now();
    let token = diary.wait_for_term_after(0).token;
    let alive = diary.wait_for_end_of(token) - told;
    assert!(alive > Duration::from_millis(600), "it had its time: {alive:?}");
    assert!(diary.last_of(token) < ended);
}

#[test]
fn contract_13_a_proc_of_another_namespace_is_refused_with_the_remedy() {
    if !privilege::is_root() {
        return;
    }
    let inside = ["--pid", "--fork", "--kill-child", "--", env!("CARGO_BIN_EXE_elect"), "run", "--name", "a"];
    // There is no etcd: the missing program is reported before any request.
    let elect = Elect::of("unshare", inside).args(["--etcd", "127.0.0.1:1", "--", "sleep", "600"]);
    let mut run = Run::start(elect);
    run.exits(1);
    let said = run.stderr().join("\n");
    assert!(said.contains("/proc belongs to another PID namespace"), "{said}");
    assert!(said.contains("--mount-proc"), "the remedy: {said}");
}

#[test]
fn contract_13_a_command_that_may_not_be_signalled_keeps_leadership_until_it_has_ended() {
    let Some(programs) = Programs::copy() else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = programs.run_unprivileged("a", &etcd.endpoint(), SHORT);
    let script = format!("exec {} --reuid=0 --regid=0 --clear-groups $WORKER", programs.become_root());
    let mut leader = Run::start(diary.script(elect, &script));
    let token = diary.wait_for_term_after(0).token;
    let mut follower = follower(&etcd, SHORT, &diary);
    let worker = leader.guard().command();

    leader.signal(Signal::SIGTERM);
    leader.wait_for_log(Mark::START, "may not be killed by this user");
    let since = BootTime::now();
    // For longer than the lease would last: no candidate takes over.
    while since.elapsed() < VALIDITY + VALIDITY {
        assert_eq!(etcd.admin().leader(ELECTION_NAME).unwrap().create_revision, token.cast_signed());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(diary.last_of(token) > since, "it works on");

    // Root ends it, as the message advises.
    worker.kill();
    diary.wait_for_term_after(token);
    leader.wait_exit(SOON);
    diary.one_at_a_time();
    follower.kill();
}

#[test]
fn a_guard_that_cannot_be_started_for_want_of_processes_is_tried_again() {
    let (Some(programs), Some(prlimit)) = (Programs::copy(), tool::find("prlimit")) else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = programs.run_unprivileged("a", &etcd.endpoint(), LONG);
    let leader = Run::start(diary.script(elect, &format!("exec {} $WORKER", programs.become_root())));
    let token = diary.wait_for_term_after(0).token;
    let allow = |processes: &str| {
        // The user itself may, even where root may not.
        let limit = [format!("--pid={}", leader.id()), format!("--nproc={processes}:")];
        tool::succeeds(privilege::as_unprivileged(&prlimit).args(limit));
    };
    allow("1");
    leader.guard().kill();
    leader.wait_for_log(Mark::START, "failed to start the guard");
    allow("1000");
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_set_user_id_command_is_ended_after_its_guard_by_elect_run() {
    let Some(programs) = Programs::copy() else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = programs.run_unprivileged("a", &etcd.endpoint(), LONG);
    // Its real user stays the same; on exec the kernel clears its parent-death signal.
    let leader = Run::start(diary.script(elect, &format!("exec {} $WORKER", programs.become_root())));
    let token = diary.wait_for_term_after(0).token;
    let _follower = follower(&etcd, LONG, &diary);
    let killed = leader.guard().kill();
    let next = diary.wait_for_term_after(token);
    assert!(next.at - killed < AT_ONCE, "after {:?}", next.at - killed);
    diary.one_at_a_time();
}

#[test]
fn contract_13_when_the_supervisor_is_process_1_all_dies_with_it() {
    if !privilege::is_root() {
        return;
    }
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let endpoint = etcd.endpoint();
    let inside =
        ["--pid", "--fork", "--kill-child", "--mount-proc", "--", env!("CARGO_BIN_EXE_elect"), "run"];
    let elect = Elect::of("unshare", inside).args(["--name", "a", "--etcd", &endpoint, "--ttl", SHORT]);
    let script = "setsid -f $WORKER; exec $WORKER";
    let mut leader =
        Run::start(diary.script(elect, &script.replacen("$WORKER", "env WORKER_LOCK= $WORKER", 1)));
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let _follower = follower(&etcd, SHORT, &diary);
    let killed = BootTime::now();
    // unshare passes its own death on to process 1.
    leader.kill();
    let last = diary.wait_for_end_of(token);
    assert!(last - killed < AT_ONCE, "alive for {:?}", last - killed);
    diary.wait_for_term_after(token);
    diary.one_at_a_time();
}

#[test]
fn contract_13_what_is_frozen_with_its_cgroup_is_ended_by_the_kernel_before_validity_ends() {
    let Some(group) = FreezerGroup::create() else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let leader = Run::start(diary.script(elect_run("a", &etcd.endpoint(), SHORT), WORKER));
    let token = diary.wait_for_term_after(0).token;
    let _follower = follower(&etcd, SHORT, &diary);
    group.add_with_descendants(leader.id());
    let command = leader.guard().command();
    let frozen = group.freeze();

    let ended = eventually(SOON, "a frozen command to end", || command.has_ended().then(BootTime::now));
    assert!(ended - frozen < VALIDITY, "only after {:?}", ended - frozen);
    diary.wait_for_term_after(token);
    group.thaw();
    leader.wait_for_log(Mark::START, "the guard is dead: what it guarded is killed");
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_panic_of_the_supervisor_is_a_death_like_any_other() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let mut leader = Run::start(diary.script(elect_run("a", &etcd.endpoint(), LONG), WORKER));
    let token = diary.wait_for_term_after(0).token;
    let _follower = follower(&etcd, LONG, &diary);
    // The release build aborts on panic: this is the kernel's view of one.
    let aborted = BootTime::now();
    leader.signal(Signal::SIGABRT);
    leader.wait_exit(SOON);
    let next = diary.wait_for_term_after(token);
    assert!(next.at - aborted < AT_ONCE, "after {:?}", next.at - aborted);
    diary.one_at_a_time();
}

#[test]
fn a_stopped_command_that_is_told_to_stop_gets_cont_as_well() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let script = "trap 'echo term; exit 5' TERM; echo ready; kill -STOP $$; while :; do sleep 0.02; done";
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--", "sh", "-c", script]);
    let mut run = Run::start(elect);
    run.wait_for_line("ready", SOON);
    let command = run.guard().command();
    eventually(SOON, "the command to stop itself", || command.is_stopped().then_some(()));
    run.signal(Signal::SIGTERM);
    run.exits(5);
    run.wait_for_line("term", SOON);
}

#[test]
fn a_guard_that_cannot_release_ends_all_the_same_and_says_so() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let mut leader = Run::start(diary.script(elect_run("a", &etcd.endpoint(), LONG), WORKER));
    let token = diary.wait_for_term_after(0).token;
    let guard = leader.guard();
    etcd.freeze();
    let killed = leader.kill();
    let last = diary.wait_for_end_of(token);
    assert!(last - killed < AT_ONCE, "what it releases is no matter for the command: {:?}", last - killed);
    leader.wait_for_log(Mark::START, "could not give up leadership in the place of the supervisor");
    eventually(SOON, "the guard to end", || guard.is_gone().then_some(()));
    etcd.thaw();
}

#[test]
fn the_exit_code_is_the_commands_also_when_the_release_is_not_confirmed() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let elect = elect_run("a", &etcd.endpoint(), LONG);
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let mut leader = Run::start(diary.script(elect, script));
    leader.wait_for_line("ready", SOON);
    etcd.freeze();
    leader.signal(Signal::SIGTERM);
    leader.exits(7);
    let said = leader.stderr().join("\n");
    assert!(said.contains("leadership was not released"), "{said}");
    etcd.thaw();
    thread::yield_now();
}
