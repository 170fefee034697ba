//! Members with different settings: both report it, and no message passes.

use super::*;
use crate::{
    peers::{PeerAddress, Secret, Timing},
    raft::membership::Objection,
};

/// Both show this problem with the other one, and neither receives its messages.
async fn refuse(a: &mut Server, b: &mut Server, problem: &str) {
    let (name_of_a, name_of_b) = (a.settings.name().to_string(), b.settings.name().to_string());
    until("the caller reports the reason", || a.problem(&name_of_b).contains(problem)).await;
    until("the listener reports the reason", || b.problem(&name_of_a).contains(problem)).await;
    assert!(!a.contact(&name_of_b).connected && !b.contact(&name_of_a).connected);
    assert!(a.count(TransportError::Refused) > 0 && b.count(TransportError::Refused) > 0);
    a.say(&name_of_b, 1);
    b.say(&name_of_a, 1);
    assert_eq!((a.count(TransportError::Apart), b.count(TransportError::Apart)), (1, 1));
    assert!(a.inbox.try_recv().is_err() && b.inbox.try_recv().is_err());
}

fn with(street: &Street, name: &str, change: impl FnOnce(Settings) -> Settings) -> Server {
    Server::start(change(street.settings(name)), street.listener(name), directory(name))
}

#[tokio::test]
async fn lists_that_differ() {
    let street = Street::of(&["a", "b", "c"]);
    let shorter = format!("a={},b={}", street.address("a"), street.address("b"));
    let shorter: Group = shorter.parse().unwrap();
    let mut a = with(&street, "a", |_| Settings::new(&"a".parse().unwrap(), shorter, "unused").unwrap());
    let mut b = street.start("b");
    let missing = format!("'b' has c={} among its peers, and 'a' has not", street.address("c"));
    refuse(&mut a, &mut b, &missing).await;

    // Corrected by a restart.
    drop(a);
    let a = street.start("a");
    a.connected("b").await;
    b.connected("a").await;
}

#[tokio::test]
async fn addresses_that_differ() {
    let street = Street::of(&["a", "b", "c"]);
    let moved = format!("a={},b={},c=elsewhere:1", street.address("a"), street.address("b"));
    let moved: Group = moved.parse().unwrap();
    let mut a = with(&street, "a", |_| Settings::new(&"a".parse().unwrap(), moved, "unused").unwrap());
    let mut b = street.start("b");
    let other = format!("'b' looks for 'c' at {}, and 'a' at elsewhere:1", street.address("c"));
    refuse(&mut a, &mut b, &other).await;
}

#[tokio::test]
async fn elections_that_differ() {
    let street = Street::of(&["a", "b"]);
    let mut a = with(&street, "a", |settings| settings.with_election("other".parse().unwrap()));
    let mut b = street.start("b");
    refuse(&mut a, &mut b, "'b' takes part in the election 'leader', and 'a' in 'other'").await;
}

#[tokio::test]
async fn election_timeouts_that_differ() {
    let street = Street::of(&["a", "b"]);
    let ms = Duration::from_millis;
    let slow = Timing::new(ms(50), ms(300), ms(500)).unwrap();
    let mut a = with(&street, "a", |settings| settings.with_timing(slow));
    let mut b = street.start("b");
    refuse(&mut a, &mut b, "the shortest election timeout of 'b' is 250ms, and that of 'a' 300ms").await;
}

fn secret(byte: u8) -> Secret {
    Secret::new(&[byte; 32]).unwrap()
}

#[tokio::test]
async fn contract_11_a_secret_that_differs() {
    let street = Street::of(&["a", "b"]);
    let mut a = with(&street, "a", |settings| settings.with_secret(secret(1)));
    let mut b = with(&street, "b", |settings| settings.with_secret(secret(2)));
    let (shown, counted) = ("'b', and does not prove that it has the secret of 'a'", "the caller's verdict");
    until("the caller reports the reason", || a.problem("b").contains(shown)).await;
    until(counted, || b.count(TransportError::Refused) > 0).await;
    assert!(!a.contact("b").connected && !b.contact("a").connected);
    assert!(b.problem("a").starts_with("it has not connected yet"), "what proved nothing leaves nothing");
    assert!(a.inbox.try_recv().is_err() && b.inbox.try_recv().is_err());
    drop((a, b));

    for (of_a, of_b) in [(Some(1), None), (None, Some(1))] {
        let one = |name, byte: Option<u8>| {
            with(&street, name, |settings| byte.map(secret).into_iter().fold(settings, Settings::with_secret))
        };
        let (a, b) = (one("a", of_a), one("b", of_b));
        until("the caller reports the reason", || {
            a.problem("b").contains("give both the same --secret-file")
        })
        .await;
        assert!(!b.contact("a").connected);
    }
}

#[tokio::test]
async fn members_of_one_secret_talk() {
    let street = Street::of(&["a", "b"]);
    let a = with(&street, "a", |settings| settings.with_secret(secret(1)));
    let mut b = with(&street, "b", |settings| settings.with_secret(secret(1)));
    a.connected("b").await;
    a.say("b", 3);
    assert_eq!(b.hear().await, (NodeId::new(0), 3));
}

