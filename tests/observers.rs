//! Reports of `elect observe` and `elect status` (point 9 of the contract): a leader, a vacancy,
//! or unknown; whatever etcd does, and whatever other clients put beside the candidates' keys.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{io::Read, net::TcpListener, os::unix::process::ExitStatusExt, time::Duration};

use etcd_client::{PutOptions, Txn, TxnOp};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    capture::{Captured, Line, Mark, Stream},
    client::CandidateKey,
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    on_each_etcd,
    port::ReservedPort,
    process,
    proxy::{Mode, Proxy},
    runtime::wait_within,
    server::{CHANGE, FOLLOWER, LEADER, REFRESHING},
};

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// An observer asks every second, waits two for the response, and may first try to reconnect.
const UNKNOWN_WITHIN: Duration = Duration::from_secs(10);

const MEBIBYTE: usize = 1 << 20;

/// A value that an attacker or an accident might put: not UTF-8, with a forged line.
const FOREIGN: &[u8] =
    b"\xff\xfe\n2026-01-01T00:00:00.000Z leader mallory (token 1)\n{\"state\":\"leader\"}\x1b[2J\0";

/// `elect observe --json`, with its reports so far.
struct Observer(Captured);

impl Observer {
    fn start(endpoint: &str) -> Self {
        Self(Elect::new(["observe", "--json", "--etcd", endpoint]).start())
    }

    /// Waits for a matching observation after `mark`.
    #[track_caller]
    fn wait_since(&self, mark: Mark, within: Duration, wanted: impl Fn(&Value) -> bool) -> (Line, Value) {
        let pattern = |line: &str| serde_json::from_str(line).is_ok_and(|line| wanted(&line));
        let line = self.0.wait_for_line_since(mark, pattern, within);
        let observation = serde_json::from_str(&line.text).unwrap();
        (line, observation)
    }

    #[track_caller]
    fn wait(&self, wanted: impl Fn(&Value) -> bool) -> (Line, Value) {
        self.wait_since(Mark::START, SOON, wanted)
    }

    /// All reports; each line is one object.
    #[track_caller]
    fn all(&self) -> Vec<Value> {
        let lines = self.0.stdout();
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"))).collect()
    }
}

fn leads(name: &str) -> impl Fn(&Value) -> bool {
    move |line| line["state"] == "leader" && line["leader"] == name
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |line| line["state"] == state
}

/// One run of `elect status`.
struct Status {
    code: Option<i32>,
    lines: Vec<String>,
}

impl Status {
    #[track_caller]
    fn of(endpoint: &str, args: &[&str]) -> Self {
        let mut status = Elect::new(["status", "--etcd", endpoint]).args(args).start();
        let code = status.wait_exit(SOON).code();
        assert_eq!(status.stderr(), [""; 0]);
        Self { code, lines: status.stdout() }
    }

