//! `elect run` with commands that give up root, and with its own processes killed or stopped together: nothing outlives
//! its term, with a PID namespace or without.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{fs, time::Duration};

use nix::{sys::signal::Signal, unistd::Uid};
use support::{
    capture::{Captured, Mark},
    clock::BootTime,
    elect::{Elect, unconfigured},
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    process,
    run::{Guarded, Run, descendants_of, elect_run},
    server::{AT_ONCE, SOON},
    worker::{self, Diary},
};
use tempfile::TempDir;

/// A worker that gives up root, does not hear TERM, and has a helper that left its group and session.
const GIVES_UP_ROOT: &str = "trap '' TERM; export WORKER_GIVES_UP_ROOT=yes; WORKER_LOCK= setsid -f sh -c '$WORKER; exit'; exec $WORKER";

/// Longer than any test takes.
const LONG: &str = "60s";

/// A short TTL, and the longest time for which a leader trusts a renewal, counted from its send: a tenth less.
const SHORT: &str = "3s";
const VALIDITY: Duration = Duration::from_millis(2700);

/// The values of `--contain`.
const EITHER: [&str; 2] = ["none", "pid"];

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    worker::main();
}

/// Skips a test that needs root, with a message.
fn is_root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        println!("skipped: only root can give up root, or make a PID namespace");
    }
    root
}

fn contained(contain: &str, name: &str, etcd: &Etcd, ttl: &str) -> Elect {
    elect_run(name, &etcd.endpoint(), ttl).args(["--contain", contain])
}

fn run(contain: &str, etcd: &Etcd, script: &str) -> Run {
    Run::start(contained(contain, "a", etcd, LONG).args(["--", "sh", "-c", script]))
}

/// A leader whose command has given up root, with all its descendants.
struct Leader {
    run: Run,
    token: u64,
    guard: support::run::Guard,
    init: Guarded,
}

impl Leader {
    fn start(contain: &str, etcd: &Etcd, ttl: &str, diary: &Diary) -> Self {
        let run = Run::start(diary.script(contained(contain, "a", etcd, ttl), GIVES_UP_ROOT));
        let token = diary.wait_for_term_after(0).token;
        diary.wait_for_workers(token, 2);
        let guard = run.guard();
        let init = guard.init();
        Self { run, token, guard, init }
    }

    /// Stops both so that neither sees the other's end, then kills both.
    fn kill_supervisor_and_guard(&mut self) -> BootTime {
        self.run.freeze();
        self.guard.freeze();
        self.run.signal(Signal::SIGKILL);
        self.guard.kill()
    }
}

#[test]
fn contract_13_a_command_that_gave_up_root_dies_with_supervisor_and_guard() {
    if !is_root() {
        return;
    }
    for contain in EITHER {
        let etcd = Etcd::start(EtcdVersion::V3_7);
        let diary = Diary::new();
        let mut leader = Leader::start(contain, &etcd, SHORT, &diary);
        let _follower = Run::start(diary.script(contained(contain, "b", &etcd, SHORT), GIVES_UP_ROOT));
        let killed = leader.kill_supervisor_and_guard();
        diary.wait_for_term_after(leader.token);
        let last = diary.wait_for_end_of(leader.token);
        assert!(last - killed < AT_ONCE, "{contain}: alive for {:?}", last - killed);
        diary.one_at_a_time();
    }
}

/// Both halves of one rule: without a namespace, the end of a term gives the init time to kill its descendants. An init that
/// was killed first would leave that to a process that may be killed at the same moment.
#[test]
fn contract_13_without_a_namespace_the_init_ends_after_all_that_is_below_it() {
    if !is_root() {
        return;
    }
    /// The least time that it is given. A longer one may have another cause, such as a busy machine.
    const BY_ITSELF: Duration = Duration::from_millis(50);
    for killed in ["supervisor", "guard"] {
        let etcd = Etcd::start(EtcdVersion::V3_7);
        let diary = Diary::new();
        let leader = Leader::start("none", &etcd, LONG, &diary);
        let below: Vec<Guarded> = descendants_of(leader.init.id()).into_iter().map(Guarded::of).collect();
        assert!(below.len() >= 2, "a command and its helper: {below:?}");
        let before = BootTime::now();
        match killed {
            "guard" => leader.guard.signal(Signal::SIGKILL),
            _ => leader.run.signal(Signal::SIGKILL),
        }
        while !leader.init.has_ended() {}
        let alive: Vec<_> = below.iter().filter(|process| !process.has_ended()).collect();
        let too_early = before.elapsed() < BY_ITSELF;
        assert!(alive.is_empty() || !too_early, "{killed} killed: the init has ended, and left {alive:?}");
        diary.wait_for_end_of(leader.token);
    }
}

