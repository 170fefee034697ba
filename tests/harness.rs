//! Tests of the test support: it starts, breaks and restores the real programs as documented.
//!
//! If these fail, no other integration test means anything.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::Signal;
use support::{
    capture::{Captured, Stream},
    client::Admin,
    clock::BootTime,
    cluster::Cluster,
    etcd::{Etcd, EtcdVersion, ROOT_PASSWORD},
    etcdctl,
    eventually::eventually,
    on_each_etcd,
    pki::Pki,
    process::{self, Process},
    proxy::{Mode, Proxy},
    runtime::wait_within,
};
use tokio::time::timeout;

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for a loopback response to have arrived.
const NEVER: Duration = Duration::from_millis(300);

on_each_etcd! {
    fn a_server_runs_the_version_asked_for_and_comes_back_with_its_data(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let admin = etcd.admin();
        let expected = match version {
            EtcdVersion::V3_7 => "3.7.",
            EtcdVersion::V3_4 => "3.4.",
        };
        assert!(admin.status().version.starts_with(expected));
        admin.put("key", "value");
        let revision = admin.revision();

        etcd.kill();
        assert_eq!(TcpStream::connect(&endpoint).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        etcd.restart();
        assert_eq!(etcd.endpoint(), endpoint);
        assert_eq!(etcd.admin().get("key").unwrap().value(), b"value");
        assert_eq!(etcd.admin().revision(), revision);
    }

    async fn a_frozen_server_holds_its_connections_and_answers_when_thawed(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let mut client = etcd.admin().client();
        client.get("key", None).await.unwrap();

        etcd.freeze();
        assert!(timeout(NEVER, client.get("key", None)).await.is_err());
        assert!(TcpStream::connect(etcd.endpoint()).is_ok());

        etcd.thaw();
        timeout(SOON, client.get("key", None)).await.unwrap().unwrap();
    }

    fn a_wiped_server_keeps_its_cluster_id_and_a_replaced_one_does_not(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        etcd.admin().put("key", "value");
        let before = etcd.admin().status();

        etcd.wipe_and_restart();
        let wiped = etcd.admin().status();
        assert!(etcd.admin().get("key").is_none());
        assert!(wiped.revision < before.revision);
        assert_eq!(wiped.cluster_id, before.cluster_id);

        etcd.replace();
        assert_ne!(etcd.admin().status().cluster_id, before.cluster_id);
    }

    fn three_members_outlive_the_loss_of_one(version: EtcdVersion) {
        let mut cluster = Cluster::start(version, 3);
        let ids: Vec<_> = (0..3).map(|index| cluster[index].admin().status().cluster_id).collect();
        assert!(ids.iter().all(|&id| id == ids[0]));

        // The leader dies. The others elect one of themselves and continue.
        let first = cluster.leader_index();
        cluster[first].kill();
        let second = cluster.leader_index();
        assert_ne!(first, second);
        cluster.admin().put("key", "written by two");

        cluster[first].restart();
        assert_eq!(cluster[first].admin().get("key").unwrap().value(), b"written by two");

        // The leader freezes: the same; after the thaw it accepts the new leader.
        cluster[second].freeze();
        let third = cluster.leader_index();
        assert_ne!(second, third);
        cluster.admin().put("key", "written without the frozen one");
        cluster[second].thaw();
        eventually(SOON, "the thawed member to catch up", || {
            let value = cluster[second].admin().get("key")?;
            (value.value() == b"written without the frozen one").then_some(())
        });

        let follower = cluster.follower_index();
        cluster.move_leader(follower);
        eventually(SOON, "leadership to move", || (cluster.leader_index() == follower).then_some(()));
    }

    fn an_isolated_member_has_no_quorum_while_the_others_go_on(version: EtcdVersion) {
        let mut cluster = Cluster::start_partitionable(version, 3);
        let old = cluster.leader_index();
        cluster.isolate(old);

        let new = cluster.leader_index();
        assert_ne!(old, new);
        cluster[new].admin().put("key", "written by the majority");
        // A follower forwards renewals to the leader by a connection of their own. That one works too.
        let (lease, _) = cluster.admin().grant(60);
        let mut client = cluster[cluster.follower_index()].admin().client();
        wait_within(SOON, async move { client.lease_keep_alive(lease).await }).unwrap().unwrap();
        assert!(answer(&cluster[old].url(), ConnectOptions::new()).is_err());
        assert_ne!(cluster[old].admin().status().leader_id, Some(cluster[new].admin().status().member_id));

        cluster.heal();
        eventually(SOON, "the isolated member to catch up", || {
            answer(&cluster[old].url(), ConnectOptions::new()).ok()?;
            cluster[old].admin().get("key").filter(|value| value.value() == b"written by the majority")
        });
    }

    fn a_server_with_tls_and_authentication_lets_in_only_whom_it_should(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).auth(Duration::from_secs(60)).start();
        etcd.admin().put("key", "value");
        etcd.admin().add_user("alice", "alice's", "leader/");

        let as_alice = |password| {
            let options = ConnectOptions::new().with_tls(pki.tls_options()).with_user("alice", password);
            Admin::try_connect(&etcd.url(), options)
        };
        assert!(as_alice("a guess").is_err());
        let alice = as_alice("alice's").unwrap();
        alice.put("leader/1", "alice");
        let mut client = alice.client();
        assert!(wait_within(SOON, async move { client.put("key", "alice", None).await }).unwrap().is_err());

        let root = |tls| ConnectOptions::new().with_tls(tls).with_user("root", ROOT_PASSWORD);
        let stranger = pki.tls_options_as(&pki.foreign_client);
        assert!(answer(&etcd.url(), root(stranger)).is_err());
        let certless = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(std::fs::read(&pki.ca).unwrap()));
        assert!(answer(&etcd.url(), root(certless)).is_err());
        assert!(answer(&etcd.url(), root(pki.tls_options())).is_ok());
    }

    fn an_unused_token_expires_after_the_lifetime_asked_for(version: EtcdVersion) {
        const LIFETIME: Duration = Duration::from_secs(1);
        let etcd = Etcd::builder(version).auth(LIFETIME).start();
        // Without etcd-client's own token refresh, so that expiry is visible.
        let options = ConnectOptions::new().with_user("root", ROOT_PASSWORD);
        let url = etcd.url();
        let client = wait_within(SOON, Client::connect([url], Some(options))).unwrap().unwrap();

        // Each use extends the token, so polling would keep it alive. Time itself is awaited.
        let mut idle = LIFETIME;
        let error = eventually(SOON, "the token to expire", || {
            idle += LIFETIME;
            thread::sleep(idle);
            let mut client = client.clone();
            wait_within(SOON, async move { client.get("key", None).await }).unwrap().err()
        });
        assert!(error.to_string().contains("invalid auth token"), "{error}");
    }

    fn etcdctl_processes_queue_up_and_lead_in_turn(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let mut first = etcdctl::campaign(&etcd.endpoint(), "leader", "first");
        first.wait_for_line("first", SOON);
        let second = etcdctl::campaign(&etcd.endpoint(), "leader", "second");
        let queue = admin.wait_for_candidates("leader", 2, SOON);
        assert_eq!(queue.iter().map(|candidate| &*candidate.value).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(queue[0].key, format!("leader/{:x}", queue[0].lease));
        let observer = etcdctl::observe(&etcd.endpoint(), "leader");
        observer.wait_for_line("first", SOON);

        // It resigns.
        first.signal(Signal::SIGTERM);
        first.wait_exit(SOON);
        second.wait_for_line("second", SOON);
        observer.wait_for_line("second", SOON);
        assert_eq!(admin.leader("leader").unwrap().value, "second");
        admin.revoke(admin.leader("leader").unwrap().lease);
        assert_eq!(admin.leader("leader"), None);
    }

    fn messages_are_counted_by_method(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let before = etcd.messages_received();
        admin.put("a", "1");
        admin.put("b", "2");
        admin.grant(60);
        let mut after = etcd.messages_received();
        for (method, count) in before {
            *after.get_mut(&method).unwrap() -= count;
        }
        after.retain(|_, count| *count > 0);
        assert_eq!(after, [("LeaseGrant".to_owned(), 1), ("Put".to_owned(), 2)].into());
    }
}

