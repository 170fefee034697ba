//! The system on etcd: its members, and the test's own access to them.

use std::{
    collections::BTreeSet,
    env,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::signal::Signal;

use super::{ElectionState, READY, System};
use crate::{
    candidates::{Paths, append},
    history::Event,
    nemesis::Fault,
    operator::{Deposition, Operator},
    support::{etcd::EtcdVersion, process::Process},
    testbed::{Host, Testbed},
};

pub(crate) struct EtcdSystem {
    members: Vec<MemberProcess>,
    operator: Operator,
}

impl EtcdSystem {
    /// Starts all members, and waits until they serve.
    pub(super) fn start(count: usize, testbed: &Arc<Mutex<Testbed>>, paths: &Paths) -> Self {
        let members = {
            let testbed = testbed.lock().unwrap_or_else(PoisonError::into_inner);
            let mut members: Vec<MemberProcess> =
                (0..count).map(|place| MemberProcess::new(place, count, &testbed, paths)).collect();
            members.iter_mut().for_each(|member| member.start(&testbed));
            members
        };
        let operator = Operator::of(testbed, count);
        assert!(
            operator.wait_for_etcd(READY),
            "etcd does not answer; see the logs in {}",
            paths.dir.display()
        );
        Self { members, operator }
    }
}

impl System for EtcdSystem {
    fn sight(&self) -> ElectionState {
        self.operator.sight()
    }

    fn set_down(&mut self, down: &BTreeSet<usize>, testbed: &Testbed) {
        for (place, member) in self.members.iter_mut().enumerate() {
            if down.contains(&place) { member.kill() } else { member.start(testbed) }
        }
    }

    fn set_frozen(&mut self, frozen: &BTreeSet<usize>) {
        for (place, member) in self.members.iter_mut().enumerate() {
            member.set_frozen(frozen.contains(&place));
        }
    }

    fn strike(&self, fault: Fault, whom: &str) {
        match fault {
            Fault::Revoke(_) => self.operator.depose(whom, Deposition::Revoke),
            Fault::Delete(_) => self.operator.depose(whom, Deposition::Delete),
            Fault::MoveLeader => self.operator.move_leader(),
            Fault::Compact => self.operator.compact(),
            _ => {}
        }
    }

    fn note_who_is_there(&self) {
        self.operator.note_queue();
    }

    fn note_writes(&self) {
        self.operator.note_writes();
    }

    fn events(&self) -> Vec<Event> {
        self.operator.events()
    }
}

/// A member, through all its restarts.
#[derive(Debug)]
struct MemberProcess {
    place: usize,
    paths: Paths,
    initial_cluster: String,
    token: String,
    process: Option<Process>,
    frozen: bool,
}

impl MemberProcess {
    fn new(place: usize, count: usize, testbed: &Testbed, paths: &Paths) -> Self {
        let all = (0..count).map(|other| {
            format!("m{other}=http://{}", testbed.addresses(Host::Member(other)).announced_peer)
        });
        let initial_cluster = all.collect::<Vec<_>>().join(",");
        // Different from any other test's cluster.
        let token = format!("torture-{}", testbed.addresses(Host::Member(0)).announced_peer);
        Self { place, paths: paths.clone(), initial_cluster, token, process: None, frozen: false }
    }

    fn start(&mut self, testbed: &Testbed) {
        if self.process.is_some() {
            return;
        }
        let name = format!("m{}", self.place);
        let addresses = testbed.addresses(Host::Member(self.place));
        let (client, peer) = (format!("http://{}", addresses.client), format!("http://{}", addresses.peer));
        let mut command = testbed.command(Host::Member(self.place), EtcdVersion::V3_7.program());
        command
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .args(["--name", &name, "--data-dir"])
            .arg(self.paths.dir.join(format!("{name}.etcd")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &format!("http://{}", addresses.announced_peer)])
            .args(["--initial-cluster", &self.initial_cluster])
            .args(["--initial-cluster-token", &self.token])
            // SIGKILL spares the page cache: nothing is lost.
            .arg("--unsafe-no-fsync");
        let log = append(&self.paths.log(&name));
        let both = log.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(log).stderr(both);
        let process = Process::start(&name, command);
        testbed.started(Host::Member(self.place), process.id());
        self.process = Some(process);
        self.frozen = false;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        self.frozen = false;
    }

    fn set_frozen(&mut self, frozen: bool) {
        if let (true, Some(process)) = (frozen != self.frozen, &mut self.process) {
            if let Some(status) = process.status() {
                panic!("member {} has ended by itself: {status}; see its log", self.place);
            }
            process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
            self.frozen = frozen;
        }
    }
}
