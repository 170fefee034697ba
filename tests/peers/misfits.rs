//! Servers with contradictory settings, or of different groups: both report it, and no leader is deposed.

use crate::support::{
    capture::Mark,
    elect::Elect,
    eventually::eventually,
    peers::{Group, Lead, leads_after, leads_on, problems, saw_a_change, settled, told, with_parts},
    pki::{KeyAndCert, Pki},
    port::ReservedPort,
    server::{FOLLOWER, SOON, Server},
};

/// Waits until this server has reported a problem with all of these words.
#[track_caller]
fn says(server: &Server, parts: &[&str]) {
    eventually(SOON, &format!("{} to say {parts:?}", server.name()), || {
        problems(server).iter().any(|problem| parts.iter().all(|part| problem.contains(part))).then_some(())
    });
}

/// A refusal is logged once for each peer and each direction, however often they call.
#[track_caller]
fn says_it_once(server: &Server) {
    let mut refusals: Vec<_> = server.lines().into_iter().map(|line| line.text).collect();
    refusals.retain(|text| text.contains("refused a peer") || text.contains("turned a stranger away"));
    assert!(refusals.len() <= 4, "{refusals:#?}");
}

/// Replaces one flag's value.
fn instead(mut args: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    let place = args.iter().position(|arg| arg == flag).unwrap();
    args[place + 1] = value.to_owned();
    args
}

/// All three have met, as no group begins before that. Then the third is down, and one of the other two leads.
#[track_caller]
fn two_of_three(group: &Group) -> (Vec<Server>, Lead) {
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let marks: Vec<Mark> = servers.iter().map(|server| server.mark()).collect();
    servers.pop().unwrap().stop(0);
    if lead.place < 2 {
        return (servers, lead);
    }
    let lead = leads_after(&servers, lead.token);
    let follower = 1 - lead.place;
    servers[follower].wait_for_line_since(marks[follower], told(FOLLOWER), SOON);
    (servers, lead)
}

/// Starts the third server with these flags on a directory of its own.
fn odd_one(group: &Group, args: Vec<String>) -> Server {
    let data = group.data(2).with_file_name("odd");
    group.start_as(2, Elect::new(instead(args, "--data", data.to_str().unwrap())))
}

/// Two of three have a leader. The third has other settings: it and the peers it meets report the difference, and it
/// never has a leader.
#[track_caller]
fn does_not_fit(group: &Group, odd: Vec<String>, parts: &[&str]) {
    let (two, Lead { place, .. }) = two_of_three(group);
    let mark = two[place].mark();
    let odd = odd_one(group, odd);
    for server in two.iter().chain([&odd]) {
        says(server, parts);
    }
    let waits = ["a new group begins once all its members have met", "0 of 2 others are connected"];
    odd.wait_for_line(with_parts(&waits), SOON);
    leads_on(&two[place], two[place].mark(), 2);
    assert!(!saw_a_change(&two[place], mark));
    for server in two.iter().chain([&odd]) {
        says_it_once(server);
    }
    assert!(odd.told().iter().all(|told| told.token.is_none() && told.text != FOLLOWER));
}

#[test]
fn a_list_with_another_address_is_refused_and_both_sides_say_which() {
    let group = Group::of(3);
    let list = group.list().replace(group.address(1), "127.0.0.1:9");
    let odd = instead(group.command_line(2), "--peers", &list);
    let parts =
        ["looks for 'server2' at", group.address(1), "127.0.0.1:9", "start both with the same --peers"];
    // It does not find the second at all: only the first one can report.
    let (two, _) = two_of_three(&group);
    let odd = odd_one(&group, odd);
    for server in [&two[0], &two[1], &odd] {
        says(server, &parts);
    }
    assert!(odd.told().iter().all(|told| told.token.is_none() && told.text != FOLLOWER));
}

/// All others call the member whose name sorts last. It listens elsewhere than they call, and they can't tell it.
#[test]
fn a_server_that_no_peer_calls_says_what_to_compare() {
    let group = Group::of(3);
    let elsewhere = ReservedPort::new();
    let list = group.list().replace(group.address(2), &elsewhere.address());
    let others = [group.start(0), group.start(1)];
    let odd =
        Elect::new(instead(group.command_line(2), "--peers", &list)).args(["--log-format", "full"]).start();
    let compare =
        format!("its --peers has for 'server3': compare that with {}, where this", elsewhere.address());
    let parts = ["server1: it has not connected yet; it connects to the address that ", &compare];
    odd.wait_for_line(with_parts(&parts), SOON);
    for other in others {
        let parts = ["server3: nothing can be reached at", group.address(2)];
        other.wait_for_line(with_parts(&parts), SOON);
    }
}

#[test]
fn a_list_with_another_member_is_refused_and_both_sides_say_which() {
    let group = Group::of(3);
    let list = group.list().replace("server2=", "stranger=");
    let odd = instead(group.command_line(2), "--peers", &list);
    // One of the two tells it what it lacks; it tells the other that it does not know it.
    does_not_fit(&group, odd, &["among", "peers", "start both with the same --peers"]);
}

