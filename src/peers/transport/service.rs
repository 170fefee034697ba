//! The service's methods: `Converse` for members, `Watch` for observers.

use std::{sync::Arc, time::Duration};

use prost::bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    FIRST_WORD, IdentityCheck, TransportShared,
    admission::ObserverSlot,
    connections::{RoundTrips, Session},
    counts::TransportError,
    listener::{Inbound, InboundStage},
    queue::{Answering, Outbox, queue},
    session::{Disconnect, first_word, hear},
    stream::LastReceived,
};
use crate::peers::tls::PeerCertificate;
use crate::{
    peers::{
        greeting::{self, ProvenConnection},
        handshake::{Introduced, Side},
        ledger::KnownWrites,
        operate::{self, OperatorOrder, OrderEnds, OrderProgress},
        status_wire,
        wire::proto::{self, frame::Frame as Kind, outcome::Outcome, peers_server::Peers},
    },
    raft::identity::NodeId,
};

/// Longest time without a message to an observer, even if nothing has changed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Shortest time between messages to an observer, however often it asks.
const TELL_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// The service of one connection.
pub(super) struct PeersService<G> {
    shared: Arc<TransportShared<G>>,
    inbound: Inbound,
    heard: Arc<LastReceived>,
    certificate: Option<PeerCertificate>,
}

impl<G: IdentityCheck> PeersService<G> {
    pub(super) fn new(
        shared: Arc<TransportShared<G>>,
        inbound: Inbound,
        heard: Arc<LastReceived>,
        certificate: Option<PeerCertificate>,
    ) -> Self {
        Self { shared, inbound, heard, certificate }
    }

    /// Receives the Greeting.
    async fn greeted(
        &self,
        frames: &mut Streaming<proto::Frame>,
    ) -> Result<(NodeId, ProvenConnection, proto::Greeting), Disconnect> {
        match first_word(frames).await? {
            Kind::Greeting(theirs) => {
                Ok(greeting::answer(&self.shared.settings, self.certificate.as_ref(), &theirs)?)
            }
            _ => Err(Disconnect::Malformed("its first message is no greeting".to_owned())),
        }
    }

    /// Takes one of the limited slots of observers and operators, and leaves the waiting connections.
    fn take_place(&self) -> Result<ObserverSlot, Status> {
        let TransportShared { admissions, sessions, .. } = &*self.shared;
        let Inbound { from, over, stage, .. } = &self.inbound;
        let Some((place, replaces)) = admissions.observe(from.ip(), over, Instant::now()) else {
            stage.send_replace(InboundStage::Over);
            sessions.counts.count(TransportError::Crowded);
            return Err(Disconnect::NoRoom.status());
        };
        if replaces {
            sessions.counts.count(TransportError::Crowded);
        }
        stage.send_replace(InboundStage::Known);
        admissions.leave(over);
        Ok(place)
    }
}

#[tonic::async_trait]
impl<G: IdentityCheck> Peers for PeersService<G> {
    type ConverseStream = Answering;

    async fn converse(
        &self,
        request: Request<Streaming<proto::Frame>>,
    ) -> Result<Response<Answering>, Status> {
        let mut frames = request.into_inner();
        let greeted = timeout_at(self.inbound.until, self.greeted(&mut frames)).await;
        let (node, session, greeting) =
            greeted.unwrap_or(Err(Disconnect::Silent(FIRST_WORD))).map_err(|ending| {
                self.inbound.turn_away(&self.shared, &ending);
                ending.status()
            })?;
        let ledger = &self.shared.sessions.ledger;
        let known_writes = ledger.writes_of(node);
        let (outbox, outgoing) = queue(Arc::clone(ledger));
        outbox.introduce(Kind::Greeting(greeting));
        let member = GreetedMember {
            shared: Arc::clone(&self.shared),
            inbound: self.inbound.clone(),
            heard: Arc::clone(&self.heard),
            node,
            session,
            known_writes,
        };
        let over = self.inbound.over.clone();
        tokio::spawn(over.run_until_cancelled_owned(member.listen(frames, outbox)));
        Ok(Response::new(Answering(outgoing)))
    }

    type WatchStream = ReceiverStream<Result<proto::PeerStatus, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::Question>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let place = self.take_place()?;
        // One, so that an answer is no older than the room for it.
        let (tell, told) = mpsc::channel(1);
        let watcher =
            Watcher { shared: Arc::clone(&self.shared), inbound: self.inbound.clone(), tell, place };
        let over = self.inbound.over.clone();
        tokio::spawn(over.run_until_cancelled_owned(watcher.tell_on(request.into_inner())));
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn history(
        &self,
        _: Request<proto::HistoryQuestion>,
    ) -> Result<Response<proto::HistoryAnswer>, Status> {
        let _place = self.take_place()?;
        let terms = (self.shared.looks.terms)().into_iter().map(Into::into).collect();
        Ok(Response::new(proto::HistoryAnswer { terms }))
    }

