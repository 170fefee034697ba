//! A resource that refuses writes of a former leader.
//!
//! A leader can be paused between its last check and its write: by garbage collection, a suspended
//! laptop, a slow network. No check of its own helps then. The token does: it grows with every
//! term and is sent with every write, and the resource refuses a token smaller than the largest
//! it has seen. With an etcd on localhost:2379:
//!
//! ```text
//! cargo run --example fenced_write
//! ```

use std::{error::Error, sync::Mutex};

use leader_election::{
    FencingToken, Leadership,
    etcd::{
        Etcd,
        etcd_client::{Txn, TxnOp},
    },
};

/// Any store that can compare and set: a row in a database, an object with a version.
#[derive(Default)]
struct Store {
    written: Mutex<Option<(FencingToken, String)>>,
}

impl Store {
    /// Writes, unless a later term has already written. Comparison and write are one step.
    fn write(&self, token: FencingToken, text: &str) -> Result<(), String> {
        let mut written = self.written.lock().map_err(|_| "the store is broken")?;
        match &*written {
            Some((newest, _)) if token < *newest => {
                Err(format!("refused: token {token} is older than {newest}"))
            }
            _ => {
                *written = Some((token, text.to_owned()));
                Ok(())
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let etcd = Etcd::connect("localhost:2379")?;
    let store = Store::default();

    let old = lead(&etcd, "alice").await?;
    let late_write = old.token();
    println!("alice writes with token {late_write}: {:?}", store.write(late_write, "by alice"));
    // Alice's next write is on its way, and slow. Meanwhile she is deposed.
    old.resign().await?;

    let new = lead(&etcd, "bob").await?;
    println!("bob writes with token {}: {:?}", new.token(), store.write(new.token(), "by bob"));
    println!("alice's late write arrives: {:?}", store.write(late_write, "by alice, too late"));

    // Where the resource is etcd itself, it does the comparing: the transaction runs only
    // while this term is the current one.
    let put = Txn::new().and_then([TxnOp::put("fenced", "by bob", None)]);
    let answer = etcd.transaction(&new, put).await?;
    println!("bob's guarded transaction ran: {}", answer.succeeded());
    new.resign().await?;
    Ok(())
}

async fn lead(etcd: &Etcd, name: &str) -> Result<Leadership, Box<dyn Error>> {
    Ok(etcd.candidate("fenced")?.named(name)?.campaign().await?)
}
