//! One queue shared with real `etcdctl elect` processes (point 10 of the contract): first come, first served,
//! for both kinds.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    etcdctl,
    eventually::eventually,
    on_each_etcd,
    server::{CHANGE, FOLLOWER, LEADER, REFRESHING},
};

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// The names in the queue, in its order, once there are this many.
#[track_caller]
fn queue(etcd: &Etcd, count: usize) -> Vec<String> {
    let candidates = etcd.admin().wait_for_candidates("leader", count, SOON);
    candidates.into_iter().map(|candidate| candidate.value).collect()
}

/// The candidate with this name, with its key.
#[track_caller]
fn lease_of(etcd: &Etcd, name: &str) -> i64 {
    let candidates = etcd.admin().candidates("leader");
    candidates.iter().find(|candidate| candidate.value == name).unwrap().lease
}

/// Reports whether a candidate has printed that it leads; both kinds do so in one unmistakable line.
fn leads(candidate: &Captured, name: &'static str) -> bool {
    candidate.stdout().iter().any(|line| line == LEADER || line == name)
}

/// Tells a candidate to end, and waits until it has.
#[track_caller]
fn end(candidate: &mut Captured, signal: Signal) {
    candidate.signal(signal);
    candidate.wait_exit(SOON);
}

on_each_etcd! {
    fn contract_10_an_election_that_is_called_under_anothers_name_is_apart_from_it(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let server = |name: &str, election: &str| {
            Elect::server(name, &etcd.endpoint()).args(["--ttl", "30s", "--election", election]).start()
        };
        let inner = server("inner", "jobs/cleanup");
        inner.wait_for_line(LEADER, SOON);
        // Its announcement key also lies under the other election's prefix.
        eventually(SOON, "the announcement", || etcd.admin().get("jobs/cleanup"));
        let outer = server("outer", "jobs");
        outer.wait_for_line(LEADER, SOON);
        let status = |election: &str| {
            let mut status = Elect::new(["status", "--etcd", &etcd.endpoint(), "--election", election]).start();
            assert_eq!(status.wait_exit(SOON).code(), Some(0));
            status.stdout().join("\n")
        };
        assert!(status("jobs").contains("leader outer") && !status("jobs").contains("inner"));
        assert!(status("jobs/cleanup").contains("leader inner"));

        // Arrivals and departures behind it are no news to the other.
        let mut late = server("late", "jobs/later/still");
        late.wait_for_line(LEADER, SOON);
        late.signal(Signal::SIGTERM);
        assert_eq!(late.wait_exit(SOON).code(), Some(0));
        assert!(outer.stdout().iter().all(|line| line != CHANGE));
    }

    fn contract_10_a_key_of_another_program_by_the_elections_name_stays_as_it_is(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let (lease, _) = etcd.admin().grant(600);
        for lease in [None, Some(lease)] {
            let put = match lease {
                None => etcd.admin().put("leader", "precious"),
                Some(lease) => etcd.admin().put_leased("leader", "precious", lease),
            };
            let mut ours = Elect::server("ours", &etcd.endpoint()).args(["--ttl", "30s"]).start();
            ours.wait_for_line(LEADER, SOON);
            ours.signal(Signal::SIGTERM);
            assert_eq!(ours.wait_exit(SOON).code(), Some(0));
            let kept = etcd.admin().get("leader").unwrap();
            assert_eq!((kept.value(), kept.mod_revision()), (&b"precious"[..], put));
        }
    }

    fn contract_10_etcdctl_waits_behind_ours_and_wins_when_ours_is_told_to_stop(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let mut ours = Elect::server("ours", &etcd.endpoint()).args(["--ttl", "30s"]).start();
        ours.wait_for_line(LEADER, SOON);
        let theirs = etcdctl::campaign(&etcd.endpoint(), "leader", "theirs");
        assert_eq!(queue(&etcd, 2), ["ours", "theirs"]);
        assert!(!leads(&theirs, "theirs"));

        ours.signal(Signal::SIGTERM);
        assert_eq!(ours.wait_exit(SOON).code(), Some(0));
        theirs.wait_for_line("theirs", SOON);
        assert_eq!(queue(&etcd, 1), ["theirs"]);
    }

    fn contract_10_etcdctl_wins_when_ours_is_killed(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let mut ours = Elect::server("ours", &etcd.endpoint()).args(["--ttl", "2s"]).start();
        ours.wait_for_line(LEADER, SOON);
        let theirs = etcdctl::campaign(&etcd.endpoint(), "leader", "theirs");
        assert_eq!(queue(&etcd, 2), ["ours", "theirs"]);

        ours.kill();
        theirs.wait_for_line("theirs", SOON);
    }

    fn contract_10_ours_waits_behind_etcdctl_and_wins_when_that_is_interrupted(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let mut theirs = etcdctl::campaign(&etcd.endpoint(), "leader", "theirs");
        theirs.wait_for_line("theirs", SOON);
        let ours = Elect::server("ours", &etcd.endpoint()).start();
        ours.wait_for_line(FOLLOWER, SOON);
        assert_eq!(queue(&etcd, 2), ["theirs", "ours"]);
        assert!(!leads(&ours, "ours"));

        end(&mut theirs, Signal::SIGINT);
        let won = ours.wait_for_line(LEADER, SOON);
        // It reports the other's departure before it leads.
        let change = ours.wait_for_line(CHANGE, SOON);
        assert!(change.mark() < won.mark());
        ours.wait_for_line_since(won.mark(), REFRESHING, SOON);
    }

    fn contract_10_ours_wins_when_etcdctl_has_crashed_and_its_lease_is_gone(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let mut theirs = etcdctl::campaign(&etcd.endpoint(), "leader", "theirs");
        theirs.wait_for_line("theirs", SOON);
        let ours = Elect::server("ours", &etcd.endpoint()).start();
        ours.wait_for_line(FOLLOWER, SOON);

        let lease = lease_of(&etcd, "theirs");
        theirs.kill();
        assert!(!leads(&ours, "ours"), "its lease lives on for a minute");
        // Revoked instead of waiting for that minute.
        etcd.admin().revoke(lease);
        ours.wait_for_line(LEADER, SOON);
    }

    fn contract_10_etcdctl_names_each_of_our_leaders_and_its_own(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let observer = etcdctl::observe(&etcd.endpoint(), "leader");
        let mut first = Elect::server("first", &etcd.endpoint()).start();
        first.wait_for_line(LEADER, SOON);
        let key = etcd.admin().leader("leader").unwrap().key;
        let seen = observer.wait_for_line(&*key, SOON);
        observer.wait_for_line_since(seen.mark(), "first", SOON);

        let mut second = etcdctl::campaign(&etcd.endpoint(), "leader", "second");
        assert_eq!(queue(&etcd, 2), ["first", "second"]);
        end(&mut first, Signal::SIGINT);
        second.wait_for_line("second", SOON);
        observer.wait_for_line("second", SOON);

        let third = Elect::server("third", &etcd.endpoint()).start();
        third.wait_for_line(FOLLOWER, SOON);
        end(&mut second, Signal::SIGTERM);
        third.wait_for_line(LEADER, SOON);
        observer.wait_for_line("third", SOON);
        // A key and a name each, and nothing else of ours.
        let names: Vec<_> = observer.stdout().into_iter().skip(1).step_by(2).collect();
        assert_eq!(names, ["first", "second", "third"]);
    }

    fn contract_10_a_mixed_queue_is_served_in_the_order_of_arrival(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut candidates: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(place, name)| {
                // Two of a kind in succession too.
                let ours = matches!(place, 0 | 2 | 3 | 5);
                let candidate = if ours {
                    Elect::server(name, &endpoint).args(["--ttl", "30s"]).start()
                } else {
                    etcdctl::campaign(&endpoint, "leader", name)
                };
                etcd.admin().wait_for_candidates("leader", place + 1, SOON);
                candidate
            })
            .collect();
        assert_eq!(queue(&etcd, 6), names);
        let mut status = Elect::new(["status", "--etcd", &endpoint]).start();
        assert_eq!(status.wait_exit(SOON).code(), Some(0));
        let listed = status.stdout();
        assert!(listed[0].contains(" leader a "), "{listed:?}");
        for (line, name) in listed[1..].iter().zip(&names[1..]) {
            assert!(line.contains(&format!("waits: {name} ")), "{listed:?}");
        }
        assert_eq!(listed.len(), 6);

        // A waiting candidate leaves first, and holds up no other.
        end(&mut candidates[2], Signal::SIGTERM);
        for (place, name) in [(0, "a"), (1, "b"), (3, "d"), (4, "e"), (5, "f")] {
            let is_leader = |line: &str| line == LEADER || line == name;
            candidates[place].wait_for_line(is_leader, SOON);
            assert_eq!(etcd.admin().leader("leader").unwrap().value, name);
            for later in place + 1..names.len() {
                assert!(!leads(&candidates[later], names[later]), "{} leads too early", names[later]);
            }
            end(&mut candidates[place], Signal::SIGTERM);
        }
        assert_eq!(etcd.admin().candidates("leader"), []);
    }

    fn contract_10_a_leader_of_ours_deposed_by_etcdctl_steps_down_and_queues_again(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let ours = Elect::server("ours", &etcd.endpoint()).args(["--ttl", "30s"]).start();
        let won = ours.wait_for_line(LEADER, SOON);
        let theirs = etcdctl::campaign(&etcd.endpoint(), "leader", "theirs");
        assert_eq!(queue(&etcd, 2), ["ours", "theirs"]);

        // An administrator's way to end a leadership.
        let key = etcd.admin().leader("leader").unwrap().key;
        let mut delete = etcdctl::start("etcdctl del", &etcd.endpoint(), &["del", &key]);
        assert_eq!(delete.wait_exit(SOON).code(), Some(0));
        let change = ours.wait_for_line_since(won.mark(), CHANGE, SOON);
        theirs.wait_for_line("theirs", SOON);
        ours.wait_for_line_since(change.mark(), FOLLOWER, SOON);
        assert_eq!(queue(&etcd, 2), ["theirs", "ours"]);
    }
}
