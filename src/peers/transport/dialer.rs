//! The connection to a member that this server has to call.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    IdentityCheck, TransportShared,
    connect::{Connection, Target},
    connections::{RoundTrips, Session},
    queue::{Outbox, queue},
    session::{Disconnect, first_word, hear},
};
use crate::{
    peers::{
        greeting::OwnGreeting,
        handshake::{Introduced, Side},
        refusal::Refusal,
        transport::{FAREWELL, FIRST_PAUSE, LAST_PAUSE, PAUSE_AFTER_A_REFUSAL},
        wire::proto::{self, frame::Frame as Kind},
    },
    raft::identity::NodeId,
    timing::Backoff,
};

/// Calls that member, again and again, as long as the inbox has a receiver.
pub(super) async fn keep_calling<G: IdentityCheck>(shared: Arc<TransportShared<G>>, node: NodeId) {
    let member = shared.settings.group().member(node);
    let tls = shared.settings.mutual_tls().cloned();
    let mut target = Target::new(member.address.clone(), tls, shared.timeouts);
    let mut backoff = Backoff::between(FIRST_PAUSE, LAST_PAUSE);
    loop {
        let over = shared.over.child_token();
        // The rest of this attempt ends with it, however it ends.
        let _over = over.clone().drop_guard();
        let mut pause = None;
        match attempt(&shared, node, &mut target, &over).await {
            Err(ending) => {
                let refused = matches!(ending, Disconnect::Refused(_) | Disconnect::RefusedBy(_));
                pause = refused.then_some(PAUSE_AFTER_A_REFUSAL);
                shared.sessions.apart(node, ending);
            }
            Ok((mut frames, session)) => {
                let (directory, _) = session.disk;
                let began = Instant::now();
                shared.sessions.join(node, session);
                let hearing = hear(&mut frames, &shared, node, directory);
                // Ended from here if the directory is replaced; that also ends the calls, if everything is over.
                let heard = over.run_until_cancelled(hearing).await;
                let ending = heard.unwrap_or(if shared.over.is_cancelled() {
                    Disconnect::Stopped
                } else {
                    Disconnect::Replaced
                });
                let stopped = ending == Disconnect::Stopped;
                shared.sessions.leave(node, &over, ending);
                if stopped {
                    return;
                }
                // A connection that breaks at once, again and again, does not speed the calls up.
                if began.elapsed() > shared.timeouts.attempt {
                    backoff.reset();
                }
            }
        }
        drop(_over);
        sleep(pause.unwrap_or_else(|| backoff.pause())).await;
    }
}

type Frames = tonic::Streaming<proto::Frame>;

/// Connects, and does the handshake. Each takes two or three round trips, and has a time limit of its own.
async fn attempt<G: IdentityCheck>(
    shared: &TransportShared<G>,
    node: NodeId,
    target: &mut Target,
    over: &CancellationToken,
) -> Result<(Frames, Session), Disconnect> {
    let connected = timeout(shared.timeouts.attempt, target.connect(over)).await;
    let connection = connected.unwrap_or_else(|_| Err(target.unanswered()))?;
    let introduced = timeout(shared.timeouts.attempt, introduce(shared, node, target, &connection)).await;
    let (frames, outbox, them) = introduced.unwrap_or_else(|_| Err(target.unanswered()))?;
    let disk = (them.identity.directory, them.claim);
    let (heard, over, round_trips) = (connection.heard, over.clone(), RoundTrips::default());
    Ok((frames, Session { outbox, heard, disk, over, round_trips }))
}

async fn introduce<G: IdentityCheck>(
    shared: &TransportShared<G>,
    node: NodeId,
    target: &Target,
    connection: &Connection,
) -> Result<(Frames, Outbox, Introduced), Disconnect> {
    let (calling, greeting) = OwnGreeting::to(&shared.settings, node);
    let (outbox, outgoing) = queue(Arc::clone(&shared.sessions.ledger));
    outbox.introduce(Kind::Greeting(greeting));
    let answer = connection.client().converse(outgoing).await;
    let mut frames =
        answer.map_err(|status| target.explained(&connection.heard, status.into()))?.into_inner();
    match acquaint(shared, node, calling, &outbox, &mut frames).await {
        Ok(them) => {
            let newcomer = shared.is_newcomer(&them);
            outbox.introduce(Kind::Verdict(proto::Verdict { newcomer, ..proto::Verdict::default() }));
            Ok((frames, outbox, them))
        }
        Err(ending) => {
            if let Disconnect::Refused(refusal) = &ending {
                refuse(outbox, refusal, &mut frames).await;
            }
            Err(ending)
        }
    }
}

/// Checks the other side's proof, then sends this server's.
async fn acquaint<G: IdentityCheck>(
    shared: &TransportShared<G>,
    node: NodeId,
    calling: OwnGreeting,
    outbox: &Outbox,
    frames: &mut Frames,
) -> Result<Introduced, Disconnect> {
    let session = match first_word(frames).await? {
        Kind::Greeting(theirs) => calling.answered(&shared.settings, &theirs)?,
        _ => return Err(Disconnect::Malformed("its first message is no greeting".to_owned())),
    };
    let known_writes = shared.sessions.ledger.writes_of(node);
    outbox.introduce(Kind::Introduction(session.introduce(&shared.hello(None))));
    let theirs = match first_word(frames).await? {
        Kind::Introduction(theirs) => session.introduced(&theirs)?,
        Kind::Verdict(verdict) => return Err(shared.refused_by(node, &verdict)),
        _ => return Err(Disconnect::Malformed("it sent no introduction".to_owned())),
    };
    shared.acquaint(Side::Dialled(node), &theirs, &known_writes).await
}

/// Sends the other side the reason for its refusal, and waits for that to arrive.
async fn refuse(outbox: Outbox, refusal: &Refusal, frames: &mut Frames) {
    outbox.introduce(Kind::Verdict(refusal.told().verdict()));
    drop(outbox);
    // It sends no answer; the end of its stream shows that the refusal has arrived.
    let _ = timeout(FAREWELL, frames.message()).await;
}
