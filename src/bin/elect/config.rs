//! Flags, environment, file and defaults, made once into a [`Config`] that can only be valid.
//!
//! A flag wins over the environment, the environment over the file, the file over the default: the [`File`] is a
//! set of defaults for clap. A password is never a flag: it comes from `ELECT_PASSWORD` or from a file.
//!
//! No source wins on the backend: `--peers` in one and an etcd setting in another is an error. A server that
//! mistook one for the other would lead beside the leader that all others follow.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use leader_election::{
    CandidateName, ElectionName,
    etcd::{self, Credentials, Endpoint},
    peers::{self, Group, Timing, Tls},
    timing::Ttl,
};

use self::exposure::Exposed;
pub(crate) use self::{
    file::File,
    group::{MemberArgs, PeersConfig},
    preferences::{AdvertisedAddress, PreferenceArgs},
};
use crate::{
    cli::{CandidateArgs, CommonArgs},
    lease_timing::LeaseTiming,
    log::Format,
    status::Address,
};

mod exposure;
mod file;
mod group;
mod preferences;

/// etcd's own default address.
pub(crate) const DEFAULT_ENDPOINT: &str = "localhost:2379";

/// The election's name in etcd's own examples and in the seed of this project.
pub(crate) const DEFAULT_ELECTION: &str = "leader";

/// An impossible request by the user; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Settings that every command needs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) backend: BackendConfig,
    pub(crate) election: ElectionName,
    pub(crate) log_format: Format,
    /// True if no source gives an endpoint.
    pub(crate) uses_default_endpoint: bool,
    /// True if it contains a password, a key or a secret.
    pub(crate) knows_a_secret: bool,
    /// Warnings about risks.
    pub(crate) warnings: Vec<String>,
}

/// The backend that decides elections.
#[derive(Debug, Clone)]
pub(crate) enum BackendConfig {
    Etcd(etcd::Settings),
    Peers(PeersConfig),
}

/// Settings that a candidate needs besides.
#[derive(Debug, Clone)]
pub(crate) struct CandidateConfig {
    pub(crate) name: CandidateName,
    pub(crate) place: CandidateBackend,
    /// Address to serve HTTP at, if any.
    pub(crate) http: Option<Address>,
    pub(crate) preferences: PreferenceArgs,
}

/// A candidate's backend.
#[derive(Debug, Clone)]
pub(crate) enum CandidateBackend {
    /// On etcd, with a lease of this time to live.
    Etcd(etcd::Settings, Ttl),
    /// Among peers, as one of them.
    Peers(Box<peers::Settings>),
}

impl CandidateBackend {
    /// Returns the proof of its leadership.
    pub(crate) fn proof(&self) -> LeaseTiming {
        match self {
            Self::Etcd(_, ttl) => LeaseTiming::Lease(*ttl),
            Self::Peers(settings) => LeaseTiming::Heartbeats(*settings.timing()),
        }
    }
}

/// Defaults of a command that takes part.
pub(crate) struct Defaults {
    pub(crate) name: fn() -> Result<CandidateName, UsageError>,
    /// The timing among peers.
    pub(crate) timing: Timing,
}

/// A list of endpoints as people write it: white space around each, a comma after the last.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints(Vec<Endpoint>);

impl FromStr for Endpoints {
    type Err = etcd::InvalidEndpoint;

    fn from_str(list: &str) -> Result<Self, etcd::InvalidEndpoint> {
        let list = list.trim_end();
        let list = list.strip_suffix(',').unwrap_or(list);
        list.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.0.iter().map(Endpoint::to_string).collect();
        f.write_str(&endpoints.join(","))
    }
}

/// Returns whether a variable is set and empty: `ELECT_X: ${X}` in a compose file makes one where X is not
/// set. It counts as unset, except where that would change the backend.
pub(crate) fn is_empty(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value.is_empty())
}

