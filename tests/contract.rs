//! The leadership contract on one real etcd, through the real binary: each test names the point it shows.
//!
//! Cluster members are tested in `members.rs`, transcripts in `walk.rs`. Moments are compared on the
//! boot-time clock; a line's moment is its arrival here, shortly after it was printed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use support::{
    capture::{Mark, longest_stall},
    clock::BootTime,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    proxy::{Mode, Proxy},
    server::{
        AT_ONCE, CHANGE, ELECTION, ELECTION_NAME, FOLLOWER, LEADER, NEW_ELECTION, REFRESHING, SOON, Server,
        Status, beginning, connecting, led_one_at_a_time, start_in_turn, token_of,
    },
};

/// A TTL short enough to wait for.
const SHORT: Duration = Duration::from_secs(3);
const SHORT_TTL: &str = "3s";

/// More than a clock's resolution, and negligible as a wait.
const MOMENT: Duration = Duration::from_millis(500);

/// A TTL for tests that show that its end is not waited for, or has not come.
const LONG_TTL: &str = "30s";

/// Just long enough to tell [`AT_ONCE`] from the end of a lease whose next renewal is nearly due; tests wait
/// for renewals of it.
const MEDIUM_TTL: &str = "15s";

on_each_etcd! {
    fn contract_1_standby_frozen_past_its_ttl_never_claims_and_queues_again(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut old, mut standby, mut next] =
            start_in_turn(["old", "standby", "next"], &endpoint, SHORT_TTL);

        // While it is frozen its lease ends, and its predecessor's key goes: etcd tells it that it has won.
        standby.freeze();
        Status::wait_for_queue(&endpoint, &["old", "next"]);
        old.stop(0);
        next.wait_for_line(LEADER, SOON);

        let thawed = standby.mark();
        standby.thaw();
        Status::wait_for_queue(&endpoint, &["next", "standby"]);
        let told = standby.wait_for_line_since(thawed, FOLLOWER, SOON);
        assert!(standby.lines().iter().all(|line| line.text != LEADER));
        assert!(told.at >= next.wait_for_line(LEADER, SOON).at);

        next.stop(0);
        standby.wait_for_line(LEADER, SOON);
        led_one_at_a_time([&old, &standby, &next]);
    }

    fn contract_1_standby_whose_key_went_while_it_was_frozen_never_claims(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut old, mut standby, mut next] = start_in_turn(["old", "standby", "next"], &endpoint, LONG_TTL);
        let key = etcd.admin().candidates(ELECTION_NAME)[1].key.clone();

        // Its lease is still alive, so only the queue can show that this win is invalid.
        standby.freeze();
        assert!(etcd.admin().delete(key));
        old.stop(0);
        next.wait_for_line(LEADER, AT_ONCE);

        standby.thaw();
        Status::wait_for_queue(&endpoint, &["next", "standby"]);
        assert!(standby.lines().iter().all(|line| line.text != LEADER));

        next.stop(0);
        standby.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&old, &standby, &next]);
    }

    fn contract_1_standby_that_won_and_lost_while_it_was_frozen_never_claims(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut old, mut standby, mut next] = start_in_turn(["old", "standby", "next"], &endpoint, LONG_TTL);
        let key = etcd.admin().candidates(ELECTION_NAME)[1].key.clone();

        // For a while it is first, and etcd says so. It has no time left to trust that.
        standby.freeze();
        old.stop(0);
        Status::wait_for_queue(&endpoint, &["standby", "next"]);
        assert!(etcd.admin().delete(key));
        next.wait_for_line(LEADER, AT_ONCE);

        standby.thaw();
        Status::wait_for_queue(&endpoint, &["next", "standby"]);
        assert!(standby.lines().iter().all(|line| line.text != LEADER));

        next.stop(0);
        standby.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&old, &standby, &next]);
    }

    fn contract_1_standby_in_silence_past_its_ttl_never_claims_and_queues_again(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let proxy = Proxy::start(&endpoint);
        let mut old = Server::start_leader("old", &endpoint, SHORT_TTL);
        let standby = Server::start_follower("standby", &proxy.endpoint(), SHORT_TTL);
        let mut next = Server::start_follower("next", &endpoint, SHORT_TTL);

        proxy.set(Mode::Silence);
        Status::wait_for_queue(&endpoint, &["old", "next"]);
        old.stop(0);
        next.wait_for_line(LEADER, SOON);
        // etcd's delayed responses arrive now, its Campaign's success included.
        proxy.set(Mode::Pass);
        Status::wait_for_queue(&endpoint, &["next", "standby"]);
        assert!(standby.lines().iter().all(|line| line.text != LEADER));

        next.stop(0);
        standby.wait_for_line(LEADER, SOON);
        led_one_at_a_time([&old, &standby, &next]);
    }

    fn contract_6_a_standby_whose_watch_falls_silent_hears_of_the_vacancy_by_its_renewals(version: EtcdVersion) {
        // At a TTL of 5 s a renewal is sent each third of it, and waited for a quarter of what is left without the
        // margin. The next endpoint gets a quarter of a second. Pings alone would take more than 6 s.
        const NOTICED: Duration = Duration::from_millis(1_667 + 1_125 + 250);
        let etcd = Etcd::start(version);
        let proxies = [(); 2].map(|()| Proxy::start(&etcd.endpoint()));
        let endpoints = proxies.each_ref().map(Proxy::endpoint).join(",");
        let mut leader = Server::start_leader("leader", &etcd.endpoint(), "5s");
        let standby = Server::start_follower("standby", &endpoints, "5s");
        // A whole third of the TTL from the next renewal.
        let answered = || proxies.each_ref().map(Proxy::reply_bytes);
        let before = answered();
        let used = eventually(SOON, "a renewal to be answered", || {
            before.iter().zip(answered()).position(|(before, now)| now > *before)
        });
        let used = &proxies[used];

        used.set(Mode::Silence);
        let silent = BootTime::now();
        leader.stop(0);
        let led = standby.wait_for_line(LEADER, SOON);
        let took = led.at - silent;
        assert!(took < NOTICED + AT_ONCE / 4 + longest_stall(silent, led.at), "only after {took:?}");
        led_one_at_a_time([&leader, &standby]);
    }

    fn contract_1_standby_whose_predecessor_leaves_stays_behind_the_leader(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut first, mut second, third] =
            start_in_turn(["first", "second", "third"], &endpoint, LONG_TTL);

        second.stop(0);
        Status::wait_for_queue(&endpoint, &["first", "third"]);
        first.stop(0);
        let stopped = first.wait_for_line(CHANGE, SOON);
        let leads = third.wait_for_line(LEADER, AT_ONCE);
        assert!(stopped.at <= leads.at);
        let expected = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION, LEADER].map(String::from).to_vec();
        assert_eq!(third.story(), [beginning("third", &endpoint), expected].concat());
        led_one_at_a_time([&first, &second, &third]);
    }

    fn contract_2_leader_stops_before_its_lease_can_end_when_etcd_is_gone(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let leader = Server::start_leader("leader", &etcd.endpoint(), SHORT_TTL);
        leader.wait_for_refreshing_since(Mark::START, 1);

        let gone = etcd.kill();
        let stopped = leader.wait_for_line(CHANGE, SOON);
        assert_before_the_end_of_its_lease(&leader, stopped.at, gone);
    }

    fn contract_2_leader_stops_before_its_lease_can_end_when_etcd_is_frozen(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [leader, follower] = start_in_turn(["leader", "follower"], &endpoint, SHORT_TTL);
        leader.wait_for_refreshing_since(Mark::START, 1);

        let gone = etcd.freeze();
        let stopped = leader.wait_for_line(CHANGE, SOON);
        assert_before_the_end_of_its_lease(&leader, stopped.at, gone);
        etcd.thaw();
        Status::wait_for_agreement(&endpoint, &[&leader, &follower]);
        led_one_at_a_time([&leader, &follower]);
    }

    fn contract_3_leader_frozen_past_its_ttl_claims_nothing_when_thawed(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut old, mut next] = start_in_turn(["old", "next"], &endpoint, SHORT_TTL);
        old.wait_for_refreshing_since(Mark::START, 1);

        // There and back, so that each of the two has been a frozen leader.
        for _ in 0..2 {
            old.freeze();
            let before = next.mark();
            let leader = next.wait_for_line_since(before, LEADER, SOON);
            next.wait_for_refreshing_since(leader.mark(), 1);
            let thawed = old.mark();
            old.thaw();
            old.wait_for_lines_since(thawed, &[CHANGE, NEW_ELECTION, ELECTION, FOLLOWER]);
            assert_eq!(old.roles_since(thawed), [CHANGE, NEW_ELECTION, ELECTION, FOLLOWER]);
            assert!(old.lines_since(thawed).iter().all(|line| line.text != REFRESHING));
            Status::wait_for_queue(&endpoint, &[next.name(), old.name()]);
            std::mem::swap(&mut old, &mut next);
        }
        led_one_at_a_time([&old, &next]);
    }

    fn contract_4_key_deleted_by_a_third_party_ends_leadership_at_once(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        loses_its_key(&etcd, |key, _lease| {
            let deleted = BootTime::now();
            assert!(etcd.admin().delete(key));
            deleted
        });
    }

    fn contract_4_lease_revoked_by_a_third_party_ends_leadership_at_once(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        loses_its_key(&etcd, |_key, lease| {
            let revoked = BootTime::now();
            etcd.admin().revoke(lease);
            revoked
        });
    }

    fn contract_4_key_taken_off_its_lease_by_a_third_party_ends_leadership_at_once(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [first, second] = start_in_turn(["first", "second"], &endpoint, LONG_TTL);
        let key = etcd.admin().leader(ELECTION_NAME).unwrap().key;

        // Only a third party deletes this key: it keeps all candidates from leading.
        let put = BootTime::now();
        etcd.admin().put(key.as_str(), "first");
        let stopped = first.wait_for_line(CHANGE, SOON);
        assert!(stopped.at - put < AT_ONCE);
        Status::wait_for_queue(&endpoint, &["second", "first"]);
        assert_eq!(Status::read(&endpoint).state, "vacant");
        let still_vacant = second.mark();
        assert!(second.lines().iter().all(|line| line.text != LEADER));

        assert!(etcd.admin().delete(key));
        second.wait_for_line_since(still_vacant, LEADER, AT_ONCE);
        led_one_at_a_time([&first, &second]);
    }

    fn contract_4_key_deleted_while_the_leader_was_frozen_leaves_it_nothing_to_claim(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut old, next] = start_in_turn(["old", "next"], &endpoint, LONG_TTL);

        // Its lease is still alive: no clock tells it.
        old.freeze();
        assert!(etcd.admin().delete(etcd.admin().leader(ELECTION_NAME).unwrap().key));
        next.wait_for_line(LEADER, AT_ONCE);
        let before = old.mark();
        let thawed = old.thaw();
        let stopped = old.wait_for_line_since(before, CHANGE, SOON);
        assert!(stopped.at - thawed < AT_ONCE);
        old.wait_for_line_since(before, FOLLOWER, SOON);
        assert!(old.lines_since(before).iter().all(|line| ![LEADER, REFRESHING].contains(&&*line.text)));
        led_one_at_a_time([&old, &next]);
    }

    fn contract_4_a_silent_connection_ends_leadership_before_the_next_one_leads(version: EtcdVersion) {
        ends_before_the_next_one_leads(version, Mode::Silence);
    }

    fn contract_4_answers_that_never_come_end_leadership_before_the_next_one_leads(version: EtcdVersion) {
        ends_before_the_next_one_leads(version, Mode::SilenceReplies);
    }

    fn contract_4_deletion_is_noticed_after_compaction_of_the_watched_revisions(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let admin = etcd.admin();
        let proxy = Proxy::start(&etcd.endpoint());
        let server = Server::start_leader("server", &proxy.endpoint(), MEDIUM_TTL);

        // While it is cut off, the events that its watch still needs are compacted, but nothing happens to it.
        proxy.set(Mode::Refuse);
        compact_past(&etcd, "noise");
        let cut = server.mark();
        proxy.set(Mode::Pass);
        server.wait_for_refreshing_since(cut, 1);
        let key = admin.leader(ELECTION_NAME).unwrap().key;
        let deleted = BootTime::now();
        assert!(admin.delete(key));
        let stopped = server.wait_for_line_since(cut, CHANGE, SOON);
        assert!(stopped.at - deleted < AT_ONCE);
        let leader = server.wait_for_line_since(stopped.mark(), LEADER, SOON);

        // This time the deletion itself is compacted.
        proxy.set(Mode::Refuse);
        let key = admin.leader(ELECTION_NAME).unwrap().key;
        assert!(admin.delete(key));
        compact_past(&etcd, "more noise");
        let connected = BootTime::now();
        proxy.set(Mode::Pass);
        let stopped = server.wait_for_line_since(leader.mark(), CHANGE, SOON);
        assert!(stopped.at - connected < AT_ONCE);
        server.wait_for_line_since(stopped.mark(), LEADER, SOON);
    }

    fn contract_5_tokens_grow_over_terms_however_they_end(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let mut tokens = Vec::new();
        let mut note_token = |etcd: &Etcd, name: &str| {
            let token = token_of(&endpoint, name);
            let created = etcd.admin().leader(ELECTION_NAME).unwrap().create_revision;
            assert_eq!(i64::try_from(token), Ok(created));
            tokens.push(token);
        };
        let [mut first, mut second] = start_in_turn(["first", "second"], &endpoint, SHORT_TTL);
        note_token(&etcd, "first");

        first.will_be_deposed();
        etcd.admin().delete(etcd.admin().leader(ELECTION_NAME).unwrap().key);
        second.wait_for_line(LEADER, SOON);
        Status::wait_for_queue(&endpoint, &["second", "first"]);
        note_token(&etcd, "second");

        let mark = first.mark();
        second.will_be_deposed();
        etcd.admin().revoke(etcd.admin().leader(ELECTION_NAME).unwrap().lease);
        first.wait_for_line_since(mark, LEADER, SOON);
        Status::wait_for_queue(&endpoint, &["first", "second"]);
        note_token(&etcd, "first");

        let mark = second.mark();
        first.stop(0);
        second.wait_for_line_since(mark, LEADER, SOON);
        note_token(&etcd, "second");

        let mark = second.mark();
        etcd.kill();
        second.wait_for_line_since(mark, CHANGE, SOON);
        etcd.restart();
        second.wait_for_line_since(mark, LEADER, SOON);
        note_token(&etcd, "second");

        second.kill();
        let third = Server::start("third", &endpoint, SHORT_TTL);
        third.wait_for_line(LEADER, SOON);
        note_token(&etcd, "third");

        assert!(tokens.is_sorted_by(|before, after| before < after), "{tokens:?}");
        led_one_at_a_time([&first, &second, &third]);
    }

    fn contract_6_standby_whose_lease_is_revoked_is_back_in_the_queue_by_itself(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        standby_loses_its_place(&etcd, |_key, lease| etcd.admin().revoke(lease));
    }

    fn contract_6_standby_whose_key_is_deleted_is_back_in_the_queue_by_itself(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        standby_loses_its_place(&etcd, |key, _lease| assert!(etcd.admin().delete(key)));
    }

    fn contract_6_etcd_back_within_the_ttl_leaves_the_leader_in_place(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let [mut leader, follower] = start_in_turn(["leader", "follower"], &endpoint, MEDIUM_TTL);
        let token = token_of(&endpoint, "leader");

        let before = leader.mark();
        etcd.kill();
        let attempt = connecting(&endpoint);
        follower.wait_for_lines_since(Mark::START, &[&attempt, FOLLOWER, &attempt]);
        etcd.restart();
        leader.wait_for_refreshing_since(before, 1);
        Status::wait_for_queue(&endpoint, &["leader", "follower"]);
        assert_eq!(token_of(&endpoint, "leader"), token);
        assert_eq!(leader.roles_since(before), [""; 0]);
        let expected = [beginning("follower", &endpoint), vec![FOLLOWER.into()]].concat();
        assert_eq!(follower.story_of_roles(), expected, "a new place behind the same leader is no news");

        leader.stop(0);
        follower.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&leader, &follower]);
    }

    fn contract_6_etcd_away_for_longer_than_the_ttl_leaves_all_running_and_one_leading(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let names = ["server1", "server2", "server3"];
        let mut servers = start_in_turn(names, &endpoint, SHORT_TTL);

        let gone = etcd.kill();
        let stopped = servers[0].wait_for_line(CHANGE, SOON);
        assert_before_the_end_of_its_lease(&servers[0], stopped.at, gone);
        let attempt = connecting(&endpoint);
        for server in &servers {
            let first = server.wait_for_line(attempt.as_str(), SOON);
            server.wait_for_lines_since(first.mark(), &[attempt.as_str(); 2]);
        }
        etcd.restart();
        let [server1, server2, server3] = &servers;
        let status = Status::wait_for_agreement(&endpoint, &[server1, server2, server3]);
        for server in &mut servers {
            server.is_still_running();
        }

        let leader = names.iter().position(|name| status.leader.as_deref() == Some(name)).unwrap();
        let before: Vec<_> = servers.iter().map(|server| server.mark()).collect();
        servers[leader].stop(0);
        eventually(SOON, "one of the others to lead", || {
            let mut others = (0..names.len()).filter(|&index| index != leader);
            others.find(|&other| servers[other].roles_since(before[other]).iter().any(|line| line == LEADER))
        });
        led_one_at_a_time(&servers);
    }

    fn contract_12_etcd_back_after_longer_than_the_ttl_is_led_again_at_once(version: EtcdVersion) {
        const TTL: Duration = Duration::from_secs(8);
        let mut etcd = Etcd::start(version);
        let proxies = [(); 3].map(|()| Proxy::start(&etcd.endpoint()));
        let mut servers = Vec::new();
        for (proxy, name) in proxies.iter().zip(["server1", "server2", "server3"]) {
            servers.push(match servers.is_empty() {
                true => Server::start_leader(name, &proxy.endpoint(), "8s"),
                false => Server::start_follower(name, &proxy.endpoint(), "8s"),
            });
        }
        let gone = etcd.kill();
        servers[0].wait_for_line(CHANGE, SOON);
        let asked = || proxies.iter().map(Proxy::connections).collect::<Vec<_>>();
        let (before, since) = (asked(), BootTime::now());
        eventually(SOON, "the outage to outlast all leases", || (BootTime::now() > gone + TTL + MOMENT).then_some(()));
        let elapsed = (BootTime::now() - since).as_secs_f64();
        for (before, after) in before.into_iter().zip(asked()) {
            let rounds = (after - before) as f64;
            assert!(rounds <= elapsed * 4.0 + 1.0, "{rounds} attempts to connect in {elapsed} s");
        }

        let marks: Vec<_> = servers.iter().map(|server| server.mark()).collect();
        etcd.restart();
        let serves = BootTime::now();
        let led = eventually(SOON, "a leader", || {
            servers.iter().zip(&marks).find_map(|(server, mark)| {
                server.lines_since(*mark).into_iter().find(|line| line.text == LEADER)
            })
        });
        // The remainder of the old leader's lease would have lasted a whole TTL.
        let took = if led.at > serves { led.at - serves } else { Duration::ZERO };
        println!("led again {took:?} after etcd serves");
        assert!(took < TTL / 4 + longest_stall(serves, led.at), "led again after {took:?}");
        led_one_at_a_time(&servers);
    }

    fn contract_7_another_cluster_behind_the_endpoint_is_refused(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let mut server = Server::start_with_full_log("server", &endpoint, SHORT_TTL);
        server.wait_for_line(|line: &str| line.contains(LEADER), SOON);
        let before = server.mark();
        etcd.kill();
        server.wait_for_line_since(before, |line: &str| line.contains(CHANGE), SOON);

        etcd.replace();
        refuses_and_never_leads(&mut server, before, "is from cluster");
        // A candidate that never saw the other leader leads here, and keeps leading.
        let stranger = Server::start_leader("stranger", &endpoint, SHORT_TTL);
        stranger.wait_for_refreshing_since(Mark::START, 2);
        refuses_and_never_leads(&mut server, before, "is from cluster");
    }

    fn contract_7_an_etcd_that_forgot_what_happened_is_refused(version: EtcdVersion) {
        let mut etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        // After this many writes an empty etcd's revision reaches the old one's.
        for number in 0..200 {
            etcd.admin().put("noise", number.to_string());
        }
        let mut server = Server::start_with_full_log("server", &endpoint, SHORT_TTL);
        server.wait_for_line(|line: &str| line.contains(LEADER), SOON);
        let before = server.mark();
        etcd.kill();
        server.wait_for_line_since(before, |line: &str| line.contains(CHANGE), SOON);

        etcd.wipe_and_restart();
        refuses_and_never_leads(&mut server, before, "was seen before");
    }

    fn contract_10_first_come_first_served_and_a_leaving_leader_wakes_one_candidate(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        let endpoint = etcd.endpoint();
        let names = ["server1", "server2", "server3", "server4", "server5"];
        let mut servers = start_in_turn(names, &endpoint, LONG_TTL);
        assert_eq!(Status::read(&endpoint).queue(), names);

        for next in 1..servers.len() {
            let before = etcd.messages_received();
            servers[next - 1].stop(0);
            servers[next].wait_for_line(LEADER, AT_ONCE);
            // Each of the others has seen it too.
            for other in &servers[next + 1..] {
                eventually(SOON, "the others to follow the new one", || {
                    let told = other.story().iter().filter(|line| *line == FOLLOWER).count();
                    (told == next + 1).then_some(())
                });
            }
            // A woken candidate would have sent a request. Only observers read.
            eventually(SOON, "the new leader to announce itself", || {
                etcd.admin().get(ELECTION_NAME).filter(|said| {
                    String::from_utf8_lossy(said.value()).contains(names[next])
                })
            });
            let after = etcd.messages_received();
            // The release, the announcement, and the new term in the history.
            for (method, most) in [("Txn", 3), ("LeaseRevoke", 1), ("LeaseGrant", 0), ("Campaign", 0)] {
                let count = |counts: &BTreeMap<String, u64>| counts.get(method).copied().unwrap_or(0);
                assert!(count(&after) - count(&before) <= most, "{method}: {before:?}, {after:?}");
            }
            assert_eq!(Status::read(&endpoint).queue(), names[next..]);
        }
        led_one_at_a_time(&servers);
    }
}

