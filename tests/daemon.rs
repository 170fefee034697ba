//! A server as process 1 of a container, under nohup, and on a terminal that closes.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    io::{Write, stderr},
    os::fd::OwnedFd,
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{
    elect::{Elect, unconfigured},
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    process::{self, Process},
    run::{Run, elect_run},
    server::{AT_ONCE, CHANGE, ELECTION_NAME, LEADER, SOON},
};

const ELECT: &str = env!("CARGO_BIN_EXE_elect");

/// Starts a command with SIGHUP ignored, as `nohup` does, without redirecting its output.
const IGNORING_HANGUP: &str = "trap '' HUP; exec \"$@\"";

#[test]
fn a_server_as_process_1_leaves_no_zombies() {
    const UNSHARE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(stderr(), "SKIPPED, as no PID namespace can be made here");
        return;
    }
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let endpoint = etcd.endpoint();
    let args = [ELECT, "server", "a", "--etcd", &endpoint, "--ttl", "3s", "--log-format", "plain"];
    let mut server = Elect::of("unshare", UNSHARE.iter().chain(&args)).start();
    server.wait_for_line(LEADER, SOON);
    let [one] = children(server.id())[..] else { panic!("{:?}", children(server.id())) };

    // Health checks leave such processes: their parent is gone when they end.
    for _ in 0..3 {
        let orphan = ["sh", "-c", "true & (sleep 0.1 &)"];
        let entered =
            Command::new("nsenter").args(["-t", &one.to_string(), "-p", "-m"]).args(orphan).status();
        assert!(entered.unwrap().success());
    }
    eventually(SOON, "the orphans to be gone", || children(one).is_empty().then_some(()));
    kill(Pid::from_raw(i32::try_from(one).unwrap()), Signal::SIGTERM).unwrap();
    assert!(server.wait_exit(SOON).success());
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn a_hangup_that_was_ignored_stays_ignored() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let endpoint = etcd.endpoint();
    let args = ["-c", IGNORING_HANGUP, "sh", ELECT, "server", "a", "--etcd", &endpoint, "--ttl", "3s"];
    let mut server = Elect::of("sh", args).start();
    server.wait_for_line(|line: &str| line.contains(LEADER), SOON);
    server.signal(Signal::SIGHUP);
    // Had it been taken as a stop request, the next signal would be the second one, which exits at once with 1.
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit(SOON).success());
    assert!(server.stdout().iter().any(|line| line.contains(CHANGE)));
}

#[test]
fn the_command_of_a_run_under_nohup_outlives_a_hangup() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let endpoint = etcd.endpoint();
    let args =
        ["-c", IGNORING_HANGUP, "sh", ELECT, "run", "--etcd", &endpoint, "--name", "a", "--ttl", "3s", "--"];
    let command = ["sh", "-c", "echo up; exec sleep 1000"];
    let mut run = Run::start(Elect::of("sh", args.into_iter().chain(command)));
    run.wait_for_line("up", SOON);
    run.signal(Signal::SIGHUP);
    run.signal(Signal::SIGTERM);
    // TERM's exit code; HUP's would be 129.
    run.exits(143);
}

#[test]
fn a_hangup_that_was_not_ignored_is_passed_on() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let run = elect_run("a", &etcd.endpoint(), "3s").args(["--", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut run = Run::start(run);
    run.wait_for_line("up", SOON);
    run.signal(Signal::SIGHUP);
    run.exits(129);
}

#[test]
fn a_server_whose_terminal_closes_gives_leadership_up() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let pty = openpty(None, None).unwrap();
    // The server must not hold the other end open itself.
    fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let end = || OwnedFd::try_clone(&pty.slave).unwrap();
    let mut command = process::command("setsid");
    unconfigured(&mut command).args(["--ctty", ELECT, "server", "a", "--etcd", &etcd.endpoint()]);
    // Far longer than this test waits for the release.
    command.args(["--ttl", "60s"]).stdin(end()).stdout(end()).stderr(end());
    let mut server = Process::start("elect server a", command);
    eventually(SOON, "a leader", || etcd.admin().leader(ELECTION_NAME));
    drop(pty);
    assert!(server.wait_exit(SOON).success());
    eventually(AT_ONCE, "the release", || etcd.admin().candidates(ELECTION_NAME).is_empty().then_some(()));
}

/// A process's children.
fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