#[test]
fn a_granted_ttl_is_at_least_one_and_a_half_election_timeouts() {
    let etcd = Etcd::builder(EtcdVersion::V3_7).arg("--election-timeout=3000").start();
    let (lease, ttl) = etcd.admin().grant(1);
    assert_eq!(ttl, 5);
    assert_eq!(etcd.admin().leases(), [lease]);
}

#[test]
fn a_compacted_revision_can_be_read_no_more() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let admin = etcd.admin();
    let old = admin.put("key", "old");
    admin.put("key", "new");
    admin.compact(admin.revision());
    let mut client = admin.client();
    let options = etcd_client::GetOptions::new().with_revision(old);
    let error =
        wait_within(SOON, async move { client.get("key", Some(options)).await }).unwrap().unwrap_err();
    assert!(error.to_string().contains("compacted"), "{error}");
}

#[test]
fn a_proxy_passes_and_counts() {
    let proxy = Proxy::start(&echo_server());
    let mut client = EchoClient::connect(&proxy);
    client.send("hello");
    assert_eq!(client.receive(), "hello");
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
    assert_eq!((proxy.request_bytes(), proxy.reply_bytes()), (5, 5));

    drop(client);
    eventually(SOON, "the proxy to see the end", || (proxy.open_connections() == 0).then_some(()));
}

