//! Keeping up the connection to a member that is ours to call.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Greet, Shared,
    contacts::Talk,
    dial::Target,
    queue::{Outbox, queue},
    talk::{Ending, first_word, hear},
};
use crate::{
    peers::{
        hello::{self, End},
        transport::{FAREWELL, FIRST_PAUSE, LAST_PAUSE},
        wire::proto::{self, frame::Frame as Kind},
    },
    raft::identity::NodeId,
    timing::Backoff,
};

/// Calls that member, again and again, for as long as anybody listens to what it says.
pub(super) async fn keep_calling<G: Greet>(shared: Arc<Shared<G>>, node: NodeId) {
    let member = shared.settings.group().member(node);
    let tls = shared.settings.tls().cloned();
    let mut target = Target::new(member.address.clone(), tls, shared.pace);
    let mut backoff = Backoff::between(FIRST_PAUSE, LAST_PAUSE);
    loop {
        let over = shared.over.child_token();
        // What is left of this attempt ends with it, however it ends.
        let _over = over.clone().drop_guard();
        let attempt = timeout(shared.pace.attempt, introduce(&shared, node, &mut target, &over)).await;
        match attempt.unwrap_or_else(|_| Err(target.unanswered())) {
            Err(ending) => shared.contacts.apart(node, ending),
            Ok((mut frames, talk)) => {
                let began = Instant::now();
                shared.contacts.join(node, talk);
                let ending = hear(&mut frames, shared.route(node), &shared.inbox).await;
                let stopped = ending == Ending::Stopped;
                shared.contacts.leave(node, &over, ending);
                if stopped {
                    return;
                }
                // One that breaks at once, again and again, is not called more often for that.
                if began.elapsed() > shared.pace.attempt {
                    backoff.reset();
                }
            }
        }
        drop(_over);
        sleep(backoff.pause()).await;
    }
}

type Frames = tonic::Streaming<proto::Frame>;

/// Connects, and exchanges the first words.
async fn introduce<G: Greet>(
    shared: &Shared<G>,
    node: NodeId,
    target: &mut Target,
    over: &CancellationToken,
) -> Result<(Frames, Talk), Ending> {
    let connection = target.connect(over).await?;
    let (outbox, outgoing) = queue();
    outbox.introduce(Kind::Hello(hello::ours(&shared.settings, shared.greeter.directory())));
    let answer = connection.client().converse(outgoing).await;
    let mut frames =
        answer.map_err(|status| target.explained(&connection.heard, status.into()))?.into_inner();
    let theirs = match first_word(&mut frames).await? {
        Kind::Hello(theirs) => theirs,
        _ => return Err(Ending::Malformed("it did not say first who it is".to_owned())),
    };
    if let Err(ending) = shared.acquaint(End::Dialled(node), &theirs).await {
        refuse(outbox, &ending, &mut frames).await;
        return Err(ending);
    }
    outbox.introduce(Kind::Verdict(proto::Verdict { refusal: String::new() }));
    Ok((frames, Talk { outbox, heard: connection.heard, over: over.clone() }))
}

/// Tells the other side why it is refused, and gives that time to arrive.
async fn refuse(outbox: Outbox, ending: &Ending, frames: &mut Frames) {
    outbox.introduce(Kind::Verdict(proto::Verdict { refusal: ending.to_string() }));
    drop(outbox);
    // It has nothing to say to that; the end of what it says is the sign that it has heard.
    let _ = timeout(FAREWELL, frames.message()).await;
}
