//! An operator's order to hand over: `<election>.order`, on the operator's own lease.
//!
//! So etcd's clock ends it: an order that no leader takes is gone when its operator is, or when the operator's
//! time is over. A leader writes only a refusal into it; an order that was carried out, or has become void, it
//! deletes.

use serde::{Deserialize, Serialize};

use super::{
    keys::{MadeKey, Revision},
    stored,
};
use crate::{
    choosing::{OrderedBy, order::TransferOrder},
    leadership::FencingToken,
    names::displayed_error,
};

/// An order to hand over to the candidate with a certain key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredOrder {
    pub(crate) target: MadeKey,
    /// The target as the operator named it, displayable.
    pub(crate) shown: String,
    /// The term that has to end.
    pub(crate) token: FencingToken,
    pub(crate) by: OrderedBy,
    /// The leader's reason for refusing it. Once there is one, the order is closed.
    pub(crate) refused: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct OrderJson {
    target: MadeKeyJson,
    shown: String,
    token: u64,
    by: stored::OriginJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// A key of a queue, as it is stored. Such a key is always text.
#[derive(Serialize, Deserialize)]
struct MadeKeyJson {
    key: String,
    create_revision: i64,
}

impl MadeKeyJson {
    fn of(made: &MadeKey) -> Self {
        let key = String::from_utf8_lossy(&made.key).into_owned();
        Self { key, create_revision: made.created.0 }
    }

    fn parsed(self) -> MadeKey {
        MadeKey { key: self.key.into_bytes(), created: Revision(self.create_revision) }
    }
}

impl StoredOrder {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        stored::to_bytes(&OrderJson {
            target: MadeKeyJson::of(&self.target),
            shown: stored::shown(&self.shown),
            token: self.token.get(),
            by: stored::OriginJson::of(&self.by),
            refused: self.refused.as_deref().map(displayed_error),
        })
    }

    /// Returns `None` for values of other programs.
    pub(crate) fn from_json(value: &[u8]) -> Option<Self> {
        let json: OrderJson = stored::parse(value)?;
        Some(Self {
            target: json.target.parsed(),
            shown: stored::shown(&json.shown),
            token: FencingToken::new(json.token),
            by: json.by.parsed()?,
            refused: json.refused.as_deref().map(displayed_error),
        })
    }

    /// Returns the data that the rules use.
    pub(crate) fn order(&self) -> TransferOrder<MadeKey> {
        TransferOrder { target: self.target.clone(), shown: self.shown.clone(), token: self.token }
    }

    /// Returns the order with a leader's answer.
    pub(crate) fn refuse(self, why: &str) -> Self {
        Self { refused: Some(displayed_error(why)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::etcd::stored::tests::by;

    fn order() -> StoredOrder {
        StoredOrder {
            target: MadeKey { key: b"leader/2a".to_vec(), created: Revision(9) },
            shown: "server2".into(),
            token: FencingToken::new(7),
            by: by(),
            refused: None,
        }
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(StoredOrder::from_json(&order().to_json()), Some(order()));
        let refused = order().refuse("it is\npaused");
        assert_eq!(refused.refused.as_deref(), Some("it is paused"));
        assert_eq!(StoredOrder::from_json(&refused.to_json()), Some(refused));
    }

    proptest! {
        #[test]
        fn foreign_values_are_left_alone(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(StoredOrder::from_json(&value), None);
        }
    }
}
