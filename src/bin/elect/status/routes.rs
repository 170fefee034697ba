//! The response for each path, as of the moment of the request.

use std::time::Duration;

use hyper::{
    Method, Request, StatusCode,
    body::Body,
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
        VARY, X_CONTENT_TYPE_OPTIONS,
    },
    http::uri::Authority,
};
use leader_election::clock::Timestamp;
use tokio::time::timeout;

use super::{
    events::Listeners,
    hosts::Hosts,
    metrics, page,
    report::StatusReport,
    response::{self, HttpResponse},
    snapshot::{Role, silence},
    store::StatusStore,
};
use crate::lease_timing::LeaseTiming;

const ELECTION: HeaderName = HeaderName::from_static("elect-election");
const NAME: HeaderName = HeaderName::from_static("elect-name");
const ROLE: HeaderName = HeaderName::from_static("elect-role");
const TOKEN: HeaderName = HeaderName::from_static("elect-token");

/// Time that `/status` waits for names that were not read yet.
const NAMES_WITHIN: Duration = Duration::from_secs(1);

/// Answers requests.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    store: StatusStore,
    listeners: Listeners,
    hosts: Hosts,
    election: HeaderValue,
    name: HeaderValue,
}

impl Routes {
    pub(crate) fn new(store: StatusStore, listeners: usize, hosts: Hosts) -> Self {
        let identity = store.identity();
        let (election, name) = (header(identity.election.as_str()), header(identity.name.as_str()));
        Self { store, listeners: Listeners::new(listeners), hosts, election, name }
    }

    pub(crate) async fn answer<B: Body>(&self, request: Request<B>) -> HttpResponse {
        match request.uri().path() {
            "/status" => self.names().await,
            "/metrics" => self.store.certificates().read().await,
            _ => {}
        }
        // No await from here on, and one reading of the role: a response is of one moment, and does not
        // contradict itself.
        let role = self.store.role();
        let mut answer = if !request.body().is_end_stream() {
            let mut refused = response::line(StatusCode::PAYLOAD_TOO_LARGE, "no body is accepted\n");
            refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            refused
        } else if let Some(host) = self.foreign_host(&request) {
            response::line(StatusCode::MISDIRECTED_REQUEST, foreign(host))
        } else {
            let path = request.uri().path();
            let methods = methods_of(path);
            match *request.method() {
                Method::GET | Method::HEAD => self.route(path, request.method(), request.headers(), role),
                // Some load balancers send this if no method is configured.
                Method::OPTIONS if methods == WITH_OPTIONS => {
                    let mut answer = self.route(path, request.method(), request.headers(), role);
                    answer.headers_mut().insert(ALLOW, methods);
                    answer
                }
                _ => {
                    let text = "the header Allow lists the methods\n";
                    let mut refused = response::line(StatusCode::METHOD_NOT_ALLOWED, text);
                    refused.headers_mut().insert(ALLOW, methods);
                    refused
                }
            }
        };
        let headers = answer.headers_mut();
        headers.insert(ELECTION, self.election.clone());
        headers.insert(NAME, self.name.clone());
        headers.insert(ROLE, HeaderValue::from_static(role.as_str()));
        if let Role::Leader { token, .. } = role {
            headers.insert(TOKEN, HeaderValue::from(token.get()));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    /// Returns the client's name for this server if it is not an accepted one.
    fn foreign_host<'a, B>(&self, request: &'a Request<B>) -> Option<&'a str> {
        let header = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("(not ASCII)"));
        let host = request.uri().authority().map(Authority::as_str).or(header)?;
        (!self.hosts.allow(host)).then_some(host)
    }

    fn route(&self, path: &str, method: &Method, headers: &HeaderMap, role: Role) -> HttpResponse {
        match path {
            "/leader" => yes_or_no(matches!(role, Role::Leader { .. }), "leader\n", "not the leader\n"),
            "/follower" => yes_or_no(matches!(role, Role::Follower { .. }), "follower\n", "not a follower\n"),
            "/livez" => yes_or_no(
                self.store.is_alive_at(Timestamp::now()),
                "alive\n",
                "the election's loop is stuck\n",
            ),
            "/readyz" => self.ready(),
            "/status" => self.status(),
            "/metrics" => self.metrics(headers),
            "/events" => self.events(method),
            "/" => page::answer(),
            _ => response::line(StatusCode::NOT_FOUND, "no such path\n"),
        }
    }

    fn ready(&self) -> HttpResponse {
        let snapshot = self.store.snapshot();
        let proof = self.store.identity().proof;
        let why_not = match (snapshot.role, proof) {
            _ if snapshot.is_ready() => return response::line(StatusCode::OK, "ready\n"),
            _ if !snapshot.healthy => "the health check fails",
            (Role::Outside, LeaseTiming::Lease(_)) => "not in the queue",
            (Role::Outside, LeaseTiming::Heartbeats(_)) => "neither leads nor follows",
            (Role::Leader { .. } | Role::Follower { .. }, proof) => silence(proof),
        };
        response::line(StatusCode::SERVICE_UNAVAILABLE, format!("{why_not}\n"))
    }

    /// Waits for names that were not read yet, within a time limit.
    async fn names(&self) {
        let mut changes = self.store.changes();
        let named = async { while self.store.request_names() && changes.changed().await.is_ok() {} };
        // Otherwise answers without them.
        let _ = timeout(NAMES_WITHIN, named).await;
    }

    fn status(&self) -> HttpResponse {
        let snapshot = self.store.snapshot();
        let json = StatusReport::of(self.store.identity(), &snapshot).json();
        response::whole(StatusCode::OK, "application/json", json + "\n")
    }

    fn metrics(&self, headers: &HeaderMap) -> HttpResponse {
        let accepts = headers.get_all(ACCEPT).iter().map(|accept| accept.to_str().unwrap_or_default());
        let form = metrics::Form::accepted(&accepts.collect::<Vec<_>>().join(","));
        let expiry = self.store.certificates().expiry();
        let text = self.store.metrics().text(&self.store.snapshot(), expiry, form);
        let mut answer = response::whole(StatusCode::OK, form.content_type(), text);
        answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        answer
    }

    fn events(&self, method: &Method) -> HttpResponse {
        if method == Method::HEAD {
            return response::whole(StatusCode::OK, "text/event-stream", "");
        }
        match self.listeners.listen(&self.store) {
            Some(events) => response::events(events),
            None => {
                let mut refused = response::line(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many clients read /events already\n",
                );
                refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
                refused
            }
        }
    }
}