#[test]
fn a_list_with_one_more_member_is_refused_and_both_sides_say_which() {
    let group = Group::of(3);
    let list = format!("{},server4=127.0.0.1:9", group.list());
    let odd = instead(group.command_line(2), "--peers", &list);
    let parts = ["'server3' has server4=127.0.0.1:9 among its peers", "has not"];
    let (two, _) = two_of_three(&group);
    let odd = odd_one(&group, odd);
    for server in [&two[0], &two[1], &odd] {
        says(server, &parts);
    }
}

#[test]
fn another_election_is_refused_and_both_sides_say_which() {
    let group = Group::of(3);
    let odd = [group.command_line(2), vec!["--election".into(), "other".into()]].concat();
    does_not_fit(&group, odd, &["'leader'", "'other'", "start both with the same --election"]);
}

#[test]
fn another_election_timeout_is_refused_and_both_sides_say_which() {
    let group = Group::of(3);
    let odd = instead(group.command_line(2), "--election-timeout", "1400ms-2500ms");
    does_not_fit(&group, odd, &["1.5s", "1.4s", "start both with the same --election-timeout"]);
}

#[test]
fn a_second_server_of_one_name_is_refused_and_no_leader_is_deposed() {
    let group = Group::of(3);
    let servers = group.start_all();
    let Lead { place, .. } = settled(&servers);
    let data = group.data(0).with_file_name("second");
    // The first calls the others, so they meet. No member looks for it where it listens.
    let second = Elect::new(group.command_line_with(0, &group.list(), &data));
    let second = group.start_as(0, second.args(["--listen", "127.0.0.8:10000"]));
    for server in [&second, &servers[1], &servers[2]] {
        says(server, &["two servers run under its name"]);
    }
    leads_on(&servers[place], servers[place].mark(), 2);
    assert!(servers.iter().all(|server| !saw_a_change(server, Mark::START)));
    assert!(second.told().iter().all(|told| told.token.is_none() && told.text != FOLLOWER));
}

#[test]
fn a_port_that_is_taken_or_is_not_here_is_refused_with_a_remedy() {
    let group = Group::of(3);
    let servers = group.start_all();
    let Lead { place, .. } = settled(&servers);
    let data = group.data(0).with_file_name("second");
    let again = || Elect::new(group.command_line_with(0, &group.list(), &data));
    for (elect, parts) in [
        (again(), ["--listen", group.address(0), "another process listens there"]),
        (
            again().args(["--insecure-peers", "--listen", "192.0.2.1:10000"]),
            ["--listen", "192.0.2.1:10000", "no interface"],
        ),
        (again().args(["--listen", "0.0.0.0:10000"]), ["--listen", "can be reached from", "--secret-file"]),
    ] {
        let mut refused = elect.start();
        let code = refused.wait_exit(SOON).code();
        let said = refused.stderr().join("\n");
        assert_eq!(code, Some(1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    assert!(!data.exists(), "nothing was made for a server that can't start");
    leads_on(&servers[place], servers[place].mark(), 1);
    assert!(!saw_a_change(&servers[place], Mark::START));
}

#[test]
fn a_peer_whose_host_is_not_known_is_looked_for_again_and_again() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let Lead { token, .. } = settled(&servers);
    for server in &mut servers {
        server.kill();
    }
    // They have met. The third's present address is unknown.
    let list = group.list().replace(group.address(2), "no-such-host.invalid:10000");
    let again = |place| Elect::new(group.command_line_with(place, &list, &group.data(place)));
    let servers = [0, 1].map(|place| group.start_as(place, again(place)));
    let Lead { place, .. } = leads_after(&servers, token);
    for server in &servers {
        server.wait_for_line(with_parts(&["the host no-such-host.invalid can't be found"]), SOON);
    }
    leads_on(&servers[place], Mark::START, 2);
}

fn with_tls(group: &Group, place: usize, pki: &Pki, shown: Option<&KeyAndCert>) -> Server {
    let elect = Elect::new(group.command_line(place));
    let elect = match shown {
        Some(KeyAndCert { cert, key }) => {
            elect.arg("--cacert").arg(&pki.ca).arg("--cert").arg(cert).arg("--key").arg(key)
        }
        None => elect,
    };
    group.start_as(place, elect)
}

#[test]
fn peers_with_certificates_elect_a_leader_and_refuse_peers_without() {
    let (group, pki) = (Group::of(3), Pki::new());
    let mut servers: Vec<_> = (0..3).map(|place| with_tls(&group, place, &pki, Some(&pki.server))).collect();
    let lead = settled(&servers);
    let place = (lead.place + 1) % 3;
    servers[place].kill();

    let mut bare = with_tls(&group, place, &pki, None);
    bare.wait_for_line(with_parts(&["no majority votes", "0 of 2 others are connected"]), SOON);
    says(&bare, &["TLS"]);
    bare.kill();

    let mut foreign = with_tls(&group, place, &pki, Some(&pki.foreign_client));
    foreign.wait_for_line(with_parts(&["no majority votes", "0 of 2 others are connected"]), SOON);
    says(&foreign, &["TLS"]);
    foreign.kill();

    let others = servers.iter().enumerate().filter(|(other, _)| *other != place);
    for (_, server) in others {
        says(server, &["TLS"]);
    }
    assert!(!saw_a_change(&servers[lead.place], Mark::START));
    servers[place] = with_tls(&group, place, &pki, Some(&pki.server));
    servers[place].wait_for_line(told(FOLLOWER), SOON);
    servers[lead.place].stop(0);
    leads_after(&servers, lead.token);
}
