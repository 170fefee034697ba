//! Parts that the values beside a queue have in common: times, operators, and limits of what is read.

use std::time::SystemTime;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{choosing::OrderedBy, names::displayed, observe::claimed_time};

/// The longest value that is read: far more than any that is written.
const MOST_BYTES: usize = 16 << 10;

/// Parses a value; `None` if it does not have this form, so that it is another program's.
pub(super) fn parse<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    if value.len() > MOST_BYTES { None } else { serde_json::from_slice(value).ok() }
}

pub(super) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers always make JSON")
}

pub(super) fn time_text(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(claimed_time(at)).to_string()
}

pub(super) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok().map(claimed_time)
}

/// Makes a text displayable, and bounds it, on the way in and on the way out.
pub(super) fn shown(text: &str) -> String {
    displayed(text.as_bytes())
}

/// The origin of an order, as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct OriginJson {
    operator: String,
    at: String,
}

impl OriginJson {
    pub(super) fn of(by: &OrderedBy) -> Self {
        Self { operator: shown(&by.operator), at: time_text(by.at) }
    }

    pub(super) fn parsed(&self) -> Option<OrderedBy> {
        Some(OrderedBy::new(shown(&self.operator), time(&self.at)?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::etcd) fn by() -> OrderedBy {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        OrderedBy::new("kim@ops1".into(), at)
    }

    #[test]
    fn a_value_that_is_longer_than_any_of_ours_is_not_parsed() {
        let text = |length| format!("\"{}\"", "x".repeat(length)).into_bytes();
        assert!(parse::<String>(&text(1000)).is_some());
        assert!(parse::<String>(&text(MOST_BYTES)).is_none());
    }
}
