//! Arbitrary callers: they are counted, and members are not disturbed.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::Frame as Part;
use prost::{Message as _, bytes::Bytes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, codegen::http};

use super::{
    super::{Disconnect, Target, Timeouts, connect::Connection},
    proxy::{Mode, Proxy},
    *,
};
use crate::peers::{
    Timing,
    greeting::OwnGreeting,
    handshake,
    wire::proto::{self, frame::Frame as Kind},
};

/// Number of mishaps caused by callers.
fn turned_away(server: &Server) -> u64 {
    use TransportError::*;
    [Refused, Malformed, Oversized, Silent, Left, Crowded].map(|error| server.count(error)).iter().sum()
}

async fn connect(address: SocketAddr, over: &CancellationToken) -> Result<Connection, Disconnect> {
    let address = address.to_string().parse().unwrap();
    Target::new(address, None, Timeouts::of(&Timing::DEFAULT)).connect(over).await
}

fn frame(kind: Kind) -> proto::Frame {
    proto::Frame { frame: Some(kind) }
}

/// The Greeting of a server of this name.
fn greeting_of(street: &Street, name: &str) -> Kind {
    Kind::Greeting(OwnGreeting::to(&street.settings(name), NodeId::new(0)).1)
}

/// Its Hello, without a secret or TLS.
fn hello_of(street: &Street, name: &str) -> Kind {
    introduction(&handshake::ours_on(&street.settings(name), directory(name)))
}

fn introduction(hello: &proto::Hello) -> Kind {
    let (hello, proof) = (hello.encode_to_vec().into(), Bytes::new());
    Kind::Introduction(proto::Introduction { hello, proof })
}

fn welcome() -> Kind {
    Kind::Verdict(proto::Verdict::default())
}

/// A call with these bytes in it, valid or not.
struct Raw(Option<Bytes>);

impl tonic::codegen::Body for Raw {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Part<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Part::data(bytes))))
    }
}

/// Makes a call of which everything but the content is right, and waits for its end.
async fn call_with(address: SocketAddr, bytes: Vec<u8>) {
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let Ok(mut connection) = connect(address, &over).await else { return };
    let request = http::Request::post(format!("http://{address}/elect.peers.v1.Peers/Converse"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Raw(Some(bytes.into()))));
    let answer = tonic::codegen::Service::call(&mut connection.caller, request.unwrap()).await;
    if let Ok(mut answer) = answer {
        use tonic::codegen::Body as _;
        let body = answer.body_mut();
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {}
    }
}

/// Writes these bytes, and waits for the other side to hang up.
async fn write_to(address: SocketAddr, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // It may hang up before it has read everything.
    let _ = tcp.write_all(bytes).await;
    let _ = tcp.shutdown().await;
    let mut rest = [0; 1024];
    while matches!(tcp.read(&mut rest).await, Ok(1..)) {}
}

/// A message as gRPC frames it in a stream: a flag, a length, the bytes.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], bytes].concat()
}