    /// Parses the output of `--json`.
    #[track_caller]
    fn json(endpoint: &str) -> (Option<i32>, Value) {
        let Self { code, lines } = Self::of(endpoint, &["--json"]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        (code, serde_json::from_str(&lines[0]).unwrap())
    }
}

fn names(status: &Value) -> Vec<&str> {
    status["candidates"].as_array().unwrap().iter().map(|queued| queued["name"].as_str().unwrap()).collect()
}

/// Puts a leader without a process: a candidate's key on a lease that needs no renewal soon.
#[track_caller]
fn put_leader(etcd: &Etcd, name: &str) -> CandidateKey {
    let (lease, _) = etcd.admin().grant(600);
    etcd.admin().put_leased(format!("leader/{lease:x}"), name, lease);
    etcd.admin().candidates("leader").into_iter().find(|candidate| candidate.lease == lease).unwrap()
}

fn server(name: &str, etcd: &Etcd) -> Captured {
    Elect::server(name, &etcd.endpoint()).args(["--ttl", "30s"]).start()
}

/// Starts servers one by one, so that they queue in this order.
#[track_caller]
fn servers<const N: usize>(etcd: &Etcd, names: [&str; N]) -> [Captured; N] {
    let before = etcd.admin().candidates("leader").len();
    let mut count = before;
    names.map(|name| {
        let server = server(name, etcd);
        count += 1;
        etcd.admin().wait_for_candidates("leader", count, SOON);
        server
    })
}

on_each_etcd! {
    fn contract_9_two_keys_put_at_one_revision_are_two_keys(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let mut client = etcd.admin().client();
        let both = Txn::new().and_then([TxnOp::put("leader/x", "1", None), TxnOp::put("leader/y", "1", None)]);
        wait_within(SOON, async move { client.txn(both).await }).unwrap().unwrap();
        let observer = Observer::start(&etcd.endpoint());
        let blocked_by = |key: &'static str| move |line: &Value| line["blocked_by"] == key;
        observer.wait(blocked_by("leader/x"));
        let server = server("server", &etcd);
        etcd.admin().wait_for_candidates("leader", 3, SOON);

        // Another key before it is deleted; an observer that only counted revisions would miss that.
        etcd.admin().delete("leader/x");
        observer.wait(blocked_by("leader/y"));
        assert_eq!(Status::json(&etcd.endpoint()).1["blocked_by"], "leader/y");
        assert!(server.stdout().iter().all(|line| line != LEADER));
        let (_, status) = Status::json(&etcd.endpoint());
        assert_eq!(names(&status), ["server"], "it keeps its place");

        etcd.admin().delete("leader/y");
        server.wait_for_line(LEADER, SOON);
        observer.wait(leads("server"));
        assert!(observer.all().iter().all(|line| line["state"] != "unknown"));
    }

    fn contract_9_of_two_candidates_put_at_one_revision_none_is_named(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let (lease, _) = etcd.admin().grant(600);
        let (other, _) = etcd.admin().grant(600);
        let put = |lease: i64| {
            TxnOp::put(format!("leader/{lease:x}"), "candidate", Some(PutOptions::new().with_lease(lease)))
        };
        let mut client = etcd.admin().client();
        let both = Txn::new().and_then([put(lease), put(other)]);
        wait_within(SOON, async move { client.txn(both).await }).unwrap().unwrap();
        let observer = Observer::start(&etcd.endpoint());
        observer.wait(|line| line["state"] == "vacant" && !line["blocked_by"].is_null());
        etcd.admin().revoke(lease);
        observer.wait(leads("candidate"));
    }

    fn a_prefix_full_of_keys_costs_a_candidate_and_an_observer_no_more_memory(version: EtcdVersion) {
        const KEYS: usize = 30_000;
        // At 500 bytes a key it was four times as much.
        const MOST_KIB: u64 = 4 << 10;
        let etcd = Etcd::start(version);
        let client = etcd.admin().client();
        for batch in (0..KEYS).collect::<Vec<_>>().chunks(120) {
            let puts: Vec<_> = batch.iter().map(|n| TxnOp::put(format!("full/{n:08}"), "", None)).collect();
            let mut client = client.clone();
            wait_within(SOON, async move { client.txn(Txn::new().and_then(puts)).await }).unwrap().unwrap();
        }
        let memory = |election: &str, settled: &'static str| {
            let args = ["--etcd", &etcd.endpoint(), "--election", election];
            let server = Elect::new(["server", "server"]).args(args).start();
            let observer = Elect::new(["observe", "--json"]).args(args).start();
            observer.wait_for_line(|line: &str| !line.is_empty(), SOON);
            server.wait_for_line(move |line: &str| line.contains(settled), SOON);
            [process::resident_kib(server.id()), process::resident_kib(observer.id())]
        };
        let empty = memory("empty", LEADER);
        let full = memory("full", "no candidate can lead until this key");
        for (full, empty) in full.into_iter().zip(empty) {
            assert!(full < empty + MOST_KIB, "{full} KiB, and {empty} KiB without the keys");
        }
    }

