//! The owner of a directory.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::peers::Settings;

/// A member, its election and its group. A directory belongs to one of these for good.
///
/// Addresses are not in it: a group may move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    name: String,
    election: String,
    /// Sorted, as a [`Group`](crate::peers::Group) has them.
    members: Vec<String>,
}

impl Owner {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            name: settings.name().to_string(),
            election: settings.election().to_string(),
            members: settings.group().members().iter().map(|member| member.name.to_string()).collect(),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and lists of texts can be written as JSON")
    }

    /// `None` if the bytes are of no owner.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.join(", ");
        write!(f, "'{}' in the election '{}' among {members}", self.name, self.election)
    }
}
