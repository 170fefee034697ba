//! Others see who leads: what is going on in this process, and the HTTP routes that show it.
//!
//! ```text
//!  the election's loop                        the thread "elect-http"
//!  event, leading, tick ──► Board ──► situation() ──► routes: /leader … /metrics
//!                             │                          │
//!       LeadershipHandle: asked at each request        /events, /
//! ```
//!
//! The loop writes and never waits; the thread serves, and whatever its clients do, the loop goes on. etcd is asked for
//! something only while somebody looks, and only for names that are not known yet; peers are not asked.
//!
//! | module | |
//! |---|---|
//! | `address` | `--http ADDR`: parsed, and bound before anything else |
//! | `board` | what is known, shared by both threads |
//! | `situation` | what it means, at one moment (pure) |
//! | `certificates` | when they end, read from their files at a scrape |
//! | `timeline` | terms that began and ended (pure) |
//! | `http` | connections, and their limits |
//! | `seats` | which connection makes room for the next |
//! | `patient` | a client that does not read |
//! | `routes` | what is answered on which path |
//! | `answer` | whole, or event by event |
//! | `events` | `/events` |
//! | `metrics` | `/metrics` |
//! | `report` | the JSON of `/status` and `/events` |
//! | `page` | `/`, for people |

mod address;
mod certificates;
mod connection_limit;
mod events;
mod hosts;
mod http;
mod metrics;
mod page;
mod report;
mod response;
mod routes;
mod snapshot;
mod store;
mod timeline;
mod write_timeout;

pub(crate) use self::{
    address::{Address, BoundAddress},
    http::serve,
    report::precise_millis,
    store::{ServerIdentity, Sources, StatusStore},
};
