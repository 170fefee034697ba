//! `elect peers`: the members of a group, and their disks; and replacing one of them.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use leader_election::{
    CandidateName,
    observe::State,
    peers::{Answered, OperateError, PeerLink},
};

use serde::Serialize;

use super::UNKNOWN;
use crate::{
    config::{self, BackendConfig, Config, UsageError},
    status::precise_millis,
};

/// Time for the servers to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Returns the group that --peers names.
fn group(config: Config) -> Result<(config::PeersConfig, leader_election::ElectionName), UsageError> {
    match config.backend {
        BackendConfig::Peers(peers) => Ok((peers, config.election)),
        BackendConfig::Etcd(_) => {
            Err(UsageError("this needs --peers NAME=HOST:PORT,…, the list of the group".into()))
        }
    }
}

/// One member of a group, as those that answered know it. A field that is not known is `null`.
#[derive(Debug, Serialize)]
struct MemberReport<'a> {
    name: &'a str,
    address: String,
    role: Option<&'a str>,
    term: Option<u64>,
    /// The first eight digits of its data directory's id, by the leader first.
    data_directory: Option<&'a str>,
    /// Whether what that directory votes and has counts.
    counts: Option<bool>,
    /// How long ago another member heard it; only of one that has not answered.
    heard_ms: Option<f64>,
    round_trip_ms: Option<f64>,
    last_sync_ms: Option<f64>,
    /// The data directory that was refused under its name.
    refused: Option<&'a str>,
    /// Why it has not answered.
    problem: Option<&'a str>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct GroupReport<'a> {
    members: Vec<MemberReport<'a>>,
}

/// Prints a line for each member, or one JSON object. Exit 0 if a majority has answered, else 4.
pub(super) async fn list(config: Config, json: bool) -> anyhow::Result<ExitCode> {
    let (peers, election) = group(config)?;
    let (snapshot, answered) = peers.client(election)?.survey(PATIENCE).await;
    let leader = match &snapshot.observation.state {
        State::Leader(leader) => Some(leader.token.get()),
        _ => None,
    };
    let members = answered.iter().map(|member| MemberReport::of(member, &answered, leader)).collect();
    match print(&GroupReport { members }, json) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("failed to print");
        }
        _ => {}
    }
    let heard = answered.iter().filter(|server| server.status.is_ok()).count();
    Ok(if heard * 2 > answered.len() { ExitCode::SUCCESS } else { ExitCode::from(UNKNOWN) })
}

fn print(group: &GroupReport<'_>, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, group)?;
        return writeln!(out);
    }
    group.members.iter().try_for_each(|member| writeln!(out, "{member}"))
}

impl<'a> MemberReport<'a> {
    fn of(
        Answered { member, status: look, .. }: &'a Answered,
        all: &'a [Answered],
        leader: Option<u64>,
    ) -> Self {
        // The leader's status first.
        let mut looks: Vec<_> = all.iter().filter_map(|other| other.status.as_ref().ok()).collect();
        looks.sort_by_key(|look| look.role != "leader" || Some(look.term) != leader);
        let seen: Vec<&PeerLink> = looks
            .into_iter()
            .flat_map(|look| &look.links)
            .filter(|contact| contact.name == member.name)
            .collect();
        let disk = seen.iter().find_map(|contact| contact.disk.as_ref());
        let heard = look.is_err().then(|| seen.iter().filter_map(|contact| contact.heard).min()).flatten();
        let look = look.as_ref();
        Self {
            name: member.name.as_str(),
            address: member.address.to_string(),
            role: look.ok().map(|look| look.role.as_str()),
            term: look.ok().map(|look| look.term),
            data_directory: disk.map(|disk| disk.id.as_str()),
            counts: disk.map(|disk| disk.counts),
            heard_ms: heard.map(precise_millis),
            round_trip_ms: seen.iter().find_map(|contact| contact.round_trip).map(precise_millis),
            last_sync_ms: look.ok().map(|look| precise_millis(look.syncs.last)),
            refused: seen.iter().find_map(|contact| contact.refused.as_deref()),
            problem: look.err().map(String::as_str),
        }
    }
}

/// A line for people, and one more if a directory was refused.
impl fmt::Display for MemberReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        write!(f, "{name}  {}  ", self.address)?;
        match (self.role, self.term) {
            (Some(role), Some(term)) => write!(f, "{role}, term {term}")?,
            _ => write!(f, "no answer: {}", self.problem.unwrap_or_default())?,
        }
        if let Some(directory) = self.data_directory {
            let counts = if self.counts == Some(false) { " (does not count yet)" } else { "" };
            write!(f, ", data directory {directory}{counts}")?;
        }
        if let Some(heard) = self.heard_ms {
            write!(f, ", last heard {:.1} s ago", heard / 1e3)?;
        }
        if let Some(round_trip) = self.round_trip_ms {
            write!(f, ", round trip {round_trip:.1} ms")?;
        }
        if let Some(sync) = self.last_sync_ms {
            write!(f, ", last sync {sync:.1} ms")?;
        }
        if let Some(refused) = self.refused {
            write!(
                f,
                "\n  refused: a server called {name} on another data directory, {refused}. If it has lost its disk: elect \
                 peers replace {name} {refused}"
            )?;
        }
        Ok(())
    }
}

/// Replaces the disk of a member. Exit 0 once the new one counts.
pub(super) async fn replace(
    config: Config,
    name: CandidateName,
    directory: Option<String>,
) -> anyhow::Result<ExitCode> {
    let (peers, election) = group(config)?;
    if !peers.group.members().iter().any(|member| member.name == name) {
        return Err(
            UsageError(format!("'{name}' is not among the --peers, which are {}", peers.group)).into()
        );
    }
    let secret = peers.secret()?;
    let begun =
        || println!("the disk of {name} counts no more; waiting for the new one to have what the group has");
    let directory = directory.unwrap_or_default();
    let client = peers.client(election)?;
    match client.replace(name.as_str(), &directory, secret.as_ref(), PATIENCE, begun).await {
        Ok(()) => {
            println!("replaced: the new disk of {name} counts");
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ (OperateError::NoLeader(_) | OperateError::Unanswered { .. })) => {
            bail!("{error}; see: elect peers")
        }
        Err(error) => bail!("{error}"),
    }
}
