//! The system on etcd: its members, and the test's own access to them.

use std::{
    collections::BTreeSet,
    env,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::signal::Signal;

use super::{Ground, READY, Sight};
use crate::{
    arena::{Arena, Host},
    cast::{Paths, append},
    hand::{Blow, Hand},
    history::Event,
    nemesis::Fault,
    support::{etcd::EtcdVersion, process::Process},
};

pub(crate) struct Etcd {
    members: Vec<Member>,
    hand: Hand,
}

impl Etcd {
    /// Starts all members, and waits until they serve.
    pub(super) fn start(count: usize, arena: &Arc<Mutex<Arena>>, paths: &Paths) -> Self {
        let members = {
            let arena = arena.lock().unwrap_or_else(PoisonError::into_inner);
            let mut members: Vec<Member> =
                (0..count).map(|place| Member::new(place, count, &arena, paths)).collect();
            members.iter_mut().for_each(|member| member.start(&arena));
            members
        };
        let hand = Hand::of(arena, count);
        assert!(hand.wait_for_etcd(READY), "etcd does not answer; see the logs in {}", paths.dir.display());
        Self { members, hand }
    }
}

impl Ground for Etcd {
    fn sight(&self) -> Sight {
        self.hand.sight()
    }

    fn set_down(&mut self, down: &BTreeSet<usize>, arena: &Arena) {
        for (place, member) in self.members.iter_mut().enumerate() {
            if down.contains(&place) { member.kill() } else { member.start(arena) }
        }
    }

    fn set_frozen(&mut self, frozen: &BTreeSet<usize>) {
        for (place, member) in self.members.iter_mut().enumerate() {
            member.set_frozen(frozen.contains(&place));
        }
    }

    fn strike(&self, fault: Fault, whom: &str) {
        match fault {
            Fault::Revoke(_) => self.hand.depose(whom, Blow::Revoke),
            Fault::Delete(_) => self.hand.depose(whom, Blow::Delete),
            Fault::MoveLeader => self.hand.move_leader(),
            Fault::Compact => self.hand.compact(),
            _ => {}
        }
    }

    fn note_who_is_there(&self) {
        self.hand.note_queue();
    }

    fn note_writes(&self) {
        self.hand.note_writes();
    }

    fn events(&self) -> Vec<Event> {
        self.hand.events()
    }
}

/// A member, through all its restarts.
#[derive(Debug)]
struct Member {
    place: usize,
    paths: Paths,
    initial_cluster: String,
    token: String,
    process: Option<Process>,
    frozen: bool,
}

impl Member {
    fn new(place: usize, count: usize, arena: &Arena, paths: &Paths) -> Self {
        let all = (0..count)
            .map(|other| format!("m{other}=http://{}", arena.addresses(Host::Member(other)).announced_peer));
        let initial_cluster = all.collect::<Vec<_>>().join(",");
        // Different from any other test's cluster.
        let token = format!("torture-{}", arena.addresses(Host::Member(0)).announced_peer);
        Self { place, paths: paths.clone(), initial_cluster, token, process: None, frozen: false }
    }

    fn start(&mut self, arena: &Arena) {
        if self.process.is_some() {
            return;
        }
        let name = format!("m{}", self.place);
        let addresses = arena.addresses(Host::Member(self.place));
        let (client, peer) = (format!("http://{}", addresses.client), format!("http://{}", addresses.peer));
        let mut command = arena.command(Host::Member(self.place), EtcdVersion::V3_7.program());
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
        arena.started(Host::Member(self.place), process.id());
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
