//! Servers that are killed: one by one, repeatedly, all at once.

use crate::support::{
    capture::{Captured, Mark},
    member::{self, nothing_is_lost},
    peers::{BRISK, Group, Lead, growing_tokens, leads_after, told, with_parts},
    server::{FOLLOWER, LEADER, SOON, led_one_at_a_time},
};

#[test]
fn contract_5_tokens_grow_however_often_servers_are_killed() {
    const ROUNDS: usize = 20;
    let group = Group::of(3).with_timing(BRISK);
    let mut servers = group.start_all();
    let mut graves = Vec::new();
    let mut token = 0;
    for round in 0..ROUNDS {
        let lead = leads_after(&servers, token);
        // The leader and a follower by turns; the follower is back in time for the next round's vote.
        let place = if round % 2 == 0 { lead.place } else { (lead.place + 1 + round / 2 % 2) % 3 };
        servers[place].kill();
        let back = group.start(place);
        graves.push(std::mem::replace(&mut servers[place], back));
        if round % 2 == 0 {
            token = lead.token;
        } else {
            servers[place].wait_for_line(with_parts(&["transcript", "I am"]), SOON);
            // A busy machine may have cost the leader its term; the follower's return alone must not.
            token = lead.token - 1;
        }
    }
    leads_after(&servers, token);
    let tokens = growing_tokens(servers.iter().chain(&graves));
    assert!(tokens.len() > ROUNDS / 2, "{tokens:?}");
    led_one_at_a_time(servers.iter().chain(&graves));
}

#[test]
fn contract_1_a_restarted_server_claims_nothing_before_a_majority_has_confirmed_it() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let before = leads_after(&servers, 0);
    for server in &mut servers {
        server.kill();
    }

    // Its log says that it led, and no other member is up to contradict it.
    let alone = group.start(before.place);
    let why = with_parts(&["no majority votes", "0 of 2 others are connected"]);
    let said = alone.wait_for_line(why, SOON);
    alone.wait_for_line_since(said.mark(), with_parts(&["no majority votes"]), SOON);
    assert!(
        alone.told().iter().all(|told| told.text != LEADER && told.text != FOLLOWER),
        "{:?}",
        alone.told()
    );

    let other = group.start((before.place + 1) % 3);
    let after = leads_after([&alone, &other], before.token);
    assert!(after.token > before.token);
    let both = [&alone, &other];
    both[1 - after.place].wait_for_line(told(FOLLOWER), SOON);
    led_one_at_a_time(servers.iter().chain(both));
}

#[test]
fn committed_records_outlive_leaders_that_are_killed_and_a_group_that_is_killed_at_once() {
    let group = Group::of(3);
    let start = |place| member::start(&group, place, None);
    let mut members: Vec<Captured> = (0..3).map(start).collect();
    let mut killed = Vec::new();
    let mut token = 0;
    for round in 0..6 {
        let lead = member::commits_after(&members, token, 5);
        token = lead.token;
        let places = match round {
            2 | 5 => vec![0, 1, 2],
            // A follower that has to catch up, and then the leader.
            3 => vec![(lead.place + 1) % 3],
            _ => vec![lead.place],
        };
        if round == 3 {
            token -= 1;
        }
        for place in &places {
            members[*place].kill();
        }
        for place in places {
            killed.push(std::mem::replace(&mut members[place], start(place)));
        }
    }
    let Lead { token: last, .. } = member::commits_after(&members, token, 5);
    assert!(last > token);
    nothing_is_lost(&killed, &members);
    for member in killed.iter().chain(&members) {
        let lines = member.lines_since(Mark::START);
        assert!(
            !lines.iter().any(|line| line.text.starts_with("failed") || line.text.starts_with("refused"))
        );
    }
}
