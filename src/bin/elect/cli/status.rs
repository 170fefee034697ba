//! `elect status`: one reading. Exit 0 a leader, 3 no leader, 4 unknown.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use leader_election::{
    ElectionName,
    etcd::Etcd,
    observe::{Snapshot, SnapshotError, State},
    peers::Answered,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    UNKNOWN, VACANT,
    show::{self, Json, MeasuredJson},
};
use crate::config::{BackendConfig, Config};

/// Time for an answer. Other endpoints of etcd's are tried within it, and all peers.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn run(config: Config, json: bool) -> anyhow::Result<ExitCode> {
    let Config { backend, election, .. } = config;
    let (snapshot, servers) = match backend {
        BackendConfig::Etcd(settings) => {
            let etcd = Etcd::start(settings).context("failed to start")?;
            (read(&etcd, election).await, Vec::new())
        }
        BackendConfig::Peers(peers) => peers.client(election)?.survey(PATIENCE).await,
    };
    match print(&snapshot, &servers, json) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("failed to print");
        }
        _ => {}
    }
    Ok(match snapshot.observation.state {
        State::Leader(_) => ExitCode::SUCCESS,
        State::Vacant { .. } => ExitCode::from(VACANT),
        _ => ExitCode::from(UNKNOWN),
    })
}

/// Reads until there is an answer, or the time is over.
async fn read(etcd: &Etcd, election: ElectionName) -> Snapshot {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + PATIENCE;
    let mut problem = None;
    while let Ok(answer) = timeout_at(deadline, etcd.snapshot(election.clone())).await {
        match answer {
            Ok(snapshot) => return snapshot,
            Err(SnapshotError::Refused(why)) => return Snapshot::unknown(why),
            Err(error) => problem = Some(error.to_string()),
        }
        sleep(PAUSE).await;
    }
    Snapshot::unknown(problem.unwrap_or_else(|| format!("no answer within {PATIENCE:?}")))
}

fn print(snapshot: &Snapshot, servers: &[Answered], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let measured: Vec<_> = servers.iter().filter_map(MeasuredJson::of).collect();
    if json {
        serde_json::to_writer(&mut out, &Json::of_snapshot(snapshot, servers, measured))?;
        return writeln!(out);
    }
    writeln!(out, "{}", show::text(&snapshot.observation))?;
    let leads = matches!(snapshot.observation.state, State::Leader(_));
    for waiting in snapshot.candidates.iter().skip(usize::from(leads)) {
        match waiting.token {
            Some(token) => writeln!(out, "  waits: {} (token {token})", waiting.name)?,
            None => writeln!(out, "  waits: {}", waiting.name)?,
        }
    }
    if let Some(line) = show::caretaking(snapshot, servers) {
        writeln!(out, "  {line}")?;
    }
    for MeasuredJson { server, timing_advice, .. } in measured {
        if let Some(advice) = timing_advice {
            writeln!(out, "  {server}: {advice}")?;
        }
    }
    Ok(())
}
