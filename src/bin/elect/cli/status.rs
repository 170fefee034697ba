//! `elect status`: one reading, a reading once a condition holds, or one at each change.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use leader_election::{
    CandidateName,
    observe::{Snapshot, State},
};
use tokio::time::{sleep, timeout};

use super::{
    CommonArgs, OTHER_LEADS, UNKNOWN, VACANT,
    reading::{ElectionReader, ElectionReading},
    show::{self, Json, MeasuredJson},
};
use crate::{
    config::{self, Config},
    lease_timing::written,
};

/// Longest pause between two readings while waiting or watching. The observer tells of a new leader at once; changes among
/// the candidates are found by reading.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Pause after a change of leader, for the announcement of its term, and so that quick changes are shown together.
const CALM: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// One JSON object: at, state, leader, token, since, candidates; among peers also measured and caretaker.
    #[arg(long)]
    json: bool,
    /// Exit with 0 only if this server leads, and with 5 if another one does.
    #[arg(long, value_name = "NAME")]
    is: Option<CandidateName>,
    /// Wait until there is a leader, or with --is until that one leads, and print the status then.
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// Stop waiting after this time; the exit code tells the state [default: wait for ever].
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = config::parse_span)]
    within: Option<Duration>,
    /// Print the status again at each change of it, until stopped.
    ///
    /// Unlike `observe`, prints all of the status, with the candidates, and may leave out states that last less than a second.
    #[arg(long, conflicts_with = "is")]
    watch: bool,
    #[command(flatten)]
    shared: CommonArgs,
}

/// The condition that `--is` and `--wait` ask about.
#[derive(Debug, Clone)]
enum Wanted {
    AnyLeader,
    Leader(CandidateName),
}

impl Wanted {
    /// Returns the exit code for this state: 0 if the condition holds.
    fn exit_code(&self, snapshot: &Snapshot) -> u8 {
        match (&snapshot.observation.state, self) {
            (State::Leader(leader), Self::Leader(name)) if leader.name != name.as_str() => OTHER_LEADS,
            (State::Leader(_), _) => 0,
            (State::Vacant { .. }, _) => VACANT,
            _ => UNKNOWN,
        }
    }

    fn is_met_by(&self, snapshot: &Snapshot) -> bool {
        self.exit_code(snapshot) == 0
    }
}

impl StatusArgs {
    /// Returns the merged configuration, and the options of this command.
    pub(super) fn merge(self) -> anyhow::Result<(Config, StatusOptions)> {
        let Self { json, is, wait, within, watch, shared } = self;
        let config = Config::of(shared, None)?;
        let wanted = is.map_or(Wanted::AnyLeader, Wanted::Leader);
        let readings = match (watch, wait) {
            (true, _) => Readings::Each,
            (false, true) => Readings::Met { within },
            (false, false) => Readings::One,
        };
        Ok((config, StatusOptions { json, wanted, readings }))
    }
}

/// Options of `elect status`.
pub(super) struct StatusOptions {
    json: bool,
    wanted: Wanted,
    readings: Readings,
}

/// The readings to print.
enum Readings {
    One,
    /// The first that meets the condition, or the last one in that time.
    Met {
        within: Option<Duration>,
    },
    /// Each that differs from the one before.
    Each,
}

pub(super) async fn run(config: Config, options: StatusOptions) -> anyhow::Result<ExitCode> {
    let StatusOptions { json, wanted, readings } = options;
    let reader = ElectionReader::of(config)?;
    let reading = match readings {
        Readings::One => reader.read().await,
        Readings::Met { within } => wait(&reader, &wanted, within).await,
        Readings::Each => return watch(&reader, json).await,
    };
    let _ = print(&reading, json)?;
    Ok(ExitCode::from(wanted.exit_code(&reading.snapshot)))
}

/// Reads until the condition holds, the time is over, or this client is refused; returns the last reading.
async fn wait(reader: &ElectionReader, wanted: &Wanted, within: Option<Duration>) -> ElectionReading {
    let mut last = None;
    let waiting = async {
        let mut observer = reader.observe();
        loop {
            let reading = last.insert(reader.read().await);
            if wanted.is_met_by(&reading.snapshot) {
                return;
            }
            tokio::select! {
                change = observer.next() => if change.is_none() { return },
                () = sleep(READ_EVERY) => {}
            }
        }
    };
    match within {
        None => waiting.await,
        // The last reading tells what was missing.
        Some(within) => drop(timeout(within, waiting).await),
    }
    last.unwrap_or_else(|| {
        ElectionReading::failed(format!("no answer within {}", written(within.unwrap_or_default())))
    })
}

