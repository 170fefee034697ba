//! The HTTP server, on a thread and a runtime of its own, so that no client can delay a renewal.
//!
//! Limits on clients:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections | `CONNECTIONS`, and the limit of descriptors | the one whose request we have awaited longest is closed: see `connection_limit` |
//! | a request's head | `HEAD_BYTES`, `HEADERS` | 431 |
//! | … or the wait for it | `HEAD_WITHIN` | closed |
//! | a request's body | none is accepted | 413 |
//! | a response that is not read | `write_timeout::STALLED` | closed |
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

/// Connections at one time: far more than load balancers and people need, and a quarter of a process's usual
/// file descriptors. With fewer, [`descriptors::to_serve`] lowers it.
const CONNECTIONS: usize = 256;

/// Bytes of a request's first line and headers together. A browser sends a tenth of it.
const HEAD_BYTES: usize = 8 * 1024;

/// Headers of a request. A browser sends about 20.
const HEADERS: usize = 64;

/// Time from when a request may come to the end of its head. Also the time that an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// One connection in so many may be a client of `/events`: those keep their permits, and must never have them
/// all.
const ONE_LISTENS_OF: usize = 4;

/// Pause while the system has no file descriptor left.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// Time between two readings of the names in the queue, for any number of clients.
const READ_EVERY: Duration = Duration::from_millis(500);

/// … after a failed one. A login costs etcd a tenth of a second of computing.
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// Timeout of one reading of the names.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// Starts the thread. It ends with the process.
///
/// Reads the names of other candidates through a connection of its own, which exists only during the reading:
/// a slow answer must not move the candidate to another endpoint. Among peers there is no etcd to ask.
///
/// # Errors
///
/// Fails only if the system has no thread or no file descriptor left.
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
        runtime.spawn(follow_head(store.clone()));
        if let Some(settings) = etcd {
            runtime.spawn(keep_names(store.clone(), settings));
        }
        let limit = descriptors::to_serve(CONNECTIONS);
        let routes = Routes::new(store, limit / ONE_LISTENS_OF, Hosts::of(address, host));
        runtime.block_on(accept(&listener, &routes, &ConnectionLimit::new(limit)))
    })?;
    Ok(address)
}

/// Records the head of the queue.
async fn follow_head(store: StatusStore) {
    let mut leader_watch = store.leader_watch();
    loop {
        let head = leader_watch.next().await;
        store.head(&head);
    }
}

/// Reads names while a client wants them and one is missing.
async fn keep_names(store: StatusStore, settings: Settings) {
    loop {
        let queue = store.names_to_ask().await;
        match read_names(store.identity(), settings.clone()).await {
            Ok(snapshot) => {
                store.named(&queue, &snapshot);
                sleep(READ_EVERY).await;
            }
            Err(problem) => {
                tracing::debug!(problem, "the names in the queue could not be read");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Reads the names once, through a connection that ends with it.
async fn read_names(identity: &ServerIdentity, settings: Settings) -> Result<Snapshot, String> {
    let etcd = Etcd::start_on(Handle::current(), settings);
    match timeout(READ_WITHIN, etcd.snapshot(identity.election.clone())).await {
        Ok(read) => read.map_err(|problem| problem.to_string()),
        Err(_) => Err(format!("no answer within {READ_WITHIN:?}")),
    }
}

async fn accept(listener: &TcpListener, routes: &Routes, limit: &ConnectionLimit) -> Infallible {
    let mut complaints = RateLimit::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(permit) = limit.take() {
                    // Responses are written whole.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve_connection(stream, permit, routes.clone()));
                    // The owner of a revoked permit leaves before the next one is taken.
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

/// The client closed the connection before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection until it ends, or its permit is needed.
async fn serve_connection<S>(stream: S, permit: ConnectionPermit, routes: Routes)
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
        // A client's mistakes are not logged above debug.
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

    /// More than the responses to one or two fuzzed requests.
    const PIPE: usize = 1 << 20;

    /// A server in a process that is not in the queue: nothing here talks to etcd.
    async fn routes() -> Routes {
        let settings = Settings::new(["localhost:1".parse().unwrap()]).unwrap();
        let etcd = Etcd::start_on(Handle::current(), settings);
        let (name, election) = ("server1".parse().unwrap(), "leader".parse().unwrap());
        let sources = Sources::of(&etcd, &election, None);
        let proof = LeaseTiming::Lease(Ttl::DEFAULT);
        let identity = ServerIdentity { name, election, proof, address: None };
        Routes::new(StatusStore::new(identity, sources), 1, Hosts::Local { given: None })
    }

    /// Returns the response to these bytes, when the client sends no more.
    async fn answered(routes: &Routes, request: &[u8]) -> Vec<u8> {
        let (mut client, server) = duplex(PIPE);
        let permit = ConnectionLimit::new(1).take().unwrap();
        let serving = tokio::spawn(serve_connection(server, permit, routes.clone()));
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // `/events` has no end of its own.
        let _ = timeout(Duration::from_secs(1), client.read_to_end(&mut answer)).await;
        drop(client);
        serving.await.unwrap();
        answer
    }

    /// For all bytes of a client, the response is empty, or HTTP with a status of ours.
    #[test]
    fn fuzz_http() {
        let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let routes = runtime.block_on(routes());
        // After a panic nothing more is sent.
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