    type OperateStream = ReceiverStream<Result<proto::Outcome, Status>>;

    async fn operate(
        &self,
        request: Request<Streaming<proto::Operation>>,
    ) -> Result<Response<Self::OperateStream>, Status> {
        let place = self.take_place()?;
        let (tell, told) = mpsc::channel(1);
        let (shared, inbound, certificate) =
            (Arc::clone(&self.shared), self.inbound.clone(), self.certificate.clone());
        let operator = OperatorCall { shared, inbound, certificate, tell, _place: place };
        let over = self.inbound.over.clone();
        tokio::spawn(over.run_until_cancelled_owned(operator.serve(request.into_inner())));
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// An operator's call.
struct OperatorCall<G> {
    shared: Arc<TransportShared<G>>,
    inbound: Inbound,
    certificate: Option<PeerCertificate>,
    tell: mpsc::Sender<Result<proto::Outcome, Status>>,
    _place: ObserverSlot,
}

impl<G: IdentityCheck> OperatorCall<G> {
    async fn serve(self, mut said: Streaming<proto::Operation>) {
        let served = timeout_at(self.inbound.until, self.order(&mut said)).await;
        let mut progress = match served {
            Ok(Some(Ok(progress))) => progress,
            Ok(Some(Err(refused))) => {
                let (Outcome::Refused(why) | Outcome::Forbidden(why)) = &refused else { return };
                tracing::warn!(from = %self.inbound.from, problem = why, "refused an operator's order");
                self.tell(refused).await;
                return;
            }
            Ok(None) | Err(_) => return,
        };
        while let Some(next) = progress.recv().await {
            let (outcome, last) = match next {
                OrderProgress::Begun => (Outcome::Begun(true), false),
                OrderProgress::Done => (Outcome::Done(true), true),
                OrderProgress::Led(token) => (Outcome::Led(token.get()), true),
                OrderProgress::Refused(why) => (Outcome::Refused(why), true),
                OrderProgress::Void(leader) => (Outcome::Void(leader), true),
                OrderProgress::Unconfirmed(why) => (Outcome::Unconfirmed(why), true),
            };
            self.tell(outcome).await;
            if last {
                return;
            }
        }
    }

    /// Sends a challenge, and passes the order on, if it is permitted. `None` if there is none.
    async fn order(
        &self,
        said: &mut Streaming<proto::Operation>,
    ) -> Option<Result<mpsc::UnboundedReceiver<OrderProgress>, Outcome>> {
        said.message().await.ok()??;
        let challenge = greeting::nonce();
        self.tell(Outcome::Challenge(Bytes::copy_from_slice(&challenge))).await;
        let operation = said.message().await.ok()??;
        let settings = &self.shared.settings;
        let ends = OrderEnds { from: self.inbound.from, at: self.inbound.at };
        let order = operate::permitted(settings, self.certificate.as_ref(), ends, &challenge, &operation);
        let task = order.map_err(Outcome::Forbidden).and_then(|order| {
            let task = operate::understood(settings, &self.shared.sessions.ledger, order);
            task.map_err(Outcome::Refused)
        });
        let (told, progress) = mpsc::unbounded_channel();
        Some(task.map(|task| {
            tracing::info!(from = %self.inbound.from, order = task.described(settings), "an operator's order");
            self.shared.identity_check.operate(OperatorOrder { task, told });
            progress
        }))
    }

    async fn tell(&self, outcome: Outcome) {
        // The caller may have gone.
        let _ = self.tell.send(Ok(proto::Outcome { outcome: Some(outcome) })).await;
    }
}

/// A caller that has greeted as a member.
struct GreetedMember<G> {
    shared: Arc<TransportShared<G>>,
    inbound: Inbound,
    heard: Arc<LastReceived>,
    node: NodeId,
    session: ProvenConnection,
    /// Its number of writes as known before this server greeted it.
    known_writes: KnownWrites,
}

impl<G: IdentityCheck> GreetedMember<G> {
    /// Has it prove that it is that member. Until then it is a stranger.
    async fn proved(&self, frames: &mut Streaming<proto::Frame>) -> Result<proto::Hello, Disconnect> {
        match first_word(frames).await? {
            Kind::Introduction(theirs) => Ok(self.session.introduced(&theirs)?),
            Kind::Verdict(proto::Verdict { refusal, .. }) => Err(Disconnect::refused_by(&refusal)),
            _ => Err(Disconnect::Malformed("it sent no introduction".to_owned())),
        }
    }

    /// Accepts its Hello, sends this server's, and receives its verdict.
    async fn acquainted(
        &self,
        theirs: &proto::Hello,
        outbox: &Outbox,
        frames: &mut Streaming<proto::Frame>,
    ) -> Result<Introduced, Disconnect> {
        let them = self.shared.acquaint(Side::Accepted(self.node), theirs, &self.known_writes).await?;
        outbox.introduce(Kind::Introduction(self.session.introduce(&self.shared.hello(Some(&them)))));
        match first_word(frames).await? {
            Kind::Verdict(verdict) if verdict.refusal.is_empty() => {
                if !verdict.newcomer {
                    self.shared.identity_check.confirmed(self.node).await?;
                }
                Ok(them)
            }
            Kind::Verdict(verdict) => Err(self.shared.refused_by(self.node, &verdict)),
            _ => Err(Disconnect::Malformed("it sent no verdict".to_owned())),
        }
    }

    async fn listen(self, mut frames: Streaming<proto::Frame>, outbox: Outbox) {
        let silent = |_| Err(Disconnect::Silent(FIRST_WORD));
        let proved = timeout_at(self.inbound.until, self.proved(&mut frames)).await.unwrap_or_else(silent);
        let theirs = match proved {
            Ok(theirs) => theirs,
            Err(ending) => {
                outbox.refuse(&ending);
                self.inbound.turn_away(&self.shared, &ending);
                return;
            }
        };
        let acquainted = self.acquainted(&theirs, &outbox, &mut frames);
        let acquainted =
            timeout_at(self.inbound.until, acquainted).await.unwrap_or(Err(Disconnect::Silent(FIRST_WORD)));
        let Self { shared, inbound, heard, node, .. } = self;
        let them = match acquainted {
            Ok(them) => them,
            Err(ending) => {
                outbox.refuse(&ending);
                shared.sessions.apart(node, ending);
                inbound.stage.send_replace(InboundStage::Over);
                return;
            }
        };
        let directory = them.identity.directory;
        let disk = (directory, them.claim);
        inbound.stage.send_replace(InboundStage::Known);
        shared.admissions.leave(&inbound.over);
        shared.sessions.join(
            node,
            Session { outbox, heard, disk, over: inbound.over.clone(), round_trips: RoundTrips::default() },
        );
        // Also when this is dropped, because the connection is gone.
        let mut left = Left { shared: Arc::clone(&shared), inbound, node, ending: None };
        left.ending = Some(hear(&mut frames, &shared, node, directory).await);
    }
}

impl Outbox {
    /// Sends the other side the reason for its refusal, if it is this server's.
    fn refuse(&self, ending: &Disconnect) {
        if let Disconnect::Refused(refusal) = ending {
            self.introduce(Kind::Verdict(refusal.told().verdict()));
        }
    }
}

/// Records that a member's connection has ended, in any way.
struct Left<G: IdentityCheck> {
    shared: Arc<TransportShared<G>>,
    inbound: Inbound,
    node: NodeId,
    ending: Option<Disconnect>,
}

impl<G: IdentityCheck> Drop for Left<G> {
    fn drop(&mut self) {
        let ending = self.ending.take().or_else(|| self.inbound.ending.get().cloned());
        self.shared.sessions.leave(self.node, &self.inbound.over, ending.unwrap_or(Disconnect::Closed));
        self.inbound.stage.send_replace(InboundStage::Over);
    }
}

/// An observer's call.
struct Watcher<G> {
    shared: Arc<TransportShared<G>>,
    inbound: Inbound,
    tell: mpsc::Sender<Result<proto::PeerStatus, Status>>,
    place: ObserverSlot,
}

impl<G: IdentityCheck> Watcher<G> {
    async fn tell_on(self, mut questions: Streaming<proto::Question>) {
        let mut changed = self.shared.looks.changed.clone();
        let (mut echo, mut asks) = (0, true);
        while let Ok(room) = self.tell.reserve().await {
            let told = Instant::now();
            changed.mark_unchanged();
            room.send(Ok(status_wire::told(&self.shared.settings, &(self.shared.looks.look)(), echo)));
            let next = sleep_until(told + TELL_EVERY);
            tokio::select! {
                question = questions.message(), if asks => match question {
                    Ok(Some(question)) => {
                        echo = question.sent;
                        self.place.asked(Instant::now());
                    }
                    // It has no more questions, and may listen on.
                    Ok(None) => asks = false,
                    Err(_) => break,
                },
                Ok(()) = changed.changed() => {}
                () = next => {}
            }
            sleep_until(told + TELL_AT_MOST_EVERY).await;
        }
        self.inbound.stage.send_replace(InboundStage::Over);
    }
}