impl Config {
    /// Only a command that campaigns has a `member`.
    pub(crate) fn of(flags: CommonArgs, member: Option<MemberArgs>) -> Result<Self, UsageError> {
        refuse_empty_peers(&flags)?;
        if let Some(member) = &member {
            refuse_empty_data(&flags, member)?;
        }
        let member = member.unwrap_or_default();
        let group = flags.peers;
        let endpoints: Option<Vec<_>> =
            flags.etcd.map(|lists| lists.into_iter().flat_map(|list| list.0).collect());
        let uses_default_endpoint = group.is_none() && endpoints.is_none();
        let login = Login { user: flags.user, password: PasswordSource::of(flags.password_file)? };
        let certificates = CertificateFiles {
            ca: flags.cacert.as_deref(),
            cert: flags.cert.as_deref(),
            key: flags.key.as_deref(),
        };
        let mut warnings = exposed(&login, certificates, &member);
        let knows_a_secret =
            login.password.is_some() || certificates.key.is_some() || member.secret_file.is_some();
        let logs_in = login.password.is_some();
        let backend = match group {
            None => BackendConfig::Etcd(on_etcd(endpoints, login, certificates, &member)?),
            Some(group) => BackendConfig::Peers(among_peers(group, endpoints, &login, certificates, member)?),
        };

        let CommonArgs { election, log_format, .. } = flags;
        if let BackendConfig::Etcd(settings) = &backend
            && logs_in
            && let Some(endpoint) = in_the_clear(settings)
        {
            warnings.push(format!(
                "--user: the password goes to '{endpoint}' in the clear; turn on TLS in etcd, and give --cacert or \
                 https://"
            ));
        }
        Ok(Self { backend, election, log_format, uses_default_endpoint, knows_a_secret, warnings })
    }

    /// Merges a candidate's settings from its flags, the same file, and the defaults.
    pub(crate) fn candidate(
        &self,
        name: Option<CandidateName>,
        CandidateArgs { ttl, http, preferences, .. }: CandidateArgs,
        defaults: Defaults,
    ) -> Result<CandidateConfig, UsageError> {
        // Not read by clap: it may be given in two places, and would conflict with itself.
        let in_environment = env::var("ELECT_NAME").ok().filter(|name| !name.is_empty());
        let name = match (name, in_environment) {
            (Some(name), _) => name,
            (None, Some(name)) => name.parse().map_err(|error| UsageError(format!("ELECT_NAME: {error}")))?,
            (None, None) => (defaults.name)()?,
        };
        let place = match (&self.backend, ttl) {
            (BackendConfig::Etcd(settings), ttl) => {
                CandidateBackend::Etcd(settings.clone(), ttl.unwrap_or(Ttl::DEFAULT))
            }
            (BackendConfig::Peers(_), Some(_)) => {
                return Err(UsageError(
                    "--ttl is for etcd's lease, and peers have none; leave it out (ELECT_TTL and the file's ttl \
                     too), and use --election-timeout"
                        .into(),
                ));
            }
            (BackendConfig::Peers(peers), None) => {
                let settings = peers.settings(&name, &self.election, defaults.timing)?;
                CandidateBackend::Peers(Box::new(preferring(settings, &preferences)))
            }
        };
        Ok(CandidateConfig { name, place, http, preferences })
    }
}

/// Adds a candidate's preferences to the settings of a member.
fn preferring(settings: peers::Settings, preferences: &PreferenceArgs) -> peers::Settings {
    let settings = settings.with_profile(preferences.profile()).with_never(preferences.never);
    match preferences.min_tenure {
        Some(min_tenure) => settings.with_min_tenure(min_tenure),
        None => settings,
    }
}

/// Parses the token that those of a new group must exceed.
pub(crate) fn parse_token(text: &str) -> Result<u64, String> {
    let token = text.parse().map_err(|_| "write a token, as elect status shows them".to_owned())?;
    if token > LARGEST_TOKEN {
        return Err(format!("the largest is {LARGEST_TOKEN}; a larger one counts as damaged"));
    }
    Ok(token)
}

/// Servers of a group take a larger term for a damaged one.
const LARGEST_TOKEN: u64 = 1 << 32;

/// Refuses an empty `ELECT_PEERS` if nothing else names the backend: the server was to be one of a group, and
/// must not become a candidate on whatever etcd answers at the default address.
fn refuse_empty_peers(flags: &CommonArgs) -> Result<(), UsageError> {
    let among_peers = flags.peers.is_some();
    let on_etcd = flags.etcd.is_some() || flags.user.is_some();
    if !among_peers && !on_etcd && is_empty("ELECT_PEERS") {
        return Err(UsageError(
            "--peers: ELECT_PEERS is empty, so it has no address; without it this server would campaign on the etcd \
             at localhost:2379; set it to NAME=HOST:PORT,…, unset it, or give --etcd as well"
                .into(),
        ));
    }
    Ok(())
}

