//! Work that only one of many processes does at a time.
//!
//! Run it in two terminals, with an etcd on localhost:2379, and stop the one that works:
//!
//! ```text
//! cargo run --example singleton_worker -- alice
//! cargo run --example singleton_worker -- bob
//! ```

use std::{error::Error, time::Duration};

use leader_election::{LeadershipHandle, candidate::Stopped, etcd::Etcd};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: singleton_worker NAME")?;
    let etcd = Etcd::connect("localhost:2379")?;
    let mut candidate = etcd.candidate("worker")?.named(name)?;

    let stop = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
    println!("waiting for my turn");
    match candidate.lead_until(stop, work).await? {
        Stopped::Unconfirmed(why) => println!("stopped; the next one waits for the lease to end ({why})"),
        _ => println!("stopped"),
    }
    // A candidate that only waited leaves the queue in the background.
    etcd.drained().await;
    Ok(())
}

/// Called once for every term, and dropped the moment it is lost.
async fn work(leadership: LeadershipHandle) {
    println!("leading, with token {}", leadership.token());
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    // Asked before each step, because a process may be frozen between any two.
    while leadership.holds() {
        println!("working; {:?} of proved time left", leadership.remaining());
        tick.tick().await;
    }
}
