//! A process that dies is followed at once, and nothing but the end of a process is taken for it.
//!
//! The first half asks `elect` on real etcd, with TTLs that explain nothing: a server that leads within seconds leads by a ticket. The
//! second half asks the kernel for what all of it rests on: a lock that is held through a mapping is free once no code of the
//! process can run any more, and not before.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use leader_election::{
    etcd::{Endpoint, Settings},
    lifeline::Lifeline,
    timing::Ttl,
};
use nix::{
    sys::{
        prctl, ptrace,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, Uid},
};
use serde_json::{Value, json};
use support::{
    capture::{Captured, Mark},
    cgroup::{FreezerGroup, MemoryGroup},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    process::{self, Process},
    proxy::Proxy,
    run::{Guarded, Run, descendants_of, elect_run},
    server::{AT_ONCE, ELECTION_NAME, FOLLOWER, LEADER, SOON, Server, led_one_at_a_time},
    tool,
    volume::Volume,
    worker::{self, Diary},
};
use tempfile::TempDir;

/// So long that no test waits for it.
const TTL: &str = "60s";

/// A directory in memory.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs for shared memory")
}

fn start(name: &str, endpoint: &str, directory: &Path, flags: &[&str]) -> Server {
    let lifeline = directory.to_str().unwrap();
    Server::start_with(name, endpoint, TTL, &[&["--lifeline", lifeline], flags].concat())
}

fn leader(name: &str, endpoint: &str, directory: &Path) -> Server {
    let server = start(name, endpoint, directory, &[]);
    server.wait_for_line(LEADER, SOON);
    server
}

fn follower(name: &str, endpoint: &str, directory: &Path) -> Server {
    let server = start(name, endpoint, directory, &[]);
    server.wait_for_line(FOLLOWER, SOON);
    server
}

/// `elect release DIR`, which has to end with this code.
#[track_caller]
fn release(endpoint: &str, directory: &Path, code: i32) -> Captured {
    let mut elect = Elect::new(["release", "--etcd", endpoint]).arg(directory).start();
    assert_eq!(elect.wait_exit(SOON).code(), Some(code), "{:?}", elect.stderr());
    elect
}

fn tickets(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|ending| ending == "ticket"));
    all.sort_unstable();
    all
}

fn content(ticket: &Path) -> Value {
    let text = fs::read_to_string(ticket).unwrap();
    serde_json::from_str(text.split_once(' ').unwrap().1).unwrap()
}

/// Writes what a candidate would have written, had it been there.
fn forge(ticket: &Path, mut content: Value) {
    let file = File::create_new(ticket).unwrap();
    let metadata = file.metadata().unwrap();
    content["file"] = json!({"device": metadata.dev(), "inode": metadata.ino()});
    let json = content.to_string();
    let sum = json
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (&file).write_all(format!("{sum:016x} {json}\n").as_bytes()).unwrap();
}

on_each_etcd! {
    fn contract_12_a_killed_leader_is_followed_at_once(version: EtcdVersion) {
        let (etcd, directory) = (Etcd::start(version), in_memory());
        let endpoint = etcd.endpoint();
        let mut server1 = leader("server1", &endpoint, directory.path());
        let server2 = follower("server2", &endpoint, directory.path());
        let server3 = follower("server3", &endpoint, directory.path());

        // It may be followed before it is reaped.
        let killed = BootTime::now();
        server1.kill();
        let next = server2.wait_for_line(LEADER, AT_ONCE);
        assert!(next.at > killed);
        eventually(SOON, "the ticket to be removed", || (tickets(directory.path()).len() == 2).then_some(()));
        led_one_at_a_time([&server1, &server2, &server3]);
    }

    fn contract_12_a_killed_standby_leaves_the_queue(version: EtcdVersion) {
        let (etcd, directory) = (Etcd::start(version), in_memory());
        let endpoint = etcd.endpoint();
        let _server1 = leader("server1", &endpoint, directory.path());
        let mut server2 = follower("server2", &endpoint, directory.path());
        let _server3 = follower("server3", &endpoint, directory.path());

        server2.kill();
        eventually(AT_ONCE, "its key to go", || (etcd.admin().candidates(ELECTION_NAME).len() == 2).then_some(()));
        eventually(AT_ONCE, "its lease to go", || (etcd.admin().leases().len() == 2).then_some(()));
    }

    fn contract_12_a_sole_server_that_starts_again_leads_at_once(version: EtcdVersion) {
        let (etcd, directory) = (Etcd::start(version), in_memory());
        let endpoint = etcd.endpoint();
        let mut before = leader("server1", &endpoint, directory.path());
        before.kill();

        let again = start("server1", &endpoint, directory.path(), &[]);
        again.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&before, &again]);
    }

    fn a_witness_releases_a_sole_server_and_ends_when_told(version: EtcdVersion) {
        let (etcd, directory) = (Etcd::start(version), in_memory());
        let endpoint = etcd.endpoint();
        let witness = Elect::new(["witness", "--etcd", &endpoint]).arg(directory.path());
        let mut witness = witness.env("RUST_LOG", "leader_election::lifeline=debug,info").start();
        witness.wait_for_line_matching("watching the servers of this host");
        let mut server = leader("server1", &endpoint, directory.path());
        witness.wait_for_line_matching("a ticket of a process that lives");

        server.kill();
        witness.wait_for_line_matching("released the place of a process that is gone");
        assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
        witness.signal(Signal::SIGTERM);
        assert_eq!(witness.wait_exit(SOON).code(), Some(0));
    }
}

