//! Follow who leads, as a stream. With an etcd on localhost:2379:
//!
//! ```text
//! cargo run --example observe
//! ```

use std::error::Error;

use leader_election::{etcd::Etcd, observe::State};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let etcd = Etcd::connect("localhost:2379")?;
    let mut observer = etcd.observe("worker".parse()?);
    while let Some(observation) = observer.next().await {
        match observation.state {
            State::Leader(leader) => println!("{} leads, with token {}", leader.name, leader.token),
            State::Vacant { .. } => println!("no leader"),
            State::Unknown { problem, .. } => println!("it is not known who leads: {problem}"),
            _ => {}
        }
    }
    Ok(())
}