/// Refuses an empty `ELECT_DATA`: it would move the server's memory, and a member that looks elsewhere forgets
/// its votes.
fn refuse_empty_data(flags: &CommonArgs, member: &MemberArgs) -> Result<(), UsageError> {
    let among_peers = flags.peers.is_some();
    if among_peers && member.data.is_none() && is_empty("ELECT_DATA") {
        return Err(UsageError(
            "--data: ELECT_DATA is empty; name the directory that has this server's votes, or unset it"
                .into(),
        ));
    }
    Ok(())
}

/// Parses `5s`, `1m`.
pub(crate) fn parse_ttl(text: &str) -> Result<Ttl, String> {
    if text.starts_with('-') {
        return Err("a duration is not negative; write a duration, as in 5s".into());
    }
    let span =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration, as in 5s"))?;
    Ttl::new(span).map_err(|error| error.to_string())
}

/// Parses `500ms`, `2s`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration, as in 2s"))
}

/// Parses `50ms`.
pub(crate) fn parse_heartbeat(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration, as in 50ms"))
}

fn on_etcd(
    endpoints: Option<Vec<Endpoint>>,
    login: Login,
    certificates: CertificateFiles<'_>,
    member: &MemberArgs,
) -> Result<etcd::Settings, UsageError> {
    if let Some(flag) = member.flag() {
        return Err(UsageError(format!(
            "{flag} is for members of a group without etcd: add --peers NAME=HOST:PORT,…, or leave it out"
        )));
    }
    let wrong = |error: etcd::InvalidSettings| UsageError(format!("--etcd: {error}"));
    let endpoints = match endpoints {
        Some(endpoints) => endpoints,
        None => vec![DEFAULT_ENDPOINT.parse().expect("the default is a valid endpoint")],
    };
    let mut settings = etcd::Settings::new(endpoints).map_err(wrong)?;
    if let Some(tls) = certificates.read()? {
        settings = settings.with_tls(tls).map_err(wrong)?;
    }
    if let Some(credentials) = login.credentials()? {
        settings = settings.with_credentials(credentials);
    }
    Ok(settings)
}

fn among_peers(
    group: Group,
    endpoints: Option<Vec<Endpoint>>,
    login: &Login,
    certificates: CertificateFiles<'_>,
    member: MemberArgs,
) -> Result<PeersConfig, UsageError> {
    let of_etcd = [
        ("--etcd", endpoints.is_some()),
        ("--user", login.user.is_some()),
        ("a password (--password-file, ELECT_PASSWORD)", login.password.is_some()),
    ];
    if let Some((what, _)) = of_etcd.into_iter().find(|(_, given)| *given) {
        return Err(UsageError(format!(
            "--peers is for an election without etcd, and {what} is for etcd; leave out one of the two: the flag, \
             the ELECT_… variable, or the key in the file"
        )));
    }
    let CertificateFiles { ca, cert, key } = certificates;
    let given = [ca, cert, key].into_iter().flatten().count();
    if given != 0 && given != 3 {
        return Err(UsageError(
            "--peers needs --cacert, --cert and --key together: members check each other's certificates; give all \
             three, or none"
                .into(),
        ));
    }
    Ok(PeersConfig { group, tls: certificates.read()?, member })
}

/// Returns warnings about files that other users can access.
fn exposed(login: &Login, certificates: CertificateFiles<'_>, member: &MemberArgs) -> Vec<String> {
    let password = match &login.password {
        Some(PasswordSource::InFile(path)) => Some(path.as_path()),
        Some(PasswordSource::Given(_)) | None => None,
    };
    let files = [
        ("--password-file", password),
        ("--key", certificates.key),
        ("--secret-file", member.secret_file.as_deref()),
        ("--data", member.data.as_deref()),
    ];
    files.into_iter().filter_map(|(flag, path)| Exposed::warning(flag, path?)).collect()
}

/// Returns a remote endpoint whose traffic is not encrypted.
fn in_the_clear(settings: &etcd::Settings) -> Option<&Endpoint> {
    let plain = settings.tls().is_none();
    settings.endpoints().iter().find(|endpoint| plain && !endpoint.wants_tls() && !endpoint.is_loopback())
}

