//! Members that belong together.

use super::*;

#[tokio::test]
async fn messages_arrive_in_order_both_ways() {
    let street = Street::of(&["a", "b", "c"]);
    let (mut a, mut b, c) = (street.start("a"), street.start("b"), street.start("c"));
    a.connected("b").await;
    b.connected("a").await;
    b.connected("c").await;
    c.connected("a").await;
    for term in 1..=200 {
        a.say("b", term);
        b.say("a", term);
    }
    for term in 1..=200 {
        assert_eq!(b.hear().await, (NodeId::new(0), term));
        assert_eq!(a.hear().await, (NodeId::new(1), term));
    }
    assert!(c.contact("a").heard.is_some());
    assert_eq!(a.count(TransportError::Overflow), 0);
}

#[tokio::test]
async fn both_ends_of_a_connection_measure_it() {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (street.start("a"), street.start("b"));
    a.connected("b").await;
    let round_trips = || a.contact("b").round_trip.zip(b.contact("a").round_trip);
    until("both know how long an answer takes", || round_trips().is_some()).await;
    drop(b);
    until("a has noticed", || !a.contact("b").connected).await;
    assert_eq!(a.contact("b").round_trip, None, "it is not known any more");
}

#[tokio::test]
async fn the_largest_message_passes() {
    let street = Street::of(&["a", "b"]);
    let (a, mut b) = (street.start("a"), street.start("b"));
    a.connected("b").await;
    a.say_much("b", 1);
    a.say("b", 2);
    assert_eq!(b.hear().await.1, 1);
    assert_eq!(b.hear().await.1, 2);
}

#[tokio::test]
async fn a_member_that_was_gone_is_connected_again() {
    let street = Street::of(&["a", "b", "c"]);
    let (a, b, c) = (street.start("a"), street.start("b"), street.start("c"));
    a.connected("b").await;
    b.connected("c").await;
    drop(b);
    // One of them called it, the other was called by it.
    until("a has noticed", || !a.contact("b").connected).await;
    until("c has noticed", || !c.contact("b").connected).await;
    assert!(a.contact("b").heard.is_some() && !a.problem("b").is_empty(), "{:?}", a.contact("b"));
    a.say("b", 1);
    assert_eq!(a.count(TransportError::Apart), 1, "dropped, not kept for later");

    let mut b = street.start("b");
    a.connected("b").await;
    c.connected("b").await;
    assert_eq!(a.contact("b").problem, None);
    a.say("b", 2);
    assert_eq!(b.hear().await, (NodeId::new(0), 2));
    c.say("b", 3);
    assert_eq!(b.hear().await, (NodeId::new(2), 3));
}

#[tokio::test]
async fn a_dropped_network_leaves_nothing_open() {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (street.start("a"), street.start("b"));
    a.connected("b").await;
    let address = street.address("b");
    let tasks = || Handle::current().metrics().num_alive_tasks();
    drop((street, a, b));
    until("no task is left", || tasks() == 0).await;
    assert!(std::net::TcpStream::connect(address).is_err(), "no socket listens");
}

#[tokio::test]
async fn a_full_inbox_is_waited_for_and_loses_nothing() {
    let street = Street::of(&["a", "b"]);
    let a = street.start("a");
    let mut b = Server::with_inbox(street.settings("b"), street.listener("b"), directory("b"), 1);
    a.connected("b").await;
    // More than all buffers on the way hold, at a pace at which the first of them fill up.
    let mut sent = Vec::new();
    for term in 1..=60 {
        let before = a.count(TransportError::Overflow);
        a.say_much("b", term);
        if a.count(TransportError::Overflow) == before {
            sent.push(term);
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(sent.len() < 60, "it was slowed down");
    assert!(a.contact("b").connected, "slow is not gone");
    let last = *sent.last().unwrap();
    for term in sent {
        assert_eq!(b.hear().await.1, term);
    }
    assert!(last > 0);
}

/// The one whose name sorts last is called only by the members before it, and calls none.
#[tokio::test]
async fn each_pair_has_one_connection() {
    let street = Street::of(&["a", "b", "c"]);
    let servers = ["a", "b", "c"].map(|name| street.start(name));
    for (one, other) in [(0, "b"), (0, "c"), (1, "c"), (1, "a"), (2, "a"), (2, "b")] {
        servers[one].connected(other).await;
    }
    let connections = |port: u16| {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let (local, established) = (format!("0100007F:{port:04X}"), "01");
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[1] == local && row[3] == established).count()
    };
    let open = || ["a", "b", "c"].map(|name| connections(street.address(name).port()));
    until("connections too late for an attempt have gone", || open() == [0, 1, 2]).await;
}
