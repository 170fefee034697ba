//! A web service in several replicas, one of which also does the background work.
//!
//! With an etcd on localhost:2379, in two terminals:
//!
//! ```text
//! NAME=alice LISTEN=127.0.0.1:8081 cargo run --example axum_service
//! NAME=bob   LISTEN=127.0.0.1:8082 cargo run --example axum_service
//! ```

use std::{env, error::Error, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use leader_election::{LeadershipHandle, LeadershipStatus, etcd::Etcd};
use tokio::signal::unix::{SignalKind, signal};

/// What the work needs: a database, a queue.
struct Jobs;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let etcd = Etcd::connect(&env::var("ETCD").unwrap_or("localhost:2379".into()))?;
    let mut candidate = etcd.candidate("jobs")?.named(env::var("NAME")?)?;
    let routes = Router::new().route("/", get(role)).with_state(candidate.status());
    let listener = tokio::net::TcpListener::bind(env::var("LISTEN")?).await?;

    let jobs = Arc::new(Jobs);
    let leading = tokio::spawn(async move {
        candidate.lead_until(told_to_stop(), |leadership| work(leadership, jobs.clone())).await
    });
    let serving = axum::serve(listener, routes).with_graceful_shutdown(told_to_stop());
    let (stopped, ()) =
        tokio::try_join!(async { Ok::<_, Box<dyn Error>>(leading.await??) }, async { Ok(serving.await?) },)?;
    println!("stopped: {stopped:?}");
    // A place in the queue is given back in the background.
    etcd.drained().await;
    Ok(())
}

/// Dropped as soon as leadership is lost; called again for the next term.
async fn work(leadership: LeadershipHandle, _jobs: Arc<Jobs>) {
    while leadership.holds() {
        println!("one job, with token {} in every write", leadership.token());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn role(State(status): State<LeadershipStatus>) -> String {
    match status.leadership() {
        Some(leadership) => format!("leader, token {}\n", leadership.token()),
        None => "standby\n".into(),
    }
}

async fn told_to_stop() {
    signal(SignalKind::terminate()).expect("signals can be listened to").recv().await;
}
