//! The design's walk-through with the real binary and the real etcd: its output, and how it ends.
//!
//! Each transcript is compared whole. Nothing else may be on standard output in plain format.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use support::{
    capture::Mark,
    clock::BootTime,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    server::{
        AT_ONCE, CHANGE, ELECTION, ELECTION_NAME, FOLLOWER, LEADER, NEW_ELECTION, SOON, Server, Status,
        beginning, connecting, led_one_at_a_time, start_in_turn, starting,
    },
};

/// Longer than a wrapper takes to pass on a signal that the whole group received.
const ECHO: Duration = Duration::from_millis(500);

on_each_etcd! {
    fn three_servers_print_exactly_the_lines_of_the_design(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut server1, mut server2, mut server3] =
            start_in_turn(["server1", "server2", "server3"], &endpoint, "2s");
        server1.wait_for_refreshing_since(Mark::START, 3);

        let queue = etcd.admin().candidates(ELECTION_NAME);
        let names: Vec<_> = queue.iter().map(|candidate| candidate.value.as_str()).collect();
        assert_eq!(names, ["server1", "server2", "server3"]);
        for candidate in &queue {
            assert_eq!(candidate.key, format!("leader/{:x}", candidate.lease));
        }

        server3.stop(0);
        server2.stop(0);
        server1.stop(0);
        for follower in [&server2, &server3] {
            let expected = [beginning(follower.name(), &endpoint), vec![FOLLOWER.into()]].concat();
            assert_eq!(follower.stdout(), expected);
        }
        let expected = [beginning("server1", &endpoint), vec![LEADER.into(), CHANGE.into()]].concat();
        assert_eq!(server1.story(), expected);
        for server in [&server1, &server2, &server3] {
            assert_eq!(server.stderr(), [""; 0]);
        }
        assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
        assert_eq!(etcd.admin().leases(), [0; 0], "each gave its lease back");
    }

    fn a_killed_leader_is_followed_by_the_next_in_the_queue(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut server1, server2, server3] =
            start_in_turn(["server1", "server2", "server3"], &endpoint, "2s");
        server1.wait_for_refreshing_since(Mark::START, 1);

        let killed = server1.kill();
        let leader = server2.wait_for_line_since(Mark::START, LEADER, SOON);
        server2.wait_for_refreshing_since(leader.mark(), 2);
        server3.wait_for_lines_since(Mark::START, &[CHANGE, FOLLOWER]);

        assert!(leader.at > killed);
        let change = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION].map(String::from).to_vec();
        let expected = |name, role: &str| {
            [beginning(name, &endpoint), change.clone(), vec![role.into()]].concat()
        };
        assert_eq!(server2.story(), expected("server2", LEADER));
        assert_eq!(server3.stdout(), expected("server3", FOLLOWER));
        assert_eq!([server2.stderr(), server3.stderr()].concat(), [""; 0]);
        led_one_at_a_time([&server1, &server2, &server3]);
    }

    fn a_new_leader_tells_only_of_renewals_since_it_leads(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let [mut server1, server2] = start_in_turn(["server1", "server2"], &etcd.endpoint(), "3s");
        // While it waits it renews its lease as well, without a line.
        let renewals = || etcd.messages_received().get("LeaseKeepAlive").copied().unwrap_or(0);
        eventually(SOON, "both to have renewed a few times", || (renewals() >= 9).then_some(()));

        server1.stop(0);
        let leader = server2.wait_for_line(LEADER, SOON);
        // The first one may be due right away. The next comes a third of the TTL later, after 1 s.
        let second = server2.wait_for_refreshing_since(leader.mark(), 2);
        assert!(second.at - leader.at > Duration::from_millis(500));
    }

    fn contract_8_sigterm_stops_then_releases_and_the_next_leads_at_once(version: EtcdVersion) {
        releases_on(Signal::SIGTERM, version);
    }

    fn contract_8_sigint_stops_then_releases_and_the_next_leads_at_once(version: EtcdVersion) {
        releases_on(Signal::SIGINT, version);
    }

    fn contract_8_the_exit_code_says_that_leadership_was_not_released(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let [mut server1, mut server2] = start_in_turn(["server1", "server2"], &etcd.endpoint(), "5s");

        etcd.kill();
        server1.tell_to_stop();
        server2.tell_to_stop();
        server1.exits(1);
        // It had no leadership to give up.
        server2.exits(0);

        let said = server1.stderr().join("\n");
        assert!(said.contains("leadership was not released") && said.contains("within 5s"), "{said}");
        assert_eq!(server1.story().last().unwrap(), CHANGE);
        assert_eq!(server2.stderr(), [""; 0]);
    }

    fn contract_8_the_exit_code_says_that_the_release_was_not_answered(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let mut server = Server::start_leader("server", &etcd.endpoint(), "3s");
        etcd.freeze();
        server.stop(1);
        assert!(server.stderr().join("\n").contains("leadership was not released"), "{:?}", server.stderr());
        assert_eq!(server.story().last().unwrap(), CHANGE);
    }

    fn contract_8_a_release_is_repeated_until_etcd_answers(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let [mut server1, server2] = start_in_turn(["server1", "server2"], &etcd.endpoint(), "30s");
        etcd.freeze();
        server1.tell_to_stop();
        let stopped = server1.wait_for_line(CHANGE, AT_ONCE);
        server1.is_still_running();
        etcd.thaw();
        server1.exits(0);
        assert!(server2.wait_for_line(LEADER, AT_ONCE).at >= stopped.at);
        led_one_at_a_time([&server1, &server2]);
    }

    fn a_second_signal_ends_at_once(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let [mut server1, mut server2] = start_in_turn(["server1", "server2"], &etcd.endpoint(), "30s");

        // etcd is frozen, so the release hangs.
        etcd.freeze();
        server1.tell_to_stop();
        server1.wait_for_line(CHANGE, AT_ONCE);
        // A signal right after the first counts as its echo, so time itself is awaited here.
        thread::sleep(ECHO);
        server1.is_still_running();
        let told_again = server1.tell_to_stop();
        server1.exits(1);
        assert!(told_again.elapsed() < AT_ONCE);
        let said = server1.stderr().join("\n");
        assert!(said.contains("at once"), "{said}");

        // A follower prints nothing on its way out. Leaving the queue takes a few seconds at most.
        let told = server2.tell_to_stop();
        server2.exits(0);
        assert!(told.elapsed() < SOON / 3);
    }

    fn contract_6_a_server_waits_for_an_etcd_that_is_down_at_the_start(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        etcd.kill();
        let mut server = Server::start("server1", &endpoint, "2s");
        let mut impatient = Server::start("impatient", &endpoint, "2s");
        let attempt = connecting(&endpoint);
        let attempts = [attempt.as_str(); 4];
        server.wait_for_lines_since(Mark::START, &attempts);
        impatient.wait_for_lines_since(Mark::START, &attempts);
        let (first, others) = (server.stdout()[0].clone(), server.stdout()[1..].to_vec());
        assert_eq!(first, starting("server1"));
        assert!(others.iter().all(|line| *line == attempt), "{others:?}");
        // It holds nothing, so there is nothing to wait for.
        let told = impatient.tell_to_stop();
        impatient.exits(0);
        assert!(told.elapsed() < AT_ONCE);

        etcd.restart();
        server.wait_for_line(LEADER, SOON);
        let expected = [beginning("server1", &endpoint), vec![LEADER.into()]].concat();
        assert_eq!(server.story_of_roles(), expected);
        server.stop(0);
    }
}

