//! A stranger on the peers' port that poses as a member.
//!
//! It speaks the protocol correctly: it asks for the leader, as any client may, says Hello with what it learned, and if a
//! server believes it, answers every vote and heartbeat with yes. A server that believes it counts it in a
//! majority.

#![allow(dead_code, reason = "each program that compiles this module uses its own part of it")]

use std::{path::Path, time::Duration};

use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use self::proto::{frame::Frame as Kind, message::Kind as Word, peers_client::PeersClient};

/// The protocol, compiled again: the library's own types are private.
#[allow(clippy::all, missing_docs, unreachable_pub, dead_code, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("elect.peers.v1");
}

/// Time limit for an answer that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Its claims, its target, and its credentials.
#[derive(Clone, Debug)]
pub(crate) struct Impostor {
    /// The address that it calls.
    pub(crate) address: String,
    /// The member that it claims to be.
    pub(crate) name: String,
    pub(crate) directory: Vec<u8>,
    /// The list of members, in the form of `--peers`. `Watch` does not reveal it; it may have been seen elsewhere.
    pub(crate) members: String,
    /// Whether it claims to know the group's secret.
    pub(crate) secret: bool,
    /// An authority, a certificate and its key.
    pub(crate) tls: Option<(Certificate, Identity)>,
}

/// Its success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Refused, with these words.
    Refused(String),
    /// Believed, and asked so many times.
    Believed(u64),
}

fn frame(kind: Kind) -> proto::Frame {
    proto::Frame { frame: Some(kind) }
}

/// The credentials for TLS.
pub(crate) fn identity(ca: &Path, cert: &Path, key: &Path) -> (Certificate, Identity) {
    let read = |path| std::fs::read(path).expect("a file of the test's");
    (Certificate::from_pem(read(ca)), Identity::from_pem(read(cert), read(key)))
}

impl Impostor {
    /// A server's answer to any client.
    pub(crate) async fn look(&self) -> Result<proto::PeerStatus, Status> {
        let (_says, said) = mpsc::channel(1);
        let mut looks = self.connect().await?.watch(ReceiverStream::new(said)).await?.into_inner();
        let look = timeout(PATIENCE, looks.message()).await;
        look.map_err(|_| Status::deadline_exceeded("no look"))??.ok_or_else(closed)
    }

    /// Claims to be that member, and says yes to every request.
    pub(crate) async fn call(&self) -> Outcome {
        match self.try_to().await {
            Ok(outcome) => outcome,
            Err(status) => Outcome::Refused(status.message().to_owned()),
        }
    }

    async fn connect(&self) -> Result<PeersClient<Channel>, Status> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Channel::from_shared(format!("{scheme}://{}", self.address)).expect("an address");
        let endpoint = match &self.tls {
            None => Ok(endpoint),
            Some((ca, identity)) => endpoint
                .tls_config(ClientTlsConfig::new().ca_certificate(ca.clone()).identity(identity.clone())),
        };
        let channel = endpoint.expect("it is usable").connect_timeout(PATIENCE).connect().await;
        channel.map(PeersClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn try_to(&self) -> Result<Outcome, Status> {
        let look = self.look().await?;
        let (says, said) = mpsc::channel(64);
        let send = async |kind| says.send(frame(kind)).await.map_err(|_| closed());
        send(Kind::Greeting(proto::Greeting {
            protocol: 2,
            name: self.name.clone(),
            nonce: vec![7; 16].into(),
            secret: self.secret,
            proof: Vec::new().into(),
        }))
        .await?;
        let mut connection = self.connect().await?;
        let mut hears = connection.converse(ReceiverStream::new(said)).await?.into_inner();
        let greeting = hears.message().await?.ok_or_else(closed)?;
        assert!(matches!(greeting.frame, Some(Kind::Greeting(_))), "{greeting:?}");
        let member = |listed: &str| {
            let (name, address) = listed.split_once('=').expect("NAME=HOST:PORT");
            proto::Member { name: name.to_owned(), address: address.to_owned() }
        };
        let hello = proto::Hello {
            election: look.election,
            members: self.members.split(',').map(member).collect(),
            name: self.name.clone(),
            directory: self.directory.clone().into(),
            shortest_us: look.shortest_us,
            // Later than any start that the member can have reported.
            run: 1_000_000,
            run_id: vec![7; 16].into(),
            writes: 1 << 40,
            began: 1 << 40,
            named: 0,
            newcomer: false,
        };
        let (hello, proof) = (hello.encode_to_vec().into(), Vec::new().into());
        send(Kind::Introduction(proto::Introduction { hello, proof })).await?;
        match hears.message().await?.ok_or_else(closed)?.frame {
            Some(Kind::Introduction(_)) => {}
            Some(Kind::Verdict(verdict)) => return Ok(Outcome::Refused(verdict.refusal)),
            other => panic!("{other:?}"),
        }
        send(Kind::Verdict(proto::Verdict::default())).await?;
        // As a leader that hands over, to a follower.
        if look.role != "leader" {
            let kind = Some(Word::TimeoutNow(proto::TimeoutNow { farewell: None }));
            send(Kind::Message(proto::Message { term: look.term + 1, kind, ..Default::default() })).await?;
        }
        Ok(Outcome::Believed(say_yes(says, hears).await))
    }
}

fn closed() -> Status {
    Status::unavailable("it closed the connection")
}

/// Says yes to every request until the connection ends. Returns their number.
async fn say_yes(says: mpsc::Sender<proto::Frame>, mut hears: Streaming<proto::Frame>) -> u64 {
    let mut asked = 0;
    while let Some(Ok(proto::Frame { frame: Some(kind) })) = hears.next().await {
        let Kind::Message(message) = kind else { continue };
        asked += 1;
        let kind = match message.kind {
            Some(Word::PreVote(asks)) => Word::PreVoteGranted(proto::PreVoteGranted { echo: asks.sent }),
            Some(Word::RequestVote(_)) => Word::VoteGranted(proto::VoteGranted {}),
            Some(Word::Append(append)) => {
                let last = append.entries.last().and_then(|entry| entry.at).or(append.previous);
                let matched = last.map(|at| at.index).unwrap_or_default();
                Word::Appended(proto::Appended { matched, echo: append.sent, stands: false, priority: None })
            }
            _ => continue,
        };
        let answer = proto::Message { term: message.term, kind: Some(kind), ..Default::default() };
        if says.send(frame(Kind::Message(answer))).await.is_err() {
            break;
        }
    }
    asked
}
