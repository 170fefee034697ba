//! Servers on hosts that can't reach each other: network namespaces, so Linux and root only.

use crate::support::{
    clock::BootTime,
    elect::Elect,
    islands::Islands,
    peers::{BRISK, Group, Lead, growing_tokens, leads_after, leads_on, saw_a_change, settled, told},
    server::{CHANGE, FOLLOWER, LEADER, SOON, Server, led_one_at_a_time},
};

/// A group on separate hosts, one of which leads.
struct Apart {
    islands: Islands,
    servers: Vec<Server>,
    lead: Lead,
}

impl Apart {
    fn try_new(count: usize, timing: [&'static str; 4]) -> Option<Self> {
        let islands = Islands::try_new(count)?;
        let group = Group::at((0..count).map(Islands::address).collect()).with_timing(timing);
        let servers: Vec<_> = (0..count)
            .map(|place| {
                let elect: Elect = islands.elect(place, group.command_line(place));
                // The test's hosts are unreachable from elsewhere.
                let elect = elect.arg("--insecure-peers");
                group.start_as(place, elect)
            })
            .collect();
        let lead = settled(&servers);
        Some(Self { islands, servers, lead })
    }

    fn leader(&self) -> &Server {
        &self.servers[self.lead.place]
    }

    /// The old leader stopped before the next term began, and follows once the network is repaired.
    #[track_caller]
    fn replaced(self) {
        let others: Vec<_> =
            self.servers.iter().filter(|server| server.name() != self.leader().name()).collect();
        let next = leads_after(others.iter().copied(), self.lead.token);
        let stopped = self.leader().wait_for_line(told(CHANGE), SOON);
        let began = others[next.place].told().into_iter().find(|told| told.token == Some(next.token));
        assert!(stopped.at <= began.unwrap().at, "it was the leader until {}", stopped.at);
        assert_eq!(next.token, self.lead.token + 1, "one election, one term");

        let mark = self.leader().mark();
        self.islands.heal();
        self.leader().wait_for_line_since(mark, told(FOLLOWER), SOON);
        leads_on(others[next.place], others[next.place].mark(), 2);
        assert!(growing_tokens(&self.servers).ends_with(&[self.lead.token, next.token]));
        led_one_at_a_time(&self.servers);
    }
}

#[test]
fn contract_4_a_leader_that_is_cut_off_stops_before_the_next_one_leads() {
    let Some(apart) = Apart::try_new(3, crate::support::peers::UNHURRIED) else { return };
    apart.islands.cut_off(apart.lead.place);
    apart.replaced();
}

#[test]
fn contract_4_a_leader_that_hears_no_peer_stops_although_all_hear_it() {
    let Some(apart) = Apart::try_new(3, crate::support::peers::UNHURRIED) else { return };
    for other in (0..3).filter(|other| *other != apart.lead.place) {
        apart.islands.cut(other, apart.lead.place);
    }
    apart.replaced();
}

#[test]
fn contract_4_a_leader_that_no_peer_hears_stops_although_it_hears_all() {
    let Some(apart) = Apart::try_new(3, crate::support::peers::UNHURRIED) else { return };
    for other in (0..3).filter(|other| *other != apart.lead.place) {
        apart.islands.cut(apart.lead.place, other);
    }
    apart.replaced();
}

#[test]
fn a_leader_that_is_cut_off_from_one_of_two_followers_leads_on() {
    let Some(apart) = Apart::try_new(3, crate::support::peers::UNHURRIED) else { return };
    let (place, start) = (apart.lead.place, apart.leader().mark());
    let follower = (place + 1) % 3;
    apart.islands.cut(place, follower);
    apart.islands.cut(follower, place);
    // It hears no leader, and repeatedly asks the other one for its vote.
    apart.servers[follower].wait_for_line(told(CHANGE), SOON);
    leads_on(apart.leader(), apart.leader().mark(), 5);
    assert!(!saw_a_change(apart.leader(), start));
    let mark = apart.servers[follower].mark();
    apart.islands.heal();
    apart.servers[follower].wait_for_line_since(mark, told(FOLLOWER), SOON);
    leads_on(apart.leader(), apart.leader().mark(), 2);
    assert!(!saw_a_change(apart.leader(), start));
}

#[test]
fn terms_do_not_run_away_while_a_follower_is_cut_off() {
    let Some(mut apart) = Apart::try_new(3, BRISK) else { return };
    let follower = (apart.lead.place + 1) % 3;
    let cut = BootTime::now();
    apart.islands.cut_off(follower);
    apart.servers[follower].wait_for_line(told(CHANGE), SOON);
    // Time for at least six elections, if it held any.
    leads_on(apart.leader(), apart.leader().mark(), 6);
    let mark = apart.servers[follower].mark();
    apart.islands.heal();
    apart.servers[follower].wait_for_line_since(mark, told(FOLLOWER), SOON);
    let changes = growing_tokens(&apart.servers).last().unwrap() - apart.lead.token;

    // The next term's token shows the last one.
    let before = apart.lead.token + changes;
    let place = apart.servers.iter().position(|server| {
        server.told().iter().any(|told| told.text == LEADER && told.token == Some(before))
    });
    apart.servers[place.unwrap()].stop(0);
    let next = leads_after(&apart.servers, before);
    // A busy machine may have cost a term or two, but not one a second.
    let away = cut.elapsed();
    assert!(next.token - apart.lead.token <= 3, "from {} to {} in {away:?}", apart.lead.token, next.token);
    led_one_at_a_time(&apart.servers);
}