/// A lease can end one TTL after etcd last handled a renewal. It handled that renewal before its response
/// was logged, and before etcd was killed.
#[track_caller]
fn assert_before_the_end_of_its_lease(leader: &Server, stopped: BootTime, etcd_gone: BootTime) {
    let renewed = leader.last_claim().min(etcd_gone);
    let stall = longest_stall(renewed, stopped);
    assert!(
        stopped < renewed + SHORT + stall,
        "renewed at {renewed}, stopped at {stopped}, stall of {stall:?}"
    );
    assert!(stopped > etcd_gone, "it was not the end of etcd itself");
}

/// The leader of two loses its key by `act`, which is given key and lease and returns the moment it began.
#[track_caller]
fn loses_its_key(etcd: &Etcd, act: impl Fn(String, i64) -> BootTime) {
    let endpoint = etcd.endpoint();
    let [first, second] = start_in_turn(["first", "second"], &endpoint, LONG_TTL);
    for (old, next) in [(&first, &second), (&second, &first)] {
        let (old_mark, next_mark) = (old.mark(), next.mark());
        let leader = etcd.admin().leader(ELECTION_NAME).unwrap();
        assert_eq!(leader.value, old.name());
        let acted = act(leader.key, leader.lease);
        let stopped = old.wait_for_line_since(old_mark, CHANGE, SOON);
        let leads = next.wait_for_line_since(next_mark, LEADER, SOON);
        assert!(stopped.at - acted < AT_ONCE && leads.at - acted < AT_ONCE);
        old.wait_for_lines_since(stopped.mark(), &[NEW_ELECTION, ELECTION, FOLLOWER]);
        assert_eq!(old.roles_since(old_mark), [CHANGE, NEW_ELECTION, ELECTION, FOLLOWER]);
        Status::wait_for_queue(&endpoint, &[next.name(), old.name()]);
    }
    eventually(SOON, "the lost lease to be given back", || (etcd.admin().leases().len() == 2).then_some(()));
}

