//! Flags, environment, file and defaults, merged once into a [`Config`] that can only be valid.
//!
//! A flag wins over the environment (clap sees to that), the environment over the file, the
//! file over the default. A password is never a flag: it comes from `ELECT_PASSWORD` or from
//! a file.

use std::{
    env, fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use leader_election::{
    CandidateName, ElectionName,
    etcd::{Credentials, Endpoint, Settings, Tls},
    timing::Ttl,
};
use serde::Deserialize;

use crate::{cli::Shared, effects::restart::Restart, log::Format, status::Address};

/// Where etcd is unless somebody says otherwise: its own default.
const DEFAULT_ENDPOINT: &str = "localhost:2379";

/// The election's key, as etcd's own examples and the seed of this project call it.
const DEFAULT_ELECTION: &str = "leader";

/// The user asked for something that can't be; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) etcd: Settings,
    pub(crate) election: ElectionName,
    pub(crate) log_format: Format,
    file: File,
}

/// What a candidate needs besides.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) name: CandidateName,
    pub(crate) ttl: Ttl,
    /// Where to serve HTTP, if anywhere.
    pub(crate) http: Option<Address>,
}

/// The keys of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    etcd: Option<Endpoints>,
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
    // Those of `run`.
    pub(crate) kill_after: Option<String>,
    pub(crate) restart: Option<Restart>,
    pub(crate) once: Option<bool>,
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
enum Endpoints {
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

impl Config {
    pub(crate) fn merge(flags: Shared) -> Result<Self, UsageError> {
        let file = flags.config.as_deref().map(File::read).transpose()?.unwrap_or_default();

        let endpoints = match flags.etcd {
            Some(endpoints) => endpoints,
            None => file.endpoints()?,
        };
        let mut etcd = Settings::new(endpoints).map_err(|error| UsageError(format!("--etcd: {error}")))?;
        let tls = tls(
            flags.cacert.as_deref().or(file.cacert.as_deref()),
            flags.cert.as_deref().or(file.cert.as_deref()),
            flags.key.as_deref().or(file.key.as_deref()),
        )?;
        if let Some(tls) = tls {
            etcd = etcd.with_tls(tls).map_err(|error| UsageError(format!("--etcd: {error}")))?;
        }
        let user = flags.user.as_deref().or(file.user.as_deref());
        let password = Password::of(flags.password_file.as_deref(), file.password_file.as_deref())?;
        if let Some(credentials) = credentials(user, password.map(|password| password.0))? {
            etcd = etcd.with_credentials(credentials);
        }

        let election = match (flags.election, &file.election) {
            (Some(election), _) => election,
            (None, Some(election)) => in_file("election", election.parse())?,
            (None, None) => DEFAULT_ELECTION.parse().expect("the default is a valid name"),
        };
        let log_format = flags.log_format.or(file.log_format).unwrap_or_default();
        Ok(Self { etcd, election, log_format, file })
    }

    /// The keys of the configuration file, if there is one.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What a candidate needs, from its own flags and the same file, and its name where nobody gives one.
    pub(crate) fn standing(
        &self,
        name: Option<CandidateName>,
        ttl: Option<Ttl>,
        http: Option<Address>,
        nameless: impl FnOnce() -> Result<CandidateName, UsageError>,
    ) -> Result<Standing, UsageError> {
        // Not clap's to read: it may be given in two places, and would conflict with itself.
        let in_environment = env::var("ELECT_NAME").ok();
        let name = match (name, in_environment, &self.file.name) {
            (Some(name), _, _) => name,
            (None, Some(name), _) => {
                name.parse().map_err(|error| UsageError(format!("ELECT_NAME: {error}")))?
            }
            (None, None, Some(name)) => in_file("name", name.parse())?,
            (None, None, None) => nameless()?,
        };
        let ttl = match (ttl, &self.file.ttl) {
            (Some(ttl), _) => ttl,
            (None, Some(ttl)) => in_file("ttl", parse_ttl(ttl))?,
            (None, None) => Ttl::DEFAULT,
        };
        let http = match (http, &self.file.http) {
            (Some(http), _) => Some(http),
            (None, Some(PortOrAddress::Port(port))) => Some(in_file("http", port.to_string().parse())?),
            (None, Some(PortOrAddress::Address(address))) => Some(in_file("http", address.parse())?),
            (None, None) => None,
        };
        Ok(Standing { name, ttl, http })
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, UsageError> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            UsageError(format!("--config {shown}: {error}; name a file that can be read"))
        })?;
        toml::from_str(&text).map_err(|error| {
            // The line's number, and not the line: it may hold what must not be printed.
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let key = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
            let key = key.map(|(key, _)| format!(" {}:", key.trim())).unwrap_or_default();
            let what = error.message();
            UsageError(format!(
                "--config {shown}, line {line}:{key} {what}; the keys are the long flags without dashes in front, \
                 and a password goes into ELECT_PASSWORD or a file of its own (password-file)"
            ))
        })
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, UsageError> {
        let given: Vec<&str> = match &self.etcd {
            None => vec![DEFAULT_ENDPOINT],
            Some(Endpoints::One(list)) => list.split(',').collect(),
            Some(Endpoints::Many(list)) => list.iter().map(String::as_str).collect(),
        };
        given.into_iter().map(|endpoint| in_file("etcd", endpoint.parse())).collect()
    }
}

pub(crate) fn in_file<T, E: std::fmt::Display>(key: &str, parsed: Result<T, E>) -> Result<T, UsageError> {
    parsed.map_err(|error| UsageError(format!("--config: {key}: {error}")))
}

/// Reads `5s`, `1m`.
pub(crate) fn parse_ttl(text: &str) -> Result<Ttl, String> {
    let span =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration, as in 5s"))?;
    Ttl::new(span).map_err(|error| error.to_string())
}

fn tls(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Tls>, UsageError> {
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

/// Never shown, in no form of the configuration.
struct Password(String);

impl Password {
    /// From the file that a flag names, the environment, or the file that the configuration names.
    fn of(flag: Option<&Path>, configured: Option<&Path>) -> Result<Option<Self>, UsageError> {
        let password = match (flag, env::var("ELECT_PASSWORD"), configured) {
            (Some(path), _, _) | (None, Err(env::VarError::NotPresent), Some(path)) => password_in(path)?,
            (None, Ok(password), _) => password,
            (None, Err(env::VarError::NotPresent), None) => return Ok(None),
            (None, Err(env::VarError::NotUnicode(_)), _) => {
                return Err(UsageError("ELECT_PASSWORD is not UTF-8, which etcd's passwords are".into()));
            }
        };
        Ok(Some(Self(password)))
    }
}

fn credentials(user: Option<&str>, password: Option<String>) -> Result<Option<Credentials>, UsageError> {
    match (user, password) {
        (None, None) => Ok(None),
        (Some(""), _) => Err(UsageError("--user is empty; name a user, or leave it out".into())),
        (Some(user), Some(password)) if !password.is_empty() => Ok(Some(Credentials::new(user, password))),
        (Some(_), _) => {
            Err(UsageError("--user needs a password: set ELECT_PASSWORD, or give --password-file".into()))
        }
        (None, Some(_)) => Err(UsageError("there is a password, but no user: add --user".into())),
    }
}

fn password_in(path: &Path) -> Result<String, UsageError> {
    let wrong = |problem: String| UsageError(format!("--password-file {}: {problem}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(wrong("it is empty; write the password into it".into()));
    }
    Ok(password.to_owned())
}