fn garbage(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(1..most);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn send_garbage(street: &Street, rng: &mut fastrand::Rng, kind: usize) {
    let address = street.address("b");
    let packed_frames = |kinds: &[Kind]| -> Vec<u8> {
        kinds.iter().flat_map(|kind| packed(&frame(kind.clone()).encode_to_vec())).collect()
    };
    match kind {
        0 => write_to(address, &garbage(rng, 2000)).await,
        1 => write_to(address, &[PREFACE, &garbage(rng, 2000)].concat()).await,
        // A known HTTP/2 frame with invalid content.
        2 => {
            let content = garbage(rng, 200);
            let length = u32::try_from(content.len()).unwrap().to_be_bytes();
            let head = [&length[1..], &[rng.u8(0..10), rng.u8(..), 0, 0, 0, rng.u8(0..4)]].concat();
            write_to(address, &[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &head, &content].concat()).await;
        }
        3 => call_with(address, garbage(rng, 2000)).await,
        4 => call_with(address, packed(&garbage(rng, 2000))).await,
        // A length that is too large to be waited for.
        5 => {
            call_with(address, [&[0], &rng.u32(2 << 20..).to_be_bytes()[..], &garbage(rng, 100)].concat())
                .await
        }
        // A caller that omits Hello, or sends nothing.
        6 => {
            call_with(
                address,
                packed_frames(&[Kind::Message(proto::Message { term: 9, ..Default::default() })]),
            )
            .await
        }
        7 => write_to(address, &[]).await,
        // A member by its Hello, but not by the frames after it.
        8 => {
            let twice =
                [greeting_of(street, "aa"), hello_of(street, "aa"), welcome(), hello_of(street, "aa")];
            call_with(address, packed_frames(&twice)).await;
        }
        _ => {
            let mut bytes = packed_frames(&[greeting_of(street, "aa"), hello_of(street, "aa"), welcome()]);
            bytes.extend(packed(
                &frame(Kind::Message(proto::Message { term: 9, ..Default::default() })).encode_to_vec(),
            ));
            call_with(address, bytes).await;
        }
    }
}

#[tokio::test]
async fn garbage_is_counted_and_disturbs_no_member() {
    const INPUTS: u64 = 200;
    let street = Street::of(&["a", "aa", "b"]);
    let (a, mut b) = (street.start("a"), street.start("b"));
    a.connected("b").await;
    b.connected("a").await;
    for input in 0..INPUTS {
        let mut rng = fastrand::Rng::with_seed(input);
        let sent = tokio::time::timeout(PATIENCE, send_garbage(&street, &mut rng, input as usize % 10)).await;
        sent.unwrap_or_else(|_| panic!("input {input} was not answered by hanging up"));
        until(&format!("input {input} is counted"), || turned_away(&b) > input).await;
        a.say("b", input + 1);
        assert_eq!(b.hear().await, (NodeId::new(0), input + 1));
    }
    assert_eq!(turned_away(&b), INPUTS, "each once");
    assert!(
        b.count(TransportError::Malformed) > 0
            && b.count(TransportError::Oversized) > 0
            && b.count(TransportError::Left) > 0
    );
    assert!(a.contact("b").connected && b.contact("a").connected);
    assert_eq!(a.count(TransportError::Overflow) + a.count(TransportError::Apart), 0, "nothing was lost");
}

#[tokio::test]
async fn a_crowd_that_says_nothing_does_not_keep_members_out() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(street.address("b")).await.unwrap());
    }
    until("most of them had to go", || b.count(TransportError::Crowded) >= 60).await;
    let a = street.start("a");
    a.connected("b").await;
    b.connected("a").await;
    until("the others, too", || turned_away(&b) == 100).await;
    assert!(b.count(TransportError::Silent) > 0);
}

/// However long a member's handshake takes.
#[tokio::test]
async fn a_crowd_from_another_address_ends_no_handshake() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let over = CancellationToken::new();
    let connection = connect(street.address("b"), &over).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..500 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        crowd.push(socket.connect(street.address("b")).await.unwrap());
    }
    until("most of them had to go", || b.count(TransportError::Crowded) >= 468).await;
    let mut a = Puppet::on(&connection, over, greeting_of(&street, "a")).await.unwrap();
    assert!(matches!(a.hear().await, Some(Kind::Greeting(_))));
}

#[tokio::test]
async fn a_call_without_a_word_is_ended() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let over = CancellationToken::new();
    let connection = connect(street.address("b"), &over).await.unwrap();
    let (_says, nothing) = mpsc::channel(1);
    let nothing = tokio_stream::wrappers::ReceiverStream::new(nothing);
    let refused = connection.client().converse(nothing).await.unwrap_err();
    assert_eq!(refused.message(), "it did not identify itself within 2s");
    until("counted", || b.count(TransportError::Silent) == 1).await;
}

/// A member whose frames the test sends.
struct Puppet {
    says: mpsc::Sender<proto::Frame>,
    hears: tonic::Streaming<proto::Frame>,
    over: CancellationToken,
}

impl Puppet {
    async fn call(address: SocketAddr, first: Kind) -> Result<Self, Status> {
        let over = CancellationToken::new();
        let connection = connect(address, &over).await.unwrap();
        Self::on(&connection, over, first).await
    }

    /// The same, on an existing connection.
    async fn on(connection: &Connection, over: CancellationToken, first: Kind) -> Result<Self, Status> {
        let (says, said) = mpsc::channel(8);
        says.send(frame(first)).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let hears = connection.client().converse(said).await?.into_inner();
        Ok(Self { says, hears, over })
    }

    /// Calls as the member 'a', up to the other side's answer to its Hello.
    async fn introduced(address: SocketAddr, street: &Street, hello: Kind) -> (Self, Option<Kind>) {
        let mut puppet = Self::call(address, greeting_of(street, "a")).await.unwrap();
        assert!(matches!(puppet.hear().await, Some(Kind::Greeting(_))));
        puppet.says.send(frame(hello)).await.unwrap();
        let answer = puppet.hear().await;
        (puppet, answer)
    }

