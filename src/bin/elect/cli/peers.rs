//! `elect peers`: the members of a group, and their disks; and replacing one of them.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use leader_election::{
    CandidateName,
    observe::State,
    peers::{Answered, Contact, OperateError},
};

use super::UNKNOWN;
use crate::config::{self, BackendConfig, Config, UsageError};

/// How long the servers have to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// The servers of a group, as --peers names them.
fn group(config: Config) -> Result<(config::PeersConfig, leader_election::ElectionName), UsageError> {
    match config.backend {
        BackendConfig::Peers(peers) => Ok((peers, config.election)),
        BackendConfig::Etcd(_) => Err(UsageError(
            "there are no peers without --peers NAME=HOST:PORT,…; give the list of the group".into(),
        )),
    }
}

/// Prints a line for each member. Exit 0 if a majority has answered, else 4.
pub(super) async fn list(config: Config) -> anyhow::Result<ExitCode> {
    let (peers, election) = group(config)?;
    let (snapshot, answered) = peers.client(election)?.survey(PATIENCE).await;
    let leader = match &snapshot.observation.state {
        State::Leader(leader) => Some(leader.token),
        _ => None,
    };
    match print(&answered, leader.map(|token| token.get())) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("failed to print");
        }
        _ => {}
    }
    let heard = answered.iter().filter(|server| server.look.is_ok()).count();
    Ok(if heard * 2 > answered.len() { ExitCode::SUCCESS } else { ExitCode::from(UNKNOWN) })
}

fn print(answered: &[Answered], leader: Option<u64>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Answered { member, look, .. } in answered {
        // The leader's word first.
        let mut looks: Vec<_> = answered.iter().filter_map(|other| other.look.as_ref().ok()).collect();
        looks.sort_by_key(|look| look.role != "leader" || Some(look.term) != leader);
        let seen: Vec<&Contact> = looks
            .iter()
            .flat_map(|look| &look.contacts)
            .filter(|contact| contact.name == member.name)
            .collect();
        let mut line = vec![match look {
            Ok(look) => format!("{}, term {}", look.role, look.term),
            Err(problem) => format!("no answer: {problem}"),
        }];
        if let Some(disk) = seen.iter().find_map(|contact| contact.disk.as_ref()) {
            let counts = if disk.counts { "" } else { " (does not count yet)" };
            line.push(format!("data directory {}{counts}", disk.id));
        }
        if look.is_err()
            && let Some(heard) = seen.iter().filter_map(|contact| contact.heard).min()
        {
            line.push(format!("last heard {:.1} s ago", heard.as_secs_f64()));
        }
        if let Some(round_trip) = seen.iter().find_map(|contact| contact.round_trip) {
            line.push(format!("round trip {:.1} ms", round_trip.as_secs_f64() * 1e3));
        }
        if let Ok(look) = look {
            line.push(format!("last sync {:.1} ms", look.syncs.last.as_secs_f64() * 1e3));
        }
        writeln!(out, "{}  {}  {}", member.name, member.address, line.join(", "))?;
        if let Some(refused) = seen.iter().find_map(|contact| contact.refused.as_ref()) {
            writeln!(
                out,
                "  refused: a server called {0} on another data directory, {refused}. If it has lost its disk: elect peers \
                 replace {0} {refused}",
                member.name
            )?;
        }
    }
    Ok(())
}

/// Has the disk of that member replaced. Exit 0 once the new one counts.
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
