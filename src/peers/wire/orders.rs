//! Standing orders and past terms as bytes: in entries, in snapshots, and in answers to observers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Malformed, node, proto};
use crate::{
    choosing::{Cordon, OrderedBy, TransferReason},
    raft::{
        identity::Term,
        log::TimeOfDay,
        orders::{Farewell, StandingOrders, TermStart},
    },
};

use proto::farewell::Reason;

impl From<OrderedBy> for proto::OrderedBy {
    fn from(OrderedBy { operator, at }: OrderedBy) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { operator, at: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl From<proto::OrderedBy> for OrderedBy {
    fn from(proto::OrderedBy { operator, at }: proto::OrderedBy) -> Self {
        Self::new(operator, time(TimeOfDay(at)))
    }
}

/// A time of day, as far as the calendar reaches.
pub(crate) fn time(TimeOfDay(millis): TimeOfDay) -> SystemTime {
    crate::observe::claimed_time(UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH))
}

impl From<StandingOrders> for proto::Controls {
    fn from(StandingOrders { paused, cordons }: StandingOrders) -> Self {
        let cordon = |(member, cordon): (crate::raft::identity::NodeId, Cordon)| proto::Cordon {
            member: member.place() as u32,
            hard: cordon.hard,
            by: Some(cordon.by.into()),
        };
        Self { paused: paused.map(Into::into), cordons: cordons.into_iter().map(cordon).collect() }
    }
}

impl TryFrom<proto::Controls> for StandingOrders {
    type Error = Malformed;

    fn try_from(proto::Controls { paused, cordons }: proto::Controls) -> Result<Self, Malformed> {
        let cordon = |proto::Cordon { member, hard, by }: proto::Cordon| {
            let by = by.ok_or(Malformed("a cordon of no operator"))?;
            Ok((node(member)?, Cordon::new(hard, by.into())))
        };
        let cordons = cordons.into_iter().map(cordon).collect::<Result<_, Malformed>>()?;
        Ok(Self { paused: paused.map(Into::into), cordons })
    }
}

impl From<Farewell> for proto::Farewell {
    fn from(Farewell { at, reason }: Farewell) -> Self {
        let (reason, ordered) = match reason {
            None => (Reason::Resigned, None),
            Some(TransferReason::Ordered(by)) => (Reason::Ordered, Some(by.into())),
            Some(TransferReason::Priority) => (Reason::Priority, None),
            Some(TransferReason::LastResort) => (Reason::LastResort, None),
            Some(TransferReason::Program) => (Reason::Program, None),
            Some(TransferReason::Disk) => (Reason::Disk, None),
        };
        Self { at: at.0, reason: reason.into(), ordered }
    }
}

impl TryFrom<proto::Farewell> for Farewell {
    type Error = Malformed;

    fn try_from(farewell: proto::Farewell) -> Result<Self, Malformed> {
        // A reason of a later version is none that is known here.
        let reason = match (farewell.reason(), farewell.ordered) {
            (Reason::Resigned, _) => None,
            (Reason::Ordered, Some(by)) => Some(TransferReason::Ordered(by.into())),
            (Reason::Ordered, None) => return Err(Malformed("an order of no operator")),
            (Reason::Priority, _) => Some(TransferReason::Priority),
            (Reason::LastResort, _) => Some(TransferReason::LastResort),
            (Reason::Program, _) => Some(TransferReason::Program),
            (Reason::Disk, _) => Some(TransferReason::Disk),
        };
        Ok(Self { at: TimeOfDay(farewell.at), reason })
    }
}

impl From<TermStart> for proto::TermStart {
    fn from(TermStart { term, who, since, farewell }: TermStart) -> Self {
        Self { term: term.get(), who: who.place() as u32, since: since.0, farewell: farewell.map(Into::into) }
    }
}

impl TryFrom<proto::TermStart> for TermStart {
    type Error = Malformed;

    fn try_from(start: proto::TermStart) -> Result<Self, Malformed> {
        Ok(Self {
            term: Term::new(start.term),
            who: node(start.who)?,
            since: TimeOfDay(start.since),
            farewell: start.farewell.map(TryInto::try_into).transpose()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{identity::NodeId, orders::ElectionRecord};

    fn operators() -> impl Strategy<Value = OrderedBy> {
        let millis = 0..4_000_000_000_000_u64;
        ("[a-z]{1,9}@[a-z]{1,9}", millis)
            .prop_map(|(operator, at)| OrderedBy::new(operator, UNIX_EPOCH + Duration::from_millis(at)))
    }

    pub(in super::super) fn farewells() -> impl Strategy<Value = Farewell> {
        let reason = prop_oneof![
            operators().prop_map(TransferReason::Ordered),
            Just(TransferReason::Priority),
            Just(TransferReason::LastResort),
            Just(TransferReason::Program),
            Just(TransferReason::Disk),
        ];
        (any::<u64>(), prop::option::of(reason))
            .prop_map(|(at, reason)| Farewell { at: TimeOfDay(at), reason })
    }

    pub(in super::super) fn standing_orders() -> impl Strategy<Value = StandingOrders> {
        let cordon = (any::<u8>().prop_map(NodeId::new), any::<bool>(), operators())
            .prop_map(|(node, hard, by)| (node, Cordon::new(hard, by)));
        let cordons = prop::collection::vec(cordon, 0..4);
        (prop::option::of(operators()), cordons)
            .prop_map(|(paused, cordons)| StandingOrders { paused, cordons: cordons.into_iter().collect() })
    }

    pub(in super::super) fn records() -> impl Strategy<Value = ElectionRecord> {
        let start = (any::<u64>(), any::<u8>(), any::<u64>(), prop::option::of(farewells())).prop_map(
            |(term, who, since, farewell)| TermStart {
                term: Term::new(term),
                who: NodeId::new(who),
                since: TimeOfDay(since),
                farewell,
            },
        );
        (standing_orders(), prop::collection::vec(start, 0..4))
            .prop_map(|(orders, terms)| ElectionRecord { orders, terms })
    }
}
