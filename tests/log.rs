//! A log without a reader: the thread that renews may be the one that logs.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{fs::File, io::Read, os::fd::OwnedFd, thread, time::Duration};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
    unistd::pipe,
};
use support::{
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    process::{self, Process},
    server::{AT_ONCE, ELECTION_NAME, FOLLOWER, LEADER, SOON},
};

const TTL: Duration = Duration::from_secs(2);

/// The smallest pipe buffer that Linux allows.
const ONE_PAGE: usize = 4096;

#[test]
fn a_log_without_a_reader_costs_no_leadership_and_no_line() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let (mut reader, writer) = tiny_pipe();
    let mut server = talkative_server(&etcd, writer);
    let leader = eventually(SOON, "a leader", || etcd.admin().leader(ELECTION_NAME));

    let until = BootTime::now() + 3 * TTL;
    while BootTime::now() < until {
        assert_eq!(etcd.admin().leader(ELECTION_NAME).as_ref(), Some(&leader), "it lost its lease");
        thread::sleep(Duration::from_millis(100));
    }
    // On exit the log is waited for, but not for ever.
    server.signal(Signal::SIGTERM);
    eventually(AT_ONCE, "the release", || etcd.admin().candidates(ELECTION_NAME).is_empty().then_some(()));
    let log = read_all(&mut reader);
    assert!(server.wait_exit(AT_ONCE).success());
    assert!(log.len() > 2 * ONE_PAGE, "the pipe was never full: {} bytes", log.len());
    let lines = ["I am the leader.", "still the leader.", "LEADERSHIP CHANGE REQUIRED"];
    let at = lines.map(|line| log.find(line).unwrap_or_else(|| panic!("'{line}' is missing")));
    assert!(at.is_sorted(), "{lines:?} at {at:?}");
}

#[test]
fn a_follower_says_whom_it_follows_and_a_stop_whether_leadership_was_given_up() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let server = |name: &str, format: &str| {
        let endpoint = etcd.endpoint();
        Elect::new(["server", name, "--etcd", &endpoint, "--ttl", "2s", "--log-format", format]).start()
    };
    let mut leader = server("first", "full");
    leader.wait_for_line(|line: &str| line.contains(LEADER), SOON);
    let token = etcd.admin().leader(ELECTION_NAME).unwrap().create_revision;
    let mut follower = server("second", "json");
    let line = follower.wait_for_line(|line: &str| line.contains(FOLLOWER), SOON);
    let line: serde_json::Value = serde_json::from_str(&line.text).unwrap();
    assert_eq!((&line["leader"], &line["leader_token"]), (&"first".into(), &token.into()));

    for (server, last) in
        [(&mut follower, "this server did not lead"), (&mut leader, "leadership was given up")]
    {
        server.signal(Signal::SIGTERM);
        assert!(server.wait_exit(SOON).success());
        let lines = server.stdout();
        assert!(lines.last().unwrap().contains(last), "{lines:#?}");
    }
}

#[test]
fn two_candidates_of_one_name_are_both_warned_and_a_third_is_not() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let server = |name: &str| Elect::server(name, &etcd.endpoint()).args(["--ttl", "2s"]).start();
    let twins = [LEADER, FOLLOWER].map(|role| {
        let twin = server("twin");
        twin.wait_for_line(role, SOON);
        twin
    });
    let other = server("other");
    other.wait_for_line(FOLLOWER, SOON);
    let warns = |line: &str| line.contains("another candidate is called 'twin' too");
    for twin in &twins {
        twin.wait_for_line(warns, SOON);
        assert_eq!(twin.stderr().iter().filter(|line| warns(line)).count(), 1, "{:?}", twin.stderr());
        assert!(!twin.stdout().iter().any(|line| warns(line)), "the plain lines are as they were");
    }
    assert_eq!(other.stderr(), [""; 0]);
}

/// The target `belief`, read by checkers of other processes' beliefs, uses the clock that all processes share.
#[test]
fn a_server_writes_down_for_machines_until_when_it_believes_that_it_leads() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let endpoint = etcd.endpoint();
    let args = ["server", "a", "--etcd", &endpoint, "--ttl", "2s", "--log-format", "json"];
    let mut server = Elect::new(args).env("RUST_LOG", "belief=debug").start();
    let proved = |line: &str| line.contains("\"proved\"");
    let first = server.wait_for_line(proved, SOON);
    let later = server.wait_for_line_since(first.mark(), proved, SOON);
    server.signal(Signal::SIGTERM);
    let ended = server.wait_for_line(|line: &str| line.contains("\"ended\""), SOON);
    assert!(server.wait_exit(SOON).success());

    let [first, later, ended] =
        [first, later, ended].map(|line| serde_json::from_str::<serde_json::Value>(&line.text).unwrap());
    let number = |line: &serde_json::Value, field: &str| line[field].as_u64().unwrap();
    assert_eq!(number(&first, "token"), number(&later, "token"));
    assert!(number(&first, "until") < number(&later, "until"));
    let believed = Duration::from_nanos(number(&first, "until") - number(&first, "at"));
    assert!(believed < TTL, "{believed:?}");
    assert_eq!((&later["target"], &ended["how"]), (&"belief".into(), &"Stopping".into()));
    assert!(number(&ended, "at") <= BootTime::now().as_nanos());
}

#[test]
fn a_server_whose_log_is_stuck_ends_all_the_same() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let (_reader, writer) = tiny_pipe();
    let mut server = talkative_server(&etcd, writer);
    eventually(SOON, "a leader", || etcd.admin().leader(ELECTION_NAME));
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit(SOON).success());
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

/// A server that logs far more than the pipe holds.
fn talkative_server(etcd: &Etcd, log: OwnedFd) -> Process {
    let mut command = process::command(env!("CARGO_BIN_EXE_elect"));
    command.args(["server", "a", "--etcd", &etcd.endpoint(), "--ttl", "2s"]);
    command.env("RUST_LOG", "trace").stdout(log);
    Process::start("elect server a", command)
}

fn tiny_pipe() -> (File, OwnedFd) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(ONE_PAGE as i32)).unwrap();
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    (File::from(reader), writer)
}

fn read_all(reader: &mut File) -> String {
    let mut log = Vec::new();
    reader.read_to_end(&mut log).unwrap();
    String::from_utf8(log).unwrap()
}