trait WaitForText {
    fn wait_for_line_matching(&self, text: &'static str);
}

impl WaitForText for Captured {
    #[track_caller]
    fn wait_for_line_matching(&self, text: &'static str) {
        self.wait_for_line(move |line: &str| line.contains(text), SOON);
    }
}

#[test]
fn elect_release_releases_the_dead_and_leaves_the_living_alone() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    // In a directory without another witness.
    let mut alone =
        Server::start_with("alone", &endpoint, TTL, &["--lifeline", directory.path().to_str().unwrap()]);
    alone.wait_for_line(LEADER, SOON);
    let queue = etcd.admin().candidates(ELECTION_NAME);
    release(&endpoint, directory.path(), 0);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), queue, "it lives");

    alone.kill();
    release(&endpoint, directory.path(), 0);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
    assert_eq!(tickets(directory.path()), Vec::<PathBuf>::new());
    eventually(SOON, "its lease to be revoked", || etcd.admin().leases().is_empty().then_some(()));
}

#[test]
fn elect_release_fails_where_etcd_does_not_answer_and_keeps_the_ticket() {
    let (mut etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server = leader("server1", &endpoint, directory.path());
    server.kill();
    etcd.kill();
    release(&endpoint, directory.path(), 1);
    assert_eq!(tickets(directory.path()).len(), 1);
}

#[test]
fn a_release_that_etcd_did_not_answer_is_tried_again() {
    let (mut etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server1 = leader("server1", &endpoint, directory.path());
    let server2 = follower("server2", &endpoint, directory.path());
    etcd.freeze();
    server1.kill();
    // Longer than a witness tries at first.
    thread::sleep(Duration::from_secs(7));
    etcd.thaw();
    server2.wait_for_line(LEADER, SOON);
}

#[test]
fn a_witness_waits_as_long_as_the_leader_had_said() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server1 = start("server1", &endpoint, directory.path(), &["--lock-delay", "3s"]);
    server1.wait_for_line(LEADER, SOON);
    // It says nothing of its own.
    let server2 = follower("server2", &endpoint, directory.path());

    let killed = BootTime::now();
    server1.kill();
    let next = server2.wait_for_line(LEADER, SOON);
    assert!(next.at - killed >= Duration::from_secs(3), "{:?}", next.at - killed);
}

#[test]
fn of_two_witnesses_one_that_is_frozen_does_not_hold_up_the_other() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server1 = leader("server1", &endpoint, directory.path());
    let server2 = follower("server2", &endpoint, directory.path());
    let mut server3 = follower("server3", &endpoint, directory.path());
    server3.freeze();
    server1.kill();
    server2.wait_for_line(LEADER, AT_ONCE);
    server3.thaw();
    led_one_at_a_time([&server1, &server2, &server3]);
}

#[test]
fn contract_1_a_forged_ticket_revokes_no_lease_and_deletes_no_key() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server = leader("server1", &endpoint, directory.path());
    let real = content(&tickets(directory.path())[0]);
    let queue = etcd.admin().candidates(ELECTION_NAME);
    let (other, _) = etcd.admin().grant(600);
    etcd.admin().put_leased("precious", "", other);

    // Another program's lease, and the leader's key as it never was.
    let mut of_the_lease = real.clone();
    of_the_lease["ticket"]["lease"] = json!(other);
    of_the_lease["ticket"]["key"] = json!(format!("leader/{other:x}").into_bytes());
    forge(&directory.path().join("1.ticket"), of_the_lease);
    let mut of_the_key = real;
    of_the_key["ticket"]["created"] = json!(real_created(&of_the_key) + 1);
    forge(&directory.path().join("2.ticket"), of_the_key);

    release(&endpoint, directory.path(), 0);
    assert_eq!(tickets(directory.path()).len(), 1, "both were followed up");
    assert!(etcd.admin().get("precious").is_some());
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), queue);
    server.is_still_running();
}

fn real_created(ticket: &Value) -> i64 {
    ticket["ticket"]["created"].as_i64().unwrap()
}

