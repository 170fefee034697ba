//! Errors of calls to etcd, sorted by their remedy.

use std::{error::Error as StdError, fmt, time::Duration};

use rustls::CertificateError;
use tonic::{Code, Status};

use super::diagnosis::NO_PORT_FOR_CLIENTS;
use crate::names::displayed_error;

/// A failed call, with its remedy. Texts of etcd and of libraries are made displayable.
#[derive(Debug, Clone)]
pub(crate) struct EtcdError {
    pub(crate) remedy: Remedy,
    pub(crate) message: String,
}

const PROXY: &str = "what answers there is not etcd but its grpc-proxy: no candidate can lead safely through it, since it invents \
                    answers of etcd, and keeps the leases of dead leaders alive; give --etcd the members of etcd themselves";

/// Remedy for a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Try again, over another connection and if possible another member.
    Elsewhere,
    /// Try again over a new connection to any member: none could be made just now.
    Unreachable,
    /// The lease is gone: start over with a new one.
    NewLease,
    /// The connection and the member are fine: this request is not possible.
    Request,
    /// Retrying can't fix it: wrong credentials or certificate.
    Human,
}

impl EtcdError {
    pub(crate) fn elsewhere(message: impl Into<String>) -> Self {
        Self { remedy: Remedy::Elsewhere, message: message.into() }
    }

    /// Returns the error of a connection that failed because one side rejects a certificate.
    pub(crate) fn refused_certificate(error: &std::io::Error) -> Option<Self> {
        certificate_problem(error).map(|hint| Self::certificate(hint, error))
    }

    fn certificate(hint: &str, error: &(dyn StdError + 'static)) -> Self {
        Self { remedy: Remedy::Human, message: format!("{hint} ({})", chain(error)) }
    }

    /// Returns whether etcd refused the user's name or password.
    pub(crate) fn is_refused_login(&self) -> bool {
        self.remedy == Remedy::Human && self.message.contains("authentication failed")
    }

    /// Returns whether etcd denies the user a key.
    pub(crate) fn is_denied(&self) -> bool {
        self.remedy == Remedy::Human && self.message.contains("permission denied")
    }

    /// Appends a hint to the message.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.message = format!("{}; {hint}", self.message);
        self
    }

    /// Classifies the cancellation of a watch; etcd gives the reason as text only.
    pub(crate) fn watch_cancelled(reason: &str) -> Self {
        let text = reason.split_once("desc = ").map_or(reason, |(_, text)| text);
        let status = Status::unknown(text);
        let message = format!("etcd cancelled the watch: {}", describe(&status));
        Self { remedy: remedy_for_status(&status), message }
    }

    /// The error for a server that answers but is not etcd.
    pub(crate) fn proxy() -> Self {
        Self::elsewhere(PROXY)
    }

    pub(crate) fn is_proxy(&self) -> bool {
        self.message == PROXY
    }

    pub(crate) fn unanswered(patience: Duration) -> Self {
        Self::elsewhere(format!("no answer within {patience:?}"))
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        if let Some(hint) = certificate_problem(&error).or_else(|| status_certificate_problem(&error)) {
            return Self::certificate(hint, &error);
        }
        match &error {
            etcd_client::Error::GRpcStatus(status) => {
                Self { remedy: remedy_for_status(status), message: describe(status) }
            }
            // `LeaseClient::keep_alive` turns an answer with no time left into this.
            etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found" => {
                Self { remedy: Remedy::NewLease, message: chain(&error) }
            }
            _ => Self::elsewhere(chain(&error)),
        }
    }
}

impl From<tonic::transport::Error> for EtcdError {
    fn from(error: tonic::transport::Error) -> Self {
        match certificate_problem(&error) {
            Some(hint) => Self::certificate(hint, &error),
            None => Self::elsewhere(chain(&error)),
        }
    }
}

/// etcd-client's error does not name the status as its source.
fn status_certificate_problem(error: &etcd_client::Error) -> Option<&'static str> {
    match error {
        etcd_client::Error::GRpcStatus(status) => certificate_problem(status),
        etcd_client::Error::TransportError(error) => certificate_problem(error),
        _ => None,
    }
}

/// Classifies etcd's answers, by code and, where services on etcd's in-process client lose the code
/// (Election), by text.
fn remedy_for_status(status: &Status) -> Remedy {
    let says = |text| status.message().contains(text);
    if says("requested lease not found") {
        Remedy::NewLease
    } else if says("authentication failed")
        || says("authentication is not enabled")
        || says("user name is empty")
        || says("user name not found")
        || says("permission denied")
        || status.code() == Code::PermissionDenied
    {
        Remedy::Human
    } else {
        match status.code() {
            // A login on a new connection gets a new token.
            Code::InvalidArgument if says("revision of auth store is old") => Remedy::Elsewhere,
            // This member can't, others may.
            _ if says("too many requests") || says("learner") => Remedy::Elsewhere,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange => Remedy::Request,
            _ => Remedy::Elsewhere,
        }
    }
}