const USUAL: HeaderValue = HeaderValue::from_static("GET, HEAD");
const WITH_OPTIONS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Returns the methods of a path. The routes that load balancers probe take OPTIONS too.
fn methods_of(path: &str) -> HeaderValue {
    match path {
        "/leader" | "/follower" | "/livez" | "/readyz" => WITH_OPTIONS,
        _ => USUAL,
    }
}

fn foreign(host: &str) -> String {
    let host = host.escape_debug();
    format!(
        "this server listens on this machine only, and '{host}' is none of its names; ask for localhost, or start it \
         with --http HOST:PORT\n"
    )
}

fn yes_or_no(is: bool, yes: &'static str, no: &'static str) -> HttpResponse {
    if is { response::line(StatusCode::OK, yes) } else { response::line(StatusCode::SERVICE_UNAVAILABLE, no) }
}

/// Encodes a name as a header's value: visible ASCII as it is, the rest percent-encoded.
fn header(name: &str) -> HeaderValue {
    let mut value = String::new();
    for byte in name.bytes() {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => value.push_str(&format!("%{byte:02X}")),
            visible => value.push(char::from(visible)),
        }
    }
    HeaderValue::try_from(value).expect("it is visible ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_usual_name_is_its_own_header() {
        assert_eq!(header("/service/leader-1.example.com:80"), "/service/leader-1.example.com:80");
        assert_eq!(header("Zürich 100%"), "Z%C3%BCrich%20100%25");
    }

    proptest! {
        #[test]
        fn any_name_makes_a_header(name in "\\PC{0,64}") {
            prop_assert!(header(&name).to_str().is_ok());
        }
    }
}
