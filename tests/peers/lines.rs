//! Servers' printed lines, word for word, and their exit codes.

use crate::support::{
    capture::Mark,
    clock::BootTime,
    eventually::eventually,
    peers::{Group, Lead, leads_after, leads_on, saw_a_change, settled, told, with_parts},
    server::{CHANGE, ELECTION, FOLLOWER, LEADER, NEW_ELECTION, SOON, Server, led_one_at_a_time, starting},
};

/// Lines of every server until it knows a leader.
fn beginning(group: &Group, place: usize) -> Vec<String> {
    vec![starting(group.name(place)), group.listening(place), ELECTION.to_owned()]
}

fn story(group: &Group, place: usize, more: &[&str]) -> Vec<String> {
    let more = more.iter().map(ToString::to_string).collect();
    [beginning(group, place), more].concat()
}

/// Starts three servers, and waits until one leads and the others follow. The leader comes first.
#[track_caller]
fn three(group: &Group) -> [(usize, Server); 3] {
    let servers: Vec<_> = (0..3).map(|place| group.start_plain(place)).collect();
    // Plain lines name the leader, but not the term.
    let leader = eventually(SOON, "a leader", || {
        servers.iter().position(|server| server.stdout().iter().any(|line| line == LEADER))
    });
    let mut servers: Vec<_> = servers.into_iter().enumerate().collect();
    servers.swap(0, leader);
    for (_, follower) in &servers[1..] {
        follower.wait_for_line(FOLLOWER, SOON);
    }
    servers.try_into().unwrap()
}

/// Waits until one of the remaining two has won and the other follows it. The winner comes first.
#[track_caller]
fn winner<'a>(one: &'a Server, other: &'a Server) -> (&'a Server, &'a Server) {
    let (winner, loser) = eventually(SOON, "the next leader", || {
        let wins = |server: &Server| server.stdout().iter().any(|line| line == LEADER);
        if wins(one) { Some((one, other)) } else { wins(other).then_some((other, one)) }
    });
    loser.wait_for_lines_since(Mark::START, &[CHANGE, FOLLOWER]);
    (winner, loser)
}

const WON: [&str; 5] = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION, LEADER];
const FOLLOWED: [&str; 5] = [FOLLOWER, CHANGE, NEW_ELECTION, ELECTION, FOLLOWER];

#[test]
fn contract_4_a_killed_leader_is_followed_and_comes_back_as_a_follower() {
    let group = Group::of(3);
    let [(leader, mut old), (one, first), (other, second)] = three(&group);
    assert_eq!(old.story(), story(&group, leader, &[LEADER]));
    assert_eq!(first.story(), story(&group, one, &[FOLLOWER]));
    assert_eq!(second.story(), story(&group, other, &[FOLLOWER]));

    old.kill();
    let (next, last) = winner(&first, &second);
    let place = |server: &Server| if server.name() == group.name(one) { one } else { other };
    assert_eq!(next.story(), story(&group, place(next), &WON));
    assert_eq!(last.story(), story(&group, place(last), &FOLLOWED));

    let mark = next.mark();
    let back = group.start_plain(leader);
    back.wait_for_line(FOLLOWER, SOON);
    next.wait_for_refreshing_since(mark, 2);
    assert_eq!(back.story(), story(&group, leader, &[FOLLOWER]));
    assert_eq!(
        next.story(),
        story(&group, place(next), &WON),
        "a follower that comes back deposes no leader"
    );
    led_one_at_a_time([&old, &first, &second, &back]);
}

#[test]
fn contract_8_a_leader_that_is_told_to_stop_stops_and_then_hands_over() {
    let group = Group::of(3);
    let [(leader, mut old), (_, first), (_, second)] = three(&group);
    old.stop(0);
    let stopped = old.wait_for_line(CHANGE, SOON);
    assert_eq!(old.story(), story(&group, leader, &[LEADER, CHANGE]));
    assert_eq!(old.stderr(), [""; 0]);
    let (next, last) = winner(&first, &second);
    assert!(stopped.at <= next.wait_for_line(LEADER, SOON).at, "it stops, then releases");
    assert_eq!(next.roles_since(Mark::START)[2..], WON.map(String::from));
    assert_eq!(last.roles_since(Mark::START)[2..], FOLLOWED.map(String::from));
    led_one_at_a_time([&old, &first, &second]);
}

