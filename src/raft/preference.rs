//! Decides if a leader should hand over to a better server, by priority or because it is a last resort. Pure.
//!
//! Only the leader decides, and only strictly better servers count: so leadership comes to rest, and each event from
//! outside moves it at most once. No safety rests on this: a move is a transfer like an operator's.

use std::time::Duration;

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::Now,
    core::{Core, CoreConfig},
    identity::NodeId,
    log::TimeOfDay,
    orders::TermStart,
};
use crate::choosing::{Priority, TransferReason};

/// Terms that were lost within this time make a leader stay longer: each doubles its least tenure.
const LATELY: Duration = Duration::from_secs(3600);

/// Doublings at most.
const DOUBLINGS: u32 = 6;

/// Longest election timeouts for which a server must have stood before a last resort hands over to it.
const TIMEOUTS_OF_STANDING: u32 = 2;

/// Time before leadership moves to a server with a higher priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MoveDelays {
    /// The least tenure of a leader.
    pub(crate) min_tenure: Duration,
    /// Time for which the other server must have stood, without a break.
    pub(crate) standing: Duration,
}

impl MoveDelays {
    pub(crate) const DEFAULT: Self =
        Self { min_tenure: Duration::from_secs(600), standing: Duration::from_secs(30) };
}

/// The leader, as far as it matters for a move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incumbent {
    pub(super) priority: Priority,
    /// True if it is cordoned, by a committed entry.
    pub(super) cordoned: bool,
    /// True if an operator handed leadership to it.
    pub(super) ordered: bool,
    pub(super) paused: bool,
    pub(super) tenure: Duration,
}

/// A server that stands, and answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Challenger {
    pub(super) node: NodeId,
    pub(super) priority: Priority,
    /// True if it leads only while no other can.
    pub(super) last_resort: bool,
    /// Time for which it has stood, without a break.
    pub(super) stood: Duration,
}

impl Incumbent {
    /// The server to hand over to, if one is better, and the reason. `lost_lately` is the number of terms that were.
    pub(super) fn yields_to(
        &self,
        challengers: impl Iterator<Item = Challenger>,
        config: &CoreConfig,
        lost_lately: impl Fn() -> u32,
    ) -> Option<(NodeId, TransferReason)> {
        // A cordon is the operator's newest word; all else yields to a pause, and to an order.
        let is_held = self.paused || self.is_ordered(config);
        let gives_way = self.cordoned || (self.priority.is_last_resort() && !is_held);
        if is_held && !gives_way {
            return None;
        }
        let better = challengers.filter(|it| !it.last_resort && (gives_way || self.is_below(it, config)));
        let best = better.max_by_key(|it| (it.priority, it.stood))?;
        let patience = |wait: Duration| wait * 2_u32.pow(lost_lately().min(DOUBLINGS));
        let election = config.timing.longest() * TIMEOUTS_OF_STANDING;
        if gives_way {
            return (best.stood >= patience(election)).then_some((best.node, TransferReason::LastResort));
        }
        let stood = best.stood >= config.moves.standing.max(election);
        let over = stood && self.tenure >= patience(config.moves.min_tenure);
        over.then_some((best.node, TransferReason::Priority))
    }

    fn is_below(&self, other: &Challenger, config: &CoreConfig) -> bool {
        #[cfg(test)]
        if config.is(Mutant::MovesToEquals) {
            return other.priority >= self.priority;
        }
        let _ = config;
        other.priority > self.priority
    }

    fn is_ordered(&self, config: &CoreConfig) -> bool {
        #[cfg(test)]
        if config.is(Mutant::MovesOrderedTerms) {
            return false;
        }
        let _ = config;
        self.ordered
    }
}

/// Number of terms that were lost lately, by the starts of those after them.
fn lost_lately(terms: &[TermStart], today: TimeOfDay) -> u32 {
    let lost = terms.iter().skip(1).filter(|start| {
        let age = Duration::from_millis(today.0.saturating_sub(start.since.0));
        start.farewell.is_none() && age <= LATELY
    });
    u32::try_from(lost.count()).unwrap_or(u32::MAX)
}

impl Core {
    /// This server as the leader, since that long; `ordered` if an operator handed leadership to it.
    pub(super) fn incumbent(&self, tenure: Duration, ordered: bool) -> Incumbent {
        let orders = self.log.orders_at(self.commit);
        Incumbent {
            priority: self.candidacy().map_or(Priority::DEFAULT, |candidacy| candidacy.priority),
            cordoned: orders.cordon(self.me()).is_some(),
            ordered,
            paused: self.log.orders().paused.is_some(),
            tenure,
        }
    }

    /// Number of terms that were lost lately, by this server's log.
    pub(super) fn lost_lately(&self, now: &Now) -> u32 {
        lost_lately(&self.log.terms_at(self.log.last().index), now.today)
    }

    /// Returns true if this server must not lead at all, by a committed entry.
    pub(super) fn is_barred(&self) -> bool {
        self.log.orders_at(self.commit).cordon(self.me()).is_some_and(|cordon| cordon.hard)
    }
}