/// Prints each status that differs from the one before, until the reader of the output is gone.
async fn watch(reader: &ElectionReader, json: bool) -> anyhow::Result<ExitCode> {
    let mut observer = reader.observe();
    let mut last: Option<ElectionReading> = None;
    loop {
        let reading = reader.read().await;
        if last.as_ref().is_none_or(|last| differ(last, &reading)) {
            if print(&reading, json)?.is_break() {
                return Ok(ExitCode::SUCCESS);
            }
            last = Some(reading);
        }
        tokio::select! {
            change = observer.next() => match change {
                Some(_) => sleep(CALM).await,
                None => bail!("{} to be observed", reader.refuses()),
            },
            () = sleep(READ_EVERY) => {}
        }
    }
}

/// Returns whether a watcher has to be told of the newer reading.
fn differ(older: &ElectionReading, newer: &ElectionReading) -> bool {
    let is_unknown =
        |reading: &ElectionReading| matches!(reading.snapshot.observation.state, State::Unknown { .. });
    if is_unknown(older) && is_unknown(newer) {
        // The reason may be put differently each time.
        return false;
    }
    let orders = older.controls != newer.controls;
    let (older, newer) = (&older.snapshot, &newer.snapshot);
    orders || older.observation.state != newer.observation.state || older.candidates != newer.candidates
}

/// Prints a status. Breaks if the reader of the output is gone.
fn print(reading: &ElectionReading, json: bool) -> anyhow::Result<ControlFlow<()>> {
    match try_to_print(reading, json) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("failed to print"),
    }
}

fn try_to_print(reading: &ElectionReading, json: bool) -> io::Result<()> {
    let ElectionReading { snapshot, servers, .. } = reading;
    let mut out = io::stdout().lock();
    let measured: Vec<_> = servers.iter().filter_map(MeasuredJson::of).collect();
    if json {
        serde_json::to_writer(&mut out, &Json::of_reading(reading, measured))?;
        writeln!(out)?;
        return out.flush();
    }
    writeln!(out, "{}", show::text(&snapshot.observation))?;
    let leads = matches!(snapshot.observation.state, State::Leader(_));
    for waiting in snapshot.candidates.iter().skip(usize::from(leads)) {
        writeln!(out, "  waits: {}", show::waiting(waiting, reading.profile(&waiting.name)))?;
    }
    for line in show::standing_orders(&reading.controls) {
        writeln!(out, "  {line}")?;
    }
    if let Some(line) = show::caretaking(snapshot, servers) {
        writeln!(out, "  {line}")?;
    }
    for MeasuredJson { server, timing_advice, .. } in measured {
        if let Some(advice) = timing_advice {
            writeln!(out, "  {server}: {advice}")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use leader_election::{
        FencingToken,
        observe::{Leader, Observation, Queued},
    };

    use super::*;

    fn snapshot(state: State) -> Snapshot {
        Snapshot::new(Observation::new(SystemTime::now(), state), Vec::new())
    }

    fn led_by(name: &str) -> Snapshot {
        snapshot(State::Leader(Leader::new(name.to_owned(), FencingToken::new(7))))
    }

    #[test]
    fn a_condition_is_met_only_by_the_leader_that_it_names() {
        let (any, one) = (Wanted::AnyLeader, Wanted::Leader("a".parse().unwrap()));
        for (snapshot, codes) in [
            (led_by("a"), [0, 0]),
            (led_by("b"), [0, OTHER_LEADS]),
            (snapshot(State::Vacant { blocked_by: None }), [VACANT; 2]),
            (Snapshot::unknown("no answer".into()), [UNKNOWN; 2]),
        ] {
            assert_eq!([any.exit_code(&snapshot), one.exit_code(&snapshot)], codes, "{snapshot:?}");
        }
    }

    #[test]
    fn a_watcher_is_told_of_each_change_and_not_of_time_passing() {
        let reading = |snapshot| ElectionReading::of(snapshot, Vec::new());
        let with = |candidates: &[&str]| {
            let mut snapshot = led_by("a");
            snapshot.candidates = candidates.iter().map(|name| Queued::new((*name).into(), None)).collect();
            reading(snapshot)
        };
        assert!(!differ(&with(&["a"]), &with(&["a"])));
        assert!(differ(&with(&["a"]), &with(&["a", "b"])));
        assert!(differ(&reading(led_by("a")), &reading(led_by("b"))));
        let unknown = |why: &str| reading(Snapshot::unknown(why.into()));
        assert!(differ(&unknown("x"), &reading(led_by("b"))));
        assert!(!differ(&unknown("x"), &unknown("y")));
    }
}
