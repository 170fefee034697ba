//! Observers.

use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Disconnect, Target, Timeouts},
    *,
};
use crate::peers::{Timing, wire::proto};

/// A connected observer.
struct Observer {
    asking: mpsc::Sender<proto::Question>,
    looks: tonic::Streaming<proto::PeerStatus>,
    over: CancellationToken,
}

impl Observer {
    async fn of(street: &Street, name: &str) -> Result<Self, Disconnect> {
        let over = CancellationToken::new();
        let member = street.group();
        let member = member.members().iter().find(|member| member.name.as_str() == name).unwrap();
        let mut target = Target::new(member.address.clone(), None, Timeouts::of(&Timing::DEFAULT));
        let connection = target.connect(&over).await?;
        let (asking, asked) = mpsc::channel(8);
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let looks = connection.client().watch(asked).await?.into_inner();
        Ok(Self { asking, looks, over })
    }

    async fn next(&mut self) -> proto::PeerStatus {
        let look = tokio::time::timeout(PATIENCE, self.looks.next()).await;
        look.expect("a look is told").unwrap().unwrap()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

#[tokio::test]
async fn are_told_at_once_at_each_change_and_every_second() {
    let street = Street::of(&["a", "b"]);
    let a = street.start("a");
    let mut observer = Observer::of(&street, "a").await.unwrap();
    let first = observer.next().await;
    assert_eq!((first.name.as_str(), first.term, first.leader.is_none()), ("a", 1, true));
    assert_eq!((first.election.as_str(), first.members.len(), first.echo), ("leader", 2, 0));

    a.show(|look| {
        look.term = 2;
        look.leader = Some(leads("a", 2, Duration::from_millis(200)));
    });
    let mut second = observer.next().await;
    while second.term == 1 {
        second = observer.next().await;
    }
    assert_eq!(second.leader.unwrap().token, 2);
    assert_eq!(second.certain_ms, 200);
    // Nothing happens, and the observer is told so.
    assert_eq!(observer.next().await.term, 2);
    assert_eq!(observer.next().await.term, 2);
}

#[tokio::test]
async fn are_answered_when_they_ask() {
    let street = Street::of(&["a", "b"]);
    let _a = street.start("a");
    let mut observer = Observer::of(&street, "a").await.unwrap();
    for sent in 1..=5 {
        observer.asking.send(proto::Question { sent }).await.unwrap();
        let asked = Instant::now();
        while observer.next().await.echo < sent {}
        println!("answered after {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn never_keep_members_out() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let mut observers = Vec::new();
    // Until the next one is refused, or an idle one makes room for it.
    while b.count(TransportError::Crowded) == 0 {
        if let Ok(mut observer) = Observer::of(&street, "b").await {
            observer.next().await;
            observers.push(observer);
        }
    }
    let a = street.start("a");
    a.connected("b").await;
    b.connected("a").await;

    // There is room for another one once one has gone.
    observers.pop();
    let give_up = Instant::now() + PATIENCE;
    while Observer::of(&street, "b").await.is_err() {
        assert!(Instant::now() < give_up);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn make_room_for_others_once_they_do_not_ask_any_more() {
    let street = Street::of(&["a", "b"]);
    let _b = street.start("b");
    let mut idle = Vec::new();
    for _ in 0..96 {
        idle.extend(Observer::of(&street, "b").await);
    }
    let give_up = Instant::now() + PATIENCE;
    let mut another = loop {
        match Observer::of(&street, "b").await {
            Ok(observer) => break observer,
            Err(ending) => assert_eq!(ending, Disconnect::NoRoom),
        }
        assert!(Instant::now() < give_up);
        sleep(Duration::from_millis(20)).await;
    };
    another.next().await;
}
