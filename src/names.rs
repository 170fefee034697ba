//! Names of candidates and elections, parsed once into what can only be valid.

use std::{fmt, str::FromStr};

/// Longest name, in bytes: long enough for a host's full name, short enough for a log line.
const MAX_BYTES: usize = 256;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Nothing, or nothing but white space.
    #[error("a name must not be empty")]
    Empty,
    /// More bytes than the limit.
    #[error("a name may have at most {MAX_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// A line break, an escape, or the like: it would forge lines in a log.
    #[error("a name must not contain control characters; this one has {0:?}")]
    ControlCharacter(char),
    /// An election is a prefix of keys in etcd; the separator is added to it.
    #[error("an election must not end with '/': etcd's own election adds it")]
    TrailingSlash,
}

fn checked(text: &str) -> Result<&str, InvalidName> {
    if text.trim().is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(InvalidName::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(InvalidName::ControlCharacter(c)),
        None => Ok(text),
    }
}

/// What a candidate calls itself. Others see it when it leads or waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateName(String);

impl CandidateName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CandidateName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        checked(text).map(|text| Self(text.to_owned()))
    }
}

impl fmt::Display for CandidateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is elected: all candidates that stand under one name compete.
///
/// In etcd it is a prefix of keys, so one election's name must not lie under
/// another's (`leader` and `leader/europe`): the one would see the other's keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElectionName(String);

impl ElectionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ElectionName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let text = checked(text)?;
        if text.ends_with('/') { Err(InvalidName::TrailingSlash) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for ElectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes what some other program stored fit to be shown: valid text, no control
/// characters, bounded.
pub(crate) fn displayed(value: &[u8]) -> String {
    displayed_within(value, MAX_BYTES)
}

/// The same for what may be longer than a name: `most` bytes of it.
pub(crate) fn displayed_within(value: &[u8], most: usize) -> String {
    let cut = &value[..value.len().min(most)];
    let mut shown: String = String::from_utf8_lossy(cut)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if cut.len() < value.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_names_that_are_empty_too_long_or_forge_lines() {
        assert_eq!("".parse::<CandidateName>(), Err(InvalidName::Empty));
        assert_eq!("  ".parse::<CandidateName>(), Err(InvalidName::Empty));
        assert_eq!("a\nb".parse::<CandidateName>(), Err(InvalidName::ControlCharacter('\n')));
        assert_eq!("x".repeat(257).parse::<CandidateName>(), Err(InvalidName::TooLong(257)));
        assert_eq!("leader/".parse::<ElectionName>(), Err(InvalidName::TrailingSlash));
        assert!("/service/leader".parse::<ElectionName>().is_ok());
    }

    proptest! {
        #[test]
        fn anything_stored_can_be_shown_on_one_bounded_line(value in prop::collection::vec(any::<u8>(), 0..2000)) {
            let shown = displayed(&value);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert!(shown.chars().count() <= MAX_BYTES + 1);
        }

        #[test]
        fn a_valid_name_is_shown_as_it_is(text in "\\PC{1,60}") {
            prop_assume!(text.parse::<CandidateName>().is_ok());
            prop_assert_eq!(displayed(text.as_bytes()), text);
        }
    }
}