    fn contract_9_tells_of_a_leader_a_vacancy_and_the_next_leader(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let observer = Observer::start(&etcd.endpoint());
        observer.wait(is("vacant"));
        let mut first = server("first", &etcd);
        observer.wait(leads("first"));
        let first_token = etcd.admin().leader("leader").unwrap().create_revision;
        first.signal(Signal::SIGTERM);
        assert_eq!(first.wait_exit(SOON).code(), Some(0));
        let (gone, _) = observer.wait_since(Mark::START, SOON, is("leader"));
        observer.wait_since(gone.mark(), SOON, is("vacant"));
        let _second = server("second", &etcd);
        observer.wait(leads("second"));
        let second_token = etcd.admin().leader("leader").unwrap().create_revision;

        let all = observer.all();
        let told: Vec<_> = all
            .iter()
            .map(|line| (line["state"].as_str().unwrap(), &line["leader"], &line["token"]))
            .collect();
        let null = Value::Null;
        assert_eq!(
            told,
            [
                ("vacant", &null, &null),
                ("leader", &"first".into(), &first_token.into()),
                ("vacant", &null, &null),
                ("leader", &"second".into(), &second_token.into()),
            ]
        );
        let mut latest = String::new();
        for line in &all {
            let mut keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["at", "leader", "since", "state", "token"]);
            let at = line["at"].as_str().unwrap();
            assert!(at.len() == 24 && at.ends_with('Z') && *at >= *latest, "{all:?}");
            latest = at.to_owned();
            // A vacancy's beginning is unknown; a leader's was just seen.
            match line["since"].as_str() {
                Some(since) => assert!(
                    line["state"] == "leader" && since <= at && since >= all[0]["at"].as_str().unwrap()
                ),
                None => assert_eq!(line["state"], "vacant"),
            }
        }
    }

    fn contract_9_who_comes_later_learns_since_when_it_leads(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let early = Observer::start(&etcd.endpoint());
        early.wait(is("vacant"));
        let [_leader] = servers(&etcd, ["server1"]);
        let (_, seen) = early.wait(leads("server1"));
        // The announcement follows the win.
        let late = support::eventually::eventually(SOON, "the announcement", || {
            let (code, status) = Status::json(&etcd.endpoint());
            assert_eq!((code, &status["leader"]), (Some(0), &"server1".into()));
            status["since"].as_str().map(str::to_owned)
        });
        // Either may be earlier by milliseconds: one is the observer's time, the other the announced one.
        assert_eq!(late[..17], seen["since"].as_str().unwrap()[..17]);
        let text = Status::of(&etcd.endpoint(), &[]).lines;
        assert!(text[0].contains(&format!(", since {late})")), "{text:?}");
    }

    fn contract_9_a_frozen_etcd_makes_it_unknown_and_a_thawed_one_known_again(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let leader = put_leader(&etcd, "server1");
        let observer = Observer::start(&etcd.endpoint());
        let (known, seen) = observer.wait(leads("server1"));
        assert_eq!(seen["token"], leader.create_revision);

        let frozen = etcd.freeze();
        let (unknown, said) = observer.wait_since(known.mark(), UNKNOWN_WITHIN, is("unknown"));
        assert!(unknown.at - frozen < UNKNOWN_WITHIN);
        assert_eq!((&said["leader"], &said["token"]), (&Value::Null, &Value::Null));
        assert!(said["problem"].as_str().is_some_and(|problem| !problem.is_empty()));
        // Known up to some moment between the two.
        let since = said["since"].as_str().unwrap();
        assert!(since >= seen["at"].as_str().unwrap() && since < said["at"].as_str().unwrap());

        etcd.thaw();
        let (_, again) = observer.wait_since(unknown.mark(), SOON, is("leader"));
        assert_eq!((&again["leader"], &again["token"]), (&seen["leader"], &seen["token"]));
    }

    fn contract_9_a_killed_etcd_makes_it_unknown_and_what_changed_meanwhile_is_told(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let old = put_leader(&etcd, "old");
        let observer = Observer::start(&etcd.endpoint());
        let (known, _) = observer.wait(leads("old"));

        etcd.kill();
        let (unknown, _) = observer.wait_since(known.mark(), UNKNOWN_WITHIN, is("unknown"));
        etcd.restart();
        let (again, _) = observer.wait_since(unknown.mark(), SOON, leads("old"));

        etcd.kill();
        let (unknown, _) = observer.wait_since(again.mark(), UNKNOWN_WITHIN, is("unknown"));
        etcd.restart();
        etcd.admin().revoke(old.lease);
        let new = put_leader(&etcd, "new");
        let (_, seen) = observer.wait_since(unknown.mark(), SOON, leads("new"));
        assert_eq!(seen["token"], new.create_revision);
        // Reported once per outage, however long it lasted.
        let unknowns = observer.all().iter().filter(|line| is("unknown")(line)).count();
        assert_eq!(unknowns, 2);
    }

    fn contract_9_a_silent_connection_makes_it_unknown_though_etcd_is_well(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        put_leader(&etcd, "server1");
        let proxy = Proxy::start(&etcd.endpoint());
        let observer = Observer::start(&proxy.endpoint());
        let (known, _) = observer.wait(leads("server1"));
        proxy.set(Mode::SilenceReplies);
        let (unknown, _) = observer.wait_since(known.mark(), UNKNOWN_WITHIN, is("unknown"));
        proxy.set(Mode::Pass);
        observer.wait_since(unknown.mark(), SOON, leads("server1"));
    }

    fn a_break_that_is_mended_at_once_is_no_news(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let old = put_leader(&etcd, "old");
        let proxy = Proxy::start(&etcd.endpoint());
        let observer = Observer::start(&proxy.endpoint());
        observer.wait(leads("old"));
        for _ in 0..3 {
            let before = proxy.connections();
            proxy.cut();
            support::eventually::eventually(SOON, "a new connection", || {
                (proxy.connections() > before).then_some(())
            });
        }
        etcd.admin().revoke(old.lease);
        put_leader(&etcd, "new");
        observer.wait(leads("new"));
        let states: Vec<_> =
            observer.all().iter().map(|line| line["state"].as_str().unwrap().to_owned()).collect();
        // The vacancy in between may have been missed while it reconnected.
        assert!(states == ["leader", "vacant", "leader"] || states == ["leader", "leader"], "{states:?}");
    }

    fn history_that_is_compacted_while_the_connection_is_silent_does_not_end_observing(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let old = put_leader(&etcd, "old");
        let proxy = Proxy::start(&etcd.endpoint());
        let observer = Observer::start(&proxy.endpoint());
        let (known, _) = observer.wait(leads("old"));

        proxy.set(Mode::Silence);
        let admin = etcd.admin();
        admin.revoke(old.lease);
        for _ in 0..10 {
            admin.put("unrelated", "value");
        }
        let new = put_leader(&etcd, "new");
        admin.compact(admin.revision());
        proxy.cut();
        proxy.set(Mode::Pass);
        let (_, seen) = observer.wait_since(known.mark(), SOON, leads("new"));
        assert_eq!(seen["token"], new.create_revision);

        // It follows events again; compaction does not affect a watch that is up to date.
        admin.compact(admin.put("unrelated", "value"));
        admin.revoke(new.lease);
        observer.wait_since(known.mark(), SOON, is("vacant"));
    }

    fn history_that_is_compacted_while_the_observer_is_frozen_does_not_end_observing(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let old = put_leader(&etcd, "old");
        let mut observer = Observer::start(&etcd.endpoint());
        let (known, _) = observer.wait(leads("old"));

        // More than all buffers in between hold, so that etcd's watch falls behind for good.
        observer.0.freeze();
        let mut client = etcd.admin().client();
        let flood = async move {
            for _ in 0..400 {
                client.put("leader/zz-flood", vec![b'x'; 64 * 1024], None).await?;
            }
            Ok::<_, etcd_client::Error>(())
        };
        wait_within(Duration::from_secs(60), flood).unwrap().unwrap();
        let admin = etcd.admin();
        admin.delete("leader/zz-flood");
        admin.revoke(old.lease);
        let new = put_leader(&etcd, "new");
        admin.compact(admin.revision());
        observer.0.thaw();
        let (_, seen) = observer.wait_since(known.mark(), SOON, leads("new"));
        assert_eq!(seen["token"], new.create_revision);
        admin.revoke(new.lease);
        observer.wait_since(known.mark(), SOON, is("vacant"));
        // The flood was behind the leader in the queue: it never led.
        assert!(observer.all().iter().all(|line| line["leader"] != "x"));
    }

    fn a_foreign_value_on_the_leaders_own_key_is_shown_on_one_line_and_does_not_depose_it(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let observer = Observer::start(&etcd.endpoint());
        let text = Elect::new(["observe", "--etcd", &etcd.endpoint()]).start();
        let [leader, follower] = servers(&etcd, ["server1", "server2"]);
        leader.wait_for_line(LEADER, SOON);
        follower.wait_for_line(FOLLOWER, SOON);
        observer.wait(leads("server1"));
        let own = admin.leader("leader").unwrap();

        let large = vec![b'x'; MEBIBYTE];
        for value in [FOREIGN, &large, b""] {
            // A careful client keeps the lease.
            let revision = admin.put_leased(&*own.key, value, own.lease);
            assert_eq!(admin.leader("leader").unwrap().mod_revision, revision);
            let shown = |name: &str| match value {
                [] => name.is_empty(),
                [b'x', ..] => name.starts_with("xxx") && name.len() < 1000,
                _ => name.starts_with("\u{fffd}\u{fffd}") && !name.contains(char::is_control),
            };
            let wanted = |line: &Value| line["leader"].as_str().is_some_and(shown);
            let (_, seen) = observer.wait(wanted);
            assert_eq!(seen["token"], own.create_revision);
            let (code, status) = Status::json(&etcd.endpoint());
            assert!(code == Some(0) && wanted(&status), "{status}");
            assert_eq!(status["candidates"].as_array().unwrap().len(), 2);
            assert_eq!(Status::of(&etcd.endpoint(), &[]).lines.len(), 2);
        }
        admin.put_leased(&*own.key, "server1", own.lease);
        // Each line of the text form is one observation, and each is of the one leader.
        text.wait_for_line(|line: &str| line.contains(" leader  "), SOON);
        for line in text.stdout() {
            let state = line.split(' ').nth(1).unwrap();
            assert!(state == "vacant" || state == "leader", "{line:?}");
            assert!(!line.starts_with("2026-01-01T00:00:00.000Z"), "{line:?}");
        }
        // It still leads: the next in the queue has not moved.
        for server in [&leader, &follower] {
            assert!(!server.stdout().iter().any(|line| line == CHANGE));
        }
        assert_eq!(admin.leader("leader").unwrap().create_revision, own.create_revision);
    }

    fn a_leaders_key_taken_off_its_lease_means_no_leader_until_it_is_deleted(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let observer = Observer::start(&etcd.endpoint());
        let [leader, follower] = servers(&etcd, ["server1", "server2"]);
        leader.wait_for_line(LEADER, SOON);
        let (seen, _) = observer.wait(leads("server1"));
        let own = admin.leader("leader").unwrap();

        // A careless client puts it without the lease, so the key never goes by itself.
        admin.put(&*own.key, FOREIGN);
        leader.wait_for_line(CHANGE, SOON);
        let (vacant, said) = observer.wait_since(seen.mark(), SOON, is("vacant"));
        assert_eq!(said["blocked_by"], *own.key);
        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!((code, &status["blocked_by"]), (Some(3), &own.key.clone().into()));
        let text = Status::of(&etcd.endpoint(), &[]);
        assert!(text.code == Some(3) && text.lines[0].contains(&*own.key), "{:?}", text.lines);
        assert!(!follower.stdout().iter().any(|line| line == LEADER));

        admin.delete(&*own.key);
        observer.wait_since(vacant.mark(), SOON, leads("server2"));
        follower.wait_for_line(LEADER, SOON);
    }

    fn a_foreign_key_before_all_candidates_is_named_and_leads_nothing(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        // Also keys that look like a candidate's, but for the lease.
        for key in [&b"leader/foreign"[..], b"leader/", b"leader/\xff\xfe\n", b"leader/2a", b"leader/sub/me"]
        {
            let shown = String::from_utf8_lossy(key).replace('\n', "\u{fffd}");
            admin.put(key, if key.ends_with(b"foreign") { vec![b'x'; MEBIBYTE] } else { FOREIGN.to_vec() });
            let observer = Observer::start(&etcd.endpoint());
            let (first, said) = observer.wait(|_| true);
            assert_eq!((&said["state"], &said["blocked_by"]), (&"vacant".into(), &(&*shown).into()));
            let [server] = servers(&etcd, ["server1"]);
            let (code, status) = Status::json(&etcd.endpoint());
            assert_eq!((code, &status["blocked_by"]), (Some(3), &(&*shown).into()), "{status}");
            assert_eq!(names(&status), ["server1"]);
            assert!(!server.stdout().iter().any(|line| line == LEADER));

            admin.delete(key);
            server.wait_for_line(LEADER, SOON);
            observer.wait_since(first.mark(), SOON, leads("server1"));
            // Its last known holder leads no more, and the next round starts from an empty queue.
            admin.revoke(admin.leader("leader").unwrap().lease);
            drop(server);
            admin.delete_prefix("leader/");
        }
    }

    fn foreign_keys_behind_the_leader_are_no_candidates(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let observer = Observer::start(&etcd.endpoint());
        let [mut first] = servers(&etcd, ["first"]);
        let (seen, _) = observer.wait(leads("first"));
        admin.put("leader/foreign", FOREIGN);
        let [second] = servers(&etcd, ["second"]);
        admin.put("leader/also", vec![b'x'; MEBIBYTE]);
        let [_third] = servers(&etcd, ["third"]);
        // Under the other election's prefix, and unrelated to this one.
        admin.put("leaders", FOREIGN);

        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!((code, &status["leader"]), (Some(0), &"first".into()));
        assert_eq!(names(&status), ["first", "second", "third"]);
        // It has reported nothing new meanwhile.
        assert!(observer.0.lines_since(seen.mark()).is_empty());

        first.signal(Signal::SIGTERM);
        first.wait_exit(SOON);
        let (blocked, said) = observer.wait_since(seen.mark(), SOON, is("vacant"));
        assert_eq!(said["blocked_by"], "leader/foreign");
        assert!(!second.stdout().iter().any(|line| line == LEADER));
        admin.delete("leader/foreign");
        observer.wait_since(blocked.mark(), SOON, leads("second"));
        second.wait_for_line(LEADER, SOON);
    }

    fn a_queue_of_large_foreign_values_can_still_be_looked_at(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let [_leader] = servers(&etcd, ["server1"]);
        // Together more than any response may hold.
        for number in 0..24 {
            etcd.admin().put(format!("leader/foreign-{number}"), vec![b'x'; MEBIBYTE]);
        }
        let follower = server("server2", &etcd);
        follower.wait_for_line(FOLLOWER, SOON);
        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!(code, Some(0), "{status}");
        assert_eq!(names(&status), ["server1", "server2"]);
        let observer = Observer::start(&etcd.endpoint());
        observer.wait(leads("server1"));
    }

    fn garbage_in_the_place_of_the_announcement_is_left_out(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let leader = put_leader(&etcd, "server1");
        let large = vec![b'x'; MEBIBYTE];
        let other_term = format!(
            r#"{{"leader":"mallory","token":{},"since":"2001-01-01T00:00:00Z"}}"#,
            leader.create_revision + 1
        );
        for garbage in [FOREIGN, &large, b"{}", other_term.as_bytes()] {
            admin.put("leader", garbage);
            let (code, status) = Status::json(&etcd.endpoint());
            assert_eq!(
                (code, &status["leader"], &status["since"]),
                (Some(0), &"server1".into(), &Value::Null)
            );
            let observer = Observer::start(&etcd.endpoint());
            let (_, said) = observer.wait(|_| true);
            assert_eq!((&said["leader"], &said["since"]), (&"server1".into(), &Value::Null));
        }
    }

    fn many_large_values_on_its_own_key_do_not_blind_a_leader_that_reconnects(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let proxy = Proxy::start(&etcd.endpoint());
        let leader = Elect::server("server1", &proxy.endpoint()).args(["--ttl", "30s"]).start();
        let won = leader.wait_for_line(LEADER, SOON);
        let own = admin.leader("leader").unwrap();
        // The backlog exceeds any one message.
        proxy.set(Mode::Silence);
        for _ in 0..20 {
            admin.put_leased(&*own.key, vec![b'x'; MEBIBYTE], own.lease);
        }
        proxy.cut();
        proxy.set(Mode::Pass);
        // Its next renewal shows that it has reconnected.
        leader.wait_for_line_since(won.mark(), REFRESHING, Duration::from_secs(40));
        let deleted = BootTime::now();
        admin.delete(&*own.key);
        let change = leader.wait_for_line_since(won.mark(), CHANGE, SOON);
        assert!(change.at - deleted < Duration::from_secs(10), "its deadline found out, not its watch");
    }

    fn status_exits_with_0_for_a_leader_and_lists_who_waits_in_order(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let _servers = servers(&etcd, ["c", "a", "b"]);
        let tokens: Vec<_> =
            etcd.admin().candidates("leader").iter().map(|candidate| candidate.create_revision).collect();

        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!(code, Some(0));
        assert_eq!((&status["state"], &status["leader"]), (&"leader".into(), &"c".into()));
        assert_eq!(status["token"], tokens[0]);
        assert_eq!(names(&status), ["c", "a", "b"]);
        let listed: Vec<_> = status["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|queued| queued["token"].as_i64().unwrap())
            .collect();
        assert_eq!(listed, tokens);

        let Status { code, lines } = Status::of(&etcd.endpoint(), &[]);
        assert_eq!(code, Some(0));
        assert!(lines[0].contains(&format!(" leader c (token {}", tokens[0])), "{lines:?}");
        assert_eq!(
            lines[1..],
            [format!("  waits: a (token {})", tokens[1]), format!("  waits: b (token {})", tokens[2])]
        );

        // Another election is unaffected.
        assert_eq!(Status::of(&etcd.endpoint(), &["--election", "other"]).code, Some(3));
    }

    fn status_exits_with_3_for_a_vacancy_and_4_when_it_cannot_know(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let Status { code, lines } = Status::of(&etcd.endpoint(), &[]);
        assert!(code == Some(3) && lines.len() == 1 && lines[0].ends_with(" vacant"), "{lines:?}");
        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!((code, &status["state"], &status["leader"]), (Some(3), &"vacant".into(), &Value::Null));
        assert_eq!(names(&status), [""; 0]);

        put_leader(&etcd, "server1");
        etcd.freeze();
        let asked = BootTime::now();
        let (code, status) = Status::json(&etcd.endpoint());
        assert_eq!((code, &status["state"], &status["leader"]), (Some(4), &"unknown".into(), &Value::Null));
        assert!(asked.elapsed() < UNKNOWN_WITHIN);
        etcd.thaw();
        assert_eq!(Status::of(&etcd.endpoint(), &[]).code, Some(0));

        etcd.kill();
        let Status { code, lines } = Status::of(&etcd.endpoint(), &[]);
        assert!(code == Some(4) && lines[0].contains(" unknown "), "{lines:?}");
    }
}

