//! The queue of messages to one member.
//!
//! Raft repeats important messages that were not answered, so a message without room is dropped rather than waited
//! for. The bounds are the cost of a member that has stopped reading.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::LARGEST_MESSAGE;
use crate::{
    peers::{
        ledger::Ledger,
        wire::proto::{self, frame::Frame as Kind},
    },
    raft::message::{Envelope, Message},
};

/// Messages that wait: a few election timeouts' worth of a busy leader. Older ones are stale.
const MOST_MESSAGES: usize = 256;

/// Bytes that wait: the largest possible message, and a few more behind it.
const MOST_BYTES: usize = 4 * LARGEST_MESSAGE;

/// The cost of a message beside its payload, roughly.
const OVERHEAD: usize = 64;

/// A queue's two ends.
pub(super) fn queue(ledger: Arc<Ledger>) -> (Outbox, Outgoing) {
    let (said, saying) = mpsc::channel(MOST_MESSAGES);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outbox { said, waiting: Arc::clone(&waiting) }, Outgoing { saying, waiting, ledger })
}

/// Takes messages into the queue.
#[derive(Debug)]
pub(super) struct Outbox {
    said: mpsc::Sender<QueuedFrame>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
}

/// There is no room.
#[derive(Debug)]
pub(super) struct Full;

#[derive(Debug)]
enum QueuedFrame {
    Frame(proto::Frame),
    /// Encoded when it is sent: until then its payload is shared with the log.
    Message(Envelope),
}

impl Outbox {
    /// Queues a message, or reports that there is no room. Never waits.
    pub(super) fn send(&self, envelope: Envelope) -> Result<(), Full> {
        let cost = cost(&envelope);
        let waiting = self.waiting.load(Ordering::Relaxed);
        // A lone message always has room, however large: else it could never be sent.
        if waiting > 0 && waiting + cost > MOST_BYTES {
            return Err(Full);
        }
        self.waiting.fetch_add(cost, Ordering::Relaxed);
        self.said.try_send(QueuedFrame::Message(envelope)).map_err(|_| {
            self.waiting.fetch_sub(cost, Ordering::Relaxed);
            Full
        })
    }

    /// Queues a frame that is not Raft's: of the handshake, or a ping.
    pub(super) fn introduce(&self, kind: Kind) {
        // No reader, or no room: the connection has ended or is about to, which is detected elsewhere.
        let _ = self.said.try_send(QueuedFrame::Frame(proto::Frame { frame: Some(kind) }));
    }
}

fn cost(envelope: &Envelope) -> usize {
    OVERHEAD
        + match &envelope.message {
            Message::Append { entries, .. } => {
                entries.iter().map(|entry| OVERHEAD + entry.payload.bytes()).sum()
            }
            Message::Install { snapshot, .. } => snapshot.data.len(),
            _ => 0,
        }
}

/// Returns the queued messages, in order. Ends when the [`Outbox`] is gone.
#[derive(Debug)]
pub(super) struct Outgoing {
    saying: mpsc::Receiver<QueuedFrame>,
    waiting: Arc<AtomicUsize>,
    ledger: Arc<Ledger>,
}

impl Stream for Outgoing {
    type Item = proto::Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<proto::Frame>> {
        self.saying.poll_recv(cx).map(|said| {
            said.map(|said| match said {
                QueuedFrame::Frame(frame) => frame,
                QueuedFrame::Message(envelope) => {
                    self.waiting.fetch_sub(cost(&envelope), Ordering::Relaxed);
                    proto::Frame { frame: Some(Kind::Message(counted(&self.ledger, envelope))) }
                }
            })
        })
    }
}

/// A message, with this server's number of writes; a heartbeat also with the others'. Filled in at the last moment,
/// so that they are as new as possible.
fn counted(ledger: &Ledger, envelope: Envelope) -> proto::Message {
    let heartbeat = matches!(&envelope.message, Message::Append { entries, .. } if entries.is_empty());
    let mut message = proto::Message::from(envelope);
    message.writes = ledger.writes().0;
    if heartbeat {
        message.tallies = ledger.tallies().into_iter().map(Into::into).collect();
    }
    message
}

/// The same for the listener's end, where each item could be an error instead.
#[derive(Debug)]
pub(super) struct Answering(pub(super) Outgoing);

impl Stream for Answering {
    type Item = Result<proto::Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map(|frame| frame.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::{
        clock::Timestamp,
        leadership::ClusterId,
        raft::{
            identity::{Index, NodeId, Position, Term},
            log::Snapshot,
            membership::DirectoryId,
        },
    };

    fn envelope(term: u64, message: Message) -> Envelope {
        let (from, to) = (NodeId::new(0), NodeId::new(1));
        let directory = DirectoryId::in_tests(from);
        Envelope { cluster: ClusterId(1), from, to, directory, term: Term::new(term), message }
    }

    fn snapshot(bytes: usize) -> Envelope {
        let at = Position { term: Term::new(1), index: Index::new(1) };
        let snapshot = Snapshot {
            at,
            data: vec![0; bytes].into(),
            disks: None,
            record: crate::raft::orders::ElectionRecord::default(),
        };
        envelope(1, Message::Install { snapshot, sent: Timestamp::from_nanos(1) })
    }

    fn terms(outgoing: &mut Outgoing) -> Vec<u64> {
        let mut terms = Vec::new();
        while let Ok(said) = outgoing.saying.try_recv() {
            let QueuedFrame::Message(envelope) = said else { continue };
            outgoing.waiting.fetch_sub(cost(&envelope), Ordering::Relaxed);
            terms.push(envelope.term.get());
        }
        terms
    }

    #[test]
    fn a_member_that_does_not_read_costs_a_bounded_number_of_messages() {
        let (outbox, mut outgoing) = queue(Ledger::of_a_loner());
        let sent: Vec<u64> =
            (1..=1000).filter(|term| outbox.send(envelope(*term, Message::Outdated)).is_ok()).collect();
        assert_eq!(sent, (1..=MOST_MESSAGES as u64).collect::<Vec<_>>(), "the oldest, in order");
        assert_eq!(terms(&mut outgoing), sent);
        assert!(outbox.send(envelope(1, Message::Outdated)).is_ok(), "room again");
    }

    #[test]
    fn and_a_bounded_number_of_bytes() {
        let (outbox, mut outgoing) = queue(Ledger::of_a_loner());
        let sent = (0..100).filter(|_| outbox.send(snapshot(1 << 20)).is_ok()).count();
        assert_eq!(sent, 4);
        assert!(outbox.send(envelope(1, Message::Outdated)).is_ok(), "a small one still has room");
        terms(&mut outgoing);
        assert_eq!(outbox.waiting.load(Ordering::Relaxed), 0);
        assert!(outbox.send(snapshot(2 * MOST_BYTES)).is_ok(), "alone, whatever it costs");
        assert!(outbox.send(envelope(1, Message::Outdated)).is_err());
    }

    #[tokio::test]
    async fn ends_with_the_outbox_after_what_was_said() {
        let (outbox, mut outgoing) = queue(Ledger::of_a_loner());
        outbox.send(envelope(5, Message::Outdated)).unwrap();
        drop(outbox);
        let frame = outgoing.next().await.unwrap();
        assert!(matches!(frame.frame, Some(Kind::Message(proto::Message { term: 5, .. }))));
        assert!(outgoing.next().await.is_none());
    }
}
