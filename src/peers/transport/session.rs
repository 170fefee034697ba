//! Receives a member's messages, and classifies the ways in which a connection ends.

use std::{error::Error, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tonic::{Code, Status, Streaming};

use super::{IdentityCheck, LARGEST_MESSAGE, TransportShared, counts::TransportError};
use crate::{
    peers::{
        disk::UnknownDirectory,
        refusal::{Refusal, Told, shown},
        wire::{
            LONGEST_FIRST_WORD,
            proto::{self, frame::Frame as Kind},
        },
    },
    raft::{
        identity::NodeId,
        membership::{DirectoryId, WriteCount},
    },
};

/// Interval of pings for measuring. A handful of small messages beside the heartbeats, and enough that a person who
/// looks, or reads the log after some seconds, finds a result.
const MEASURE_EVERY: Duration = Duration::from_millis(500);

/// Reason why a connection ended, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Disconnect {
    /// This process has stopped it.
    #[error("this server stops")]
    Stopped,
    #[error("the host {host} can't be found: {why}")]
    Unresolved { host: String, why: String },
    #[error("nothing can be reached at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("no answer from {address} within {within:?}")]
    Unanswered { address: String, within: Duration },
    #[error(
        "{address} speaks TLS, and this server has no certificate; give --cacert, --cert and --key to both"
    )]
    OnlyTls { address: String },
    #[error(
        "{address} does not speak TLS, and this server does; give --cacert, --cert and --key to both, or to neither"
    )]
    NoTls { address: String },
    #[error("no TLS with {address}: {why}")]
    Tls { address: String, why: String },
    /// With TLS 1.3 a client's handshake is over before its certificate is checked: the refusal comes later, as an
    /// alert in place of the first answer.
    #[error("it refuses TLS with this server: {0}; give both certificates of the same authority")]
    TlsRefused(String),
    #[error("the process that answers there is no server of a group: {0}")]
    SomethingElse(String),
    /// This server refuses the other side.
    #[error(transparent)]
    Refused(Refusal),
    /// The other side refuses this server, for its reason.
    #[error("{0}")]
    RefusedBy(String),
    #[error("it has no room for another connection")]
    NoRoom,
    #[error("it sent malformed data: {0}")]
    Malformed(String),
    #[error(
        "it sent a message of more than {LARGEST_MESSAGE} bytes, or a first message of more than {LONGEST_FIRST_WORD}"
    )]
    Oversized,
    #[error("it did not identify itself within {0:?}")]
    Silent(Duration),
    /// The end of a connection on which nothing had come for too long.
    #[error("it does not answer any more")]
    Mute,
    /// Another directory replaces its own.
    #[error("its data directory is replaced by another one")]
    Replaced,
    #[error("it closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Disconnect {
    /// The count that this adds to, if any.
    pub(super) fn error(&self) -> Option<TransportError> {
        match self {
            Self::Refused(_) | Self::RefusedBy(_) => Some(TransportError::Refused),
            Self::Malformed(_) => Some(TransportError::Malformed),
            Self::Oversized => Some(TransportError::Oversized),
            Self::Silent(_) => Some(TransportError::Silent),
            // Counted for callers only: a failed call of this server is not counted.
            Self::Tls { .. } => Some(TransportError::Refused),
            _ => None,
        }
    }

    /// The cause of a connection's error.
    pub(super) fn broken_by(error: &(dyn Error + 'static)) -> Self {
        let why = innermost(error);
        // Recognized by rustls's text: HTTP/2 does not pass on the error itself.
        if why.contains("received fatal alert") { Self::TlsRefused(why) } else { Self::Broken(why) }
    }

    /// The other side's reason.
    pub(super) fn refused_by(reason: &str) -> Self {
        Self::RefusedBy(shown(reason))
    }

    /// Reports whether an operator has to act: waiting and trying again won't help.
    pub(super) fn is_for_a_person(&self) -> bool {
        matches!(
            self,
            Self::OnlyTls { .. }
                | Self::NoTls { .. }
                | Self::Tls { .. }
                | Self::TlsRefused(_)
                | Self::SomethingElse(_)
                | Self::Refused(_)
                | Self::RefusedBy(_)
                | Self::Malformed(_)
                | Self::Oversized
        )
    }

    /// The text for readers other than this server's log.
    pub(super) fn told(&self) -> Told {
        match self {
            Self::Refused(refusal) => refusal.told(),
            other => Told::harmless(other.to_string()),
        }
    }

    /// The status for the other side.
    pub(super) fn status(&self) -> Status {
        let code = match self {
            Self::Refused(_) => Code::FailedPrecondition,
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Oversized => Code::OutOfRange,
            Self::Silent(_) => Code::DeadlineExceeded,
            Self::NoRoom => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        self.told().status(code)
    }
}

impl<R: Into<Refusal>> From<R> for Disconnect {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Status> for Disconnect {
    /// From the gRPC library's error.
    fn from(status: Status) -> Self {
        match (status.code(), status.source()) {
            (Code::FailedPrecondition, None) => Self::refused_by(status.message()),
            (Code::ResourceExhausted, None) => Self::NoRoom,
            (Code::OutOfRange, None) => Self::Oversized,
            (Code::Internal, None) => Self::Malformed(shown(status.message())),
            (Code::Unimplemented | Code::Unknown, None) => Self::SomethingElse(shown(status.message())),
            (_, Some(source)) => Self::broken_by(source),
            (_, None) => Self::Broken(shown(status.message())),
        }
    }
}

/// The innermost cause, which is the most specific.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    shown(&cause.to_string())
}

/// The next frame of a connection during the handshake.
pub(super) async fn first_word(frames: &mut Streaming<proto::Frame>) -> Result<Kind, Disconnect> {
    match frames.message().await? {
        Some(proto::Frame { frame: Some(kind) }) => Ok(kind),
        Some(_) => Err(Disconnect::Malformed("a frame of no known kind".to_owned())),
        None => Err(Disconnect::Closed),
    }
}

/// Passes on a member's messages, in order, until the connection ends.
///
/// If the inbox is full this waits, and with it, by flow control, the member.
pub(super) async fn hear<G: IdentityCheck>(
    frames: &mut Streaming<proto::Frame>,
    shared: &TransportShared<G>,
    from: NodeId,
    directory: DirectoryId,
) -> Disconnect {
    let (route, sessions) = (shared.route(from, directory), &shared.sessions);
    let mut written = WriteCount::default();
    let mut measure = interval(MEASURE_EVERY);
    measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let word = tokio::select! {
            // Dropping this loses no part of a frame that has not arrived as a whole.
            word = first_word(frames) => word,
            _ = measure.tick() => {
                sessions.measure(from);
                continue;
            }
        };
        let message = match word {
            Ok(Kind::Message(message)) => message,
            Ok(Kind::Ping(proto::Ping { nonce })) => {
                sessions.answer(from, nonce);
                continue;
            }
            Ok(Kind::Pong(proto::Pong { nonce })) => {
                sessions.answered(from, nonce);
                continue;
            }
            Ok(Kind::Verdict(verdict)) if !verdict.refusal.is_empty() => {
                return shared.refused_by(from, &verdict);
            }
            Ok(_) => return Disconnect::Malformed("it repeats the handshake".to_owned()),
            Err(ending) => return ending,
        };
        if let Err(objection) = sessions.count_writes(from, &directory, &mut written, &message) {
            return UnknownDirectory::from(objection).into();
        }
        let envelope = match route.decode(message) {
            Ok(envelope) => envelope,
            Err(malformed) => return Disconnect::Malformed(malformed.to_string()),
        };
        if shared.inbox.send(envelope).await.is_err() {
            return Disconnect::Stopped;
        }
    }
}