#[test]
fn contract_1_likenesses_of_a_ticket_prove_nothing() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server = leader("server1", &endpoint, directory.path());
    let ticket = tickets(directory.path()).remove(0);
    let inside = |name| directory.path().join(name);

    fs::copy(&ticket, inside("copy.ticket")).unwrap();
    let mut of_another_boot = content(&ticket);
    of_another_boot["boot"] = json!("0f0f0f0f-0000-4000-8000-000000000000");
    forge(&inside("boot.ticket"), of_another_boot);
    let text = fs::read(&ticket).unwrap();
    fs::write(inside("short.ticket"), &text[..text.len() / 2]).unwrap();
    symlink(&ticket, inside("link.ticket")).unwrap();
    fs::create_dir(inside("folder.ticket")).unwrap();
    nix::unistd::mkfifo(&inside("fifo.ticket"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();

    let (before, queue) = (tickets(directory.path()), etcd.admin().candidates(ELECTION_NAME));
    release(&endpoint, directory.path(), 0);
    assert_eq!(tickets(directory.path()), before);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), queue);
    server.is_still_running();
}

#[test]
fn contract_1_a_ticket_of_another_cluster_is_left_to_its_own() {
    let (etcd, foreign, directory) =
        (Etcd::start(EtcdVersion::V3_7), Etcd::start(EtcdVersion::V3_7), in_memory());
    let mut server = leader("server1", &etcd.endpoint(), directory.path());
    server.kill();

    // There a key of this name, revision and lease would have to be the same term's.
    release(&foreign.endpoint(), directory.path(), 0);
    assert_eq!(tickets(directory.path()).len(), 1);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME).len(), 1);
    release(&etcd.endpoint(), directory.path(), 0);
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn contract_1_a_candidate_that_keeps_its_lease_keeps_its_ticket() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let proxy = Proxy::start(&etcd.endpoint());
    let _server1 = leader("server1", &etcd.endpoint(), directory.path());
    let own = tickets(directory.path());
    let server2 = start("server2", &proxy.endpoint(), directory.path(), &[]);
    server2.wait_for_line(FOLLOWER, SOON);
    let ticket = eventually(SOON, "its ticket", || {
        tickets(directory.path()).into_iter().find(|ticket| !own.contains(ticket))
    });

    let file = File::open(&ticket).unwrap();
    let (over, before) = (AtomicBool::new(false), etcd.admin().candidates(ELECTION_NAME));
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0_u64;
            while !over.load(Ordering::Relaxed) {
                assert!(is_held(&file), "free, and its process stands with that lease");
                looks += 1;
            }
            looks
        });
        for _ in 0..5 {
            let renewed = renewals(&etcd);
            proxy.cut();
            // With the TTL of these servers only a new attempt renews within that time.
            eventually(SOON, "a new attempt", || (renewals(&etcd) > renewed).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 1000);
    });
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), before, "it kept lease and place");
    assert_eq!(file.metadata().unwrap().ino(), fs::metadata(&ticket).unwrap().ino());
}

fn renewals(etcd: &Etcd) -> u64 {
    etcd.messages_received().get("LeaseKeepAlive").copied().unwrap_or(0)
}