#[test]
fn a_silent_proxy_keeps_connections_open_and_delivers_once_it_heals() {
    let proxy = Proxy::start(&echo_server());
    let mut old = EchoClient::connect(&proxy);
    old.send("before");
    assert_eq!(old.receive(), "before");

    proxy.set(Mode::Silence);
    let mut new = EchoClient::connect(&proxy);
    new.send("new");
    old.send("during");
    assert!(old.is_unanswered() && new.is_unanswered());
    assert_eq!((proxy.request_bytes(), proxy.reply_bytes()), (6, 6));

    proxy.set(Mode::Pass);
    assert_eq!(old.receive(), "during");
    assert_eq!(new.receive(), "new");
}

#[test]
fn a_proxy_can_be_silent_one_way() {
    let proxy = Proxy::start(&echo_server());
    let mut client = EchoClient::connect(&proxy);

    proxy.set(Mode::SilenceReplies);
    client.send("asked");
    assert!(client.is_unanswered());
    assert_eq!((proxy.request_bytes(), proxy.reply_bytes()), (5, 0));

    proxy.set(Mode::SilenceRequests);
    assert_eq!(client.receive(), "asked");
    client.send("lost");
    assert!(client.is_unanswered());
    assert_eq!((proxy.request_bytes(), proxy.reply_bytes()), (5, 5));
}

