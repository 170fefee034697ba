//! Flags, environment, file and defaults, merged once into a [`Config`] that can only be valid.
//!
//! A flag wins over the environment (clap does that), the environment over the file, the file over the
//! default. A password is never a flag: it comes from `ELECT_PASSWORD` or from a file.
//!
//! No source wins on the backend: `--peers` in one and an etcd setting in another is an error. A server that
//! mistook one for the other would lead beside the leader that all others follow.

use std::{
    env, fmt, fs,
    num::NonZeroU32,
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
use serde::Deserialize;

use self::exposure::Exposed;
pub(crate) use self::group::{MemberArgs, PeersConfig};
use crate::{
    cli::{CandidateArgs, CommonArgs},
    lease_timing::LeaseTiming,
    log::Format,
    status::Address,
    supervise::{contain::Contain, restart::Restart},
};

mod exposure;
mod group;

/// etcd's own default address.
pub(crate) const DEFAULT_ENDPOINT: &str = "localhost:2379";

/// The election's name in etcd's own examples and in the seed of this project.
const DEFAULT_ELECTION: &str = "leader";

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
    file: File,
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

/// The keys of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    etcd: Option<CommaList>,
    peers: Option<CommaList>,
    listen: Option<String>,
    data: Option<PathBuf>,
    heartbeat: Option<String>,
    election_timeout: Option<String>,
    secret_file: Option<PathBuf>,
    insecure_peers: Option<bool>,
    operators: Option<CommaList>,
    tokens_after: Option<u64>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    election: Option<String>,
    ttl: Option<String>,
    name: Option<String>,
    http: Option<PortOrAddress>,
    log_format: Option<Format>,
    // Keys of `server`.
    pub(crate) lifeline: Option<PathBuf>,
    pub(crate) lock_delay: Option<String>,
    // Keys of `run`.
    pub(crate) kill_after: Option<String>,
    pub(crate) restart: Option<Restart>,
    pub(crate) once: Option<bool>,
    pub(crate) contain: Option<Contain>,
    pub(crate) check: Option<String>,
    pub(crate) check_interval: Option<String>,
    pub(crate) check_timeout: Option<String>,
    pub(crate) check_failures: Option<NonZeroU32>,
    pub(crate) on_leading: Option<String>,
    pub(crate) on_following: Option<String>,
    pub(crate) on_change: Option<String>,
    pub(crate) hook_timeout: Option<String>,
}

/// `etcd = "a:1,b:1"` or `etcd = ["a:1", "b:1"]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum CommaList {
    One(String),
    Many(Vec<String>),
}

