//! Run several copies of a service, and have exactly one of them lead, provably.
//!
//! ```text
//!  Settings ─► Etcd ─► Candidate ── campaign() ──► Leadership ──► your work
//!             (thread     │                         token(), holds(), lost(),
//!            that renews) └─ lead(work): the loop    proclaim(), transaction(), resign()
//!                │
//!                └─► Observer: a leader, a vacancy, or unknown since when
//! ```
//!
//! [`Candidate`] waits in etcd's queue, and [`Candidate::campaign`] returns a
//! [`Leadership`] once a linearizable read has shown that it is first. The guard says for
//! the cost of a clock read whether this process leads *now*, resolves
//! [`lost`](Leadership::lost) by its deadline at the latest, and carries the
//! [`FencingToken`] that a resource can check.
//!
//! ```no_run
//! use leader_election::{Candidate, etcd::{Etcd, Settings}, timing::Ttl};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let etcd = Etcd::start(Settings::new(["localhost:2379".parse()?])?)?;
//! let mut candidate = Candidate::new(etcd, "leader".parse()?, "server1".parse()?, Ttl::DEFAULT);
//!
//! candidate.lead(async |leadership| {
//!     while leadership.holds() {
//!         // one step of the work, with leadership.token() in every write
//! #       tokio::task::yield_now().await;
//!     }
//!     std::ops::ControlFlow::<()>::Continue(())
//! }).await?;
//! # Ok(()) }
//! ```
//!
//! What this guarantees, and under which assumptions, is in `docs/safety.md`.

pub mod candidate;
pub mod clock;
pub mod etcd;
pub mod leadership;
pub mod names;
pub mod observe;
pub mod peers;
mod raft;
pub mod timing;
mod tls;
pub mod validity;

pub use self::{
    candidate::{CampaignError, Candidate},
    leadership::{FencingToken, Leadership, Loss},
    names::{CandidateName, ElectionName},
};
