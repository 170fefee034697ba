//! Reasons for refusing a peer: as logged here, and as told to the other side.
//!
//! These are two types, so that nothing is told by mistake that helps an impostor: above all the id of another
//! member's directory and, to a caller that has proved nothing, anything that it has not said itself.

use tonic::{Code, Status};

use super::{disk::UnknownDirectory, greeting::Unproven, handshake::Difference, wire::proto};
use crate::names::displayed_within;

/// Reason why this server refuses another one. Its text is for the log of this server only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has not proved which member it is.
    #[error(transparent)]
    Unproven(#[from] Unproven),
    /// It was started with different settings.
    #[error(transparent)]
    Different(#[from] Difference),
    /// It is not the member on record.
    #[error(transparent)]
    Stranger(#[from] UnknownDirectory),
    /// There is a connection of this member already.
    #[error(
        "it connected a second time, and the first connection answers: two servers run under its name; start each \
         with a name, and a data directory, of its own"
    )]
    Doubled,
}

/// The reason as told to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    text: String,
    /// True if the other side must not vote any more.
    revokes: bool,
}

impl Refusal {
    /// The part that the other side is told.
    pub(crate) fn told(&self) -> Told {
        let text = match self {
            Self::Unproven(unproven) => unproven.told(),
            Self::Stranger(stranger) => stranger.told(),
            // Compared after the other side has proved itself: it concerns both.
            Self::Different(_) | Self::Doubled => self.to_string(),
        };
        let revokes = matches!(self, Self::Stranger(stranger) if stranger.revokes());
        Told { text, revokes }
    }
}

impl Told {
    /// A reason that reveals nothing about any member: about the received bytes, or this server being busy.
    pub(crate) fn harmless(text: String) -> Self {
        Self { text, revokes: false }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn status(self, code: Code) -> Status {
        Status::new(code, self.text)
    }

    pub(crate) fn verdict(self) -> proto::Verdict {
        proto::Verdict { refusal: self.text, revokes: self.revokes, newcomer: false }
    }
}

/// Length limit, in bytes, for reasons of other servers.
const LONGEST_REASON: usize = 1024;

/// Another server's reason, made fit for a log.
pub(crate) fn shown(told: &str) -> String {
    displayed_within(told.as_bytes(), LONGEST_REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::membership::{DirectoryId, Objection};

    #[test]
    fn contract_11_no_peer_is_told_a_directory() {
        let (before, now) = (DirectoryId::from_bytes([0xAB; 16]), DirectoryId::from_bytes([0xCD; 16]));
        let refusal = Refusal::from(UnknownDirectory::from(Objection::OtherDirectory { before, now }));
        assert!(refusal.to_string().contains("abab"), "{refusal}");
        let told = refusal.told();
        assert!(!told.as_str().contains("abab") && !told.as_str().contains("cdcd"), "{told:?}");
        assert!(told.as_str().contains("another data directory than when it was first met"), "{told:?}");
    }
}