#[test]
fn contract_1_a_ticket_outlives_what_renews_for_as_long_as_anything_believes() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    // With one thread none of its tasks sees another's end.
    let backend = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let settings = Settings::new([etcd.endpoint().parse::<Endpoint>().unwrap()]).unwrap();
    let settings = settings.with_lifeline(Lifeline::open(directory.path()).unwrap());
    let elector = leader_election::etcd::Etcd::start_on(backend.handle().clone(), settings);
    let candidate = elector.candidate("leader").unwrap().ttl(Ttl::new(Duration::from_secs(60)).unwrap());
    let leadership = backend.block_on(candidate.named("server1").unwrap().campaign()).unwrap();
    let handle = leadership.handle();
    let ticket = File::open(&tickets(directory.path())[0]).unwrap();

    // Nothing renews any more, and the holder is not told.
    drop(backend);
    drop(elector);
    assert!(leadership.holds() && is_held(&ticket));
    drop(leadership);
    assert!(!handle.holds() && is_held(&ticket), "a handle may be asked yet");
    drop(handle);
    assert!(!is_held(&ticket));
    assert_eq!(tickets(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_witness_ends_with_its_backend_though_the_runtime_goes_on() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let settings = Settings::new([etcd.endpoint().parse::<Endpoint>().unwrap()]).unwrap();
    let settings = settings.with_lifeline(Lifeline::open(directory.path()).unwrap());
    let backend = leader_election::etcd::Etcd::start_on(runtime.handle().clone(), settings);
    let witnesses = || {
        let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
        let names = threads.filter_map(|thread| fs::read_to_string(thread.join("comm")).ok());
        names.filter(|name| name == "elect-witness\n").count()
    };
    eventually(SOON, "the witness", || (witnesses() == 1).then_some(()));
    drop(backend);
    eventually(SOON, "its end", || (witnesses() == 0).then_some(()));
}

#[test]
fn what_is_left_of_making_a_ticket_is_no_evidence_and_is_tidied_up() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut server = leader("server1", &endpoint, directory.path());
    let text = fs::read(&tickets(directory.path())[0]).unwrap();
    let queue = etcd.admin().candidates(ELECTION_NAME);
    // Killed after each step: made, half written, written.
    let left = [(".new-1", 0), (".new-2", text.len() / 2), (".new-3", text.len())];
    for (name, length) in left {
        fs::write(directory.path().join(name), &text[..length]).unwrap();
    }
    release(&endpoint, directory.path(), 0);
    let there = |name: &str| directory.path().join(name).exists();
    assert!(left.iter().all(|(name, _)| there(name)), "their makers may be at it");

    for (name, _) in left {
        let long_ago = SystemTime::now() - Duration::from_secs(120);
        File::options()
            .write(true)
            .open(directory.path().join(name))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    release(&endpoint, directory.path(), 0);
    assert!(!left.iter().any(|(name, _)| there(name)));
    server.is_still_running();
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), queue);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_and_the_election_goes_on() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let server = leader("server1", &etcd.endpoint(), directory.path());
    let told = server.stderr();
    assert!(told.iter().any(|line| line.contains("others may write there")), "{told:?}");
    assert_eq!(tickets(directory.path()), Vec::<PathBuf>::new());
    release(&etcd.endpoint(), directory.path(), 1);
}

#[test]
fn an_overlay_is_refused_and_the_election_goes_on() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let script = "cd \"$0\" && mkdir lower upper work merged && \
                  mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && exec \"$@\"";
    let in_namespace = |args: Vec<&str>| {
        let before = ["--mount", "sh", "-c", script, directory.path().to_str().unwrap()];
        before.into_iter().chain(args).map(str::to_owned).collect::<Vec<_>>()
    };
    if !Command::new("unshare").args(in_namespace(vec!["true"])).status().is_ok_and(|status| status.success())
    {
        let _ = writeln!(std::io::stderr(), "SKIPPED, as no overlay can be mounted here");
        return;
    }
    fs::remove_dir_all(directory.path()).unwrap();
    fs::create_dir(directory.path()).unwrap();
    let (elect, endpoint) = (env!("CARGO_BIN_EXE_elect"), etcd.endpoint());
    let merged = directory.path().join("merged");
    let args = vec![elect, "server", "server1", "--etcd", &endpoint, "--lifeline", merged.to_str().unwrap()];
    let server = Elect::of("unshare", in_namespace(args)).start();
    server.wait_for_line_matching("is on overlay");
    server.wait_for_line_matching(LEADER);
}

#[test]
fn a_full_directory_costs_the_ticket_and_not_the_election() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let Some(volume) = Volume::try_new(directory.path(), 64) else { return };
    let endpoint = etcd.endpoint();
    let lifeline = directory.path().join("tickets").to_str().unwrap().to_owned();
    let server = |name: &str| {
        let args = ["server", name, "--etcd", &endpoint, "--ttl", TTL, "--lifeline", &lifeline];
        let args = args.map(str::to_owned).to_vec();
        volume.elect(args).env("RUST_LOG", "leader_election::lifeline=debug,info").start()
    };
    let first = server("server1");
    first.wait_for_line_matching(LEADER);
    let mut second = server("server2");
    second.wait_for_line_matching(FOLLOWER);
    eventually(SOON, "both tickets to be seen", || {
        let seen = |line: &String| line.contains("a ticket of a process that lives");
        (first.stdout().iter().filter(|line| seen(line)).count() == 2).then_some(())
    });
    volume.fill();
    etcd.admin().revoke(etcd.admin().candidates(ELECTION_NAME)[0].lease);
    second.wait_for_line_matching(LEADER);
    first.wait_for_line_matching("no ticket could be written");
    first.wait_for_line_matching(FOLLOWER);
    // It witnesses all the same.
    let mark = first.mark();
    second.kill();
    first.wait_for_line_since(mark, |line: &str| line.contains(LEADER), AT_ONCE);
}