fn describe(status: &Status) -> String {
    let text = match status.message() {
        "" => status.code().description().to_owned(),
        text => displayed_error(text.strip_prefix("etcdserver: ").unwrap_or(text)),
    };
    let hint = if text.contains("user name is empty") {
        "; authentication is on: give --user, and the password in ELECT_PASSWORD"
    } else if text.contains("authentication is not enabled") {
        "; leave out --user, or turn authentication on in etcd"
    } else if text.contains("no password user") {
        "; etcd keeps no password for this user: set one there (etcdctl user passwd), or leave out --user and log in by \
         the name in a certificate (--cert, --key)"
    } else if text.starts_with("unknown service") {
        return format!("{text}; {NO_PORT_FOR_CLIENTS}");
    } else if text.contains("invalid user ID or password") {
        "; check --user and ELECT_PASSWORD or --password-file"
    } else if text.contains("permission denied") {
        "; grant the user's role readwrite on the election's prefix"
    } else {
        ""
    };
    match status.source() {
        Some(source) => format!("{text}{hint}: {}", chain(source)),
        None => format!("{text}{hint}"),
    }
}

/// Returns the problem and remedy if a certificate was rejected.
fn certificate_problem(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    /// Alerts by which the other side rejects our certificate or misses one. They come with the first answer,
    /// after the handshake, and only as text: HTTP/2 keeps no cause.
    const REFUSALS: [&str; 8] = [
        "CertificateRequired",
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "UnknownCA",
        "AccessDenied",
    ];
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| io.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        if let Some(rustls::Error::InvalidCertificate(why)) = tls {
            return Some(not_accepted(why));
        }
        let text = error.to_string();
        if let Some((_, alert)) = text.split_once("received fatal alert: ")
            && REFUSALS.iter().any(|refusal| alert.starts_with(refusal))
        {
            return Some("etcd does not accept the client certificate: check --cert and --key");
        }
        next = error.source();
    }
    None
}

/// Returns the problem of etcd's certificate and its remedy.
fn not_accepted(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "etcd's certificate is for other names than this address: use one of them in --etcd, or add this one to the \
             certificate (subjectAltName)"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "etcd's certificate has expired: renew it, or set this machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "etcd's certificate is not valid yet: set this machine's clock, or etcd's"
        }
        // webpki's own error, which rustls passes on as text only.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "etcd's certificate is an authority's (CA:TRUE), as `openssl req -x509` makes them: give etcd one that is \
             not (basicConstraints=CA:FALSE), signed by that authority or by itself"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "etcd's certificate has a kind of key or signature that is not supported, as P-521 (`etcd --auto-tls` makes \
             those): use RSA, P-256, P-384 or Ed25519"
        }
        _ => "etcd's certificate is not trusted: check --cacert",
    }
}

/// Joins an error and its causes, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        next = cause.source();
    }
    displayed_error(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(code: Code, message: &str) -> Remedy {
        EtcdError::from(etcd_client::Error::GRpcStatus(Status::new(code, message))).remedy
    }

    #[test]
    fn the_authority_is_blamed_only_where_it_is_not_trusted() {
        for why in
            [CertificateError::NotValidForName, CertificateError::Expired, CertificateError::NotValidYet]
        {
            assert!(!not_accepted(&why).contains("--cacert"), "{why:?}: {}", not_accepted(&why));
        }
        assert!(not_accepted(&CertificateError::UnknownIssuer).contains("check --cacert"));
    }

    #[test]
    fn errors_of_etcd_are_sorted_by_remedy() {
        assert_eq!(remedy(Code::NotFound, "etcdserver: requested lease not found"), Remedy::NewLease);
        assert_eq!(remedy(Code::Unknown, "etcdserver: requested lease not found"), Remedy::NewLease);
        assert_eq!(
            remedy(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
            Remedy::Human
        );
        assert_eq!(
            remedy(Code::Unknown, "auth: authentication failed, password was given for no password user"),
            Remedy::Human
        );
        assert_eq!(remedy(Code::PermissionDenied, "etcdserver: permission denied"), Remedy::Human);
        assert_eq!(remedy(Code::Unauthenticated, "etcdserver: invalid auth token"), Remedy::Elsewhere);
        assert_eq!(remedy(Code::Unavailable, "etcdserver: no leader"), Remedy::Elsewhere);
        assert_eq!(
            remedy(Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            Remedy::Elsewhere
        );
        // A user's impossible transaction must not move every caller to another member.
        assert_eq!(
            remedy(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Remedy::Request
        );
    }

    #[test]
    fn errors_of_etcd_stay_on_one_line() {
        let forged = "gone\n2026-01-01T00:00:00.000Z leader mallory\x1b[2J\u{202e}\u{2028}";
        let status = |code| EtcdError::from(etcd_client::Error::GRpcStatus(Status::new(code, forged)));
        let errors = [
            status(Code::Unknown),
            status(Code::PermissionDenied),
            EtcdError::watch_cancelled(forged),
            EtcdError::from(etcd_client::Error::WatchError(forged.into())),
        ];
        for EtcdError { message, .. } in errors {
            assert!(message.contains("gone 2026") && !message.contains(crate::names::forges), "{message:?}");
        }
    }
}
