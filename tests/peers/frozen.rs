//! Servers that are frozen for a while, and cannot notice it.

use crate::support::{
    peers::{Group, leads_after, leads_on, saw_a_change, settled, told},
    server::{CHANGE, FOLLOWER, SOON, led_one_at_a_time},
};

#[test]
fn contract_3_a_leader_that_was_frozen_says_nothing_as_a_leader_ever_after() {
    const ROUNDS: usize = 3;
    let group = Group::of(3);
    let mut servers = group.start_all();
    let mut lead = settled(&servers);
    for _ in 0..ROUNDS {
        let old = lead;
        servers[old.place].freeze();
        lead = leads_after(&servers, old.token);
        let frozen = &mut servers[old.place];
        let mark = frozen.mark();
        frozen.thaw();
        frozen.wait_for_line_since(mark, told(FOLLOWER), SOON);
        let woken = frozen.told_since(mark);
        assert_eq!(woken[0].text, CHANGE, "the first that it says: {woken:#?}");
    }
    led_one_at_a_time(&servers);
}

#[test]
fn a_follower_that_was_frozen_comes_back_without_deposing_the_leader() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let place = (lead.place + 1) % 3;
    let start = servers[lead.place].mark();

    // Longer than any election timeout: on waking it has heard no leader for too long.
    servers[place].freeze();
    leads_on(&servers[lead.place], start, 4);
    servers[place].thaw();
    leads_on(&servers[lead.place], servers[lead.place].mark(), 3);
    assert!(!saw_a_change(&servers[lead.place], start));
    assert_eq!(servers[place].told().last().unwrap().text, FOLLOWER);

    // It follows again: with the third down, the leader needs its answers.
    let third = 3 - lead.place - place;
    servers[third].kill();
    leads_on(&servers[lead.place], servers[lead.place].mark(), 4);
    assert!(!saw_a_change(&servers[lead.place], start));
}