#[test]
fn a_unit_may_call_elect_release_whatever_its_settings_are() {
    let endpoint = "127.0.0.1:1";
    let directory = in_memory();
    let release = |settings: &[(&str, &str)]| {
        let elect = Elect::new(["release"]).current_dir(directory.path());
        let elect = settings.iter().fold(elect, |elect, (name, value)| elect.env(name, value));
        elect.start().wait_exit(SOON).code()
    };
    assert_eq!(release(&[("ELECT_PEERS", "a=127.0.0.1:1")]), Some(0));
    assert_eq!(release(&[("ELECT_ETCD", endpoint), ("ELECT_LIFELINE", "none")]), Some(0));
    let runtime = directory.path().join("runtime");
    let runtime = ("RUNTIME_DIRECTORY", runtime.to_str().unwrap());
    assert_eq!(release(&[("ELECT_ETCD", endpoint), runtime]), Some(0), "nothing is left there");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "and none is a directory of that name");
}

#[test]
fn peers_need_no_lifeline_and_say_so() {
    let args = ["server", "a", "--peers", "a=127.0.0.1:1", "--lifeline", "/run/elect"];
    let mut elect = Elect::new(args).start();
    assert_eq!(elect.wait_exit(SOON).code(), Some(2));
    assert!(elect.stderr()[0].contains("--lifeline is for etcd"), "{:?}", elect.stderr());
}

// The end of a command.

/// A witness that has the pidfd.
const FOLLOWED: &str = "the process that it names is followed";

const DEBUG: (&str, &str) = ("RUST_LOG", "leader_election::lifeline=debug,info");

/// A worker, and a helper that left its group and session.
const WORKS: &str = "WORKER_LOCK= setsid -f sh -c '$WORKER; exit'; exec $WORKER";

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    worker::main();
}

/// Skips a test that needs a PID namespace, with a message.
fn may_make_namespaces() -> bool {
    let may = Uid::effective().is_root();
    if !may {
        let _ = writeln!(std::io::stderr(), "SKIPPED, as only root can make a PID namespace");
    }
    may
}

/// `elect run` as process 1, as in a container.
fn container(name: &str, endpoint: &str, directory: &Path) -> Elect {
    let container = ["--pid", "--fork", "--mount-proc", "--kill-child", "--"];
    let run = [env!("CARGO_BIN_EXE_elect"), "run", "--name", name, "--etcd", endpoint, "--ttl", TTL];
    let lifeline = ["--contain", "none", "--lifeline", directory.to_str().unwrap()];
    Elect::of("unshare", [&container[..], &run[..], &lifeline[..]].concat())
        .called(name)
        .env(DEBUG.0, DEBUG.1)
}

/// `elect run` whose command has a PID namespace.
fn namespaced(name: &str, endpoint: &str, directory: &Path) -> Elect {
    let run = elect_run(name, endpoint, TTL).args(["--contain", "pid", "--lifeline"]);
    run.arg(directory).env(DEBUG.0, DEBUG.1)
}

fn witness(endpoint: &str, directory: &Path) -> Captured {
    let witness = Elect::new(["witness", "--etcd", endpoint]).arg(directory).env(DEBUG.0, DEBUG.1).start();
    witness.wait_for_line_matching("watching the servers of this host");
    witness
}

/// Kills a supervisor whose guard stays stopped.
fn kill_beside_a_stopped_guard(run: &mut Run) -> support::run::Guard {
    // With a parent in its session the guard's group is not orphaned: such groups the kernel continues.
    prctl::set_child_subreaper(true).unwrap();
    let mut guard = run.guard();
    guard.freeze();
    run.signal(Signal::SIGKILL);
    run.wait_exit(SOON);
    guard
}

#[track_caller]
fn process_1_of(container: &Run) -> Guarded {
    Guarded::of(eventually(SOON, "its process 1", || descendants_of(container.id()).first().copied()))
}

