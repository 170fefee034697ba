//! `elect transfer`, `cordon`, `uncordon`, `pause`, `resume`: one order, and its outcome.

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use leader_election::{
    CandidateName,
    choosing::{TransferError, Transferred},
    peers::OperateError,
};
use tokio::{pin, time::sleep};

use super::{UNKNOWN, operator};
use crate::{config::Config, lease_timing::written};

/// Time after which the caller is told that the order is still under way.
const STILL: Duration = Duration::from_secs(1);

/// A standing order.
pub(super) enum StandingOrder {
    Cordon { name: CandidateName, hard: bool },
    Uncordon { name: CandidateName },
    Pause,
    Resume,
}

/// Hands leadership to a candidate. Exit 0 once that one leads.
pub(super) async fn transfer(
    config: Config,
    to: CandidateName,
    within: Duration,
) -> anyhow::Result<ExitCode> {
    let operator = operator::of(config)?;
    let ordered = operator.transfer(to.as_str(), within, operator::by_this_user());
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
    let operator = operator::of(config)?;
    let by = operator::by_this_user();
    let (outcome, done) = match order {
        StandingOrder::Cordon { name, hard } => {
            let done = if hard {
                format!("cordoned: {name} does not lead, not even while no other can")
            } else {
                format!("cordoned: {name} leads only while no other can")
            };
            (operator.cordon(name.as_str(), hard, by).await, done)
        }
        StandingOrder::Uncordon { name } => {
            (operator.uncordon(name.as_str(), by).await, format!("{name} may lead again"))
        }
        StandingOrder::Pause => (
            operator.pause(by).await,
            "paused: nothing moves by priority or transfer until elect resume".into(),
        ),
        StandingOrder::Resume => (operator.resume(by).await, "resumed".into()),
    };
    match outcome {
        Ok(()) => {
            println!("{done}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ OperateError::Unanswered { .. }) => {
            eprintln!("elect: {error}; see: elect status");
            Ok(ExitCode::from(UNKNOWN))
        }
        Err(error) => Err(anyhow!(error)),
    }
}
