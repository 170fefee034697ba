//! Messages that were already logged, so that a log does not grow with the number of attempts.
//!
//! A refused peer tries again several times a second, until an operator corrects it. It may have several reasons to
//! be refused, and they may take turns: as the caller it gets another one than as the listener.

use std::time::Duration;

use crate::clock::Timestamp;

/// Different messages about one member between two connections with it.
pub(super) const OF_A_MEMBER: usize = 8;

/// Different messages about strangers within [`FORGET_AFTER`].
pub(super) const OF_STRANGERS: usize = 16;

/// A message about strangers is logged again after that time (boot-time clock).
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Logged messages, up to a number; later ones are not logged.
#[derive(Debug)]
pub(super) struct LogOnce<T> {
    things: Vec<T>,
    most: usize,
    since: Timestamp,
}

impl<T: PartialEq> LogOnce<T> {
    pub(super) fn nothing(most: usize) -> Self {
        Self { things: Vec::new(), most, since: Timestamp::from_nanos(0) }
    }

    /// Returns true if this is to be logged: it is new, and there is room.
    pub(super) fn is_news(&mut self, thing: T) -> bool {
        let is_news = self.things.len() < self.most && !self.things.contains(&thing);
        if is_news {
            self.things.push(thing);
        }
        is_news
    }

    /// The same, and everything is forgotten a while after the first message.
    pub(super) fn is_news_at(&mut self, thing: T, now: Timestamp) -> bool {
        if self.things.is_empty() || now.since(self.since) >= FORGET_AFTER {
            self.since = now;
            self.things.clear();
        }
        self.is_news(thing)
    }

    pub(super) fn is_full(&self) -> bool {
        self.things.len() == self.most
    }

    pub(super) fn forget(&mut self) {
        self.things.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_takes_turns_is_said_once_each() {
        let mut said = LogOnce::nothing(3);
        let news: Vec<bool> = ["a", "b", "a", "b", "c", "d", "e"].map(|thing| said.is_news(thing)).to_vec();
        assert_eq!(news, [true, true, false, false, true, false, false], "and no more than three");
        said.forget();
        assert!(said.is_news("d"));
    }

    #[test]
    fn what_was_said_long_ago_is_news_again() {
        let mut said = LogOnce::nothing(1);
        assert!(said.is_news_at("a", at(1000)) && said.is_full());
        assert!(!said.is_news_at("b", at(1599)));
        assert!(said.is_news_at("b", at(1600)));
    }
}
