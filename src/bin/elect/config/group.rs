//! Settings of a group of peers and of its members: timing, data directory, secret.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, builder::FalseyValueParser};
use leader_election::{
    CandidateName, ElectionName,
    peers::{Client, Group, InvalidSettings, InvalidTiming, PeerAddress, Secret, Settings, Timing, Tls},
};
use ring::digest::{SHA256, digest};

use super::{UsageError, exposure::Exposed};
use crate::lease_timing::written;

/// A group, as all commands know it.
#[derive(Debug, Clone)]
pub(crate) struct PeersConfig {
    pub(crate) group: Group,
    pub(crate) tls: Option<Tls>,
    pub(super) member: MemberArgs,
}

/// Flags of a member. Absent is not the default: that depends on the command and on the name.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MemberArgs {
    /// Listen at this address instead of this server's address among the peers.
    #[arg(long, value_name = "HOST:PORT", env = "ELECT_LISTEN", help_heading = "peers")]
    pub(crate) listen: Option<PeerAddress>,
    /// Keep term, vote and log in this directory, which must outlive a restart
    /// [default: ELECTION/NAME in $STATE_DIRECTORY, $XDG_STATE_HOME/elect or ~/.local/state/elect].
    #[arg(long, value_name = "DIR", env = "ELECT_DATA", help_heading = "peers")]
    pub(crate) data: Option<PathBuf>,
    /// How often the leader sends a heartbeat [default: 50ms].
    #[arg(
        long,
        value_name = "DURATION",
        env = "ELECT_HEARTBEAT",
        value_parser = super::parse_heartbeat,
        help_heading = "peers"
    )]
    pub(crate) heartbeat: Option<Duration>,
    /// Time without a leader until an election: drawn from this range each time, the same range on each server
    /// [default: 250ms-500ms; run: 1s-2s].
    #[arg(long, value_name = "SHORTEST-LONGEST", env = "ELECT_ELECTION_TIMEOUT", help_heading = "peers")]
    pub(crate) election_timeout: Option<Range>,
    /// Talk only with peers that prove that they have the secret in this file (32 bytes or more), the same on each server.
    #[arg(long, value_name = "FILE", env = "ELECT_SECRET_FILE", help_heading = "peers")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Listen for other machines with neither TLS nor a secret: any client that reaches the port can vote and lead.
    #[arg(
        long,
        env = "ELECT_INSECURE_PEERS",
        value_parser = FalseyValueParser::new(),
        help_heading = "peers"
    )]
    pub(crate) insecure_peers: bool,
    /// With TLS: clients with a certificate for one of these names may replace disks (elect peers replace).
    #[arg(
        long,
        value_name = "NAME,…",
        env = "ELECT_OPERATORS",
        value_delimiter = ',',
        help_heading = "peers"
    )]
    pub(crate) operators: Option<Vec<String>>,
    /// In a new group that replaces an older one, begin with tokens after this one: the same on each server.
    #[arg(long, value_name = "TOKEN", env = "ELECT_TOKENS_AFTER", value_parser = super::parse_token, help_heading = "peers")]
    pub(crate) tokens_after: Option<u64>,
}

