//! Notes of `--help` and the manual beside the flags: examples, exit status, other pages.
//!
//! The flags themselves are declared where they are parsed. Both texts are made from the same [`Notes`], and
//! `-h` stays short: it has none of this.

use clap::Command;

/// Beside the flags of one command.
pub(super) struct Notes {
    /// Words after `elect`; none for `elect` itself.
    path: &'static [&'static str],
    /// In place of the synopsis that is made from the flags.
    usage: Option<&'static str>,
    /// Flags that the command has in common with others, and that do nothing for it.
    hidden: &'static [&'static str],
    pub(super) examples: &'static [Example],
    pub(super) exit: &'static [(&'static str, &'static str)],
    /// Pages of the manual in section 1.
    pub(super) see_also: &'static [&'static str],
    /// Pages under docs/.
    pub(super) documents: &'static [&'static str],
}

/// A command that can be typed, and what it does.
pub(super) struct Example {
    pub(super) does: &'static str,
    pub(super) command: &'static str,
}

const fn example(does: &'static str, command: &'static str) -> Example {
    Example { does, command }
}

const WRONG_USAGE: (&str, &str) = ("2", "wrong usage; nothing was sent");

const OF_OTHERS: &[&str] = &["peers", "election"];

const OF_ETCD: &[&str] = &["etcd", "user", "password_file"];

