//! The exit codes that `--help` names are those that a process ends with.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use support::{
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    port::ReservedPort,
    server::{LEADER, SOON},
    tool,
};

/// The codes under "Exit status" of a command's help.
fn named(command: &[&str]) -> Vec<String> {
    let help = tool::succeeds(
        Command::new(env!("CARGO_BIN_EXE_elect")).args(command).arg("--help").env("COLUMNS", "100"),
    );
    let (_, codes) = help.split_once("Exit status:\n").unwrap_or_else(|| panic!("{help}"));
    let codes = codes.lines().take_while(|line| !line.is_empty());
    codes.map(|line| line.trim().split("  ").next().unwrap().to_owned()).collect()
}

#[track_caller]
fn ends_with(command: &[&str], elect: Elect, code: u8) {
    let mut process = elect.start();
    let ended = process.wait_exit(SOON).code();
    assert_eq!(ended, Some(i32::from(code)), "{command:?}");
    assert!(
        named(command).contains(&code.to_string()),
        "{command:?} names {:?} and not {code}",
        named(command)
    );
}

#[test]
fn the_codes_without_an_etcd() {
    let silent = ReservedPort::new();
    let (etcd, peers) =
        (silent.address(), format!("a={0},b={1},c=127.0.0.1:9", silent.address(), "127.0.0.1:8"));
    ends_with(&["status"], Elect::new(["status", "--etcd", &etcd]), 4);
    ends_with(&["peers"], Elect::new(["peers", "--peers", &peers]), 4);
    ends_with(&["peers", "replace"], Elect::new(["peers", "replace", "a", "0a94bb5e", "--peers", &peers]), 1);
    for command in [&["server"][..], &["status"], &["observe"], &["peers"]] {
        ends_with(command, Elect::new(command.iter().chain(&["--peers", "a"])), 2);
    }

    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let run = |command: &str| Elect::new(["run", "--etcd", &etcd, "--", command]);
    ends_with(&["run"], run(plain.to_str().unwrap()), 126);
    ends_with(&["run"], run("elect-has-no-such-command"), 127);
    ends_with(&["run"], Elect::new(["run"]), 2);
}

#[test]
fn the_codes_with_an_etcd() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let etcd = etcd.endpoint();
    ends_with(&["status"], Elect::new(["status", "--etcd", &etcd]), 3);
    let server = Elect::new(["server", "a", "--etcd", &etcd, "--log-format", "plain"]).start();
    server.wait_for_line(LEADER, SOON);
    ends_with(&["status"], Elect::new(["status", "--etcd", &etcd]), 0);
    // The command's own code, in an election of its own.
    let run = Elect::new(["run", "--etcd", &etcd, "--election", "other", "--", "sh", "-c", "exit 0"]);
    ends_with(&["run"], run, 0);
    assert_eq!(named(&["run"])[0], "the command's");
}
