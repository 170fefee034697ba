//! The HTTP server, on a thread and a runtime of its own, so that no client can hold up a renewal.
//!
//! What a client can make it do is bounded:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections | `CONNECTIONS`, and the limit of descriptors | the one that has kept us waiting longest is closed: see `limit` |
//! | a request's head | `HEAD_BYTES`, `HEADERS` | 431 |
//! | … or the pause before it | `HEAD_WITHIN` | closed |
//! | a request's body | none is taken | 413 |
//! | an answer that is not read | `write_timeout::STALLED` | closed |
//! | clients of `/events` | a quarter of the connections | 503 |

use std::{convert::Infallible, io, net::SocketAddr, thread, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use leader_election::{
    clock::Timestamp,
    etcd::{Etcd, Settings},
    observe::Snapshot,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::{self, Handle},
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    address::BoundAddress,
    connection_limit::{ConnectionLimit, ConnectionPermit},
    hosts::Hosts,
    routes::Routes,
    store::{ServerIdentity, StatusStore},
    write_timeout::WriteTimeout,
};
use crate::{descriptors, log::RateLimit};

/// Connections at one time: far more than load balancers and people need, and a quarter of the file
/// descriptors that a process usually has. Where it has fewer, [`descriptors::to_serve`] says how many.
const CONNECTIONS: usize = 256;

/// For a request's first line and headers together. What a browser sends is a tenth of it.
const HEAD_BYTES: usize = 8 * 1024;

/// Headers of a request. A browser sends about 20.
const HEADERS: usize = 64;

/// From the moment at which a request may come to the end of its head. Also how long an idle connection is
/// kept.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Clients of `/events`: they keep their seats, and must never have them all.
const ONE_LISTENS_OF: usize = 4;

/// Before the next attempt, where the system has no file descriptor left.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at the names in the queue, however many clients ask.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// … after one that failed. A login costs etcd a tenth of a second of computing.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// For one look at the names.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// Starts the thread. It ends with the process.
///
/// Names of others are asked for through a connection of their own, which is there only while they are asked for:
/// a slow answer to that must not move the candidate to another endpoint. Among peers there is no etcd, and
/// nobody to ask.
///
/// # Errors
///
/// Fails only where the system has no thread or no file descriptor left.
pub(crate) fn serve(
    bound: BoundAddress,
    store: StatusStore,
    etcd: Option<Settings>,
) -> io::Result<SocketAddr> {
    let BoundAddress { listener, address, host } = bound;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _within = runtime.enter();
        TcpListener::from_std(listener)?
    };
    thread::Builder::new().name("elect-http".into()).spawn(move || {
        runtime.spawn(follow(store.clone()));
        if let Some(settings) = etcd {
            runtime.spawn(name(store.clone(), settings));
        }
        let limit = descriptors::to_serve(CONNECTIONS);
        let routes = Routes::new(store, limit / ONE_LISTENS_OF, Hosts::of(address, host));
        runtime.block_on(accept(&listener, &routes, &ConnectionLimit::new(limit)))
    })?;
    Ok(address)
}

/// Notes who is at the front of the queue.
async fn follow(store: StatusStore) {
    let mut leader_watch = store.leader_watch();
    loop {
        let head = leader_watch.next().await;
        store.head(&head);
    }
}

/// Asks for names while somebody looks and one is missing.
async fn name(store: StatusStore, settings: Settings) {
    loop {
        let queue = store.names_to_ask().await;
        match look(store.identity(), settings.clone()).await {
            Ok(snapshot) => {
                store.named(&queue, &snapshot);
                sleep(LOOK_EVERY).await;
            }
            Err(problem) => {
                tracing::debug!(problem, "the names in the queue could not be read");
                sleep(LOOK_AGAIN_AFTER).await;
            }
        }
    }
}

/// One look at the names, through a connection that ends with it.
async fn look(identity: &ServerIdentity, settings: Settings) -> Result<Snapshot, String> {
    let etcd = Etcd::start_on(Handle::current(), settings);
    match timeout(LOOK_WITHIN, etcd.snapshot(identity.election.clone())).await {
        Ok(looked) => looked.map_err(|problem| problem.to_string()),
        Err(_) => Err(format!("no answer within {LOOK_WITHIN:?}")),
    }
}

async fn accept(listener: &TcpListener, routes: &Routes, limit: &ConnectionLimit) -> Infallible {
    let mut complaints = RateLimit::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(permit) = limit.take() {
                    // Answers are written whole.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(converse(stream, permit, routes.clone()));
                    // Whose seat was needed leaves before the next is given away.
                    yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if let Some(left_out) = complaints.pass(Timestamp::now()) {
                    tracing::warn!(%error, left_out, "an HTTP connection could not be accepted");
                }
                sleep(NO_DESCRIPTOR_PAUSE).await;
            }
        }
    }
}

/// The client went before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection until it ends, or its seat is needed.
async fn converse<S>(stream: S, permit: ConnectionPermit, routes: Routes)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(|request: Request<Incoming>| {
        let listens = request.uri().path() == "/events";
        let (permit, routes) = (&permit, &routes);
        async move {
            let answer = routes.answer(request).await;
            if listens && answer.status().is_success() {
                permit.keep()
            } else {
                permit.renew()
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream)), answer);
    tokio::select! {
        () = permit.needed() => {}
        // Whatever a client did wrong is its own affair.
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use leader_election::timing::Ttl;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::{lease_timing::LeaseTiming, status::Sources};

    /// More than any answer to what fits into a fuzzed request or two.
    const PIPE: usize = 1 << 20;

    /// A server in a process that is not in the queue: nothing here talks to etcd.
    async fn routes() -> Routes {
        let settings = Settings::new(["localhost:1".parse().unwrap()]).unwrap();
        let etcd = Etcd::start_on(Handle::current(), settings);
        let (name, election) = ("server1".parse().unwrap(), "leader".parse().unwrap());
        let sources = Sources::of(&etcd, &election, None);
        let identity = ServerIdentity { name, election, proof: LeaseTiming::Lease(Ttl::DEFAULT) };
        Routes::new(StatusStore::new(identity, sources), 1, Hosts::Local { given: None })
    }

    /// What comes back for these bytes, when the client says no more.
    async fn answered(routes: &Routes, request: &[u8]) -> Vec<u8> {
        let (mut client, server) = duplex(PIPE);
        let permit = ConnectionLimit::new(1).take().unwrap();
        let serving = tokio::spawn(converse(server, permit, routes.clone()));
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // `/events` has no end of its own.
        let _ = timeout(Duration::from_secs(1), client.read_to_end(&mut answer)).await;
        drop(client);
        serving.await.unwrap();
        answer
    }

    /// Whatever a client sends, what it gets is nothing, or HTTP with a status of ours.
    #[test]
    fn fuzz_http() {
        let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let routes = runtime.block_on(routes());
        // After a panic nothing is asked any more.
        let server = AssertUnwindSafe((runtime, routes));
        bolero::check!().for_each(|request: &[u8]| {
            let (runtime, routes) = &*server;
            let answer = runtime.block_on(answered(routes, request));
            if answer.is_empty() {
                return;
            }
            let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
            let status = std::str::from_utf8(&status.unwrap()[..3]).unwrap();
            let known = ["200", "400", "404", "405", "413", "414", "421", "431", "503", "505"];
            assert!(known.contains(&status), "{status}");
        });
    }
}