#[test]
fn contract_13_a_killed_container_is_followed_at_once_and_its_command_is_gone() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let start = |name: &str| Run::start(diary.script(container(name, &endpoint, directory.path()), WORKS));
    let mut leader = start("first");
    let mut token = diary.wait_for_term_after(0).token;
    for name in ["second", "third", "fourth", "fifth"] {
        diary.wait_for_workers(token, 2);
        let next = start(name);
        next.wait_for_log(Mark::START, FOLLOWED);
        let killed = BootTime::now();
        process_1_of(&leader).kill();
        let term = diary.wait_for_term_after(token);
        assert!(term.at - killed < AT_ONCE, "{name}: {:?}", term.at - killed);
        (leader, token) = (next, term.token);
    }
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_witness_waits_for_the_command_and_not_for_its_supervisor_alone() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let witness = witness(&endpoint, directory.path());
    let mut run = Run::start(diary.script(namespaced("a", &endpoint, directory.path()), WORKS));
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    witness.wait_for_line_matching(FOLLOWED);

    let ticket = File::open(&tickets(directory.path())[0]).unwrap();
    let guard = kill_beside_a_stopped_guard(&mut run);
    eventually(SOON, "the lock to be free", || (!is_held(&ticket)).then_some(()));
    // Time in which a witness that looks at the lock alone would have released it.
    let then = BootTime::now();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(etcd.admin().candidates(ELECTION_NAME).len(), 1, "its command is alive");
    assert!(diary.last_of(token) > then + Duration::from_secs(2), "the test's own condition");

    guard.kill();
    eventually(AT_ONCE, "its key to go", || etcd.admin().candidates(ELECTION_NAME).is_empty().then_some(()));
    let released = BootTime::now();
    assert!(diary.wait_for_end_of(token) < released);
    eventually(SOON, "ticket and socket to be removed", || {
        (fs::read_dir(directory.path()).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn contract_13_supervisor_and_guard_that_die_together_are_followed_at_once() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let start = |name: &str| Run::start(diary.script(namespaced(name, &endpoint, directory.path()), WORKS));
    let mut leader = start("first");
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    let next = start("second");
    next.wait_for_log(Mark::START, FOLLOWED);
    let mut guard = leader.guard();
    guard.freeze();
    leader.signal(Signal::SIGKILL);
    let killed = guard.kill();
    let term = diary.wait_for_term_after(token);
    assert!(term.at - killed < AT_ONCE, "{:?}", term.at - killed);
    leader.wait_exit(SOON);
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_command_that_is_restarted_is_followed_by_its_own_process() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let witness = witness(&endpoint, directory.path());
    let go_on = directory.path().join("go-on");
    let script = format!(
        "while ! test -e {0}; do sleep 0.01; done; if test -e {0}.2; then {WORKS}; fi; touch {0}.2; exit 1",
        go_on.display()
    );
    let run = namespaced("a", &endpoint, directory.path()).args(["--restart", "always"]);
    let mut run = Run::start(diary.script(run, &script));
    witness.wait_for_line_matching(FOLLOWED);
    let named = |ticket: &Path| content(ticket)["process"]["nonce"].as_u64().unwrap();
    let ticket = tickets(directory.path()).remove(0);
    let (first, withdrawn, mark) = (named(&ticket), File::open(&ticket).unwrap(), witness.mark());
    fs::write(&go_on, "").unwrap();

    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    assert_ne!(named(&ticket), first);
    assert_eq!((withdrawn.metadata().unwrap().nlink(), tickets(directory.path()).len()), (0, 1));
    witness.wait_for_line_since(mark, |line: &str| line.contains(FOLLOWED), SOON);
    let guard = kill_beside_a_stopped_guard(&mut run);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(etcd.admin().candidates(ELECTION_NAME).len(), 1, "its second command is alive");
    guard.kill();
    eventually(AT_ONCE, "its key to go", || etcd.admin().candidates(ELECTION_NAME).is_empty().then_some(()));
    let released = BootTime::now();
    assert!(diary.wait_for_end_of(token) < released);
}

/// One that begins later can't know whether the command is gone.
#[test]
fn contract_13_a_witness_without_a_pidfd_releases_nothing() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let mut run = Run::start(diary.script(container("a", &endpoint, directory.path()), WORKS));
    let token = diary.wait_for_term_after(0).token;
    // It sees process 1 close its files, may live a moment longer, and would release its place.
    let mut guard = run.guard();
    guard.freeze();
    process_1_of(&run).kill();
    run.wait_exit(SOON);
    diary.wait_for_end_of(token);
    let queue = etcd.admin().candidates(ELECTION_NAME);
    release(&endpoint, directory.path(), 0);
    let witness = witness(&endpoint, directory.path());
    witness.wait_for_line_matching("it names a process of which no pidfd came");
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), queue);
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_run_of_which_no_witness_can_know_that_all_is_gone_has_no_ticket() {
    let (etcd, directory) = (Etcd::start(EtcdVersion::V3_7), in_memory());
    let endpoint = etcd.endpoint();
    let mut kinds = vec![vec!["--contain", "none"]];
    if may_make_namespaces() {
        kinds.push(vec!["--contain", "pid", "--on-leading", "true"]);
    }
    for kind in kinds {
        let run = elect_run("a", &endpoint, TTL).args(kind).arg("--lifeline").arg(directory.path());
        let run = run.env(DEBUG.0, DEBUG.1);
        let mut run = Run::start(run.args(["--", "sleep", "60"]));
        run.wait_for_log(Mark::START, "the command runs");
        assert!(run.stderr().join("\n").contains("this server is a witness for others, and has no ticket"));
        assert_eq!(tickets(directory.path()), Vec::<PathBuf>::new());
        // It witnesses.
        let mut server = follower("server", &endpoint, directory.path());
        run.wait_for_log(Mark::START, "a ticket of a process that lives");
        server.kill();
        eventually(AT_ONCE, "its key to go", || {
            (etcd.admin().candidates(ELECTION_NAME).len() == 1).then_some(())
        });
        eventually(SOON, "the ticket to be removed", || tickets(directory.path()).is_empty().then_some(()));
        run.signal(Signal::SIGTERM);
        run.exits(143);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no socket is left either");
}

#[test]
fn a_named_init_that_is_killed_while_it_waits_costs_a_guard_and_not_the_command() {
    if !may_make_namespaces() {
        return;
    }
    let (etcd, directory, diary) = (Etcd::start(EtcdVersion::V3_7), in_memory(), Diary::new());
    let endpoint = etcd.endpoint();
    let mut first = leader("first", &endpoint, directory.path());
    let run = Run::start(diary.script(namespaced("a", &endpoint, directory.path()), WORKS));
    run.wait_until_follower();
    let init = run.guard().init();
    init.kill();
    eventually(SOON, "its end", || init.has_ended().then_some(()));
    first.kill();
    run.wait_for_log(Mark::START, "the ticket names it: a new guard is needed");
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 2);
    diary.one_at_a_time();
}

