//! One of three etcd members fails: leadership stays, and candidates switch to another member.
//!
//! Every server reaches each member through a proxy of its own, so that a test can choose the member that it is
//! connected to, and can cut it off from one.
//!
//! If etcd's own leader fails, its members need a second or two, or more after a split vote, to elect
//! another. Until then nothing is renewed, so the TTL here outlives such an election.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{fs, net::Ipv4Addr, time::Duration};

use support::{
    capture::{Mark, longest_stall},
    cluster::Cluster,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    port::ReservedPort,
    privilege,
    proxy::{Mode, Proxy},
    server::{
        AT_ONCE, CHANGE, FOLLOWER, Form, LEADER, SOON, Server, Status, beginning, connecting,
        led_one_at_a_time, start_in_turn, token_of,
    },
};
use tempfile::TempDir;

const MEMBERS: usize = 3;

/// Outlives etcd's own election; a standby that had to wait for its end would show.
const TTL: &str = "10s";

/// For tests that wait for a lease to end.
const SHORT: Duration = Duration::from_secs(3);
const SHORT_TTL: &str = "3s";

on_each_etcd! {
    fn contract_6_leader_stays_and_standby_moves_with_their_member_killed(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Killed, Victim::Theirs);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_frozen(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Frozen, Victim::Theirs);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_isolated_from_its_peers(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Isolated, Victim::Theirs);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_cut_off_from_its_clients(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Silenced, Victim::Theirs);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_which_is_etcds_leader_killed(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Killed, Victim::TheirsAndEtcdsLeader);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_which_is_etcds_leader_frozen(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Frozen, Victim::TheirsAndEtcdsLeader);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_which_is_etcds_leader_isolated_from_its_peers(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Isolated, Victim::TheirsAndEtcdsLeader);
    }

    fn contract_6_leader_stays_and_standby_moves_with_their_member_which_is_etcds_leader_cut_off_from_its_clients(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Silenced, Victim::TheirsAndEtcdsLeader);
    }

    fn contract_6_leader_stays_and_standby_moves_with_etcds_leader_elsewhere_killed(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Killed, Victim::EtcdsLeaderElsewhere);
    }

    fn contract_6_leader_stays_and_standby_moves_with_etcds_leader_elsewhere_frozen(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Frozen, Victim::EtcdsLeaderElsewhere);
    }

    fn contract_6_leader_stays_and_standby_moves_with_etcds_leader_elsewhere_isolated_from_its_peers(version: EtcdVersion) {
        leader_stays_and_standby_moves(version, Fault::Isolated, Victim::EtcdsLeaderElsewhere);
    }

    fn contract_2_leader_at_a_member_without_quorum_stops_before_the_next_one_leads(version: EtcdVersion) {
        let mut cluster = Cluster::start_partitionable(version, MEMBERS);
        let lonely = cluster.leader_index();
        let other = cluster.follower_index();
        // It reaches one member only, as if it were on that member's side of the partition.
        let old_doors = Doors::to(&cluster);
        old_doors.open_only(lonely);
        let old = Server::start_leader("old", &old_doors.endpoints(), SHORT_TTL);
        let next_doors = Doors::to(&cluster);
        next_doors.open_only(other);
        let next = Server::start_follower("next", &next_doors.endpoints(), SHORT_TTL);
        next_doors.open_all();
        old.wait_for_refreshing_since(Mark::START, 1);

        // Until it finds out that it has no followers, etcd's old leader still acknowledges renewals.
        cluster.isolate(lonely);
        let stopped = old.wait_for_line(CHANGE, SOON);
        let leads = next.wait_for_line(LEADER, SOON);
        let (stops, next_leads) = (stopped.at, leads.at);
        let stall = longest_stall(old.last_claim(), stops);
        assert!(stops <= next_leads + stall, "stopped at {stops}, the next one led at {next_leads}");
        assert!(stops < old.last_claim() + SHORT + stall);

        cluster.heal();
        old_doors.open_all();
        // In any order: a member of 3.4 that comes back may make etcd elect its leader anew, for longer than this TTL.
        Status::wait_for_agreement(&cluster[other].endpoint(), &[&old, &next]);
        led_one_at_a_time([&old, &next]);
    }

    fn contract_6_leader_stays_while_all_members_are_restarted_in_turn(version: EtcdVersion) {
        let mut cluster = Cluster::start(version, MEMBERS);
        let endpoints = cluster.endpoint_list();
        let [mut leader, standby] = start_in_turn(["leader", "standby"], &endpoints, TTL);
        let token = token_of(&endpoints, "leader");
        let start = leader.mark();
        for member in 0..MEMBERS {
            let before = leader.mark();
            cluster[member].kill();
            // The first may have been in flight.
            leader.wait_for_refreshing_since(before, 2);
            cluster[member].restart();
        }
        Status::wait_for_queue(&endpoints, &["leader", "standby"]);
        assert_eq!(token_of(&endpoints, "leader"), token);
        assert_eq!(leader.roles_since(start), [""; 0]);
        leader.stop(0);
        standby.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&leader, &standby]);
    }

    fn contract_6_leader_and_standby_stay_when_etcds_leader_moves(version: EtcdVersion) {
        let cluster = Cluster::start(version, MEMBERS);
        let endpoints = cluster.endpoint_list();
        let [leader, _standby] = start_in_turn(["leader", "standby"], &endpoints, SHORT_TTL);
        let before = Status::read(&endpoints);
        let start = leader.mark();
        for _ in 0..2 {
            let mark = leader.mark();
            let next = cluster.follower_index();
            cluster.move_leader(next);
            leader.wait_for_refreshing_since(mark, 2);
        }
        assert_eq!(token_of(&endpoints, "leader"), before.token.unwrap());
        assert_eq!(leader.roles_since(start), [""; 0]);
    }

    fn contract_8_leader_whose_member_is_frozen_releases_through_another(version: EtcdVersion) {
        let mut cluster = Cluster::start(version, MEMBERS);
        let home = cluster.follower_index();
        let doors = Doors::to(&cluster);
        doors.open_only(home);
        let mut leader = Server::start_leader("leader", &doors.endpoints(), TTL);
        doors.open_all();
        let others: Vec<_> =
            (0..MEMBERS).filter(|&index| index != home).map(|index| cluster[index].endpoint()).collect();
        let standby = Server::start_follower("standby", &others.join(","), TTL);

        cluster[home].freeze();
        leader.tell_to_stop();
        leader.exits(0);
        standby.wait_for_line(LEADER, AT_ONCE);
        led_one_at_a_time([&leader, &standby]);
    }

    fn contract_6_majority_lost_and_back_leaves_all_running_and_one_leading(version: EtcdVersion) {
        let mut cluster = Cluster::start(version, MEMBERS);
        let endpoints = cluster.endpoint_list();
        let names = ["server1", "server2"];
        let mut servers = start_in_turn(names, &endpoints, SHORT_TTL);

        let survivor = cluster.leader_index();
        for index in (0..MEMBERS).filter(|&index| index != survivor) {
            cluster[index].freeze();
        }
        let stopped = servers[0].wait_for_line(CHANGE, SOON);
        let renewed = servers[0].last_claim();
        assert!(stopped.at < renewed + SHORT + longest_stall(renewed, stopped.at));
        for index in (0..MEMBERS).filter(|&index| index != survivor) {
            cluster[index].thaw();
        }
        let status = Status::wait_for_agreement(&endpoints, &[&servers[0], &servers[1]]);
        let leader = names.iter().position(|name| *name == status.queue()[0]).unwrap();
        let before = servers[1 - leader].mark();
        servers[leader].stop(0);
        servers[1 - leader].wait_for_line_since(before, LEADER, SOON);
        led_one_at_a_time(&servers);
    }
}

