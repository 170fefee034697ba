//! `elect completions SHELL`: a completion script for the command line of `elect`.
//!
//! Generated from the definitions that parse the command line, so the two can't differ. Hidden commands are
//! for `elect` itself and are left out.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Command, ValueEnum};
use clap_complete::{generate, shells};

/// Shells that our tests run on their script.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for `shell`.
pub(super) fn run(elect: Command, shell: Shell) -> anyhow::Result<ExitCode> {
    let mut elect = without_hidden(&elect);
    // Buffered first: the generator panics where it can't write.
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut elect, "elect", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut elect, "elect", &mut script),
        Shell::Fish => generate(shells::Fish, &mut elect, "elect", &mut script),
    }
    stdout().write_all(&script).context("failed to print the completions")?;
    Ok(ExitCode::SUCCESS)
}

fn without_hidden(elect: &Command) -> Command {
    let shown = elect.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("elect").version(env!("CARGO_PKG_VERSION")).subcommands(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_commands_are_left_out_and_others_stay() {
        let elect = Command::new("elect")
            .subcommand(Command::new("server"))
            .subcommand(Command::new("guard").hide(true));
        let shown = without_hidden(&elect);
        let names: Vec<_> = shown.get_subcommands().map(Command::get_name).collect();
        assert_eq!(names, ["server"]);
    }
}