// The kernel.

/// Built once for a test program, with the compiler that Rust links with.
static HOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/holder.c");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (built, program) =
        (directory.join(format!("holder.{}", std::process::id())), directory.join("lifeline-holder"));
    tool::succeeds(Command::new("cc").args(["-O1", "-pthread", "-o"]).args([&built, &source]));
    // Another test program may be using the one that is there.
    fs::rename(&built, &program).unwrap();
    program
});

fn is_held(file: &File) -> bool {
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock().unwrap();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
}

/// A process that holds a lock through a mapping, and shows as long as it runs any code that it does.
struct Holder {
    process: Process,
    ticket: File,
    beats: PathBuf,
    _directory: TempDir,
}

impl Holder {
    fn start(threads: usize, mib: usize, way: &str) -> Self {
        let directory = in_memory();
        let (ticket, beats) = (directory.path().join("ticket"), directory.path().join("beats"));
        let mut command = process::command(&*HOLDER);
        command.args([&ticket, &beats]).args([&threads.to_string(), &mib.to_string(), way]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(directory.path());
        let mut process = Process::start("a holder", command);
        let mut said = process.child_mut().stdout.take().unwrap();
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with("done\n") {
            said.read_exact(&mut byte).expect("it says that it is done");
            text.push(char::from(byte[0]));
        }
        process.child_mut().stdout = Some(said);
        Self { process, ticket: File::open(ticket).unwrap(), beats, _directory: directory }
    }

    fn beats(&self) -> Vec<u8> {
        fs::read(&self.beats).unwrap()
    }

    /// Waits for the lock, and then shows that no thread has run since it was free.
    #[track_caller]
    fn is_gone_with_its_lock(&mut self) {
        while is_held(&self.ticket) {}
        let then = self.beats();
        self.process.wait_exit(SOON);
        assert!(then == self.beats(), "a thread ran on after the lock was free");
    }
}

#[test]
fn nothing_that_a_process_does_to_its_descriptors_ends_the_lock() {
    for way in ["nothing", "closes-all", "unlocks", "child-closes", "spawns"] {
        let mut holder = Holder::start(4, 0, way);
        assert!(is_held(&holder.ticket), "{way}");
        holder.process.signal(Signal::SIGKILL);
        holder.is_gone_with_its_lock();
    }
}

/// The reason for the mapping; and what a lock that is free too early looks like here.
#[test]
fn a_lock_of_a_descriptor_ends_while_its_process_runs_on() {
    let holder = Holder::start(4, 0, "keeps-its-descriptor");
    assert!(!is_held(&holder.ticket));
    let then = holder.beats();
    eventually(SOON, "a thread to run on", || (then != holder.beats()).then_some(()));
}

#[test]
fn the_lock_of_a_killed_process_is_free_once_none_of_its_threads_runs_and_not_before() {
    for (threads, rounds) in [(1, 20), (4, 20), (32, 10)] {
        for round in 0..rounds {
            let mut holder = Holder::start(threads, 0, "nothing");
            let signal = [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGKILL][round % 4];
            holder.process.signal(signal);
            holder.is_gone_with_its_lock();
        }
    }
}

#[test]
fn the_lock_outlasts_a_freeze_and_much_memory() {
    let mut holder = Holder::start(4, 1024, "nothing");
    holder.process.freeze();
    for _ in 0..1000 {
        assert!(is_held(&holder.ticket));
    }
    holder.process.signal(Signal::SIGKILL);
    holder.is_gone_with_its_lock();
}

/// What `make test` has no memory for.
#[test]
#[ignore = "needs 4 GiB of memory"]
fn the_lock_of_much_memory_is_free_once_no_thread_runs() {
    let mut holder = Holder::start(4, 4096, "nothing");
    let killed = BootTime::now();
    holder.process.signal(Signal::SIGKILL);
    holder.is_gone_with_its_lock();
    println!("4 GiB: free and reaped {:?} after SIGKILL", killed.elapsed());
}

/// A debugger may stop a process anywhere, also on its way out.
#[test]
fn the_lock_outlasts_a_debugger_until_the_process_has_no_memory() {
    let mut holder = Holder::start(1, 0, "nothing");
    let pid = Pid::from_raw(holder.process.id().cast_signed());
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, None).unwrap();
    for _ in 0..1000 {
        assert!(is_held(&holder.ticket), "it is stopped");
    }
    ptrace::cont(pid, None).unwrap();
    holder.process.signal(Signal::SIGABRT);
    let delivered = waitpid(pid, None).unwrap();
    assert!(matches!(delivered, WaitStatus::Stopped(_, Signal::SIGABRT)), "{delivered:?}");
    ptrace::cont(pid, Signal::SIGABRT).unwrap();
    let leaves = waitpid(pid, None).unwrap();
    assert!(matches!(leaves, WaitStatus::PtraceEvent(..)), "{leaves:?}");
    for _ in 0..1000 {
        assert!(is_held(&holder.ticket), "its memory is there");
    }
    ptrace::cont(pid, None).unwrap();
    holder.is_gone_with_its_lock();
}

