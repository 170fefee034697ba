//! Standing orders and past terms, with members' names in place of their numbers. Pure.

use super::{Group, wire::time};
use crate::{
    choosing::{Controls, Cordon, OrderedBy, PastTerm, TermEnding, TransferReason},
    leadership::FencingToken,
    names::displayed,
    raft::{
        identity::NodeId,
        orders::{StandingOrders, TermStart},
    },
};

/// The standing orders of a group. Those about other members, which only a foreign server names, are left out.
pub(super) fn controls(group: &Group, orders: &StandingOrders) -> Controls {
    let name = |node: NodeId| group.members().get(node.place()).map(|member| member.name.clone());
    let cordons = orders
        .cordons
        .iter()
        .filter_map(|(node, cordon)| Some((name(*node)?, Cordon::new(cordon.hard, shown(&cordon.by)))));
    Controls { paused: orders.paused.as_ref().map(shown), cordons: cordons.collect() }
}

/// The reverse, for the way to an observer.
pub(super) fn orders(group: &Group, controls: &Controls) -> StandingOrders {
    let cordons = controls.cordons.iter();
    let cordons = cordons.filter_map(|(name, cordon)| Some((group.node(name)?, cordon.clone())));
    StandingOrders { paused: controls.paused.clone(), cordons: cordons.collect() }
}

/// The terms of a group, the newest first. The last one may go on still.
pub(super) fn past_terms(group: &Group, terms: &[TermStart]) -> Vec<PastTerm> {
    let name = |node: NodeId| {
        let member = group.members().get(node.place());
        member.map_or_else(|| node.to_string(), |member| member.name.to_string())
    };
    let ends = terms.iter().skip(1).map(Some).chain([None]);
    let past = terms.iter().zip(ends).map(|(start, next)| {
        let ending = next.map(|next| match &next.farewell {
            None => (next.since, TermEnding::Lost),
            Some(farewell) => (
                farewell.at,
                match &farewell.reason {
                    None => TermEnding::Resigned,
                    Some(reason) => {
                        TermEnding::Transferred { to: name(next.who), reason: shown_reason(reason) }
                    }
                },
            ),
        });
        let (until, ended) = ending.map(|(at, ending)| (time(at), ending)).unzip();
        let token = FencingToken::new(start.term.get());
        PastTerm { leader: name(start.who), token, from: Some(time(start.since)), until, ended }
    });
    let mut past: Vec<_> = past.collect();
    past.reverse();
    past
}

fn shown_reason(reason: &TransferReason) -> TransferReason {
    match reason {
        TransferReason::Ordered(by) => TransferReason::Ordered(shown(by)),
        other => other.clone(),
    }
}

/// The same, fit to be shown.
fn shown(by: &OrderedBy) -> OrderedBy {
    OrderedBy::new(displayed(by.operator.as_bytes()), by.at)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::raft::{identity::Term, log::TimeOfDay, orders::Farewell};

    fn group() -> Group {
        "a=h:1,b=h:2,c=h:3".parse().unwrap()
    }

    #[test]
    fn a_term_ends_as_its_leader_told_the_next_or_it_was_lost() {
        let start = |term, who, since, farewell: Option<(u64, Option<TransferReason>)>| TermStart {
            term: Term::new(term),
            who: NodeId::new(who),
            since: TimeOfDay(since),
            farewell: farewell.map(|(at, reason)| Farewell { at: TimeOfDay(at), reason }),
        };
        let terms = [
            start(1, 0, 10, None),
            start(2, 1, 25, Some((20, Some(TransferReason::Program)))),
            start(5, 2, 40, None),
            start(6, 0, 55, Some((50, None))),
        ];
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let past = past_terms(&group(), &terms);
        let short: Vec<_> = past.iter().map(|it| (&*it.leader, it.token.get(), it.until)).collect();
        assert_eq!(
            short,
            [("a", 6, None), ("c", 5, Some(at(50))), ("b", 2, Some(at(40))), ("a", 1, Some(at(20)))]
        );
        let to = "b".to_owned();
        let transferred = TermEnding::Transferred { to, reason: TransferReason::Program };
        let ends: Vec<_> = past.into_iter().map(|it| it.ended).collect();
        let resigned = Some(TermEnding::Resigned);
        assert_eq!(ends, [None, resigned, Some(TermEnding::Lost), Some(transferred)]);
    }

    #[test]
    fn standing_orders_are_the_same_by_name_and_by_number() {
        let by = OrderedBy::new("ann".to_owned(), SystemTime::UNIX_EPOCH);
        let cordons = [(NodeId::new(1), Cordon::new(true, by.clone()))].into();
        let standing = StandingOrders { paused: Some(by), cordons };
        let named = controls(&group(), &standing);
        assert!(named.cordons.keys().map(|name| name.as_str()).eq(["b"]));
        assert_eq!(orders(&group(), &named), standing);
    }
}