/// A headless Service of Kubernetes: one name with the addresses of all members, which change.
#[test]
fn contract_6_each_address_of_a_name_is_failed_over_to_and_names_are_looked_up_anew() {
    const HOSTS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];
    const NAME: &str = "etcd.test";
    if !privilege::can_mount() {
        return;
    }
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let ports = ReservedPort::same_on(HOSTS);
    let endpoint = format!("{NAME}:{}", ports[0].number());
    let members = ports.map(|port| Proxy::start_at(port, &etcd.endpoint()));
    let [first, second, third] = &members;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("hosts");
    // Written in place, so the server's /etc/hosts is still the same file.
    let resolves_to = |hosts: &[Ipv4Addr]| {
        let lines: String = hosts.iter().map(|host| format!("{host} {NAME}\n")).collect();
        fs::write(&file, lines).unwrap();
    };
    resolves_to(&HOSTS[..2]);
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let elect = Elect::of("unshare", ["--mount", "sh", "-c", script]).arg(&file);
    let elect = elect.args([env!("CARGO_BIN_EXE_elect"), "server", "leader", "--etcd", &endpoint]);
    let elect = elect.args(["--ttl", TTL, "--log-format", "plain"]);
    let leader = Server::of(elect.start(), "leader", connecting(&endpoint), Form::Plain);
    leader.wait_for_line(LEADER, SOON);
    let start = leader.mark();
    let moves_on = |from: &Proxy, how: Mode, to: &Proxy| {
        let before = leader.mark();
        from.set(how);
        // The first may have been in flight.
        leader.wait_for_refreshing_since(before, 2);
        assert!(to.open_connections() > 0, "it renews through another address");
    };
    let (theirs, other) = if first.open_connections() > 0 { (first, second) } else { (second, first) };
    moves_on(theirs, Mode::Silence, other);

    resolves_to(&HOSTS[2..]);
    moves_on(other, Mode::Refuse, third);
    assert_eq!(leader.roles_since(start), [""; 0]);
}

