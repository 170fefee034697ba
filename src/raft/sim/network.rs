//! Links that delay, lose, double and reorder messages, or are cut, each way by itself.

use std::time::Duration;

use crate::raft::identity::NodeId;

/// Conditions of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weather {
    /// Shortest and longest delay.
    pub(crate) delay: (Duration, Duration),
    /// Numbers of lost, doubled, or long delayed messages, of a thousand.
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    pub(crate) held_up: u32,
}

/// Factor of a long delay.
const HELD_UP: u32 = 10;

impl Weather {
    /// Half a millisecond, and no losses.
    pub(crate) const FAIR: Self = Self {
        delay: (Duration::from_micros(300), Duration::from_micros(700)),
        lost: 0,
        doubled: 0,
        held_up: 0,
    };

    /// The longest round trip without a long delay.
    pub(crate) fn round_trip(&self) -> Duration {
        self.delay.1 * 2
    }

    /// Returns true if all messages arrive in time.
    pub(crate) fn is_reliable(&self) -> bool {
        self.lost == 0 && self.held_up == 0
    }

    /// Delays of the copies of a message: none, one or two.
    pub(crate) fn deliveries(&self, rng: &mut fastrand::Rng) -> impl Iterator<Item = Duration> + use<> {
        let copies = match rng.u32(0..1000) {
            dice if dice < self.lost => 0,
            dice if dice < self.lost + self.doubled => 2,
            _ => 1,
        };
        let delays: [Duration; 2] = std::array::from_fn(|_| self.one_delay(rng));
        delays.into_iter().take(copies)
    }

    fn one_delay(&self, rng: &mut fastrand::Rng) -> Duration {
        let (least, most) = self.delay;
        let delay = Duration::from_nanos(rng.u64(least.as_nanos() as u64..=most.as_nanos() as u64));
        if rng.u32(0..1000) < self.held_up { delay * HELD_UP } else { delay }
    }
}

/// A link from one server to another that is always worse than the rest of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BadWay {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) how: Bad,
}

/// The kind of defect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bad {
    /// Nothing gets through.
    Cut,
    /// That many of a thousand messages are lost.
    Lossy(u32),
    /// Delays are that many times as long.
    Slow(u32),
}

impl Bad {
    /// The delay of a message that takes that long elsewhere; `None` if it is lost.
    pub(crate) fn delivery(self, delay: Duration, rng: &mut fastrand::Rng) -> Option<Duration> {
        match self {
            Self::Cut => None,
            Self::Lossy(lost) => (rng.u32(0..1000) >= lost).then_some(delay),
            Self::Slow(times) => Some(delay * times),
        }
    }
}

/// Links, by direction, on which nothing passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cuts(Vec<(NodeId, NodeId)>);

impl Cuts {
    pub(crate) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.0.contains(&(from, to))
    }

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        if self.passes(from, to) {
            self.0.push((from, to));
        }
    }

    pub(crate) fn mend(&mut self) {
        self.0.clear();
    }

    pub(crate) fn mend_all_of(&mut self, node: NodeId) {
        self.0.retain(|(from, to)| *from != node && *to != node);
    }
}