#[test]
fn a_refusing_proxy_resets_and_refuses_until_it_passes_again() {
    let proxy = Proxy::start(&echo_server());
    let mut client = EchoClient::connect(&proxy);
    client.send("hello");
    assert_eq!(client.receive(), "hello");

    proxy.set(Mode::Refuse);
    assert_eq!(client.error(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(proxy.endpoint()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(proxy.open_connections(), 0);

    proxy.set(Mode::Pass);
    let mut client = EchoClient::connect(&proxy);
    client.send("again");
    assert_eq!(client.receive(), "again");
}

#[test]
fn a_cut_resets_what_is_open_and_nothing_later() {
    let proxy = Proxy::start(&echo_server());
    let mut idle = EchoClient::connect(&proxy);
    let mut silenced = EchoClient::connect(&proxy);
    proxy.set(Mode::Silence);
    silenced.send("hello");
    proxy.set(Mode::Pass);

    proxy.cut();
    assert_eq!(idle.error(), ErrorKind::ConnectionReset);
    let mut later = EchoClient::connect(&proxy);
    later.send("later");
    assert_eq!(later.receive(), "later");
}

#[test]
fn a_client_behind_a_proxy_reaches_an_etcd_that_was_restarted() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let proxy = Proxy::start(&etcd.endpoint());
    let url = format!("http://{}", proxy.endpoint());
    assert!(answer(&url, ConnectOptions::new()).is_ok());
    etcd.kill();
    assert!(answer(&url, ConnectOptions::new()).is_err());
    etcd.restart();
    assert!(answer(&url, ConnectOptions::new()).is_ok());
}

#[test]
fn lines_are_kept_in_order_with_their_stream_and_time() {
    let before = BootTime::now();
    let mut shell = shell("echo one; echo two >&2; echo one; printf unfinished; exit 3");
    let first = shell.wait_for_line("one", SOON);
    let error = shell.wait_for_line(|line: &str| line.starts_with("tw"), SOON);
    let again = shell.wait_for_line_since(first.mark(), "one", SOON);
    assert_eq!(shell.wait_exit(SOON).code(), Some(3));

    assert_eq!(error.stream, Stream::Stderr);
    assert!(before < shell.started() && shell.started() < first.at && first.at <= again.at);
    assert_eq!(shell.stdout(), ["one", "one", "unfinished"]);
    assert_eq!(shell.stderr(), ["two"]);
    assert!(shell.lines_since(again.mark()).iter().any(|line| line.text == "unfinished"));
    assert!(shell.lines_since(shell.mark()).is_empty());
}

#[test]
fn a_wait_in_vain_shows_the_transcript() {
    let shell = shell("echo something else; exec sleep 1000");
    shell.wait_for_line("something else", SOON);
    let report = panic_message(|| {
        shell.wait_for_line("hello", NEVER);
    });
    assert!(report.contains("the line \"hello\"") && report.contains("out| something else"), "{report}");
}

#[test]
fn a_wait_ends_early_when_the_process_has_ended() {
    let started = BootTime::now();
    let shell = shell("echo something else");
    let report = panic_message(|| {
        shell.wait_for_line("hello", Duration::from_secs(3600));
    });
    assert!(report.contains("its output has ended"), "{report}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_frozen_process_does_nothing_until_it_is_thawed() {
    let mut shell = shell("echo ready; while :; do echo tick; done");
    shell.wait_for_line("ready", SOON);
    shell.freeze();
    // Output still in the pipe is read. Then nothing comes.
    let mut seen = shell.mark();
    eventually(SOON, "the pipe to be drained", || {
        thread::sleep(NEVER);
        let before = std::mem::replace(&mut seen, shell.mark());
        (before == seen).then_some(())
    });

    let thawed = shell.thaw();
    let tick = shell.wait_for_line_since(seen, "tick", SOON);
    assert!(tick.at >= thawed);
    shell.kill();
    assert_eq!(shell.status().unwrap().code(), None);
}

#[test]
fn a_dropped_process_is_gone_even_if_it_was_frozen() {
    let mut shell = shell("echo ready; exec sleep 1000");
    shell.wait_for_line("ready", SOON);
    let id = shell.id();
    shell.freeze();
    assert!(proc_entry(id).exists());
    drop(shell);
    assert!(!proc_entry(id).exists());
}

#[test]
fn a_process_dies_with_the_test_that_started_it() {
    let mut test = process::command(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "--nocapture", "starts_a_process_and_waits_to_be_killed"]);
    let mut test = Captured::start("the inner test", test);
    let line = test.wait_for_line(|line: &str| line.contains("child="), SOON);
    let id = line.text.split_once("child=").unwrap().1.parse().unwrap();
    assert!(proc_entry(id).exists());

    test.kill();
    eventually(SOON, "the orphan to be killed", || (!is_alive(id)).then_some(()));
}

#[test]
#[ignore = "only the test above runs it, and kills it"]
fn starts_a_process_and_waits_to_be_killed() {
    let mut command = process::command("sleep");
    command.arg("1000");
    let mut sleeper = Process::start("sleep", command);
    println!("child={}", sleeper.id());
    sleeper.wait_exit(Duration::from_secs(1000));
}

#[test]
fn a_condition_that_never_comes_is_named() {
    let report = panic_message(|| eventually(NEVER, "Godot", || None));
    assert!(report.contains("for Godot"), "{report}");
}

/// Reads a key, or returns the error.
fn answer(url: &str, options: ConnectOptions) -> Result<(), String> {
    let url = url.to_owned();
    let read = async move {
        let mut client = Client::connect([url], Some(options)).await?;
        client.get("key", None).await
    };
    match wait_within(Duration::from_secs(2), read) {
        Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
        Err(elapsed) => Err(elapsed.to_string()),
    }
}

fn shell(script: &str) -> Captured {
    let mut command = process::command("bash");
    command.args(["-c", script]);
    Captured::start("bash", command)
}

fn panic_message(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

fn proc_entry(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// Reports whether a process runs and is not a zombie.
fn is_alive(id: u32) -> bool {
    let status = std::fs::read_to_string(proc_entry(id).join("stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|fields| fields.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Starts an echo server that lives as long as this process. Returns its address.
fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    address
}

struct EchoClient {
    stream: TcpStream,
    sent: usize,
}

impl EchoClient {
    fn connect(proxy: &Proxy) -> Self {
        Self { stream: TcpStream::connect(proxy.endpoint()).unwrap(), sent: 0 }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.sent = text.len();
    }

    /// Receives as many bytes as were sent last.
    fn receive(&mut self) -> String {
        self.stream.set_read_timeout(Some(SOON)).unwrap();
        let mut received = vec![0; self.sent];
        self.stream.read_exact(&mut received).unwrap();
        String::from_utf8(received).unwrap()
    }

    fn is_unanswered(&mut self) -> bool {
        self.stream.set_read_timeout(Some(NEVER)).unwrap();
        self.stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn error(&mut self) -> ErrorKind {
        self.stream.set_read_timeout(Some(SOON)).unwrap();
        self.stream.read(&mut [0]).unwrap_err().kind()
    }
}