/// A member's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    /// Its connections stay open, and it is silent.
    Frozen,
    /// Its clients reach it; its peers do not.
    Isolated,
    /// Its peers reach it; our servers do not: their connections stay open, and nothing arrives on them.
    Silenced,
}

/// The member that it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The one that leader and standby are connected to, one of etcd's followers.
    Theirs,
    TheirsAndEtcdsLeader,
    /// A member that they are not connected to.
    EtcdsLeaderElsewhere,
}

#[track_caller]
fn leader_stays_and_standby_moves(version: EtcdVersion, fault: Fault, victim: Victim) {
    let mut cluster = match fault {
        Fault::Isolated => Cluster::start_partitionable(version, MEMBERS),
        Fault::Killed | Fault::Frozen | Fault::Silenced => Cluster::start(version, MEMBERS),
    };
    let (etcds_leader, follower) = (cluster.leader_index(), cluster.follower_index());
    let (home, struck) = match victim {
        Victim::Theirs => (follower, follower),
        Victim::TheirsAndEtcdsLeader => (etcds_leader, etcds_leader),
        Victim::EtcdsLeaderElsewhere => (follower, etcds_leader),
    };
    let doors = [Doors::to(&cluster), Doors::to(&cluster)];
    let [leader_doors, standby_doors] = &doors;
    leader_doors.open_only(home);
    let mut leader = Server::start_leader("leader", &leader_doors.endpoints(), TTL);
    leader_doors.open_all();
    standby_doors.open_only(home);
    let standby = Server::start_follower("standby", &standby_doors.endpoints(), TTL);
    standby_doors.open_all();
    let healthy: Vec<_> = (0..MEMBERS).filter(|&index| index != struck).collect();
    let endpoints = healthy.iter().map(|&index| cluster[index].endpoint()).collect::<Vec<_>>().join(",");
    let before = Status::read(&endpoints);
    assert_eq!(before.queue(), ["leader", "standby"]);

    let mark = leader.mark();
    match fault {
        Fault::Killed => drop(cluster[struck].kill()),
        Fault::Frozen => drop(cluster[struck].freeze()),
        Fault::Isolated => cluster.isolate(struck),
        Fault::Silenced => doors.iter().for_each(|doors| doors.proxies[struck].set(Mode::Silence)),
    }
    // The first may have been in flight when the member failed.
    leader.wait_for_refreshing_since(mark, 2);
    assert_eq!(token_of(&endpoints, "leader"), before.token.unwrap());
    if home == struck {
        eventually(SOON, "both to have a connection to another member", || {
            let connected =
                |doors: &Doors| healthy.iter().any(|&index| doors.proxies[index].open_connections() > 0);
            doors.iter().all(connected).then_some(())
        });
    }
    let after = Status::read(&endpoints);
    assert_eq!(after.queue(), ["leader", "standby"]);
    assert_eq!(after.candidates[1].token, before.candidates[1].token, "it keeps its place");
    assert_eq!(leader.roles_since(mark), [""; 0]);
    let expected = [beginning("standby", &standby_doors.endpoints()), vec![FOLLOWER.into()]].concat();
    assert_eq!(standby.story_of_roles(), expected);

    let told = leader.tell_to_stop();
    leader.exits(0);
    let leads = standby.wait_for_line(LEADER, SOON);
    assert!(leads.at - told < AT_ONCE);
    led_one_at_a_time([&leader, &standby]);
}

/// One server's proxies to the members.
struct Doors {
    proxies: Vec<Proxy>,
}

impl Doors {
    fn to(cluster: &Cluster) -> Self {
        Self { proxies: cluster.endpoints().iter().map(|endpoint| Proxy::start(endpoint)).collect() }
    }

    /// All endpoints, as `elect --etcd` takes them.
    fn endpoints(&self) -> String {
        self.proxies.iter().map(Proxy::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Leaves only one member reachable.
    fn open_only(&self, member: usize) {
        for (index, proxy) in self.proxies.iter().enumerate() {
            proxy.set(if index == member { Mode::Pass } else { Mode::Refuse });
        }
    }

    fn open_all(&self) {
        for proxy in &self.proxies {
            proxy.set(Mode::Pass);
        }
    }
}
