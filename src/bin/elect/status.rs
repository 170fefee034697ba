//! The status of this process for others, and the HTTP routes that show it.
//!
//! ```text
//!  the election's loop                        the thread "elect-http"
//!  event, leading, tick ─► StatusStore ─► snapshot() ─► routes: /leader … /metrics
//!                             │                          │
//!       LeadershipHandle: asked at each request        /events, /
//! ```
//!
//! The loop writes and never waits; the thread serves, and its clients can't delay the loop. etcd is asked
//! only while a client looks at the status, and only for names that are not known yet; peers are not asked.
//!
//! | module | |
//! |---|---|
//! | `address` | `--http ADDR`: parsed, and bound before anything else |
//! | `store` | the state that both threads share |
//! | `snapshot` | its meaning at one moment (pure) |
//! | `certificates` | expiry times, read from the files at a scrape |
//! | `timeline` | terms that began and ended (pure) |
//! | `http` | connections, and their limits |
//! | `connection_limit` | the connection that makes room for the next |
//! | `write_timeout` | a client that does not read |
//! | `routes` | the response for each path |
//! | `response` | responses, whole or event by event |
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