#[test]
fn status_of_no_etcd_at_all_is_unknown_soon() {
    let unused = ReservedPort::new();
    let asked = BootTime::now();
    let (code, status) = Status::json(&unused.address());
    assert_eq!((code, &status["state"]), (Some(4), &"unknown".into()));
    assert!(status["problem"].as_str().unwrap().contains(&unused.address()), "{status}");
    assert!(asked.elapsed() < UNKNOWN_WITHIN);
}

#[test]
fn something_that_is_no_etcd_is_unknown_to_both() {
    // Accepts connections, and answers each with something other than gRPC.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 64]);
                let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\nleader");
            });
        }
    });
    let (code, status) = Status::json(&endpoint);
    assert_eq!((code, &status["state"]), (Some(4), &"unknown".into()));
    let observer = Observer::start(&endpoint);
    observer.wait(is("unknown"));
}

#[test]
fn an_observer_that_is_started_before_etcd_finds_it() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    put_leader(&etcd, "server1");
    etcd.kill();
    let observer = Observer::start(&etcd.endpoint());
    let (unknown, said) = observer.wait(|_| true);
    // It never knew, so there is no time since which it does not.
    assert_eq!((&said["state"], &said["since"]), (&"unknown".into(), &Value::Null));
    etcd.restart();
    observer.wait_since(unknown.mark(), SOON, leads("server1"));
}