/// A waiting candidate loses its place by `act`, which is given key and lease.
#[track_caller]
fn standby_loses_its_place(etcd: &Etcd, act: impl Fn(String, i64)) {
    let endpoint = etcd.endpoint();
    let [mut leader, standby, mut last] = start_in_turn(["leader", "standby", "last"], &endpoint, LONG_TTL);
    let place = etcd.admin().candidates(ELECTION_NAME)[1].clone();
    assert_eq!(place.value, "standby");

    act(place.key, place.lease);
    Status::wait_for_queue(&endpoint, &["leader", "last", "standby"]);
    let expected = [beginning("standby", &endpoint), vec![FOLLOWER.into()]].concat();
    assert_eq!(standby.story(), expected, "a new place behind the same leader is no news");

    let told = leader.tell_to_stop();
    leader.exits(0);
    assert!(last.wait_for_line(LEADER, SOON).at - told < AT_ONCE);
    let change = standby.wait_for_line(CHANGE, SOON);
    standby.wait_for_line_since(change.mark(), FOLLOWER, SOON);
    assert!(standby.lines().iter().all(|line| line.text != LEADER));
    let told = last.tell_to_stop();
    last.exits(0);
    assert!(standby.wait_for_line(LEADER, SOON).at - told < AT_ONCE);
    led_one_at_a_time([&leader, &standby, &last]);
}

