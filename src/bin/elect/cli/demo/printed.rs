//! The demonstration's output: the servers' lines with a name prefix, and its own remarks.

use std::{
    env,
    io::{self, IsTerminal, Write, stdout},
};

use super::watch::DemoServer;

/// Width of the names' column, as Compose prints it for these names.
const NAME_WIDTH: usize = 10;

/// Colours of `server1`, `server2` and `server3`: cyan, yellow, magenta. None means an alarm.
const COLOURS: [u8; 3] = [36, 33, 35];

#[derive(Debug)]
pub(super) struct Printed {
    colours: bool,
}

impl Printed {
    pub(super) fn new() -> Self {
        Self { colours: stdout().is_terminal() && env::var_os("NO_COLOR").is_none() }
    }

    pub(super) fn line(&self, by: DemoServer, text: &str) -> io::Result<()> {
        let name = by.to_string();
        if self.colours {
            let colour = COLOURS[by.place()];
            writeln!(stdout(), "\x1b[{colour}m{name:<NAME_WIDTH$} |\x1b[0m {text}")
        } else {
            writeln!(stdout(), "{name:<NAME_WIDTH$} | {text}")
        }
    }

    /// Prints an action of the demonstration, between empty lines.
    pub(super) fn remark(&self, text: &str) -> io::Result<()> {
        if self.colours {
            writeln!(stdout(), "\n\x1b[1m# {text}\x1b[0m\n")
        } else {
            writeln!(stdout(), "\n# {text}\n")
        }
    }

    /// Prints the text before the start or after the end.
    pub(super) fn text(&self, text: &str) -> io::Result<()> {
        writeln!(stdout(), "{text}")
    }
}
