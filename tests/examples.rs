//! The programs in `examples/`, as a user of the library would write them, on a real etcd.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{env, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use support::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http,
    port::ReservedPort,
};

/// For what should take far less than a second. Long, for machines under load.
const SOON: Duration = Duration::from_secs(30);

/// What Cargo has built from a file in `examples/`: it lies beside the directory of this test's own program.
fn example(name: &str) -> PathBuf {
    let this = env::current_exe().unwrap();
    let program = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is not built; `cargo build --examples` does that", program.display());
    program
}

struct Replica {
    process: Captured,
    port: ReservedPort,
}

impl Replica {
    fn start(name: &str, etcd: &Etcd) -> Self {
        let port = ReservedPort::new();
        let program = Elect::of(example("axum_service"), [""; 0]).called(name);
        let program = program.env("NAME", name).env("LISTEN", port.address()).env("ETCD", etcd.endpoint());
        Self { process: program.start(), port }
    }

    /// What its handler says, once it listens.
    fn role(&self) -> String {
        eventually(SOON, "an answer", || http::try_get(&self.port.address(), "/").ok()).text().to_owned()
    }

    fn leads(&self) -> bool {
        self.role().starts_with("leader, token ")
    }
}

#[test]
fn of_three_replicas_of_a_web_service_one_leads_and_its_handlers_know() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut replicas = ["alice", "bob", "carol"].map(|name| Replica::start(name, &etcd));
    let leader = || replicas.iter().position(Replica::leads);
    let first = eventually(SOON, "a leader", leader);
    eventually(SOON, "all to queue", || (etcd.admin().candidates("jobs").len() == 3).then_some(()));
    assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
    assert_eq!(replicas.iter().filter(|replica| replica.role() == "standby\n").count(), 2);

    // Graceful: its requests are answered, its work is dropped, and the next leads.
    replicas[first].process.signal(Signal::SIGTERM);
    assert!(replicas[first].process.wait_exit(SOON).success());
    replicas[first].process.wait_for_line("stopped: Released", SOON);
    let others = replicas.iter().enumerate().filter(|(place, _)| *place != first);
    let others: Vec<&Replica> = others.map(|(_, replica)| replica).collect();
    eventually(SOON, "the next leader", || others.iter().any(|replica| replica.leads()).then_some(()));
    assert_eq!(others.iter().filter(|replica| replica.leads()).count(), 1);
}
