//! A configuration file (TOML): defaults for the long flags of `server` and `run`, parsed by clap as they are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue},
};
use toml::{Spanned, Value};

use super::{UsageError, is_empty};

/// Flags that are not keys: they choose the action, or the file itself.
const NO_KEYS: [&str; 4] = ["config", "explain", "help", "version"];

/// Keys whose value may be a list.
const LISTS: [&str; 3] = ["etcd", "operators", "peers"];

/// Variables that clap does not read, each with the key that it overrides.
const BESIDE_CLAP: [(&str, &str); 2] = [("ELECT_NAME", "name"), ("ELECT_PASSWORD", "password-file")];

/// The keys of a file, each with its line and its value in the form of a command line.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    values: BTreeMap<String, (usize, String)>,
}

impl File {
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, UsageError> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            UsageError(format!("--config {shown}: {error}; name a file that can be read"))
        })?;
        let values = parse(&text, command)
            .map_err(|(line, problem)| UsageError(format!("--config {shown}, line {line}: {problem}")))?;
        Ok(Self { path: path.to_owned(), values })
    }

    /// Adds the file's values to a command line as defaults, so that a flag wins over the environment, and the
    /// environment over the file.
    pub(crate) fn as_defaults(&self, command: Command) -> Command {
        let with_default = |arg: Arg| match key_of(&arg).and_then(|key| self.default(key)) {
            Some(value) => arg.default_value(value),
            None => arg,
        };
        command.mut_args(with_default).mut_subcommands(|command| self.as_defaults(command))
    }

    fn default(&self, key: &str) -> Option<String> {
        let set = |name: &str| std::env::var_os(name).is_some() && !is_empty(name);
        let beside = BESIDE_CLAP.iter().any(|(variable, over)| *over == key && set(variable));
        let (_, value) = self.values.get(key).filter(|_| !beside)?;
        Some(value.clone())
    }

    /// Returns clap's reason to refuse a default. It does not repeat the value, which may be a misplaced secret.
    pub(crate) fn refused(&self, error: &clap::Error) -> UsageError {
        let flag = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(flag)) => flag.as_str(),
            _ => "",
        };
        let key = flag.trim_start_matches('-').split([' ', '=', '[']).next().unwrap_or_default();
        let line = self.values.get(key).map_or(1, |(line, _)| *line);
        let reason = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
            (Some(source), _) => source.to_string(),
            (None, Some(ContextValue::Strings(known))) if !known.is_empty() => {
                format!("use one of {}", known.join(", "))
            }
            (None, Some(_)) => "it is empty; give a value, or leave the key out".into(),
            (None, _) => error.kind().to_string(),
        };
        UsageError(format!("--config {}, line {line}: {key}: {reason}", self.path.display()))
    }
}

/// Returns the key of an argument: its long flag, and for `witness` and `release` the directory.
fn key_of(arg: &Arg) -> Option<&str> {
    arg.get_long().or_else(|| (arg.get_id() == "lifeline").then_some("lifeline"))
}

