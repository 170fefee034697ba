//! A library user compiles only the named backend's dependencies, and no command line.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{env, process::Command};

/// Crates compiled for a program that depends on the library with this feature alone.
fn compiled_with(feature: &str) -> Vec<String> {
    let mut cargo = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    cargo.args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    cargo.args(["--no-default-features", "--features", feature]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = |line: &str| line.split(' ').next().unwrap().to_owned();
    String::from_utf8(output.stdout).unwrap().lines().map(name).collect()
}

#[test]
fn each_backend_alone_brings_neither_the_other_nor_the_command_line() {
    let command_line = ["clap", "prometheus-client", "toml", "tracing-subscriber"];
    let (etcd, peers) = (compiled_with("etcd"), compiled_with("peers"));
    let of_etcd = ["etcd-client"];
    let of_peers = ["redb", "protox"];
    for (compiled, own, others) in
        [(&etcd, &of_etcd[..], &of_peers[..]), (&peers, &of_peers[..], &of_etcd[..])]
    {
        let has = |name: &&str| compiled.iter().any(|compiled| compiled == *name);
        assert!(own.iter().all(has), "{compiled:?}");
        let strangers: Vec<_> = command_line.iter().chain(others).filter(|name| has(name)).collect();
        assert!(strangers.is_empty(), "{strangers:?}");
    }
}