    /// The next frame, or the end. Pings are answered, and not returned.
    async fn hear(&mut self) -> Option<Kind> {
        loop {
            let heard = tokio::time::timeout(PATIENCE, self.hears.next()).await;
            let heard = heard
                .expect("heard something, or the end")
                .and_then(Result::ok)
                .and_then(|frame| frame.frame);
            let Some(Kind::Ping(proto::Ping { nonce })) = heard else { return heard };
            let _ = self.says.send(frame(Kind::Pong(proto::Pong { nonce }))).await;
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

#[tokio::test]
async fn contract_11_a_second_connection_does_not_replace_one_that_answers() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let proxy = Proxy::to(street.address("b")).await;
    let call = async |address| Puppet::introduced(address, &street, hello_of(&street, "a")).await;
    let (mut first, answer) = call(proxy.address).await;
    assert!(matches!(answer, Some(Kind::Introduction(_))));
    assert!(!b.contact("a").connected, "not before its verdict");
    first.says.send(frame(welcome())).await.unwrap();
    b.connected("a").await;

    // A caller with everything that the first one has.
    let (_second, answer) = tokio::select! {
        called = call(street.address("b")) => called,
        heard = first.hear() => panic!("{heard:?}"),
    };
    let Some(Kind::Verdict(proto::Verdict { refusal, .. })) = answer else { panic!("{answer:?}") };
    assert!(refusal.contains("the first connection answers"), "{refusal}");
    b.say("a", 5);
    assert!(matches!(first.hear().await, Some(Kind::Message(message)) if message.term == 5));

    // Once the first one is silent, there is room.
    proxy.mode.send_replace(Mode::Swallow);
    let (mut second, answer) = call(street.address("b")).await;
    assert!(matches!(answer, Some(Kind::Introduction(_))), "{answer:?}");
    second.says.send(frame(welcome())).await.unwrap();
    let saying = async {
        loop {
            b.say("a", 6);
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = saying => {}
        heard = second.hear() => {
            assert!(matches!(heard, Some(Kind::Message(message)) if message.term == 6));
        }
    }

    // A caller with another directory is refused too.
    let imposter = introduction(&handshake::ours_on(&street.settings("a"), *b"another director"));
    let (_third, answer) = Puppet::introduced(street.address("b"), &street, imposter).await;
    let Some(Kind::Verdict(proto::Verdict { refusal, .. })) = answer else { panic!("{answer:?}") };
    assert!(refusal.contains("two servers run under its name"), "{refusal}");
}

#[tokio::test]
async fn a_question_whether_it_is_there_is_answered() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let (mut a, _) = Puppet::introduced(street.address("b"), &street, hello_of(&street, "a")).await;
    a.says.send(frame(welcome())).await.unwrap();
    b.connected("a").await;
    a.says.send(frame(Kind::Ping(proto::Ping::default()))).await.unwrap();
    assert_eq!(a.hear().await, Some(Kind::Pong(proto::Pong::default())));
}

#[tokio::test]
async fn a_verdict_against_us_is_shown() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    let (caller, _) = Puppet::introduced(street.address("b"), &street, hello_of(&street, "a")).await;
    let verdict =
        Kind::Verdict(proto::Verdict { refusal: "because\nof that".to_owned(), ..proto::Verdict::default() });
    caller.says.send(frame(verdict)).await.unwrap();
    until("shown, on one line", || b.problem("a") == "because\u{fffd}of that").await;
    assert!(!b.contact("a").connected);
}

/// Long messages are not decoded before their length is checked.
#[tokio::test]
async fn a_long_first_word_is_not_decoded() {
    let street = Street::of(&["a", "b"]);
    let b = street.start("b");
    // As many empty members as fit: most of the work for the fewest bytes.
    let hello = proto::Hello { members: vec![proto::Member::default(); 400_000], ..proto::Hello::default() };
    let words = [greeting_of(&street, "a"), introduction(&hello)];
    let words = words.iter().flat_map(|kind| packed(&frame(kind.clone()).encode_to_vec()));
    call_with(street.address("b"), words.collect()).await;
    assert_eq!(b.count(TransportError::Oversized), 1);
    let first = [&[0x0A][..], &[0; 1 << 20]].concat();
    call_with(street.address("b"), packed(&first)).await;
    assert_eq!(b.count(TransportError::Oversized), 2);
}

#[tokio::test]
async fn a_member_that_never_reads_costs_little_and_delays_no_other() {
    let street = Street::of(&["a", "b", "c"]);
    let a = street.start("a");
    let mut b = Server::with_inbox(street.settings("b"), street.listener("b"), directory("b"), 1);
    let mut c = street.start("c");
    a.connected("b").await;
    a.connected("c").await;
    // Each message to 'b' is a megabyte.
    for term in 1..=100 {
        a.say_much("b", term);
        a.say("c", term);
        assert_eq!(c.hear().await, (NodeId::new(0), term));
    }
    assert!(a.contact("b").connected);
    let taken = 100 - a.count(TransportError::Overflow);
    // Four in the queue, one in its inbox, one before that, and the contents of two HTTP/2 layers.
    assert!(taken < 16, "{taken} were taken");
    for _ in 0..taken {
        b.hear().await;
    }
    assert!(b.inbox.try_recv().is_err());
}