#[test]
fn a_follower_comes_and_goes_without_a_word() {
    let group = Group::of(3);
    // The third is bound to a name, or it would be killed here.
    let [(_, leader), (one, mut follower), _third] = three(&group);
    let before = leader.story();
    follower.stop(0);
    assert_eq!(follower.story(), story(&group, one, &[FOLLOWER]));
    assert_eq!(follower.stderr(), [""; 0]);
    let mut back = group.start_plain(one);
    back.wait_for_line(FOLLOWER, SOON);
    back.kill();
    let back = group.start_plain(one);
    back.wait_for_line(FOLLOWER, SOON);
    leader.wait_for_refreshing_since(leader.mark(), 1);
    assert_eq!(leader.story(), before);
}

#[test]
fn all_are_told_to_stop_and_all_do() {
    let group = Group::of(3);
    let mut servers = three(&group).map(|(_, server)| server);
    let told = BootTime::now();
    for server in &servers {
        server.tell_to_stop();
    }
    for server in &mut servers {
        server.exits(0);
    }
    assert!(told.elapsed() < SOON);
    led_one_at_a_time(&servers);
}

#[test]
fn a_group_of_one_leads_by_itself_again_and_again() {
    let group = Group::of(1);
    let mut server = group.start_plain(0);
    server.wait_for_line(LEADER, SOON);
    assert_eq!(server.story(), story(&group, 0, &[LEADER]));
    server.stop(0);
    assert_eq!(server.story(), story(&group, 0, &[LEADER, CHANGE]));

    let mut server = group.start(0);
    let Lead { token, .. } = leads_after([&server], 1);
    server.kill();
    let server = group.start(0);
    assert!(leads_after([&server], token).token > token);
}

#[test]
fn an_even_group_is_told_so_and_cannot_lose_half_of_itself() {
    let group = Group::of(2);
    let mut servers = group.start_all();
    for server in &servers {
        server.wait_for_line(told("2 servers tolerate no failure, as 1 does"), SOON);
    }
    let Lead { place, .. } = settled(&servers);
    let mut gone = servers.remove(1 - place);
    let left = servers.remove(0);
    gone.kill();
    let lost = left.wait_for_line(told(CHANGE), SOON);
    // It reports the reason repeatedly, and never that it leads.
    left.wait_for_line_since(lost.mark(), with_parts(&["no majority votes", gone.name()]), SOON);
    assert!(left.told_since(lost.mark()).iter().all(|told| told.text != LEADER));
    led_one_at_a_time([&gone, &left]);
}

#[test]
fn contract_1_a_group_of_seven_survives_three_and_not_four() {
    let group = Group::of(7);
    let mut servers = group.start_all();
    let first = settled(&servers);
    let mut dead = vec![servers.remove(first.place)];
    dead.extend(servers.drain(..2));
    for server in &mut dead {
        server.kill();
    }
    let second = leads_after(&servers, first.token);
    let leader = servers.remove(second.place);
    leads_on(&leader, Mark::START, 1);

    let mark = leader.mark();
    let mut fourth = servers.remove(0);
    fourth.kill();
    leader.wait_for_line_since(mark, told(CHANGE), SOON);
    leader.wait_for_line_since(mark, with_parts(&["2 of 6 others are connected"]), SOON);
    for server in servers.iter().chain([&leader]) {
        assert!(server.told_since(Mark::START).iter().all(|told| told.token <= Some(second.token)));
    }

    let back = (0..7).find(|place| group.name(*place) == fourth.name()).unwrap();
    let back = group.start(back);
    let alive: Vec<_> = servers.iter().chain([&leader, &back]).collect();
    leads_after(alive.iter().copied(), second.token);
    led_one_at_a_time(alive.into_iter().chain(&dead).chain([&fourth]));
}

#[test]
fn a_leader_without_a_successor_stops_all_the_same() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let Lead { place, .. } = settled(&servers);
    let mut leader = servers.remove(place);
    for follower in &mut servers {
        follower.freeze();
    }
    let mark = leader.mark();
    leader.stop(0);
    assert!(saw_a_change(&leader, mark));
}
