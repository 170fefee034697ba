//! A candidate's preferences about leading, and what it publishes about itself.

use std::{fmt, str::FromStr, time::Duration};

use clap::{Args, builder::FalseyValueParser};
use leader_election::{
    CandidateName,
    choosing::{CandidateProfile, Priority},
    names::InvalidName,
};

/// Flags about who leads, and where the leader is found.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PreferenceArgs {
    /// Tell clients this address of this server, in status, on the page and to hooks: HOST:PORT, or a URL.
    #[arg(long, value_name = "ADDR", env = "ELECT_ADVERTISE", help_heading = "Choosing who leads")]
    pub(crate) advertise: Option<AdvertisedAddress>,
    /// Show this failure domain of this server in status: a zone, a rack, a site.
    #[arg(long, value_name = "ZONE", env = "ELECT_ZONE", help_heading = "Choosing who leads")]
    pub(crate) zone: Option<CandidateName>,
    /// Rank among the candidates: leadership moves to a higher one; 0 leads only while no other can [default: 100].
    #[arg(
        long,
        value_name = "N",
        env = "ELECT_PRIORITY",
        value_parser = priority,
        allow_hyphen_values = true,
        help_heading = "Choosing who leads"
    )]
    pub(crate) priority: Option<Priority>,
    /// Never lead, and show the election only; among peers also vote.
    #[arg(
        long,
        env = "ELECT_NEVER",
        value_parser = FalseyValueParser::new(),
        conflicts_with = "priority",
        help_heading = "Choosing who leads"
    )]
    pub(crate) never: bool,
    /// As leader, hand over to a higher priority no sooner than this after the term began [default: 10m].
    #[arg(
        long,
        value_name = "DURATION",
        env = "ELECT_MIN_TENURE",
        value_parser = super::parse_span,
        help_heading = "Choosing who leads"
    )]
    pub(crate) min_tenure: Option<Duration>,
}

impl PreferenceArgs {
    /// Returns what the candidate publishes about itself.
    pub(crate) fn profile(&self) -> CandidateProfile {
        let mut profile = CandidateProfile::default();
        profile.priority = self.priority.unwrap_or_default();
        profile.address = self.advertise.as_ref().map(ToString::to_string);
        profile.zone = self.zone.as_ref().map(ToString::to_string);
        profile.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        profile
    }
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse()
        .map_err(|_| "write a whole number: 100 is the default, and 0 is for a last resort".to_owned())
}

/// An address fit to be shown to others: a host and port, a URL, or what else the clients of a service understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdvertisedAddress(String);

impl AdvertisedAddress {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AdvertisedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AdvertisedAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let remedy = "write what clients connect to, as in host1:8443 or https://host1.example.com/";
        if let Some(blank) = text.chars().find(|letter| letter.is_whitespace()) {
            return Err(format!("an address has no white space, and this one has {blank:?}; {remedy}"));
        }
        // The rule for names: one line, of bounded length, that can't be displayed as another one.
        match text.parse::<CandidateName>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(InvalidName::Empty) => Err(format!("it is empty; {remedy}, or leave it out")),
            Err(InvalidName::TooLong(bytes)) => {
                Err(format!("an address may have at most 256 bytes, and this one has {bytes}; {remedy}"))
            }
            Err(InvalidName::ControlCharacter(found)) => Err(format!(
                "an address has neither control characters nor invisible ones, and this one has {found:?}; {remedy}"
            )),
            Err(other) => Err(format!("{other}; {remedy}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_clients_understand_on_one_line() {
        for address in [
            "host1:8443",
            "https://host1.example.com/a?b=c",
            "[2001:db8::1]:80",
            "unix:/run/x.sock",
            "10.0.0.1",
        ] {
            assert_eq!(address.parse::<AdvertisedAddress>().unwrap().as_str(), address);
        }
        for (address, problem) in [
            ("", "it is empty"),
            ("host1 8443", "no white space"),
            ("host1:1\nforged", "no white space"),
            ("host1\u{1b}[2J", "control characters"),
            ("host1\u{202e}:1", "control characters"),
            (&"x".repeat(257), "at most 256 bytes"),
        ] {
            let refused = address.parse::<AdvertisedAddress>().unwrap_err();
            assert!(
                refused.contains(problem) && refused.contains("as in host1:8443"),
                "{address:?}: {refused}"
            );
        }
    }
}
