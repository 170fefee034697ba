//! `elect history`: past terms, and why each ended.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use leader_election::choosing::{PastTerm, TermEnding, TransferReason};
use serde::Serialize;

use super::{UNKNOWN, operator::ElectionOperator, show::time};
use crate::config::Config;

/// Prints past terms, the newest first.
pub(super) async fn run(config: Config, json: bool, most: usize) -> anyhow::Result<ExitCode> {
    let terms = match ElectionOperator::of(config)?.history(most).await {
        Ok(terms) => terms,
        Err(error) => {
            eprintln!("elect: {error}");
            return Ok(ExitCode::from(UNKNOWN));
        }
    };
    match print(&terms, json) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("failed to print"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print(terms: &[PastTerm], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for term in terms {
        if json {
            serde_json::to_writer(&mut out, &PastTermJson::of(term))?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", PastTermLine(term))?;
        }
    }
    out.flush()
}

/// One line for people.
struct PastTermLine<'a>(&'a PastTerm);

impl fmt::Display for PastTermLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PastTerm { leader, token, from, until, ended, .. } = self.0;
        let began = from.map_or_else(|| "from an unknown time".to_owned(), time);
        write!(f, "{began} {leader} (token {token}) ")?;
        let Some(ended) = ended else { return f.write_str("leads") };
        f.write_str("led")?;
        if let (Some(from), Some(until)) = (from, until) {
            write!(f, " for {}", lasted(*from, *until))?;
        }
        match ended {
            TermEnding::Resigned => f.write_str(": gave leadership up"),
            TermEnding::Transferred { to, reason } => write!(f, ": handed over to {to}, {}", why(reason)),
            TermEnding::Lost => f.write_str(": lost, as the next leader saw it"),
            _ => f.write_str(": for a reason that this version does not know"),
        }
    }
}

fn why(reason: &TransferReason) -> String {
    match reason {
        TransferReason::Ordered(by) => format!("ordered by {} at {}", by.operator, time(by.at)),
        TransferReason::Priority => "whose priority is higher".into(),
        TransferReason::LastResort => "since it was cordoned, or a last resort".into(),
        TransferReason::Program => "as its program asked".into(),
        TransferReason::Disk => "since its disk hung".into(),
        _ => "for a reason that this version does not know".into(),
    }
}

/// Two clocks may have written the times, so that one may seem to run backwards.
fn lasted(from: SystemTime, until: SystemTime) -> String {
    let span = until.duration_since(from).unwrap_or(Duration::ZERO);
    let rounded = if span < Duration::from_secs(10) {
        Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(span.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}

/// One JSON object; unknown fields are `null`.
#[derive(Debug, Serialize)]
struct PastTermJson<'a> {
    leader: &'a str,
    token: u64,
    from: Option<String>,
    until: Option<String>,
    /// `resigned`, `transferred` or `lost`; `null` for the present term.
    ended: Option<&'static str>,
    /// The next leader of a transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    /// `ordered`, `priority`, `last-resort`, `program` or `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The operator that ordered it, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered_at: Option<String>,
}

impl<'a> PastTermJson<'a> {
    fn of(term: &'a PastTerm) -> Self {
        let (to, reason) = match &term.ended {
            Some(TermEnding::Transferred { to, reason }) => (Some(to.as_str()), Some(reason)),
            _ => (None, None),
        };
        let by = match reason {
            Some(TransferReason::Ordered(by)) => Some(by),
            _ => None,
        };
        Self {
            leader: &term.leader,
            token: term.token.get(),
            from: term.from.map(time),
            until: term.until.map(time),
            ended: term.ended.as_ref().map(|ended| match ended {
                TermEnding::Resigned => "resigned",
                TermEnding::Transferred { .. } => "transferred",
                TermEnding::Lost => "lost",
                _ => "other",
            }),
            to,
            reason: reason.map(|reason| match reason {
                TransferReason::Ordered(_) => "ordered",
                TransferReason::Priority => "priority",
                TransferReason::LastResort => "last-resort",
                TransferReason::Program => "program",
                TransferReason::Disk => "disk",
                _ => "other",
            }),
            by: by.map(|by| by.operator.as_str()),
            ordered_at: by.map(|by| time(by.at)),
        }
    }
}