impl MemberArgs {
    /// Returns the flag of a setting that is present here, if any is.
    pub(super) fn flag(&self) -> Option<&'static str> {
        let Self {
            listen,
            data,
            heartbeat,
            election_timeout,
            secret_file,
            insecure_peers,
            operators,
            tokens_after,
        } = self;
        let flags = [
            ("--listen", listen.is_some()),
            ("--data", data.is_some()),
            ("--heartbeat", heartbeat.is_some()),
            ("--election-timeout", election_timeout.is_some()),
            ("--secret-file", secret_file.is_some()),
            ("--insecure-peers", *insecure_peers),
            ("--operators", operators.is_some()),
            ("--tokens-after", tokens_after.is_some()),
        ];
        flags.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    fn timing(&self, usual: Timing) -> Result<Timing, UsageError> {
        let heartbeat = self.heartbeat.unwrap_or(usual.heartbeat());
        let usual = Range { shortest: usual.shortest(), longest: usual.longest() };
        let Range { shortest, longest } = self.election_timeout.unwrap_or(usual);
        Timing::new(heartbeat, shortest, longest).map_err(|why| {
            let range = |shortest, longest| format!("{}-{}", written(shortest), written(longest));
            let remedy = match why {
                InvalidTiming::HeartbeatTooShort => "use --heartbeat 1ms or more".into(),
                InvalidTiming::HeartbeatTooLong => format!(
                    "use --election-timeout {} or more, or --heartbeat {} or less",
                    range(heartbeat.saturating_mul(3), heartbeat.saturating_mul(6)),
                    written(whole_millis(shortest / 3)),
                ),
                InvalidTiming::NoSpread => {
                    format!("use --election-timeout {}", range(shortest, shortest.saturating_mul(2)))
                }
                _ => "use --election-timeout 250ms-500ms".into(),
            };
            let (heartbeat, timeout) = (written(heartbeat), range(shortest, longest));
            UsageError(format!("--heartbeat {heartbeat}, --election-timeout {timeout}: {why}; {remedy}"))
        })
    }
}

impl PeersConfig {
    /// Creates a client that asks all members for the leader.
    pub(crate) fn client(&self, election: ElectionName) -> Result<Client, UsageError> {
        Client::new(self.group.clone(), election, self.tls.as_ref()).map_err(|error| tls_refused(&error))
    }

    /// Reads the secret's file, if one is given.
    pub(crate) fn secret(&self) -> Result<Option<Secret>, UsageError> {
        self.member.secret_file.as_deref().map(secret_in).transpose()
    }

    /// Builds the settings of member `name`, with the default timing.
    pub(super) fn settings(
        &self,
        name: &CandidateName,
        election: &ElectionName,
        defaults: Timing,
    ) -> Result<Settings, UsageError> {
        let names = || self.group.members().iter().map(|member| member.name.as_str());
        if !names().any(|member| member == name.as_str()) {
            return Err(UsageError(format!(
                "'{name}' is not among the --peers, which are {}; use one of these names, or add it to the list \
                 on every server",
                names().collect::<Vec<_>>().join(", ")
            )));
        }
        let timing = self.member.timing(defaults)?;
        let data = match &self.member.data {
            Some(data) if data.as_os_str().is_empty() => {
                return Err(UsageError("--data is empty; name a directory".into()));
            }
            Some(data) => data.clone(),
            None => {
                let state = state_directory(env::var_os).ok_or_else(nowhere)?;
                state.join(file_name(election.as_str())).join(file_name(name.as_str()))
            }
        };
        let settings = Settings::new(name, self.group.clone(), data);
        let settings = settings.map_err(|error| UsageError(format!("--peers: {error}")))?;
        let settings = settings.with_election(election.clone()).with_timing(timing);
        let settings = match &self.member.listen {
            Some(listen) => settings.listening_on(listen.clone()),
            None => settings,
        };
        let settings = match self.secret()? {
            Some(secret) => settings.with_secret(secret),
            None => settings,
        };
        let settings = settings.with_operators(self.member.operators.clone().unwrap_or_default());
        let settings = settings.with_tokens_after(self.member.tokens_after.unwrap_or(0));
        if self.member.operators.is_some() && self.tls.is_none() {
            return Err(UsageError(
                "--operators names certificates, and there is no TLS; give --cacert, --cert and --key too, or leave it out".into(),
            ));
        }
        let settings = match &self.tls {
            Some(tls) => settings.with_tls(tls).map_err(|error| tls_refused(&error))?,
            None => settings,
        };
        match (self.member.insecure_peers, self.tls.is_some(), self.member.secret_file.is_some()) {
            (false, _, _) => Ok(settings),
            (true, false, false) => Ok(settings.trusting_the_network()),
            (true, tls, _) => Err(UsageError(format!(
                "--insecure-peers is for members without proof of identity, and {} is such a proof; leave out one of \
                 the two",
                if tls { "TLS (--cacert, --cert, --key)" } else { "--secret-file" }
            ))),
        }
    }
}

