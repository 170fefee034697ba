//! A leader's knowledge of one follower, and the next message to it.
//!
//! | mode | known | sent |
//! |---|---|---|
//! | [`Probe`](Mode::Probe) | not where the logs part | one message, and again with each heartbeat |
//! | [`Stream`](Mode::Stream) | they agree up to `matched` | entries as they come, unanswered ones up to a bound |
//! | [`Install`](Mode::Install) | the follower needs compacted entries | a snapshot, and heartbeats without a log |
//!
//! The heartbeat reveals lost messages: its `previous` is the last entry sent, and a follower that lacks some of it
//! rejects it.

use std::time::Duration;

use super::{
    core::{Core, StepContext},
    identity::{Index, NodeId, Position},
    log::Conflict,
    message::Message,
    timing::Timing,
};
use crate::{choosing::Priority, clock::Timestamp};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    pub(super) peer: NodeId,
    /// The follower's log equals the leader's up to here, durably (`matchIndex` of Figure 2).
    pub(super) matched: Index,
    /// The time when the leader learned that.
    matched_at: Option<Timestamp>,
    /// The next entry to send (`nextIndex` of Figure 2).
    next: Index,
    /// The sending time of the newest message that it has answered, by the leader's clock.
    pub(super) answered: Option<Timestamp>,
    /// Its priority, if it would take over, by that answer.
    pub(super) stands: Option<Priority>,
    /// The time since when its answers say so, without a break.
    stands_since: Option<Timestamp>,
    /// Number of entries that may be sent and not answered: all that the limits allow, or after a rejection as many
    /// as fit one message, and then twice as many with each answer.
    window: usize,
    /// The time of the last step back. Rejections of earlier messages are no news.
    went_back: Option<Timestamp>,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    Probe,
    Stream,
    Install { sent: Timestamp, end: Index },
}

impl Progress {
    /// A follower that a new leader knows nothing of; `next` is the leader's first own entry.
    pub(super) fn unknown(peer: NodeId, next: Index, window: usize) -> Self {
        Self {
            peer,
            matched: Index::ZERO,
            matched_at: None,
            next,
            answered: None,
            stands: None,
            stands_since: None,
            window,
            went_back: None,
            mode: Mode::Probe,
        }
    }

    /// Sends a heartbeat, and with it any entries that are due again.
    pub(super) fn heartbeat(&mut self, core: &Core, context: &mut StepContext) {
        match self.mode {
            Mode::Stream if self.room() == 0 || self.next > core.log.last().index => {
                self.append(core, context, 0);
            }
            Mode::Stream => self.stream(core, context),
            Mode::Probe => self.append(core, context, core.config.limits.entries),
            Mode::Install { sent, .. } if context.now() >= sent + core.timing().longest() => {
                self.snapshot(core, context)
            }
            Mode::Install { .. } => self.bare(core, context),
        }
    }

    /// Sends all new entries that have room.
    pub(super) fn stream(&mut self, core: &Core, context: &mut StepContext) {
        while self.mode == Mode::Stream && self.next <= core.log.last().index && self.room() > 0 {
            self.append(core, context, self.room());
        }
    }

    /// The number of entries that may still be sent.
    fn room(&self) -> usize {
        let under_way = self.next.after(self.matched.next());
        self.window.saturating_sub(under_way)
    }

    fn append(&mut self, core: &Core, context: &mut StepContext, most: usize) {
        let index = self.next.previous();
        let Some(term) = core.log.term_at(index) else {
            return self.snapshot(core, context);
        };
        let limits = &core.config.limits;
        let last = core.log.last().index;
        let entries = core.log.slice(self.next, last, most.min(limits.entries), limits.bytes).to_vec();
        if self.mode == Mode::Stream {
            self.next = self.next.plus(entries.len());
        }
        let previous = Position { term, index };
        self.say(core, context, previous, entries);
    }

