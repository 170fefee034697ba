//! A term that this server leads, and its handover.

use std::sync::Arc;

use tokio::sync::{broadcast, oneshot};

use crate::{
    candidate::Event,
    clock::Timestamp,
    leadership::{FencingToken, Loss, OrderOutcome, TermHandle, TermOrder},
    raft::{identity::Term, node::Node, timing::Timing},
    validity::SharedValidity,
};

/// A term under way.
#[derive(Debug)]
pub(super) struct LeaderTerm {
    tenure: TermHandle,
    events: broadcast::Sender<Event>,
    /// The end of the proved time.
    until: Timestamp,
}

impl LeaderTerm {
    pub(super) fn new(tenure: TermHandle, events: broadcast::Sender<Event>, until: Timestamp) -> Self {
        Self { tenure, events, until }
    }

    pub(super) fn token(&self) -> FencingToken {
        self.tenure.term.token
    }

    /// The end of the proved time.
    pub(super) fn until(&self) -> Timestamp {
        self.until
    }

    /// A majority has answered. `false` if the holder found that the term had ended before.
    pub(super) fn extend(&mut self, until: Timestamp, timing: &Timing) -> bool {
        let now = Timestamp::now();
        let validity: &Arc<SharedValidity> = &self.tenure.term.validity;
        if validity.extend(until, now).is_err() {
            return false;
        }
        // The sending time of the heartbeat that a majority has answered now.
        let sent = until - timing.validity();
        let renewed = Event::Renewed {
            token: self.token(),
            until,
            latency: now.since(sent),
            left: self.until.since(now),
        };
        self.until = until;
        let _ = self.events.send(renewed);
        true
    }

    /// The holder's next order.
    pub(super) async fn order(&mut self) -> TermOrder {
        self.tenure.order().await
    }

    /// Ends the claim, then publishes the reason. The holder hears of it only now, and may not have stopped yet.
    pub(super) fn end(self, loss: Loss) -> Stopping {
        self.tenure.lose(loss);
        let _ = self.events.send(Event::Lost { token: self.token(), loss });
        Stopping { tenure: self.tenure, until: self.until }
    }
}

/// A lost term whose holder may still be at work.
#[derive(Debug)]
pub(super) struct Stopping {
    tenure: TermHandle,
    /// By then the holder has stopped: it knew from the start that the term might end here.
    pub(super) until: Timestamp,
}

impl Stopping {
    /// Waits until the holder has let go.
    pub(super) async fn let_go(&mut self) {
        self.tenure.let_go().await;
    }
}

/// A term that was given up, until another server may lead.
#[derive(Debug)]
pub(super) struct Handover {
    done: oneshot::Sender<OrderOutcome>,
    term: Term,
    /// True once a successor was told to campaign.
    handed_over: bool,
    /// By then any server may campaign.
    pub(super) by: Timestamp,
}

impl Handover {
    pub(super) fn new(done: oneshot::Sender<OrderOutcome>, term: Term, by: Timestamp) -> Self {
        Self { done, term, handed_over: false, by }
    }

    pub(super) fn handed_over(&mut self) {
        self.handed_over = true;
    }

    /// Returns true if the successor was heard to campaign; or if there is none, or no more point in waiting.
    pub(super) fn is_over(&self, node: &Node, now: Timestamp) -> bool {
        let leads = matches!(node, Node::Leader(_));
        node.term() > self.term || now >= self.by || (!leads && !self.handed_over)
    }

    pub(super) fn done(self) {
        let _ = self.done.send(Ok(()));
    }
}