#[test]
fn an_observer_whose_reader_is_gone_ends_without_complaint() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for format in ["", "--json"] {
        let mut shell = process::command("bash");
        let pipe = r#""$0" observe $2 --etcd "$1" | head -1; echo "${PIPESTATUS[@]}""#;
        shell.args(["-c", pipe, env!("CARGO_BIN_EXE_elect"), &etcd.endpoint(), format]);
        let mut pipe = Captured::start("elect observe | head -1", shell);
        pipe.wait_for_line(|line: &str| line.contains("vacant"), SOON);
        // It notices at its next output.
        let leader = put_leader(&etcd, "server1");
        pipe.wait_for_line("0 0", SOON);
        pipe.wait_exit(SOON);
        assert_eq!(pipe.stderr(), [""; 0]);
        etcd.admin().revoke(leader.lease);
    }
}

#[test]
fn an_observer_ends_at_once_when_it_is_told_to() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut observer = Observer::start(&etcd.endpoint());
        observer.wait(is("vacant"));
        let told = BootTime::now();
        observer.0.signal(signal);
        let status = observer.0.wait_exit(SOON);
        assert!(told.elapsed() < Duration::from_secs(5));
        // Killed by the signal, as filters are, or exited by itself with success.
        assert!(status.signal() == Some(signal as i32) || status.code() == Some(0), "{status}");
        assert!(!observer.0.lines().iter().any(|line| line.stream == Stream::Stderr));
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    for command in ["status", "observe"] {
        let mut shell = process::command("bash");
        let script = format!(r#"exec "$0" {command} --etcd "$1" > /dev/full"#);
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_elect"), &etcd.endpoint()]);
        let mut elect = Captured::start(command, shell);
        assert_eq!(elect.wait_exit(SOON).code(), Some(1));
        assert!(elect.stderr().join("\n").contains("No space left"), "{:?}", elect.stderr());
    }
}
