//! The documents that `make bench` writes: their layout, the numbers in them, and what is judged.
//!
//! The tests stand beside the code, in benches/election: a benchmark runs none by itself.

#[path = "../benches/election/claims.rs"]
mod claims;
#[path = "../benches/election/report/mod.rs"]
mod report;
