//! Decides if a leader should hand over to a better server, by priority or because it is a last resort. Pure.
//!
//! These are the rules of [`choosing`](crate::choosing), for members in place of keys; a test compares the two.
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
use crate::choosing::{
    Priority, TransferReason,
    preference::{LATELY, MOST_DOUBLINGS, STEADY},
};

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
    pub(crate) const DEFAULT: Self = Self { min_tenure: Duration::from_secs(600), standing: STEADY };
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
        let patience = |wait: Duration| wait * 2_u32.pow(lost_lately().min(MOST_DOUBLINGS));
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        CandidateName,
        choosing::{
            Controls, Cordon, OrderedBy,
            field::{CandidateField, Contender, MemberRecord},
            last_resort::{GiveWay, Willingness},
            preference::{PriorityRule, PriorityStep, Tenure},
        },
        clock::Timestamp,
        raft::{
            identity::Members,
            membership::{DirectoryId, FirstDirectories, VotingRights},
            message::Limits,
            timing::Timing,
        },
    };

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000_000_000);
    const ME: NodeId = NodeId::new(0);

    fn config() -> CoreConfig {
        let members = Members::of(7).unwrap();
        CoreConfig {
            me: ME,
            members,
            cluster: crate::leadership::ClusterId(1),
            timing: Timing::DEFAULT,
            limits: Limits::DEFAULT,
            voting_rights: VotingRights::Full,
            directory: DirectoryId::in_tests(ME),
            moves: MoveDelays::DEFAULT,
            founders: FirstDirectories::all_of(members),
            mutant: None,
        }
    }

    fn name(node: NodeId) -> CandidateName {
        node.to_string().parse().unwrap()
    }

    /// Priorities, and seconds that they have stood, of the others; and who is cordoned.
    type Others = Vec<(u32, u64, bool)>;

    /// The priority that the shared rules hand over to, and the reason.
    fn shared(
        (priority, cordoned): (u32, bool),
        (ordered, paused, losses, tenure): (bool, bool, u32, u64),
        others: &Others,
    ) -> Option<(Priority, TransferReason)> {
        let by = || OrderedBy::new("ann".to_owned(), SystemTime::UNIX_EPOCH);
        let cordon = |node| (name(node), Cordon::new(false, by()));
        let nodes = || (1..).map(NodeId::new).zip(others);
        let out = nodes().filter(|(_, other)| other.2).map(|(node, _)| cordon(node));
        let cordons = out.chain(cordoned.then(|| cordon(ME))).collect();
        let controls = Controls { paused: paused.then(by), cordons };
        let contender = |(node, (priority, stood, _)): (NodeId, &(u32, u64, bool))| Contender {
            key: node,
            shown: node.to_string(),
            since: NOW - Duration::from_secs(*stood),
            member: Some(MemberRecord { name: name(node), priority: Priority::new(*priority), ready: true }),
        };
        let field = CandidateField::Group(nodes().map(contender).collect());
        let of = |node: NodeId| Priority::new(others[node.place() - 1].0);
        let priority = Priority::new(priority);
        let willingness = Willingness::of(&name(ME), priority, false, &controls);
        if let GiveWay::HandOver { to } = willingness.gives_way(ordered, &field, &controls) {
            return Some((of(to[0]), TransferReason::LastResort));
        }
        if willingness != Willingness::Always {
            return None;
        }
        let tenure = Tenure { priority, since: NOW - Duration::from_secs(tenure), ordered, losses };
        let rule = PriorityRule::new(Timing::DEFAULT.longest(), MoveDelays::DEFAULT.min_tenure);
        match rule.see(NOW, &tenure, &field, &controls) {
            PriorityStep::HandOver { to } => Some((of(to), TransferReason::Priority)),
            _ => None,
        }
    }

    fn ours(
        (priority, cordoned): (u32, bool),
        (ordered, paused, losses, tenure): (bool, bool, u32, u64),
        others: &Others,
    ) -> Option<(Priority, TransferReason)> {
        let (priority, tenure) = (Priority::new(priority), Duration::from_secs(tenure));
        let incumbent = Incumbent { priority, cordoned, ordered, paused, tenure };
        let challenger = |(node, (priority, stood, cordoned)): (NodeId, &(u32, u64, bool))| {
            let (priority, stood) = (Priority::new(*priority), Duration::from_secs(*stood));
            Challenger { node, priority, last_resort: priority.is_last_resort() || *cordoned, stood }
        };
        let challengers = (1..).map(NodeId::new).zip(others).map(challenger);
        let (to, reason) = incumbent.yields_to(challengers, &config(), || losses)?;
        Some((Priority::new(others[to.place() - 1].0), reason))
    }

    proptest! {
        /// Except that a last resort gives others the time of an election before it hands over to them.
        #[test]
        fn these_are_the_rules_that_both_backends_share(
            own in (0..3_u32, any::<bool>()),
            term in (any::<bool>(), any::<bool>(), 0..9_u32, 0..100_000_u64),
            others in prop::collection::vec((0..3_u32, 100..200_u64, any::<bool>()), 0..5),
        ) {
            prop_assert_eq!(ours(own, term, &others), shared(own, term, &others));
        }

        #[test]
        fn a_higher_one_that_is_new_is_waited_for(
            others in prop::collection::vec((100..103_u32, 0..60_u64, Just(false)), 0..5),
        ) {
            let term = (false, false, 0, 1_000);
            // Of two that are equal, the one that has stood for longer.
            let best = others.iter().map(|(priority, ..)| *priority).max();
            let equal = others.iter().filter(|(priority, ..)| Some(*priority) == best).count() < 2;
            prop_assume!(equal);
            prop_assert_eq!(ours((100, false), term, &others), shared((100, false), term, &others));
        }
    }

    #[test]
    fn only_terms_that_no_leader_ended_lately_count_as_lost() {
        let start = |term, since, farewell: bool| TermStart {
            term: crate::raft::identity::Term::new(term),
            who: ME,
            since: TimeOfDay(since),
            farewell: farewell.then_some(crate::raft::orders::Farewell { at: TimeOfDay(0), reason: None }),
        };
        let day = u64::try_from(LATELY.as_millis()).unwrap();
        let terms =
            [start(1, day, false), start(2, 9, false), start(3, day + 10, true), start(4, 2 * day, false)];
        assert_eq!(lost_lately(&terms, TimeOfDay(2 * day)), 1);
    }
}