/// The listener has met the caller with another directory.
#[tokio::test]
async fn two_servers_under_the_name_that_calls() {
    let street = Street::of(&["a", "b"]);
    let mut b = street.start("b");
    let first = street.start("a");
    b.connected("a").await;

    // It takes the connections meant for the first one, too: they share the socket's queue.
    let elsewhere = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let second = Server::start(street.settings("a"), elsewhere, *b"another director");
    until("the second is refused", || second.problem("b").contains("another data directory")).await;
    assert!(first.contact("b").connected && b.contact("a").connected, "the first one is not disturbed");
    first.say("b", 7);
    assert_eq!(b.hear().await, (NodeId::new(0), 7));
    assert!(b.count(TransportError::Refused) > 0);

    // It is refused after the first one has gone, too.
    drop(first);
    until("the first is gone", || !b.contact("a").connected).await;
    until("and the second not let in", || second.problem("b").contains("another data directory")).await;
    until("which is shown, too", || b.problem("a").contains("another data directory")).await;
}

/// The caller has met the listener with another directory: its verdict tells.
#[tokio::test]
async fn two_servers_under_the_name_that_is_called() {
    let street = Street::of(&["a", "b"]);
    let mut a = street.start("a");
    let first = street.start("b");
    a.connected("b").await;
    drop(first);
    until("the first is gone", || !a.contact("b").connected).await;
    let mut second = Server::start(street.settings("b"), street.listener("b"), *b"another director");
    refuse(&mut a, &mut second, "another data directory").await;
}

#[tokio::test]
async fn another_member_at_the_address() {
    let street = Street::of(&["a", "b", "c"]);
    let a = street.start("a");
    // Started at the address of 'b'.
    let _c = Server::start(street.settings("c"), street.listener("b"), directory("c"));
    until("it says who answers", || a.problem("b") == "'c' is not expected there").await;
}

#[tokio::test]
async fn a_host_that_cannot_be_found() {
    let group: Group = "a=localhost:1,b=no-such-host.invalid:2".parse().unwrap();
    let settings = Settings::new(&"a".parse().unwrap(), group, "unused").unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = Server::start(settings, listener, directory("a"));
    let unfound = "the host no-such-host.invalid can't be found";
    until("it says which host", || a.problem("b").contains(unfound)).await;
}

#[tokio::test]
async fn no_server_there() {
    let street = Street::of(&["a", "b"]);
    let address: PeerAddress = street.address("b").to_string().parse().unwrap();
    let (group, listener) = (street.group(), street.listener("a"));
    drop(street);
    let settings = Settings::new(&"a".parse().unwrap(), group, "unused").unwrap();
    let a = Server::start(settings, listener, directory("a"));
    until("it says where", || a.problem("b").starts_with(&format!("nothing can be reached at {address}")))
        .await;
    assert_eq!(a.contact("b").heard, None);
}

/// The identity of a server on a copy of a member's directory: the same directory, another run.
fn copy_of(name: &str, run: u64) -> Identity {
    let first = handshake::first_run(directory(name));
    Identity { run: Run { number: run, id: RunId::from_bytes([9; 16]), began: WriteCount(9 + run) }, ..first }
}

#[tokio::test]
async fn contract_11_a_copy_beside_the_member_is_told_not_to_vote_and_the_member_is_not_disturbed() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let first = street.start("a");
    b.connected("a").await;
    let elsewhere = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let copy = Server::on(street.settings("a"), elsewhere(), copy_of("a", 2), 1024);
    until("the copy is told", || !copy.revoked.lock().unwrap().is_empty()).await;
    let told = copy.revoked.lock().unwrap()[0].clone();
    assert!(told.contains("'b' says: ") && told.contains("is a copy"), "{told}");
    assert!(first.contact("b").connected && b.contact("a").connected);
    assert!(first.revoked.lock().unwrap().is_empty());

    // The same start on the copy, after the member has gone.
    drop((copy, first));
    until("the first is gone", || !b.contact("a").connected).await;
    let copy = Server::on(street.settings("a"), elsewhere(), copy_of("a", 1), 1024);
    until("the copy is told", || !copy.revoked.lock().unwrap().is_empty()).await;
    assert!(!b.contact("a").connected);
    // A later one on the member's own directory.
    let again = Server::on(street.settings("a"), elsewhere(), copy_of("a", 3), 1024);
    again.connected("b").await;
    assert!(again.revoked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn both_sides_know_that_they_have_met_and_how_much_the_other_has_written() {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (street.start("a"), street.start("b"));
    until("they have met", || a.ledger.unmet().is_empty() && b.ledger.unmet().is_empty()).await;
    a.ledger.wrote(WriteCount(70));
    a.say("b", 1);
    let of_a = a.ledger.identity().directory;
    until("b knows", || b.ledger.writes_of(NodeId::new(0)).on(&of_a) == WriteCount(70)).await;
}

#[tokio::test]
async fn contract_11_a_member_that_lacks_what_it_had_is_told_on_its_connection() {
    let street = Street::of(&["a", "b"]);
    let (a, b) = (street.start("a"), street.start("b"));
    for (one, other) in [(&a, &b), (&b, &a)] {
        let name = other.settings.name().as_str();
        one.connected(name).await;
        let objection = Objection::LostEntries { had: Index::new(5), lacks: Index::new(4) };
        one.network.object(one.node(name), objection);
        let is_told = |why: &String| why.contains("had all up to 5, and lacks 4");
        until("it is told", || other.revoked.lock().unwrap().iter().any(is_told)).await;
        until("and ends the connection", || one.count(TransportError::Refused) > 0).await;
        assert!(other.count(TransportError::Refused) > 0);
    }
}
