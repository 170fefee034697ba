//! `elect transfer`, `cordon`, `uncordon`, `pause`, `resume`: one order, and its outcome.

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use leader_election::{
    CandidateName,
    choosing::{TransferError, Transferred},
};
use tokio::{pin, time::sleep};

use super::{
    UNKNOWN,
    operator::{ElectionOperator, NotStanding, StandingOrder},
};
use crate::{config::Config, lease_timing::written};

/// Time after which the caller is told that the order is still under way.
const STILL: Duration = Duration::from_secs(1);

/// Hands leadership to a candidate. Exit 0 once that one leads.
pub(super) async fn transfer(
    config: Config,
    to: CandidateName,
    within: Duration,
) -> anyhow::Result<ExitCode> {
    let operator = ElectionOperator::of(config)?;
    let ordered = operator.transfer(to.as_str(), within);
    pin!(ordered);
    let outcome = tokio::select! {
        outcome = &mut ordered => outcome,
        () = sleep(STILL) => {
            eprintln!("waiting for '{to}' to be ready to lead, for {} at most", written(within));
            ordered.await
        }
    };
    match outcome {
        Ok(Transferred { to, token, .. }) => {
            println!("{to} leads (token {token})");
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ TransferError::Unconfirmed(_)) => {
            eprintln!("elect: {error}; see: elect status");
            Ok(ExitCode::from(UNKNOWN))
        }
        Err(error) => Err(anyhow!(error)),
    }
}

/// Gives or takes back a standing order. Exit 0 once it counts.
pub(super) async fn stand(config: Config, order: StandingOrder) -> anyhow::Result<ExitCode> {
    match ElectionOperator::of(config)?.stand(&order).await {
        Ok(()) => {
            println!("{}", done(&order));
            Ok(ExitCode::SUCCESS)
        }
        Err(NotStanding { problem, unconfirmed: true }) => {
            eprintln!("elect: {problem}; see: elect status");
            Ok(ExitCode::from(UNKNOWN))
        }
        Err(NotStanding { problem, unconfirmed: false }) => Err(anyhow!(problem)),
    }
}

fn done(order: &StandingOrder) -> String {
    match order {
        StandingOrder::Cordon { name, hard: true } => {
            format!("cordoned: {name} does not lead, not even while no other can")
        }
        StandingOrder::Cordon { name, hard: false } => {
            format!("cordoned: {name} leads only while no other can")
        }
        StandingOrder::Uncordon { name } => format!("{name} may lead again"),
        StandingOrder::Pause => "paused: nothing moves by priority or transfer until elect resume".into(),
        StandingOrder::Resume => "resumed".into(),
    }
}
