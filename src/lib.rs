//! Run several copies of a service, and have exactly one of them lead, provably.
//!
//! ```text
//!  Settings ─► Etcd ─► Candidate ── campaign() ──► Leadership ──► your work
//!             (thread     │                         token(), holds(), lost(),
//!            that renews) ├─ lead(work): the loop    proclaim(), resign()
//!                │        └─ status(): do we lead?
//!                │
//!                └─► Observer: a leader, a vacancy, or unknown since when
//! ```
//!
//! [`Candidate`] waits in etcd's queue. [`Candidate::campaign`] returns a [`Leadership`] once a linearizable
//! read has shown that this candidate is first. The guard tells whether this process leads *now* for the cost
//! of a clock read, resolves [`lost`](LeadershipHandle::lost) by its deadline at the latest, and carries the
//! [`FencingToken`] that a resource can check.
//!
//! ```no_run
//! use leader_election::{LeadershipHandle, etcd::Etcd};
//!
//! async fn work(leadership: LeadershipHandle) {
//!     while leadership.holds() {
//!         // one step of the work, with leadership.token() in every write
//! #       tokio::task::yield_now().await;
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut candidate = Etcd::connect("localhost:2379")?.candidate("leader")?.named("server1")?;
//! let stop = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
//! candidate.lead_until(stop, work).await?;
//! # Ok(()) }
//! ```
//!
//! The guarantee and its assumptions are in [`contract`].

pub mod candidate;
pub mod choosing;
pub mod clock;
pub mod contract;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod leadership;
#[cfg(feature = "etcd")]
pub mod lifeline;
pub mod names;
pub mod observe;
#[cfg(feature = "peers")]
pub mod peers;
#[cfg(feature = "peers")]
mod raft;
pub mod timing;
mod tls;
pub mod validity;

// The README's program compiles.
#[cfg(all(doctest, feature = "etcd"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(not(any(feature = "etcd", feature = "peers")))]
compile_error!("leader-election needs a backend: turn on the feature `etcd`, `peers`, or both");

pub use self::{
    candidate::{CampaignError, Candidate, LeadershipStatus},
    leadership::{FencingToken, Leadership, LeadershipHandle, Loss},
    names::{CandidateName, ElectionName},
};
