//! Names of candidates and elections, valid by construction.

use std::{convert::Infallible, fmt, str::FromStr};

/// Longest name, in bytes: a host's full name fits, and a log line stays readable.
const MAX_BYTES: usize = 256;

/// Reason that a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Nothing, or nothing but white space.
    #[error("a name must not be empty")]
    Empty,
    /// More bytes than the limit.
    #[error("a name may have at most {MAX_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// A line break, an escape, a mark that reverses text, or the like: it would forge lines in a log, or
    /// display as another name.
    #[error("a name must not contain control characters or invisible ones; this one has {0:?}")]
    ControlCharacter(char),
    /// An election is a prefix of keys in etcd, and the separator is appended to it.
    #[error("an election must not end with '/': etcd's own election adds it")]
    TrailingSlash,
}

/// A name needs no check; this lets one error serve functions that take a name or a text.
impl From<Infallible> for InvalidName {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

macro_rules! from_text {
    ($name:ty) => {
        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
    };
}

fn checked(text: &str) -> Result<&str, InvalidName> {
    if text.trim().is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(InvalidName::TooLong(text.len()));
    }
    match text.chars().find(|c| forges(*c)) {
        Some(c) => Err(InvalidName::ControlCharacter(c)),
        None => Ok(text),
    }
}

/// Name of a candidate, shown to others when it leads or waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateName(String);

impl CandidateName {
    /// Returns the name as text.
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

from_text!(CandidateName);

impl fmt::Display for CandidateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of an election; candidates that use the same name compete.
///
/// In etcd it is a prefix of keys. One election's name may lie under another's (`leader` and
/// `leader/europe`): they are separate. But etcd's own clients in the outer one wait for the inner one's
/// keys, too, and its past terms (`leader/europe.history:0`) are never deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElectionName(String);

impl ElectionName {
    /// Returns the name as text.
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

from_text!(ElectionName);

impl fmt::Display for ElectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a character can make a line look like another one: it ends the line, commands the
/// terminal, turns the direction of the text, or is invisible.
///
/// The joiners U+200C and U+200D are exempt: Persian, Hindi and some emoji need them, and they change nothing
/// else.
pub(crate) fn forges(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Makes foreign text displayable: valid text, one line, no character that [forges](forges), at most as long
/// as a name.
pub(crate) fn displayed(value: &[u8]) -> String {
    displayed_within(value, MAX_BYTES)
}

/// Does the same for text that may be longer than a name: at most `most` bytes of it.
pub(crate) fn displayed_within(value: &[u8], most: usize) -> String {
    let cut = &value[..value.len().min(most)];
    let shown = String::from_utf8_lossy(cut);
    let mut shown: String =
        shown.chars().map(|c| if forges(c) { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if cut.len() < value.len() {
        shown.push('…');
    }
    shown
}

/// Does the same for an error message of another program, which may have several lines.
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
pub(crate) fn displayed_error(text: &str) -> String {
    /// Enough for the error and its reason, not for a page of HTML.
    const MOST: usize = 1024;
    let lines: Vec<_> = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect();
    displayed_within(lines.join(" ").as_bytes(), MOST)
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

    #[test]
    fn characters_that_turn_or_hide_text_are_refused_in_names_and_replaced_in_foreign_text() {
        for forging in
            ['\u{202e}', '\u{2028}', '\u{2029}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{e0041}', '\x1b']
        {
            let name = format!("a{forging}b");
            assert_eq!(name.parse::<CandidateName>(), Err(InvalidName::ControlCharacter(forging)));
            assert_eq!(displayed(name.as_bytes()), "a\u{fffd}b");
        }
        for fine in ["κόσμος", "نام\u{200c}ها", "👩\u{200d}🚀", "a b"] {
            assert!(fine.parse::<CandidateName>().is_ok(), "{fine}");
            assert_eq!(displayed(fine.as_bytes()), fine);
        }
        assert_eq!(displayed_error("refused\n  at line 1\r\n\x1b[2J"), "refused at line 1 \u{fffd}[2J");
    }

    proptest! {
        #[test]
        fn anything_stored_can_be_shown_on_one_bounded_line(value in prop::collection::vec(any::<u8>(), 0..2000)) {
            let shown = displayed(&value);
            prop_assert!(!shown.chars().any(forges));
            prop_assert!(shown.chars().count() <= MAX_BYTES + 1);
        }

        #[test]
        fn any_error_can_be_shown_on_one_bounded_line(text in any::<String>()) {
            let shown = displayed_error(&text);
            prop_assert!(!shown.chars().any(forges) && shown.chars().count() <= 1025);
        }

        #[test]
        fn a_valid_name_is_shown_as_it_is(text in "\\PC{1,60}") {
            prop_assume!(text.parse::<CandidateName>().is_ok());
            prop_assert_eq!(displayed(text.as_bytes()), text);
        }
    }
}