    /// Sends a heartbeat without a log position, which leaves nothing to reject.
    fn bare(&self, core: &Core, context: &mut StepContext) {
        self.say(core, context, Position::START, Vec::new());
    }

    fn say(
        &self,
        core: &Core,
        context: &mut StepContext,
        previous: Position,
        entries: Vec<super::log::Entry>,
    ) {
        let (commit, sent) = (core.commit, context.now());
        core.send(context, self.peer, Message::Append { previous, entries, commit, sent });
    }

    fn snapshot(&mut self, core: &Core, context: &mut StepContext) {
        let (snapshot, sent) = (core.log.snapshot().clone(), context.now());
        self.mode = Mode::Install { sent, end: snapshot.at.index };
        core.send(context, self.peer, Message::Install { snapshot, sent });
    }

    /// The follower has answered the message sent at `echo`.
    pub(super) fn answer(&mut self, echo: Timestamp, stands: Option<Priority>, timing: &Timing) {
        if Some(echo) < self.answered {
            return;
        }
        let unbroken =
            self.stands == stands && self.answered.is_some_and(|before| echo <= before + timing.shortest());
        if stands.is_none() || !unbroken {
            self.stands_since = stands.map(|_| echo);
        }
        (self.answered, self.stands) = (Some(echo), stands);
    }

    /// Forgets since when it stands, for a model in which that makes no difference.
    #[cfg(test)]
    pub(super) fn forget_standing(&mut self) {
        self.stands_since = None;
    }

    /// Time for which it has stood without a break, with the same priority.
    pub(super) fn stood(&self, now: Timestamp) -> Duration {
        self.stands_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// The follower's log equals the leader's up to `matched`.
    pub(super) fn appended(&mut self, core: &Core, context: &StepContext, matched: Index) {
        if matched > self.matched {
            self.matched_at = Some(context.now());
            self.window = (2 * self.window).min(core.config.limits.in_flight);
        }
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        self.mode = match self.mode {
            Mode::Install { end, .. } if self.matched >= end => Mode::Stream,
            Mode::Probe if self.matched.next() == self.next => Mode::Stream,
            same => same,
        };
    }

    /// Returns true if a rejection at `previous` of a message sent at `echo` proves that the follower has lost
    /// durable entries.
    ///
    /// Only if the message was sent after the leader had learned that the follower has all up to there: an earlier
    /// one may have reached it before the entries did, and its rejection may be late, or come twice. After that its
    /// log can't become shorter than `matched`: in this term only this leader appends to it, and never before
    /// `matched`; a later leader may cut it, but then the follower knows of the later term, and its answers are of
    /// that. A restart keeps durable entries.
    pub(super) fn has_lost(&self, previous: Index, echo: Timestamp) -> bool {
        previous <= self.matched && self.matched_at.is_some_and(|learned| learned < echo)
    }

    /// The follower's log differs at `previous`. Returns true if there is an earlier entry to try.
    pub(super) fn rejected(
        &mut self,
        core: &Core,
        context: &StepContext,
        previous: Index,
        conflict: Conflict,
        echo: Timestamp,
    ) -> bool {
        // If messages overtake each other, one gap is rejected many times. Going back for each, and sending
        // everything anew, would make more rejections than it answers.
        let recent = self.went_back <= Some(echo);
        let news = recent
            && match self.mode {
                Mode::Probe => previous == self.next.previous(),
                Mode::Stream => previous > self.matched && previous < self.next,
                Mode::Install { .. } => false,
            };
        if !news {
            return false;
        }
        let resume = core.log.resume_after(conflict).min(previous).max(self.matched.next());
        self.mode = Mode::Probe;
        self.window = core.config.limits.entries.min(core.config.limits.in_flight);
        self.went_back = Some(context.now());
        resume < std::mem::replace(&mut self.next, resume)
    }

    /// Probes at once at the place that the last rejection named.
    pub(super) fn probe(&mut self, core: &Core, context: &mut StepContext) {
        self.append(core, context, core.config.limits.entries);
    }
}