/// The TTL is long, so that a next leader that had to wait for the lease to end would show.
fn releases_on(signal: Signal, version: EtcdVersion) {
    let etcd = Etcd::start(version);
    let endpoint = etcd.endpoint();
    let [mut server1, server2, server3] = start_in_turn(["server1", "server2", "server3"], &endpoint, "30s");

    let told = BootTime::now();
    server1.signal(signal);
    server1.exits(0);
    let stopped = server1.wait_for_line(CHANGE, SOON);
    let leader = server2.wait_for_line(LEADER, SOON);
    assert!(leader.at - told < AT_ONCE, "the next one led after {:?}", leader.at - told);
    assert!(stopped.at <= leader.at, "it stops, then releases");
    assert_eq!(server1.stderr(), [""; 0]);

    let expected = [beginning("server1", &endpoint), vec![LEADER.into(), CHANGE.into()]].concat();
    assert_eq!(server1.story(), expected);
    let expected = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION, LEADER].map(String::from).to_vec();
    assert_eq!(server2.story(), [beginning("server2", &endpoint), expected].concat());
    server3.wait_for_lines_since(Mark::START, &[CHANGE, FOLLOWER]);
    let expected = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION, FOLLOWER].map(String::from).to_vec();
    assert_eq!(server3.story(), [beginning("server3", &endpoint), expected].concat());
    assert_eq!(Status::read(&endpoint).queue(), ["server2", "server3"]);
    led_one_at_a_time([&server1, &server2, &server3]);
}
