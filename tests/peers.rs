//! The peers backend in real processes, with real connections and disks, and each fault that may happen to them.
//!
//! Tests of a point of the leadership contract carry its number. Moments are compared on the boot-time clock;
//! a line's moment is its arrival here, shortly after it was printed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

/// Module path of the codec that the generated protocol code names.
mod peers {
    pub(crate) mod wire {
        pub(crate) use tonic_prost::ProstCodec as ShortAtFirst;
    }
}

#[path = "support/impostor.rs"]
mod impostor;

#[path = "peers/cut_off.rs"]
mod cut_off;
#[path = "peers/disks.rs"]
mod disks;
#[path = "peers/frozen.rs"]
mod frozen;
#[path = "peers/impostor.rs"]
mod impostors;
#[path = "peers/killed.rs"]
mod killed;
#[path = "peers/lines.rs"]
mod lines;
#[path = "peers/misfits.rs"]
mod misfits;
#[path = "peers/observed.rs"]
mod observed;
#[path = "peers/replaced.rs"]
mod replaced;
#[path = "peers/run.rs"]
mod run;
#[path = "peers/strangers.rs"]
mod strangers;
#[path = "peers/timing.rs"]
mod timing;

#[test]
#[ignore = "what the other tests run; not a test"]
fn member() {
    support::member::main();
}

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    support::worker::main();
}
