//! The leader and the start of its term, in a key of its own: `leader` beside the queue `leader/…`.
//!
//! The queue's values are the candidates' names, as in etcd's own election, and have no room for a time. The
//! announcement is written once a term, guarded by the leader's key and on its lease, so it disappears with
//! the leader. No decision depends on it: readers ignore it unless its token is that of the leader's key.

use std::time::SystemTime;

use crate::{leadership::FencingToken, names::displayed, observe::claimed_time};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) leader: String,
    pub(crate) token: FencingToken,
    pub(crate) since: SystemTime,
    /// The address that the leader advertises.
    pub(crate) address: Option<String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct AnnouncementJson {
    leader: String,
    token: u64,
    since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

impl Announcement {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let stored = AnnouncementJson {
            leader: self.leader.clone(),
            token: self.token.get(),
            since: humantime::format_rfc3339_millis(self.since).to_string(),
            address: self.address.clone(),
        };
        serde_json::to_vec(&stored).expect("strings and numbers always make JSON")
    }

    /// Returns `None` for values of other programs.
    pub(crate) fn from_json(value: &[u8]) -> Option<Self> {
        let stored: AnnouncementJson = serde_json::from_slice(value).ok()?;
        let since = claimed_time(humantime::parse_rfc3339_weak(&stored.since).ok()?);
        let address = stored.address.map(|address| displayed(address.as_bytes()));
        Some(Self { leader: stored.leader, token: FencingToken::new(stored.token), since, address })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::etcd::{
        control::StoredControl,
        history,
        keys::{self, KeyKind, LeaseId},
        member::StoredMember,
        order::StoredOrder,
    };

    #[test]
    fn reads_what_it_writes() {
        let announcement = Announcement {
            leader: "a \"quoted\" name".into(),
            token: FencingToken::new(42),
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            address: Some("https://host1:8443/".into()),
        };
        assert_eq!(Announcement::from_json(&announcement.to_json()), Some(announcement));
    }

    #[test]
    fn an_address_is_optional_and_made_displayable() {
        let with =
            |address: &str| format!(r#"{{"leader":"n","token":7,"since":"2026-01-01T00:00:00Z"{address}}}"#);
        let read = |address: &str| Announcement::from_json(with(address).as_bytes()).unwrap();
        let none = read("");
        assert_eq!(none.address, None);
        assert!(
            !String::from_utf8(none.to_json()).unwrap().contains("address"),
            "as older versions write it"
        );
        assert_eq!(read(r#","address":"h:1\u001b[2J""#).address.unwrap(), "h:1\u{fffd}[2J");
    }

    #[test]
    fn a_time_after_the_last_year_that_can_be_written_is_that_year() {
        let claimed = br#"{"leader":"n","token":7,"since":"9999-12-31T23:59:60Z"}"#;
        let announced = Announcement::from_json(claimed).unwrap();
        assert!(String::from_utf8(announced.to_json()).unwrap().contains("9999-12-31T23:59:59"));
    }

    proptest! {
        #[test]
        fn foreign_values_are_left_alone(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Announcement::from_json(&value);
        }
    }

    /// All data that others can put into an election: the announcement, the keys and values of the queue and
    /// beside it.
    #[test]
    fn fuzz_values() {
        let election: crate::names::ElectionName = "leader".parse().unwrap();
        bolero::check!().for_each(|value: &[u8]| {
            if let Some(announced) = Announcement::from_json(value) {
                // Serializing writes the time, as every display of it does.
                assert_eq!(Announcement::from_json(&announced.to_json()).unwrap().token, announced.token);
            }
            if let Some(member) = StoredMember::from_json(value) {
                assert_eq!(StoredMember::from_json(&member.to_json()).unwrap().name, member.name);
            }
            if let Some(order) = StoredOrder::from_json(value) {
                assert_eq!(StoredOrder::from_json(&order.to_json()).unwrap().target, order.target);
            }
            if let Some(control) = StoredControl::from_json(value) {
                assert_eq!(StoredControl::from_json(&control.to_json()).unwrap().hard, control.hard);
            }
            if let Some(past) = history::from_json(value) {
                assert_eq!(history::from_json(&history::to_json(&past)).unwrap().token, past.token);
            }
            let _ = (keys::control(&election, value), keys::history_slot(&election, value));
            let shown = crate::names::displayed(value);
            assert!(!shown.contains(crate::names::forges) && shown.len() < 1024, "{shown:?}");
            let by_name = keys::part_of(&election, value, None);
            let by_lease = keys::part_of(&election, value, Some((LeaseId(42), value)));
            assert!(by_lease != KeyKind::Candidate || value == keys::candidate_key(&election, LeaseId(42)));
            assert!(by_lease != KeyKind::Candidate || by_name == KeyKind::Candidate);
        });
    }
}
