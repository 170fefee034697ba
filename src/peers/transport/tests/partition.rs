//! Networks that go silent.

use super::{
    proxy::{Mode, Proxy},
    *,
};

/// 'a' calls 'b' through the proxy.
async fn apart() -> (Proxy, Server, Server) {
    let street = Street::of(&["a", "b"]);
    let proxy = Proxy::to(street.address("b")).await;
    let group: Group = format!("a={},b={}", street.address("a"), proxy.address).parse().unwrap();
    let start = |name: &str| {
        let settings = Settings::new(&name.parse().unwrap(), group.clone(), "unused").unwrap();
        Server::start(settings, street.listener(name), directory(name))
    };
    let (a, b) = (start("a"), start("b"));
    a.connected("b").await;
    b.connected("a").await;
    (proxy, a, b)
}

#[tokio::test]
async fn silence_is_noticed_at_both_ends_and_ends_with_the_partition() {
    let (proxy, a, mut b) = apart().await;
    proxy.mode.send_replace(Mode::Swallow);
    until("the caller has noticed", || !a.contact("b").connected).await;
    until("the listener has noticed", || !b.contact("a").connected).await;
    assert_eq!(b.problem("a"), "it does not answer any more");
    // Long enough for TCP to have become slow to try again, and for any backoff to have grown.
    sleep(Duration::from_secs(5)).await;
    assert!(!a.contact("b").connected);

    proxy.mode.send_replace(Mode::Pass);
    let healed = Instant::now();
    a.connected("b").await;
    b.connected("a").await;
    println!("connected {:?} after the partition", healed.elapsed());
    a.say("b", 1);
    assert_eq!(b.hear().await, (NodeId::new(0), 1));
}

/// An idle connection is pinged, and counts as heard.
#[tokio::test]
async fn an_idle_connection_stays_and_is_heard() {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (street.start("a"), street.start("b"));
    a.connected("b").await;
    b.connected("a").await;
    let opened = Timestamp::now();
    let since = |server: &Server, name: &str| Timestamp::now() - server.contact(name).heard.unwrap();
    until("heard by the caller", || since(&a, "b") > opened + Duration::from_secs(1)).await;
    until("heard by the listener", || since(&b, "a") > opened + Duration::from_secs(1)).await;
    assert!(a.contact("b").connected && b.contact("a").connected);
}