/// Reads a secret from a file that only its owner, or a group, can read.
fn secret_in(path: &Path) -> Result<Secret, UsageError> {
    let wrong = |problem: String| UsageError(format!("--secret-file {}: {problem}", path.display()));
    let read = |path: &Path| {
        let mut file = fs::File::open(path)?;
        let exposed = Exposed::of(&file.metadata()?);
        let mut secret = Vec::new();
        file.by_ref().take(LARGEST_SECRET_FILE + 1).read_to_end(&mut secret)?;
        std::io::Result::Ok((exposed, secret))
    };
    let (exposed, mut secret) = read(path).map_err(|error| wrong(error.to_string()))?;
    // For a file of another user there is only a warning, as for passwords: a container's files come from
    // outside.
    if let Some(all @ Exposed::Accessible(_)) = exposed {
        return Err(wrong(all.to_string()));
    }
    if secret.len() as u64 > LARGEST_SECRET_FILE {
        return Err(wrong(format!("it has more than {LARGEST_SECRET_FILE} bytes; is it the right file?")));
    }
    while secret.last().is_some_and(|last| b"\r\n".contains(last)) {
        secret.pop();
    }
    Secret::new(&secret).map_err(|short| {
        wrong(format!("{short}; make one with: head -c 32 /dev/urandom | base64, the same for all members"))
    })
}

/// More than any secret.
const LARGEST_SECRET_FILE: u64 = 64 << 10;

fn tls_refused(why: &InvalidSettings) -> UsageError {
    UsageError(format!("--cacert, --cert, --key: {why}"))
}

/// `250ms-500ms`: the range of election timeouts. [`Timing`] checks whether it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    shortest: Duration,
    longest: Duration,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write the shortest and the longest, as in 250ms-500ms";
        let (shortest, longest) = text.split_once('-').ok_or_else(|| how.to_owned())?;
        let span = |text: &str| humantime::parse_duration(text).map_err(|error| format!("{error}; {how}"));
        Ok(Self { shortest: span(shortest)?, longest: span(longest)? })
    }
}

fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn nowhere() -> UsageError {
    UsageError(
        "neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME says where this server can keep its term and its \
         votes; name a directory with --data"
            .into(),
    )
}

/// Returns this machine's directory for data that must outlive a restart, by systemd or the XDG base
/// directories.
///
/// Never the working directory: a server started from another one must not find it empty, and vote again in a
/// term in which it has voted.
fn state_directory(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    // systemd separates the directories of a service by colons.
    let of_service = variable("STATE_DIRECTORY")
        .and_then(|listed| Some(PathBuf::from(listed.to_str()?.split(':').next()?)))
        .filter(|path| path.is_absolute());
    of_service
        .or_else(|| absolute("XDG_STATE_HOME").map(|home| home.join("elect")))
        .or_else(|| absolute("HOME").map(|home| home.join(Path::new(".local/state/elect"))))
}

/// Longest file name on the usual file systems.
const LONGEST_FILE_NAME: usize = 255;