/// Parses keys and values, or returns a problem with its line's number. The line itself may contain a secret.
fn parse(text: &str, command: &Command) -> Result<BTreeMap<String, (usize, String)>, (usize, String)> {
    let line_at = |at: usize| text[..at].matches('\n').count() + 1;
    let table: BTreeMap<Spanned<String>, Value> = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        let key = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
        let key = key.map(|(key, _)| format!("{}: ", key.trim())).unwrap_or_default();
        (line, format!("{key}{}", error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let line = line_at(key.span().start);
        let key = key.into_inner();
        if !is_key(&key, command) {
            return Err((
                line,
                "unknown field; the keys are the long flags without dashes in front, and a password goes into \
                 ELECT_PASSWORD or a file of its own (password-file)"
                    .into(),
            ));
        }
        let value = written(&key, value).map_err(|problem| (line, format!("{key}: {problem}")))?;
        values.insert(key, (line, value));
    }
    Ok(values)
}

fn is_key(key: &str, command: &Command) -> bool {
    let of_candidates = ["server", "run"].iter().filter_map(|name| command.find_subcommand(name));
    let mut flags = of_candidates.flat_map(Command::get_arguments).filter_map(Arg::get_long);
    !NO_KEYS.contains(&key) && flags.any(|flag| flag == key)
}

/// Returns a value in the form of a flag.
fn written(key: &str, value: Value) -> Result<String, &'static str> {
    let text = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(on.to_string()),
        _ => None,
    };
    match value {
        Value::Array(list) if LISTS.contains(&key) => {
            let list: Option<Vec<String>> = list.into_iter().map(text).collect();
            match list {
                Some(list) if list.is_empty() => {
                    Err("a list needs at least one value; leave the key out otherwise")
                }
                // A comma may end the list of a flag; an empty element here is an error.
                Some(list) if list.last().is_some_and(String::is_empty) => Ok(list.join(",") + ","),
                Some(list) => Ok(list.join(",")),
                None => Err("write a list of strings"),
            }
        }
        value => text(value).ok_or("write a string, as its flag has it"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use clap::CommandFactory;
    use leader_election::timing::Ttl;

    use super::*;
    use crate::{cli::Cli, config::Endpoints, status::Address};

    static COMMAND: LazyLock<Command> = LazyLock::new(Cli::command);

    #[test]
    fn the_file_that_the_documents_show_is_a_configuration() {
        let page = include_str!("../../../../docs/configuration.md");
        let (_, file) = page.split_once("```toml\n").expect("an example");
        let (file, _) = file.split_once("```").expect("its end");
        let values = parse(file, &COMMAND).unwrap();
        assert!(["etcd", "ttl", "password-file"].iter().all(|key| values.contains_key(*key)));
    }

    #[test]
    fn each_flag_of_a_candidate_is_a_key_and_no_other() {
        for key in ["etcd", "ttl", "name", "http", "check-failures", "once", "insecure-peers", "on-change"] {
            assert!(is_key(key, &COMMAND), "{key}");
        }
        for key in ["config", "explain", "help", "version", "json", "password", "command", "rounds", ""] {
            assert!(!is_key(key, &COMMAND), "{key}");
        }
    }

    #[test]
    fn lists_and_switches_are_as_their_flags_and_flags_win() {
        let text = "operators = ['a', 'b']\netcd = ['c:1', 'd:2']\nonce = true\nttl = '7s'\nhttp = 8080\n";
        let file = File { path: "elect.toml".into(), values: parse(text, &COMMAND).unwrap() };
        let command = file.as_defaults(COMMAND.clone());
        let matches = command.try_get_matches_from(["elect", "run", "--ttl", "9s", "--", "true"]).unwrap();
        let (_, run) = matches.subcommand().unwrap();
        assert_eq!(Vec::from_iter(run.get_many::<String>("operators").unwrap()), ["a", "b"]);
        assert_eq!(run.get_one::<Endpoints>("etcd").unwrap().to_string(), "c:1,d:2");
        assert!(run.get_flag("once"));
        assert_eq!(run.get_one::<Ttl>("ttl").unwrap().to_string(), "9s");
        assert!(run.get_one::<Address>("http").is_some());
    }

    /// Parses as defaults that clap accepts, or as an error on one bounded line that repeats no value.
    #[test]
    fn fuzz_config() {
        bolero::check!().for_each(|text: &[u8]| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            let values = match parse(text, &COMMAND) {
                Ok(values) => values,
                Err((line, problem)) => {
                    assert!((1..=text.lines().count() + 1).contains(&line), "line {line}: {problem}");
                    return;
                }
            };
            let file = File { path: "elect.toml".into(), values };
            let command = file.as_defaults(COMMAND.clone());
            if let Err(error) = command.try_get_matches_from(["elect", "run", "--", "true"]) {
                file.refused(&error);
            }
        });
    }
}
