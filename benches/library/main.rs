//! Programs that use the library, for the measurements that the `elect` command is too coarse for.
//!
//! ```text
//! bench-library claimant ENDPOINT ELECTION NAME TTL   prints `claims NANOS TOKEN` every ms while it leads
//! bench-library crowd ENDPOINT ELECTION COUNT TTL     many on one `Etcd`; on SIGUSR1 each gives way in turn
//! bench-library apart ENDPOINT ELECTION COUNT TTL     the same, with the renewals on a thread of their own
//! ```

use std::{env, pin::pin, time::Duration};

use leader_election::{
    Candidate, Leadership,
    clock::Timestamp,
    etcd::{Etcd, Settings},
    timing::Ttl,
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["claimant", endpoint, election, name, ttl] => {
            let ttl = Ttl::new(Duration::from_secs(ttl.parse()?))?;
            let etcd = Etcd::start(settings(endpoint)?)?;
            claimant(Candidate::new(etcd, election.parse()?, name.parse()?, ttl)).await
        }
        [how @ ("crowd" | "apart"), endpoint, election, count, ttl] => {
            let ttl = Ttl::new(Duration::from_secs(ttl.parse()?))?;
            let etcd = match how {
                "crowd" => Etcd::start_on(Handle::current(), settings(endpoint)?),
                _ => Etcd::start(settings(endpoint)?)?,
            };
            crowd(etcd, election, count.parse()?, ttl).await
        }
        _ => Err("this belongs to `make bench`; its arguments are in benches/library/main.rs".into()),
    }
}

fn settings(endpoint: &str) -> Result<Settings, Failure> {
    Ok(Settings::new([endpoint.parse()?])?)
}

/// Claims to lead for as long as the guard says so, and asks nothing but the guard.
async fn claimant(mut candidate: Candidate<Etcd>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let leadership = {
            let mut campaign = pin!(candidate.campaign());
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                won = &mut campaign => won?,
            }
        };
        if claim_until_lost(&leadership, &mut terminate).await {
            // Lost just now, or not confirmed in time: it is over in any case.
            let _ = leadership.resign().await;
            return Ok(());
        }
    }
}

/// Whether it was told to stop.
async fn claim_until_lost(leadership: &Leadership, terminate: &mut Signal) -> bool {
    let mut every = interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(terminate.recv());
    loop {
        // Read first, so that the claim is at least as old as what the guard judged by.
        let now = Timestamp::now();
        if !leadership.holds() {
            return false;
        }
        println!("claims {} {}", now.as_nanos(), leadership.token());
        tokio::select! {
            biased;
            _ = &mut stop => return true,
            _ = every.tick() => {}
        }
    }
}

async fn crowd(etcd: Etcd, election: &str, count: usize, ttl: Ttl) -> Result<(), Failure> {
    let mut go = signal(SignalKind::user_defined1())?;
    let started = watch::Sender::new(None);
    let mut candidates = JoinSet::new();
    for number in 0..count {
        let name = number.to_string().parse()?;
        let candidate = Candidate::new(etcd.clone(), election.parse()?, name, ttl);
        candidates.spawn(one_of_many(candidate, started.subscribe()));
    }
    go.recv().await;
    let start = Timestamp::now();
    started.send_replace(Some(start));
    let mut last = Duration::ZERO;
    while let Some(won) = candidates.join_next().await {
        last = last.max(won??);
    }
    println!("handoffs {} {}", count - 1, last.as_nanos());
    Ok(())
}

/// Queues, wins, and gives way at once, but not before the start. Returns how long after it that it won.
async fn one_of_many(
    mut candidate: Candidate<Etcd>,
    mut started: watch::Receiver<Option<Timestamp>>,
) -> Result<Duration, Failure> {
    let leadership = candidate.campaign().await?;
    let won = Timestamp::now();
    let start = started.wait_for(Option::is_some).await?.ok_or("there is no start")?;
    leadership.resign().await?;
    Ok(won.since(start))
}