#[test]
fn contract_13_with_a_namespace_it_dies_also_when_its_init_is_killed_with_them() {
    if !is_root() {
        return;
    }
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let mut leader = Leader::start("pid", &etcd, LONG, &diary);
    leader.init.stop();
    leader.kill_supervisor_and_guard();
    let killed = BootTime::now();
    // The kernel may have been quicker.
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader.init.id().cast_signed()), Signal::SIGKILL);
    let last = diary.wait_for_end_of(leader.token);
    assert!(last < killed + AT_ONCE, "alive until {last}, killed at {killed}");
}

#[test]
fn contract_13_when_all_of_it_is_stopped_a_command_that_gave_up_root_is_dead_before_validity_ends() {
    if !is_root() {
        return;
    }
    for contain in EITHER {
        let etcd = Etcd::start(EtcdVersion::V3_7);
        let diary = Diary::new();
        let mut leader = Leader::start(contain, &etcd, SHORT, &diary);
        let command = leader.guard.command();
        let frozen = leader.run.freeze();
        leader.guard.freeze();
        leader.init.stop();
        command.stop();
        let ended = eventually(SOON, "a stopped command to end", || command.has_ended().then(BootTime::now));
        assert!(ended - frozen < VALIDITY, "{contain}: only after {:?}", ended - frozen);
        let last = diary.wait_for_end_of(leader.token);
        assert!(last - frozen < VALIDITY, "{contain}: its helper was alive for {:?}", last - frozen);
    }
}

#[test]
fn contract_13_a_killed_init_takes_the_command_along_and_leadership_is_released() {
    if !is_root() {
        return;
    }
    for contain in EITHER {
        let etcd = Etcd::start(EtcdVersion::V3_7);
        let diary = Diary::new();
        let mut leader = Leader::start(contain, &etcd, LONG, &diary);
        let _follower = Run::start(diary.script(contained(contain, "b", &etcd, LONG), GIVES_UP_ROOT));
        let killed = BootTime::now();
        leader.init.signal(Signal::SIGKILL);
        leader.run.exits(137);
        let next = diary.wait_for_term_after(leader.token);
        assert!(next.at - killed < AT_ONCE + AT_ONCE, "{contain}: {:?}", next.at - killed);
        diary.one_at_a_time();
    }
}

/// Service managers signal all processes of a service. Only the supervisor's signals are for the command.
#[test]
fn an_init_takes_no_signal_for_itself() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for contain in kinds() {
        let run =
            run(contain, &etcd, "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.02; done");
        run.wait_for_line("ready", SOON);
        let init = run.guard().init();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTSTP] {
            init.signal(signal);
        }
        let mut run = run;
        run.signal(Signal::SIGTERM);
        run.exits(3);
        assert_eq!(run.stdout(), ["ready", "term"], "{contain}");
    }
}

/// Both, if this process may make a namespace.
fn kinds() -> &'static [&'static str] {
    if is_root() { &EITHER } else { &EITHER[..1] }
}

#[test]
fn the_commands_end_is_passed_on_as_it_is() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for contain in kinds() {
        // The last one has no POSIX name.
        for (script, code) in
            [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -40 $$", 168)]
        {
            let mut run = run(contain, &etcd, script);
            run.exits(code);
        }
        let dir = TempDir::new().unwrap();
        let broken = dir.path().join("broken");
        fs::write(&broken, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut run = Run::start(contained(contain, "a", &etcd, LONG).arg("--").arg(&broken));
        run.exits(127);
        assert!(run.stderr().join("\n").contains("elect: failed to run"), "{:?}", run.stderr());
    }
}

#[test]
fn the_log_has_the_commands_own_process_id() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for contain in kinds() {
        let run = run(contain, &etcd, "exec sleep 60");
        let command = run.guard().command();
        run.wait_for_log(Mark::START, &format!("the command runs pid={} ", command.id()));
        let line = format!("/proc/{}/cmdline", command.id());
        eventually(SOON, "the command", || {
            fs::read_to_string(&line).ok().filter(|line| line == "sleep\x0060\x00")
        });
    }
}

