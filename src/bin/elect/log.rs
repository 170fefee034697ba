//! The log, in three formats.
//!
//! `plain` prints the lines that people follow, each as its bare message, and nothing else on that stream;
//! problems at the start, and lasting problems, go to the standard error. `full` and `json` print those with
//! time, level and fields, and everything else at info or above. `RUST_LOG` widens any of them.

use std::{fmt, io};

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, filter_fn},
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{Format as Standard, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::UsageError;

mod lines;
mod rate_limit;

pub(crate) use self::{
    lines::{OutputStream, drain, together},
    rate_limit::RateLimit,
};

/// The target of the lines that people follow.
pub(crate) const TRANSCRIPT: &str = "transcript";

/// The target of a problem that is logged once.
const PROBLEM: &str = "problem";

/// The target of lasting problems, for `plain`: the other formats have logged each occurrence.
const LASTING: &str = "lasting";

/// Warns about a problem that will not fix itself.
pub(crate) fn problem(text: &str) {
    tracing::warn!(target: PROBLEM, "{text}");
}

/// Logs a lasting problem for readers of the plain lines.
pub(crate) fn lasting_problem(text: &str) {
    tracing::warn!(target: LASTING, "{text}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Plain,
    Full,
    Json,
}

pub(crate) fn start(format: Format, to: OutputStream) -> Result<(), UsageError> {
    let default = match format {
        Format::Plain => "transcript=info,problem=warn,lasting=warn",
        Format::Full | Format::Json => "info,lasting=off",
    };
    let directives = match std::env::var("RUST_LOG") {
        Ok(more) if !more.is_empty() => format!("{default},{more}"),
        _ => default.to_owned(),
    };
    let filter: Targets = directives.parse().map_err(|error| {
        UsageError(format!(
            "RUST_LOG={directives:?}: {error}; write levels and targets, as in RUST_LOG=debug"
        ))
    })?;
    let colours = io::IsTerminal::is_terminal(&io::stdout()) && std::env::var_os("NO_COLOR").is_none();
    let problems = if format == Format::Plain { OutputStream::Stderr } else { to };
    let layer =
        tracing_subscriber::fmt::layer().with_writer(LogStreams { problems, others: to }).with_ansi(colours);
    let layer = match format {
        Format::Plain => layer.event_format(Plain(Standard::default().without_time())).boxed(),
        Format::Full => layer.with_target(false).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    // The library's spans name election and candidate: this process has one of each.
    let events = filter_fn(|about| about.is_event());
    tracing_subscriber::registry().with(layer.with_filter(filter.and(events))).init();
    Ok(())
}

/// Chooses a line's stream by its target.
struct LogStreams {
    problems: OutputStream,
    others: OutputStream,
}

impl MakeWriter<'_> for LogStreams {
    type Writer = OutputStream;

    fn make_writer(&self) -> OutputStream {
        self.others
    }

    fn make_writer_for(&self, about: &Metadata<'_>) -> OutputStream {
        match about.target() {
            PROBLEM | LASTING => self.problems,
            _ => self.others,
        }
    }
}

/// Bare messages for the transcript, the standard form for everything that `RUST_LOG` adds.
struct Plain<F>(F);

impl<S, N, F> FormatEvent<S, N> for Plain<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match event.metadata().target() {
            TRANSCRIPT => {}
            PROBLEM | LASTING => write!(writer, "elect: warning: ")?,
            _ => return self.0.format_event(ctx, writer, event),
        }
        let mut message = MessageOnly(&mut writer, Ok(()));
        event.record(&mut message);
        message.1?;
        writeln!(writer)
    }
}

/// Writes an event's message, and omits its fields.
struct MessageOnly<'a, 'w>(&'a mut Writer<'w>, fmt::Result);

impl tracing::field::Visit for MessageOnly<'_, '_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.1 = write!(self.0, "{value:?}");
        }
    }
}