#[test]
fn the_lock_of_a_process_that_is_killed_under_a_debugger_goes_with_it() {
    let mut holder = Holder::start(1, 0, "nothing");
    let pid = Pid::from_raw(holder.process.id().cast_signed());
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, None).unwrap();
    assert!(is_held(&holder.ticket));
    holder.process.signal(Signal::SIGKILL);
    holder.is_gone_with_its_lock();
}

#[test]
fn the_lock_outlasts_a_frozen_group() {
    let Some(group) = FreezerGroup::create() else { return };
    let mut holder = Holder::start(4, 0, "nothing");
    group.add_with_descendants(holder.process.id());
    group.freeze();
    for _ in 0..1000 {
        assert!(is_held(&holder.ticket));
    }
    holder.process.signal(Signal::SIGKILL);
    group.thaw();
    holder.is_gone_with_its_lock();
}

#[test]
fn the_lock_outlasts_the_dump_of_a_process_or_at_least_its_threads() {
    for _ in 0..3 {
        let mut holder = Holder::start(8, 256, "dumps");
        holder.process.signal(Signal::SIGABRT);
        holder.is_gone_with_its_lock();
    }
}

#[test]
fn the_lock_of_a_process_that_runs_out_of_memory_goes_with_its_threads() {
    let Some(group) = MemoryGroup::create(32 << 20) else {
        let _ = writeln!(std::io::stderr(), "SKIPPED, as no memory can be limited here");
        return;
    };
    let mut holder = Holder::start(4, 0, "eats");
    group.add(holder.process.id());
    holder.process.child_mut().stdin.take().unwrap().write_all(b"!").unwrap();
    holder.is_gone_with_its_lock();
    assert_eq!(holder.process.status().unwrap().signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn a_thread_that_ends_all_ends_the_lock() {
    let mut holder = Holder::start(4, 0, "exits-all");
    assert!(is_held(&holder.ticket));
    holder.process.child_mut().stdin.take().unwrap().write_all(b"!").unwrap();
    holder.is_gone_with_its_lock();
}

#[test]
fn a_program_that_takes_the_place_of_another_does_not_inherit_its_lock() {
    let mut holder = Holder::start(4, 0, "executes");
    assert!(is_held(&holder.ticket));
    holder.process.child_mut().stdin.take().unwrap().write_all(b"!").unwrap();
    while is_held(&holder.ticket) {}
    let then = holder.beats();
    let name = eventually(SOON, "the other program", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", holder.process.id())).unwrap();
        (name == "sleep\n").then_some(name)
    });
    assert_eq!((name.as_str(), then == holder.beats()), ("sleep\n", true));
}

#[test]
fn a_forked_copy_keeps_the_lock() {
    let mut holder = Holder::start(1, 0, "forks");
    holder.process.wait_exit(SOON);
    let beats = holder.beats();
    let copy = i32::from_ne_bytes(beats[101 * 8..101 * 8 + 4].try_into().unwrap());
    let runs_on = || (beats != holder.beats()).then_some(());
    eventually(SOON, "its copy to run on", || {
        assert!(is_held(&holder.ticket), "its copy could believe what it believed");
        runs_on()
    });
    kill(Pid::from_raw(copy), Signal::SIGKILL).unwrap();
    eventually(SOON, "the lock to go with the copy", || (!is_held(&holder.ticket)).then_some(()));
}