#[test]
fn a_command_starts_with_default_signals_in_a_group_of_its_own_however_it_is_contained() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    // In its own /proc or in the machine's, the fifth field of the shell's child is the shell's id.
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; cut -d' ' -f 5 /proc/self/stat";
    for contain in kinds() {
        let mut run = run(contain, &etcd, script);
        run.exits(0);
        let said = run.stdout();
        // 32 and 33 are internal to glibc.
        let known =
            |line: &str| u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap() & 0x7fff_ffff;
        assert_eq!((known(&said[0]), known(&said[1])), (0, 0), "{contain}: {said:?}");
        let shared_proc = format!("pid={} ", said[2]);
        let in_log =
            run.stderr().iter().any(|line| line.contains("the command runs") && line.contains(&shared_proc));
        assert!(in_log || (*contain == "pid" && said[2] == "2"), "{contain}: {said:?}");
    }
}

#[test]
fn what_holds_the_command_together_is_said_at_the_start_and_by_explain() {
    let explained = |elect: Elect| {
        let mut run = Run::start(elect.arg("--explain"));
        run.exits(0);
        run.stdout().join("\n")
    };
    let without = explained(elect_run("a", "127.0.0.1:1", LONG).args(["--contain", "none"]));
    assert!(without.contains("no PID namespace (--contain none)"), "{without}");
    assert!(without.contains("killed at one moment"), "{without}");
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let waits = run("none", &etcd, "exec sleep 60");
    waits.wait_for_log(Mark::START, "no PID namespace (--contain none)");
    if is_root() {
        let with = explained(elect_run("a", "127.0.0.1:1", LONG));
        assert!(with.contains("the command has a PID namespace: "), "{with}");
    }
}

/// Under Docker's default profile, root may not make one either.
#[test]
fn where_no_namespace_can_be_made_there_is_none_unless_it_was_asked_for() {
    let flags: &[&str] =
        if Uid::effective().is_root() { &["--bounding-set=-sys_admin", "--"] } else { &["--"] };
    let unprivileged = |args: &[&str]| {
        let args = [flags, &[env!("CARGO_BIN_EXE_elect"), "run", "--etcd", "127.0.0.1:1"], args].concat();
        Run::start(Elect::of("setpriv", args))
    };
    let mut asked = unprivileged(&["--contain", "pid", "--", "true"]);
    asked.exits(2);
    let said = asked.stderr().join("\n");
    assert!(said.contains("--contain pid: no PID namespace can be made here"), "{said}");
    let mut not_asked = unprivileged(&["--explain"]);
    not_asked.exits(0);
    let said = not_asked.stdout().join("\n");
    assert!(said.contains("no PID namespace (none can be made here: "), "{said}");
}

/// The command sees only its own processes; its mounts are visible outside.
#[test]
fn with_shared_mounts_the_command_has_a_proc_of_its_own_and_its_mounts_are_seen_outside() {
    if !is_root() {
        return;
    }
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let dir = TempDir::new().unwrap();
    let there = dir.path().display();
    let command = format!(
        "echo $$ $(readlink /proc/self/../1/exe | grep -c elect); test -d /proc/$$ && mount -t tmpfs none {there} && touch {there}/seen"
    );
    let script = format!(
        "before=$(cat /proc/self/mountinfo | wc -l); \
         {} run --name a --etcd {} --contain pid -- sh -c '{command}'; \
         ls {there}; umount {there}; test $before = $(cat /proc/self/mountinfo | wc -l) && echo as before",
        env!("CARGO_BIN_EXE_elect"),
        etcd.endpoint()
    );
    let mut shared = process::command("unshare");
    unconfigured(&mut shared);
    shared.args(["--mount", "--propagation", "shared", "sh", "-c", &script]);
    let mut shared = Captured::start("elect run with shared mounts", shared);
    shared.wait_exit(SOON);
    assert_eq!(shared.stdout(), ["2 1", "seen", "as before"], "{:?}", shared.stderr());
}