/// `http = 8080` or `http = "0.0.0.0:8080"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum PortOrAddress {
    Port(u16),
    Address(String),
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
    /// `member` is that of a command that campaigns; those that only ask have none.
    pub(crate) fn merge(flags: CommonArgs, member: Option<MemberArgs>) -> Result<Self, UsageError> {
        let file = flags.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        refuse_empty_peers(&flags, &file)?;
        if let Some(member) = &member {
            refuse_empty_data(&flags, member, &file)?;
        }
        Self::of(flags, member.unwrap_or_default(), file)
    }

    fn of(flags: CommonArgs, member: MemberArgs, file: File) -> Result<Self, UsageError> {
        let group = match (flags.peers, &file.peers) {
            (Some(group), _) => Some(group),
            (None, Some(CommaList::One(list))) => Some(in_file("peers", list.parse())?),
            (None, Some(CommaList::Many(list))) => Some(in_file("peers", list.join(",").parse())?),
            (None, None) => None,
        };
        let member = member.or(file.member()?);
        let endpoints = match (flags.etcd, &file.etcd) {
            (Some(lists), _) => Some(lists.into_iter().flat_map(|list| list.0).collect()),
            (None, Some(list)) => Some(endpoints_in(list)?),
            (None, None) => None,
        };
        let uses_default_endpoint = group.is_none() && endpoints.is_none();
        let login = Login {
            user: flags.user.or_else(|| file.user.clone()),
            password: PasswordSource::of(flags.password_file.as_deref(), file.password_file.as_deref())?,
        };
        let certificates = CertificateFiles {
            ca: flags.cacert.as_deref().or(file.cacert.as_deref()),
            cert: flags.cert.as_deref().or(file.cert.as_deref()),
            key: flags.key.as_deref().or(file.key.as_deref()),
        };
        let mut warnings = exposed(&login, certificates, &member);
        let knows_a_secret =
            login.password.is_some() || certificates.key.is_some() || member.secret_file.is_some();
        let logs_in = login.password.is_some();
        let backend = match group {
            None => BackendConfig::Etcd(on_etcd(endpoints, login, certificates, &member)?),
            Some(group) => BackendConfig::Peers(among_peers(group, endpoints, &login, certificates, member)?),
        };

        let election = match (flags.election, &file.election) {
            (Some(election), _) => election,
            (None, Some(election)) => in_file("election", election.parse())?,
            (None, None) => DEFAULT_ELECTION.parse().expect("the default is a valid name"),
        };
        let log_format = flags.log_format.or(file.log_format).unwrap_or_default();
        if let BackendConfig::Etcd(settings) = &backend
            && logs_in
            && let Some(endpoint) = in_the_clear(settings)
        {
            warnings.push(format!(
                "--user: the password goes to '{endpoint}' in the clear; turn on TLS in etcd, and give --cacert or \
                 https://"
            ));
        }
        Ok(Self { backend, election, log_format, uses_default_endpoint, knows_a_secret, warnings, file })
    }

    /// Returns the keys of the configuration file, if there is one.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Merges a candidate's settings from its flags, the same file, and the defaults.
    pub(crate) fn candidate(
        &self,
        name: Option<CandidateName>,
        CandidateArgs { ttl, http, .. }: CandidateArgs,
        defaults: Defaults,
    ) -> Result<CandidateConfig, UsageError> {
        // Not read by clap: it may be given in two places, and would conflict with itself.
        let in_environment = env::var("ELECT_NAME").ok().filter(|name| !name.is_empty());
        let name = match (name, in_environment, &self.file.name) {
            (Some(name), _, _) => name,
            (None, Some(name), _) => {
                name.parse().map_err(|error| UsageError(format!("ELECT_NAME: {error}")))?
            }
            (None, None, Some(name)) => in_file("name", name.parse())?,
            (None, None, None) => (defaults.name)()?,
        };
        let ttl = match (ttl, &self.file.ttl) {
            (Some(ttl), _) => Some(ttl),
            (None, Some(ttl)) => Some(in_file("ttl", parse_ttl(ttl))?),
            (None, None) => None,
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
                CandidateBackend::Peers(Box::new(peers.settings(&name, &self.election, defaults.timing)?))
            }
        };
        let http = match (http, &self.file.http) {
            (Some(http), _) => Some(http),
            (None, Some(PortOrAddress::Port(port))) => Some(in_file("http", port.to_string().parse())?),
            (None, Some(PortOrAddress::Address(address))) => Some(in_file("http", address.parse())?),
            (None, None) => None,
        };
        Ok(CandidateConfig { name, place, http })
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, UsageError> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            UsageError(format!("--config {shown}: {error}; name a file that can be read"))
        })?;
        Self::parse(&text).map_err(|(line, problem)| {
            let of_keys = match problem.contains("unknown field") {
                true => {
                    "; the keys are the long flags without dashes in front, and a password goes into ELECT_PASSWORD or a \
                     file of its own (password-file)"
                }
                false => "",
            };
            UsageError(format!("--config {shown}, line {line}{problem}{of_keys}"))
        })
    }

    /// Parses the text; an error has its line's number.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error| {
            // The line's number, and not the line: it may contain a secret.
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let key = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
            let key = key.map(|(key, _)| format!(" {}:", key.trim())).unwrap_or_default();
            (line, format!(":{key} {}", error.message()))
        })
    }

    fn member(&self) -> Result<MemberArgs, UsageError> {
        Ok(MemberArgs {
            listen: parsed("listen", &self.listen, str::parse)?,
            data: self.data.clone(),
            heartbeat: parsed("heartbeat", &self.heartbeat, parse_heartbeat)?,
            election_timeout: parsed("election-timeout", &self.election_timeout, str::parse)?,
            secret_file: self.secret_file.clone(),
            insecure_peers: self.insecure_peers.unwrap_or_default(),
            operators: self.operators.as_ref().map(|list| match list {
                CommaList::One(list) => list.split(',').map(str::to_owned).collect(),
                CommaList::Many(list) => list.clone(),
            }),
            tokens_after: parsed(
                "tokens-after",
                &self.tokens_after.map(|token| token.to_string()),
                parse_token,
            )?,
        })
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

fn endpoints_in(list: &CommaList) -> Result<Vec<Endpoint>, UsageError> {
    match list {
        CommaList::One(list) => in_file("etcd", list.parse::<Endpoints>()).map(|list| list.0),
        CommaList::Many(list) => list.iter().map(|endpoint| in_file("etcd", endpoint.parse())).collect(),
    }
}

/// Refuses an empty `ELECT_PEERS` if nothing else names the backend: the server was to be one of a group, and
/// must not become a candidate on whatever etcd answers at the default address.
fn refuse_empty_peers(flags: &CommonArgs, file: &File) -> Result<(), UsageError> {
    let among_peers = flags.peers.is_some() || file.peers.is_some();
    let on_etcd = flags.etcd.is_some() || flags.user.is_some() || file.etcd.is_some() || file.user.is_some();
    if !among_peers && !on_etcd && is_empty("ELECT_PEERS") {
        return Err(UsageError(
            "--peers: ELECT_PEERS is empty, so it has no address; without it this server would campaign on the etcd \
             at localhost:2379; set it to NAME=HOST:PORT,…, unset it, or give --etcd as well"
                .into(),
        ));
    }
    Ok(())
}

/// Refuses an empty `ELECT_DATA`: it would change the backend's memory, and a member that looks for it elsewhere
/// forgets its votes.
fn refuse_empty_data(flags: &CommonArgs, member: &MemberArgs, file: &File) -> Result<(), UsageError> {
    let among_peers = flags.peers.is_some() || file.peers.is_some();
    if among_peers && member.data.is_none() && file.data.is_none() && is_empty("ELECT_DATA") {
        return Err(UsageError(
            "--data: ELECT_DATA is empty; name the directory that has this server's votes, or unset it"
                .into(),
        ));
    }
    Ok(())
}

fn parsed<T, E: std::fmt::Display>(
    key: &str,
    text: &Option<String>,
    parse: fn(&str) -> Result<T, E>,
) -> Result<Option<T>, UsageError> {
    text.as_deref().map(|text| in_file(key, parse(text))).transpose()
}

pub(crate) fn in_file<T, E: std::fmt::Display>(key: &str, parsed: Result<T, E>) -> Result<T, UsageError> {
    parsed.map_err(|error| UsageError(format!("--config: {key}: {error}")))
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
    /// Chooses the file of the flag, the environment, or the file of the configuration.
    fn of(flag: Option<&Path>, configured: Option<&Path>) -> Result<Option<Self>, UsageError> {
        let in_environment = match env::var("ELECT_PASSWORD") {
            Ok(empty) if empty.is_empty() => Err(env::VarError::NotPresent),
            found => found,
        };
        let password = match (flag, in_environment, configured) {
            (Some(path), _, _) | (None, Err(env::VarError::NotPresent), Some(path)) => {
                Self::InFile(path.to_owned())
            }
            (None, Ok(password), _) => Self::Given(without_line_break(&password)),
            (None, Err(env::VarError::NotPresent), None) => return Ok(None),
            (None, Err(env::VarError::NotUnicode(_)), _) => {
                return Err(UsageError("ELECT_PASSWORD is not UTF-8, which etcd's passwords are".into()));
            }
        };
        Ok(Some(password))
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
    use super::*;

    #[test]
    fn the_file_that_the_documents_show_is_a_configuration() {
        let page = include_str!("../../../docs/configuration.md");
        let (_, file) = page.split_once("```toml\n").expect("an example");
        let (file, _) = file.split_once("```").expect("its end");
        let file = File::parse(file).unwrap();
        assert!(file.etcd.is_some() && file.ttl.is_some() && file.password_file.is_some());
    }

    #[test]
    fn a_password_over_a_network_without_tls_is_warned_of() {
        let password = tempfile::NamedTempFile::new().unwrap();
        fs::write(password.path(), "secret").unwrap();
        let warnings = |etcd: &str, user: Option<&str>| {
            let flags = CommonArgs {
                etcd: Some(vec![etcd.parse().unwrap()]),
                user: user.map(str::to_owned),
                password_file: user.map(|_| password.path().to_owned()),
                ..CommonArgs::default()
            };
            let config = Config::of(flags, MemberArgs::default(), File::default()).unwrap();
            assert_eq!(config.knows_a_secret, user.is_some());
            config.warnings
        };
        for quiet in ["localhost:2379,127.0.0.1:1,[::1]:2", "https://etcd:2379", "a.localhost:1"] {
            assert_eq!(warnings(quiet, Some("user")), [""; 0], "{quiet}");
        }
        assert_eq!(warnings("etcd:2379", None), [""; 0]);
        for loud in ["etcd:2379", "http://10.0.0.1:1", "localhost:1,[2001:db8::1]:2"] {
            let said = warnings(loud, Some("user"));
            assert!(said.len() == 1 && said[0].contains("in the clear"), "{loud}: {said:?}");
            assert!(said[0].starts_with("--user: ") && !said[0].contains("localhost"), "{said:?}");
        }
    }

    /// Parses as a configuration, or as an error on one bounded line that repeats no value.
    #[test]
    fn fuzz_config() {
        bolero::check!().for_each(|text: &[u8]| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            let mut file = match File::parse(text) {
                Ok(file) => file,
                Err((line, problem)) => {
                    assert!((1..=text.lines().count() + 1).contains(&line), "line {line}: {problem}");
                    return;
                }
            };
            // Left out: a fuzzer must not read files by those names.
            (file.cacert, file.cert, file.key, file.password_file) = (None, None, None, None);
            file.secret_file = None;
            let Ok(config) = Config::of(CommonArgs::default(), MemberArgs::default(), file) else { return };
            let name = || Ok("server1".parse().expect("it is a name"));
            let _ =
                config.candidate(None, CandidateArgs::default(), Defaults { name, timing: Timing::DEFAULT });
        });
    }
}
