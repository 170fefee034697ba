//! A log that nobody reads: the thread that renews may be the one that logs.

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
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    process::{self, Process},
    server::{AT_ONCE, ELECTION_NAME, SOON},
};

const TTL: Duration = Duration::from_secs(2);

/// The least that Linux gives a pipe.
const ONE_PAGE: usize = 4096;

#[test]
fn a_log_that_nobody_reads_costs_no_leadership_and_no_line() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let (mut reader, writer) = tiny_pipe();
    let mut server = talkative_server(&etcd, writer);
    let leader = eventually(SOON, "a leader", || etcd.admin().leader(ELECTION_NAME));

    let until = BootTime::now() + 3 * TTL;
    while BootTime::now() < until {
        assert_eq!(etcd.admin().leader(ELECTION_NAME).as_ref(), Some(&leader), "it lost its lease");
        thread::sleep(Duration::from_millis(100));
    }
    // It is waited for on the way out, but not for ever.
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