/// The files of TLS, for either backend.
#[derive(Clone, Copy)]
struct CertificateFiles<'a> {
    ca: Option<&'a Path>,
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
}

impl CertificateFiles<'_> {
    fn read(self) -> Result<Option<Tls>, UsageError> {
        let Self { ca, cert, key } = self;
        let mut tls = Tls::default();
        if let Some(ca) = ca {
            tls = tls.trusting(ca).map_err(|error| UsageError(format!("--cacert {error}")))?;
        }
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let identified = tls.identified_by(cert, key);
                tls = identified.map_err(|error| UsageError(format!("--cert, --key: {error}")))?;
            }
            (None, None) if ca.is_none() => return Ok(None),
            (None, None) => {}
            (Some(_), None) => {
                return Err(UsageError("--cert needs the certificate's private key: add --key".into()));
            }
            (None, Some(_)) => {
                return Err(UsageError("--key needs the certificate it belongs to: add --cert".into()));
            }
        }
        Ok(Some(tls))
    }
}

/// The user and password for etcd.
struct Login {
    user: Option<String>,
    password: Option<PasswordSource>,
}

/// Never printed, in no form of the configuration.
enum PasswordSource {
    Given(String),
    InFile(PathBuf),
}

impl PasswordSource {
    /// Reads the file that a flag names, else the environment.
    fn of(file: Option<PathBuf>) -> Result<Option<Self>, UsageError> {
        match (file, env::var("ELECT_PASSWORD")) {
            (Some(path), _) => Ok(Some(Self::InFile(path))),
            (None, Ok(password)) if !password.is_empty() => {
                Ok(Some(Self::Given(without_line_break(&password))))
            }
            (None, Ok(_) | Err(env::VarError::NotPresent)) => Ok(None),
            (None, Err(env::VarError::NotUnicode(_))) => {
                Err(UsageError("ELECT_PASSWORD is not UTF-8, which etcd's passwords are".into()))
            }
        }
    }
}

impl Login {
    fn credentials(self) -> Result<Option<Credentials>, UsageError> {
        let user = self.user.as_deref().map(without_line_break);
        match (user, self.password) {
            (None, None) => Ok(None),
            (Some(user), _) if user.is_empty() => {
                Err(UsageError("--user is empty; name a user, or leave it out".into()))
            }
            (Some(user), Some(PasswordSource::InFile(path))) => Credentials::in_file(user, path)
                .map(Some)
                .map_err(|error| UsageError(format!("--password-file {error}"))),
            (Some(user), Some(PasswordSource::Given(password))) if !password.is_empty() => {
                Ok(Some(Credentials::new(user, password)))
            }
            (Some(_), _) => {
                Err(UsageError("--user needs a password: set ELECT_PASSWORD, or give --password-file".into()))
            }
            (None, Some(_)) => Err(UsageError("there is a password, but no user: add --user".into())),
        }
    }
}

/// Removes the line break at the end of a secret made by `echo`.
fn without_line_break(secret: &str) -> String {
    secret.trim_end_matches(['\r', '\n']).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        shared: CommonArgs,
    }

    #[test]
    fn a_password_over_a_network_without_tls_is_warned_of() {
        let password = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(password.path(), "secret").unwrap();
        let warnings = |etcd: &str, user: Option<&str>| {
            let login =
                user.map(|user| ["--user", user, "--password-file", password.path().to_str().unwrap()]);
            let flags = ["elect", "--etcd", etcd].into_iter().chain(login.into_iter().flatten());
            let config = Config::of(Flags::parse_from(flags).shared, None).unwrap();
            assert_eq!(config.knows_a_secret, user.is_some());
            config.warnings
        };
        for quiet in ["localhost:2379,127.0.0.1:1,[::1]:2", "https://etcd:2379", "a.localhost:1"] {
            assert_eq!(warnings(quiet, Some("user")), [""; 0], "{quiet}");
        }
        assert_eq!(warnings("etcd:2379", None), [""; 0]);
        for loud in ["etcd:2379", "http://10.0.0.1:1", "localhost:1,[2001:db8::1]:2"] {
            let warned = warnings(loud, Some("user"));
            assert!(warned.len() == 1 && warned[0].contains("in the clear"), "{loud}: {warned:?}");
            assert!(warned[0].starts_with("--user: ") && !warned[0].contains("localhost"), "{warned:?}");
        }
    }
}
