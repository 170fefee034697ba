//! The beliefs of `elect server` and `elect run`, from their JSON logs.

use serde::Deserialize;

use super::history::{At, Ending, Event, EventKind, Token};

/// The `RUST_LOG` that enables them.
pub(crate) const LOG: &str = "belief=debug";

/// A line of the target `belief`.
#[derive(Deserialize)]
struct BeliefLine {
    target: String,
    message: String,
    token: Token,
    at: At,
    until: Option<At>,
    how: Option<String>,
}

/// The events in these lines; other lines are skipped.
pub(crate) fn read(who: &str, lines: &[String]) -> Vec<Event> {
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<BeliefLine>(line).ok());
    lines.filter(|line| line.target == "belief").filter_map(|line| event(who, line)).collect()
}

fn event(who: &str, line: BeliefLine) -> Option<Event> {
    let BeliefLine { message, token, at, until, how, .. } = line;
    let who = who.to_owned();
    let what = match (message.as_str(), until, how.as_deref()) {
        ("proved", Some(until), _) => EventKind::Proved { who, token, until },
        ("ended", _, Some("Expired")) => EventKind::Ended { who, token, last: None, how: Ending::Expired },
        // Logged before the release.
        ("ended", _, Some("Stopping")) => {
            EventKind::Ended { who, token, last: Some(at), how: Ending::Resigned }
        }
        // Logged some time later: `elect run` ends its command first.
        ("ended", _, Some("Resigned")) => EventKind::Ended { who, token, last: None, how: Ending::Resigned },
        ("ended", _, Some(_)) => EventKind::Ended { who, token, last: Some(at), how: Ending::Taken },
        _ => return None,
    };
    Some(Event { at, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_target_and_passes_over_the_rest() {
        let lines = [
            "not JSON",
            r#"{"timestamp":"…","level":"INFO","message":"I am the leader.","token":3,"target":"transcript"}"#,
            r#"{"level":"DEBUG","message":"proved","token":3,"at":5,"until":9,"target":"belief"}"#,
            r#"{"level":"DEBUG","message":"ended","token":3,"at":8,"how":"Revoked","target":"belief"}"#,
        ];
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let who = || "s1".to_owned();
        let proved = EventKind::Proved { who: who(), token: 3, until: At(9) };
        let ended = EventKind::Ended { who: who(), token: 3, last: Some(At(8)), how: Ending::Taken };
        assert_eq!(read("s1", &lines), [Event { at: At(5), what: proved }, Event { at: At(8), what: ended }]);
    }
}