/// Turns a name into one part of a path; no two names get the same.
///
/// All but letters, digits, `-`, `_` and inner dots is written as `%XX`. A result that is too long is cut,
/// and identified by a digest after `%-`, which occurs in no other.
fn file_name(name: &str) -> String {
    let mut safe = String::new();
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => safe.push(char::from(byte)),
            b'.' if place > 0 => safe.push('.'),
            other => safe.push_str(&format!("%{other:02X}")),
        }
    }
    if safe.len() > LONGEST_FILE_NAME {
        let digest: String =
            digest(&SHA256, name.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        safe.truncate(LONGEST_FILE_NAME - "%-".len() - digest.len());
        safe.push_str("%-");
        safe.push_str(&digest);
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn member(heartbeat: Option<u64>, range: Option<&str>) -> MemberArgs {
        let election_timeout = range.map(|range| range.parse().unwrap());
        MemberArgs { heartbeat: heartbeat.map(ms), election_timeout, ..MemberArgs::default() }
    }

    #[test]
    fn absent_settings_have_their_defaults() {
        assert_eq!(member(None, None).timing(Timing::DEFAULT).unwrap(), Timing::DEFAULT);
        let slow = Timing::new(ms(50), ms(400), ms(900)).unwrap();
        assert_eq!(member(None, Some("400ms-900ms")).timing(Timing::DEFAULT).unwrap(), slow);
        assert_eq!(member(Some(50), None).timing(slow).unwrap(), slow);
    }

    #[test]
    fn the_remedy_for_an_impossible_pair_is_possible() {
        for (heartbeat, range) in
            [(Some(0), None), (Some(100), None), (None, Some("250ms-260ms")), (Some(3), Some("5ms-9ms"))]
        {
            let refused = member(heartbeat, range).timing(Timing::DEFAULT).unwrap_err().to_string();
            let (_, remedy) = refused.split_once("; use ").unwrap();
            let mut words = remedy.split_ascii_whitespace().map(|word| word.trim_end_matches(','));
            while let Some(flag) = words.find(|word| word.starts_with("--")) {
                let value = words.next().unwrap();
                let (heartbeat, range) = match flag {
                    "--heartbeat" => (
                        Some(humantime::parse_duration(value).unwrap()),
                        range.map(|range| range.parse().unwrap()),
                    ),
                    _ => (heartbeat.map(ms), Some(value.parse().unwrap())),
                };
                let remedied = MemberArgs { heartbeat, election_timeout: range, ..MemberArgs::default() };
                assert!(remedied.timing(Timing::DEFAULT).is_ok(), "{refused}: {flag} {value}");
            }
        }
    }

    #[test]
    fn a_range_has_two_ends() {
        for text in ["", "500ms", "250ms-", "-500ms", "250-500", "a-b"] {
            let refused = text.parse::<Range>().unwrap_err();
            assert!(refused.contains("as in 250ms-500ms"), "{text}: {refused}");
        }
    }

    #[test]
    fn the_service_s_directory_comes_before_the_user_s_and_none_is_relative() {
        let at = |set: &[(&'static str, &str)]| {
            let set: Vec<_> = set.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
            state_directory(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.clone()))
        };
        let all =
            [("STATE_DIRECTORY", "/var/lib/elect:/var/lib/more"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(at(&all), Some("/var/lib/elect".into()));
        assert_eq!(at(&all[1..]), Some("/x/elect".into()));
        assert_eq!(at(&all[2..]), Some("/h/.local/state/elect".into()));
        assert_eq!(at(&[]), None);
        assert_eq!(at(&[("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "x"), ("HOME", "")]), None);
    }

    #[test]
    fn a_usual_name_stays_and_no_name_leaves_its_directory() {
        assert_eq!(file_name("server-1.example.com"), "server-1.example.com");
        assert_eq!(file_name("/service/leader"), "%2Fservice%2Fleader");
        assert_eq!(file_name(".."), "%2E.");
        assert_eq!(file_name("."), "%2E");
    }

    #[test]
    fn long_names_that_begin_alike_get_directories_of_their_own() {
        let (one, other) = (file_name(&"é".repeat(127)), file_name(&"é".repeat(128)));
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (LONGEST_FILE_NAME, LONGEST_FILE_NAME));
    }

    /// Decodes the name from its file name.
    fn name_of(file: &str) -> String {
        let mut bytes = Vec::new();
        let mut parts = file.split('%');
        bytes.extend(parts.next().unwrap().bytes());
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend(part[2..].bytes());
        }
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_directory(name in "[a%2F./é~ A-]{1,80}") {
            let file = file_name(&name);
            prop_assert!(file.len() <= LONGEST_FILE_NAME && !file.contains('/') && !file.starts_with('.'));
            if !file.contains("%-") {
                prop_assert_eq!(name_of(&file), name, "or another name could get the same");
            }
        }
    }
}