const NOTES: &[Notes] = &[
    Notes {
        path: &[],
        usage: None,
        hidden: &[],
        examples: &[
            example("Three servers in this terminal, by Raft; keys kill and start them:", "elect demo"),
            example("A server on the etcd at localhost:2379:", "elect server server1"),
            example(
                "A command that runs only while this machine leads:",
                "elect run -- my-scheduler --every 5m",
            ),
            example("The leader and the waiting candidates:", "elect status"),
        ],
        exit: &[
            ("0", "done"),
            ("1", "failed"),
            WRONG_USAGE,
            ("3", "status: there is no leader"),
            (
                "4",
                "status, history: unknown; peers: no majority has answered; an order: not confirmed in time",
            ),
            ("5", "status --is: another server leads"),
            ("75", "run --once: leadership was lost"),
            ("126, 127", "run: the command cannot be run, was not found"),
        ],
        see_also: &[
            "elect-server",
            "elect-run",
            "elect-observe",
            "elect-status",
            "elect-transfer",
            "elect-cordon",
            "elect-uncordon",
            "elect-pause",
            "elect-resume",
            "elect-history",
            "elect-peers",
            "elect-witness",
            "elect-release",
            "elect-demo",
        ],
        documents: &["configuration.md", "operations.md", "safety.md", "troubleshooting.md"],
    },
    Notes {
        path: &["server"],
        usage: None,
        hidden: &[],
        examples: &[
            example("A candidate on the etcd at localhost:2379:", "elect server server1"),
            example(
                "On a cluster with TLS and a login, with a page and metrics on port 9090:",
                "elect server server1 --etcd https://etcd1:2379,https://etcd2:2379 --cacert /etc/elect/ca.pem \
                 --user elect --password-file /etc/elect/password --http 0.0.0.0:9090",
            ),
            example(
                "One of three servers that elect among themselves, each on a machine of its own:",
                "elect server server1 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000 \
                 --secret-file /etc/elect/secret",
            ),
        ],
        exit: &[
            ("0", "told to stop (SIGTERM, SIGINT, or its terminal closed), and leadership was given up"),
            ("1", "failed; or the release was not confirmed; or a second signal ended it at once"),
            WRONG_USAGE,
        ],
        see_also: &["elect", "elect-run", "elect-status", "elect-peers", "elect-witness"],
        documents: &["configuration.md", "http.md", "peers.md", "lifeline.md", "troubleshooting.md"],
    },
    Notes {
        path: &["run"],
        usage: Some("elect run [OPTIONS] -- COMMAND [ARG]…\n       elect run [OPTIONS] --explain"),
        hidden: &[],
        examples: &[
            example(
                "On each machine that may run it:",
                "elect run -- my-scheduler --config /etc/scheduler.toml",
            ),
            example(
                "Ten seconds to stop, and leadership only while the health check passes:",
                "elect run --ttl 30s --kill-after 10s --check 'curl -fs localhost:8000/health' -- my-service",
            ),
            example(
                "Move an address with leadership:",
                "elect run --on-leading 'ip address add 192.0.2.9/32 dev eth0' \
                 --on-following 'ip address del 192.0.2.9/32 dev eth0' -- sleep infinity",
            ),
            example(
                "As process 1 of a container, which is followed at once if it is killed:",
                "docker run -v /run/elect:/run/elect IMAGE elect run --name a --lifeline /run/elect -- my-service",
            ),
            example("How the time to stop comes out of the TTL:", "elect run --ttl 10s --explain"),
        ],
        exit: &[
            (
                "the command's",
                "the command ended by itself, or was told to stop; 128 + N if signal N ended it",
            ),
            ("0", "told to stop while waiting"),
            ("1", "failed"),
            WRONG_USAGE,
            ("75", "--once: leadership was lost"),
            ("126", "the command cannot be run"),
            ("127", "the command was not found"),
        ],
        see_also: &["elect", "elect-server", "elect-status", "elect-witness"],
        documents: &["run.md", "configuration.md", "lifeline.md", "troubleshooting.md"],
    },
    Notes {
        path: &["observe"],
        usage: None,
        hidden: &[],
        examples: &[
            example("Each change of leadership, until interrupted:", "elect observe"),
            example("For a program, as one JSON object a line:", "elect observe --json --election scheduler"),
        ],
        exit: &[
            ("0", "the reader of the output is gone"),
            ("1", "failed; or etcd, or the peers, refuse to be observed"),
            WRONG_USAGE,
        ],
        see_also: &["elect", "elect-status"],
        documents: &["safety.md"],
    },
    Notes {
        path: &["status"],
        usage: None,
        hidden: &[],
        examples: &[
            example("The leader, and the candidates that wait:", "elect status"),
            example(
                "Among peers; any of them may answer:",
                "elect status --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
            example("For a program:", "elect status --json --election scheduler"),
            example(
                "In a script, on the leader only:",
                "elect status --is server1 >/dev/null && echo 'server1 leads'",
            ),
            example("Half a minute for that one to lead:", "elect status --wait --is server1 --within 30s"),
        ],
        exit: &[
            ("0", "there is a leader; with --is, that one"),
            ("1", "failed; --watch: etcd, or the peers, refuse to be observed"),
            WRONG_USAGE,
            ("3", "there is no leader; --wait: there was none within that time"),
            ("4", "unknown: no answer within 4 s, or a refusal"),
            ("5", "--is: another server leads"),
        ],
        see_also: &["elect", "elect-observe", "elect-peers"],
        documents: &["http.md", "safety.md", "troubleshooting.md"],
    },
    Notes {
        path: &["transfer"],
        usage: None,
        hidden: &[],
        examples: &[
            example(
                "Make server2 the leader:",
                "elect transfer server2 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
            example(
                "The same, if it is ready within a minute:",
                "elect transfer server2 --within 1m --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
        ],
        exit: &[
            ("0", "that one leads"),
            ("1", "refused, with the reason, and the leader leads on; or failed"),
            WRONG_USAGE,
            ("4", "not confirmed in time: look with elect status"),
        ],
        see_also: &["elect-status", "elect-cordon", "elect-pause", "elect-history"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["cordon"],
        usage: None,
        hidden: &[],
        examples: &[example(
            "Before maintenance of server1, which hands over if it leads:",
            "elect cordon server1 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
        )],
        exit: &[
            ("0", "the order stands"),
            ("1", "refused, or failed"),
            WRONG_USAGE,
            ("4", "not confirmed in time: look with elect status"),
        ],
        see_also: &["elect-uncordon", "elect-status", "elect-transfer"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["uncordon"],
        usage: None,
        hidden: &[],
        examples: &[example(
            "After maintenance of server1:",
            "elect uncordon server1 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
        )],
        exit: &[
            ("0", "the order is taken back"),
            ("1", "refused, or failed"),
            WRONG_USAGE,
            ("4", "not confirmed in time: look with elect status"),
        ],
        see_also: &["elect-cordon", "elect-status"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["pause"],
        usage: None,
        hidden: &[],
        examples: &[example(
            "Let nothing move for now:",
            "elect pause --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
        )],
        exit: &[
            ("0", "the order stands"),
            ("1", "refused, or failed"),
            WRONG_USAGE,
            ("4", "not confirmed in time: look with elect status"),
        ],
        see_also: &["elect-resume", "elect-status"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["resume"],
        usage: None,
        hidden: &[],
        examples: &[example(
            "Let leadership move again:",
            "elect resume --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
        )],
        exit: &[
            ("0", "the order is taken back"),
            ("1", "refused, or failed"),
            WRONG_USAGE,
            ("4", "not confirmed in time: look with elect status"),
        ],
        see_also: &["elect-pause", "elect-status"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["history"],
        usage: None,
        hidden: &[],
        examples: &[
            example(
                "The last three terms:",
                "elect history -n 3 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
            example(
                "For a program, as one JSON object a line:",
                "elect history --json --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
        ],
        exit: &[("0", "printed"), ("1", "failed"), WRONG_USAGE, ("4", "unknown: no answer, or a refusal")],
        see_also: &["elect-status", "elect-transfer"],
        documents: &["operations.md"],
    },
    Notes {
        path: &["peers"],
        usage: Some("elect peers [OPTIONS]\n       elect peers replace [OPTIONS] NAME [DIRECTORY]"),
        hidden: OF_ETCD,
        examples: &[
            example(
                "Address, role, directory and round trip of each member:",
                "elect peers --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
            ),
            example(
                "Admit the new disk of server3, by the digits that the first command shows:",
                "elect peers replace server3 0a94bb5e \
                 --peers server1=host1:10000,server2=host2:10000,server3=host3:10000 --secret-file /etc/elect/secret",
            ),
        ],
        exit: &[
            ("0", "a majority has answered; replace: the new disk counts"),
            ("1", "failed; replace: refused, or no leader has answered"),
            WRONG_USAGE,
            ("4", "no majority has answered"),
        ],
        see_also: &["elect", "elect-server", "elect-status"],
        documents: &["peers.md", "troubleshooting.md"],
    },
    Notes {
        path: &["peers", "replace"],
        usage: None,
        hidden: OF_ETCD,
        examples: &[example(
            "Admit the new disk of server3, by the digits that `elect peers` shows:",
            "elect peers replace server3 0a94bb5e \
             --peers server1=host1:10000,server2=host2:10000,server3=host3:10000",
        )],
        exit: &[
            ("0", "the new disk counts"),
            ("1", "failed; refused; or no leader has answered"),
            WRONG_USAGE,
        ],
        see_also: &["elect-peers"],
        documents: &["peers.md"],
    },
    Notes {
        path: &["witness"],
        usage: None,
        hidden: OF_OTHERS,
        examples: &[example(
            "One for all containers of this host, which have that directory as a volume:",
            "elect witness /run/elect --etcd etcd1:2379,etcd2:2379,etcd3:2379",
        )],
        exit: &[("0", "told to stop"), ("1", "failed; or the directory is not fit"), WRONG_USAGE],
        see_also: &["elect-server", "elect-release"],
        documents: &["lifeline.md"],
    },
    Notes {
        path: &["release"],
        usage: None,
        hidden: OF_OTHERS,
        examples: &[example(
            "In a unit, after the server has ended:",
            "ExecStopPost=elect release %t/elect/%i",
        )],
        exit: &[
            ("0", "nothing is left to release"),
            ("1", "failed; or etcd did not confirm it within 5 s; or the directory is not fit"),
            WRONG_USAGE,
        ],
        see_also: &["elect-server", "elect-witness"],
        documents: &["lifeline.md"],
    },
    #[cfg(target_os = "linux")]
    Notes {
        path: &["demo"],
        usage: None,
        hidden: &[],
        examples: &[
            example("With keys: k kills the leader, s starts it again, q ends all:", "elect demo"),
            example("Without keys, with a table of the failovers:", "elect demo --rounds 5"),
            example("The same on an etcd that runs:", "elect demo --rounds 5 --etcd localhost:2379"),
        ],
        exit: &[
            ("0", "ended by a key; or all rounds were played"),
            ("1", "failed; no next leader within 10 s; or stopped before the last round"),
            WRONG_USAGE,
        ],
        see_also: &["elect", "elect-server"],
        documents: &["peers.md"],
    },
    Notes {
        path: &["completions"],
        usage: None,
        hidden: &[],
        examples: &[
            example("For this shell, until it ends:", "source <(elect completions bash)"),
            example("For good, in fish:", "elect completions fish >~/.config/fish/completions/elect.fish"),
        ],
        exit: &[("0", "printed"), ("1", "the output cannot be written"), WRONG_USAGE],
        see_also: &["elect"],
        documents: &[],
    },
    Notes {
        path: &["man"],
        usage: None,
        hidden: &[],
        examples: &[
            example("Read the page without installing it:", "elect man | man -l -"),
            example("Write all pages:", "elect man ~/.local/share/man/man1"),
        ],
        exit: &[("0", "printed, or written"), ("1", "the output cannot be written"), WRONG_USAGE],
        see_also: &["elect"],
        documents: &[],
    },
];

/// The notes of a command, as `elect peers replace`.
pub(super) fn of(name: &str) -> Option<&'static Notes> {
    NOTES.iter().find(|notes| notes.name() == name)
}

/// The command line with all notes in its long help.
pub(super) fn add(elect: Command) -> Command {
    NOTES.iter().fold(elect, |elect, notes| notes.add(elect, notes.path))
}

impl Notes {
    fn name(&self) -> String {
        std::iter::once("elect").chain(self.path.iter().copied()).collect::<Vec<_>>().join(" ")
    }

    fn add(&self, command: Command, path: &[&'static str]) -> Command {
        if let [first, rest @ ..] = path {
            return command.mut_subcommand(*first, |command| self.add(command, rest));
        }
        let command =
            self.hidden.iter().fold(command, |command, flag| command.mut_arg(*flag, |arg| arg.hide(true)));
        let command = match self.usage {
            Some(usage) => command.override_usage(usage),
            None => command,
        };
        command.after_long_help(self.text())
    }

    fn text(&self) -> String {
        let mut text = String::from("Examples:\n");
        for Example { does, command } in self.examples {
            text.push_str(&format!("\n  {does}\n\n    {}\n", broken(command, "\n      ")));
        }
        text.push_str("\nExit status:\n");
        let widest = self.exit.iter().map(|(code, _)| code.len()).max().unwrap_or(0);
        for (code, meaning) in self.exit {
            text.push_str(&format!("  {code:widest$}  {meaning}\n"));
        }
        text.push_str(&format!("\nSee also: {}", self.all_pages().join(", ")));
        if self.path.is_empty() {
            text.push_str(
                "\n\nEvery flag is also ELECT_… in the environment, and a key of a file (--config).\nA flag wins over the \
                 environment, the environment over the file.",
            );
        }
        text
    }

    fn all_pages(&self) -> Vec<String> {
        let pages = self.see_also.iter().map(|page| format!("{page}(1)"));
        pages.chain(self.documents.iter().map(|document| format!("docs/{document}"))).collect()
    }
}

/// Columns of a line of an example.
const COLUMNS: usize = 88;

/// The command on several lines, as a shell takes it, where it is longer than one.
pub(super) fn broken(command: &str, line_break: &str) -> String {
    let mut lines = vec![String::new()];
    // Not between quotes, where a line break would be part of the word.
    let mut quoted = false;
    let words = command.split(|letter| {
        quoted ^= letter == '\'';
        letter == ' ' && !quoted
    });
    for word in words {
        let line = lines.last_mut().expect("there is one at least");
        if !line.is_empty() && line.len() + word.len() >= COLUMNS {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!(" \\{line_break}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::cli::{Cli, command_line};

    /// The words of the call of `elect` in a line of shell, up to what the shell takes; quotes are taken off.
    fn words(line: &str) -> Option<Vec<String>> {
        let line = &line[called(line).or_else(|| line.ends_with("elect").then(|| line.len() - 5))?..];
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                '|' | '>' | ')' | '&' | '#' | ';' if !quoted => break,
                ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
                letter => word.push(letter),
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        Some(words)
    }

    /// The place of the call in a line; a path that ends with the same word is none.
    fn called(line: &str) -> Option<usize> {
        let mut found = line.match_indices("elect ").map(|(place, _)| place);
        found.find(|place| !line[..*place].ends_with('/'))
    }

    fn assert_parses(line: &str) {
        let words = words(line).unwrap_or_else(|| panic!("{line} does not call elect"));
        let parsed = command_line()
            .try_get_matches_from(&words)
            .and_then(|mut found| Cli::from_arg_matches_mut(&mut found));
        if let Err(error) = parsed {
            panic!("{line}\n{error}");
        }
    }

    fn all(command: &Command, path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            all(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_notes_and_every_note_a_command() {
        let mut commands = Vec::new();
        all(&command_line(), "elect", &mut commands);
        commands.retain(|name| !name.ends_with(" help"));
        let mut noted: Vec<_> = NOTES.iter().map(Notes::name).collect();
        commands.sort_unstable();
        noted.sort_unstable();
        assert_eq!(commands, noted);
    }

    #[test]
    fn every_example_is_a_command_line_that_parses_and_is_of_its_command() {
        for notes in NOTES {
            assert!(!notes.examples.is_empty(), "{}", notes.name());
            for Example { does, command } in notes.examples {
                assert!(does.ends_with(':'), "{does}");
                assert_parses(command);
                assert!(command.contains(&notes.name()), "{command} is not of {}", notes.name());
            }
        }
    }

    #[test]
    fn the_pages_that_are_named_exist() {
        for notes in NOTES {
            for page in notes.see_also {
                assert!(of(&page.replace('-', " ")).is_some(), "{page}");
            }
            for document in notes.documents {
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/").to_owned() + document;
                assert!(std::path::Path::new(&path).exists(), "{path}");
            }
        }
    }

    #[test]
    fn a_long_example_is_broken_where_a_shell_goes_on() {
        let long = ["word"; 40].join(" ");
        let shown = broken(&long, "\n  ");
        assert!(shown.lines().all(|line| line.len() <= COLUMNS + 4), "{shown}");
        assert_eq!(shown.replace(" \\\n  ", " "), long);
        let quoted = format!("'{long}'");
        assert_eq!(broken(&quoted, "\n  "), quoted);
    }

    #[test]
    fn help_speaks_of_leaders_and_clients_and_not_of_somebody() {
        let mut commands = Vec::new();
        all(&command_line(), "elect", &mut commands);
        for name in commands.iter().filter(|name| !name.ends_with(" help")) {
            let help = name.split(' ').skip(1).fold(command_line(), |command, word| {
                command.find_subcommand(word).expect("it was just listed").clone()
            });
            let help = help.clone().render_long_help().to_string().to_lowercase();
            for vague in ["somebody", "nobody", "whoever", "everybody", "anybody", "those who"] {
                assert!(!help.contains(vague), "{name} --help says {vague}:\n{help}");
            }
        }
    }

    /// The commands that the documents show, in blocks of shell.
    #[test]
    fn the_commands_in_the_documents_parse() {
        let root = env!("CARGO_MANIFEST_DIR");
        let pages = std::fs::read_dir(format!("{root}/docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
        let mut tried = 0;
        for page in pages.chain([format!("{root}/README.md").into()]) {
            let text = std::fs::read_to_string(&page).unwrap();
            let mut shell = None;
            for line in text.lines() {
                if let Some(kind) = line.trim_start().strip_prefix("```") {
                    shell = match shell {
                        None => Some(kind.to_owned()),
                        Some(_) => None,
                    };
                    continue;
                }
                let command = match shell.as_deref() {
                    Some("sh") => line,
                    Some("console" | "text") => match line.strip_prefix("$ ") {
                        Some(command) => command,
                        None => continue,
                    },
                    _ => continue,
                };
                if command.starts_with("elect ") {
                    let peers = "server1=localhost:10000,server2=localhost:10001,server3=localhost:10002";
                    assert_parses(&command.replace("$PEERS", peers));
                    tried += 1;
                }
            }
        }
        assert!(tried > 10, "{tried}");
    }
}