/// The leader's TCP connection stays open, and nothing arrives on it any more.
#[track_caller]
fn ends_before_the_next_one_leads(version: EtcdVersion, mode: Mode) {
    let etcd = Etcd::start(version);
    let endpoint = etcd.endpoint();
    let proxy = Proxy::start(&endpoint);
    let old = Server::start_leader("old", &proxy.endpoint(), SHORT_TTL);
    let next = Server::start_follower("next", &endpoint, SHORT_TTL);

    proxy.set(mode);
    let cut = BootTime::now();
    let leads = next.wait_for_line(LEADER, SOON);
    let stopped = old.wait_for_line(CHANGE, SOON);
    let stall = longest_stall(cut, stopped.at);
    let (stops, next_leads) = (stopped.at, leads.at);
    assert!(stops <= next_leads + stall, "stopped at {stops}, the next one led at {next_leads}");
    assert!(stops < cut.min(old.last_claim()) + SHORT + stall, "cut at {cut}, stopped at {stops}");

    let healed = old.mark();
    proxy.set(Mode::Pass);
    Status::wait_for_queue(&endpoint, &["next", "old"]);
    old.wait_for_line_since(stopped.mark(), FOLLOWER, SOON);
    assert!(old.lines_since(healed).iter().all(|line| line.text != LEADER));
    led_one_at_a_time([&old, &next]);
}

/// Makes some revisions, and compacts all but the last.
#[track_caller]
fn compact_past(etcd: &Etcd, what: &str) {
    let admin = etcd.admin();
    for _ in 0..5 {
        admin.put(what, "");
    }
    admin.compact(admin.revision());
}

/// Waits until the full log shows a few more refusals.
#[track_caller]
fn refuses_and_never_leads(server: &mut Server, since: Mark, why: &str) {
    let mut mark = server.mark();
    for _ in 0..3 {
        mark = server.wait_for_line_since(mark, |line: &str| line.contains(why), SOON).mark();
    }
    server.is_still_running();
    let claims = server
        .lines_since(since)
        .into_iter()
        .filter(|line| line.text.contains(LEADER) || line.text.contains(REFRESHING));
    // A line printed just before it lost etcd may have arrived after the mark.
    let lost = server.wait_for_line_since(since, |line: &str| line.contains(CHANGE), SOON);
    assert!(claims.into_iter().all(|claim| claim.at < lost.at));
}
