//! `elect man [DIR]`: the manual, as pages for `man`.
//!
//! Generated from the definitions that parse the command line. Without DIR `elect.1` goes to standard output;
//! with it each command gets a page of its own in DIR, such as `elect-server.1`. Hidden commands have none.
//! Examples, exit status and other pages come from [`help`].

use std::{
    fs::{self, OpenOptions},
    io::{self, Write, stdout},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use nix::libc::O_NOFOLLOW;

use super::help::{self, Example, Notes};

/// Prints `elect.1`, or writes all pages into `dir`, which is created if needed.
pub(super) fn run(elect: Command, dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    // A page for `elect help` would be empty.
    let mut elect = elect.disable_help_subcommand(true);
    elect.build();
    match dir {
        None => stdout().write_all(&page(&elect)?).context("failed to print the page")?,
        Some(dir) => {
            write_all(&elect, &dir).with_context(|| format!("failed to write into {}", dir.display()))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_all(elect: &Command, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    write_each(elect, dir)
}

fn write_each(command: &Command, dir: &Path) -> io::Result<()> {
    write(&dir.join(format!("{}.1", name_of(command))), &page(command)?)?;
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_each(below, dir))
}

/// As the page is called: `elect-peers-replace`.
fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Writes a file, but not through a symbolic link: root usually runs this.
fn write(path: &Path, page: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(O_NOFOLLOW);
    options.open(path)?.write_all(page)
}

/// Renders one page, in the usual order of a manual page.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .source(concat!("leader-election ", env!("CARGO_PKG_VERSION")))
        .manual("leader-election");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    synopsis(command).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_arguments().any(|argument| argument.get_env().is_some()) {
        environment().to_writer(&mut page)?;
    }
    if let Some(notes) = help::of(&name_of(command).replace('-', " ")) {
        beside_the_flags(notes).to_writer(&mut page)?;
    }
    Ok(page)
}

/// The line that `--help` has too; the generator's own lists every flag, and leaves `--` out.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let mut section = Roff::new();
    section.control("SH", ["SYNOPSIS"]);
    for (number, line) in usage.lines().enumerate() {
        if number > 0 {
            section.control("br", []);
        }
        section.text([roman(line.trim())]);
    }
    section
}

fn environment() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["ENVIRONMENT"]);
    page.text([roman(
        "Every flag is also ELECT_… in the environment, and a key of the file that --config names. A flag wins over the \
         environment, the environment over the file. An empty variable counts as not set.",
    )]);
    page
}

fn beside_the_flags(notes: &Notes) -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in notes.exit {
        page.control("TP", []);
        page.text([bold(*code)]);
        page.text([roman(*meaning)]);
    }
    page.control("SH", ["EXAMPLES"]);
    for Example { does, command } in notes.examples {
        page.control("PP", []);
        page.text([roman(*does)]);
        page.control("PP", []);
        page.control("EX", []);
        for line in help::broken(command, "\n  ").lines() {
            page.text([roman(format!("  {line}"))]);
        }
        page.control("EE", []);
    }
    page.control("SH", ["SEE ALSO"]);
    // Names of pages are not hyphenated.
    page.control("nh", []);
    let pages: Vec<_> = notes.see_also.iter().map(|page| format!("{page}(1)")).collect();
    page.text([roman(pages.join(", "))]);
    if !notes.documents.is_empty() {
        page.control("PP", []);
        page.text([roman(format!("In PREFIX/share/doc/leader-election: {}", notes.documents.join(", ")))]);
    }
    page
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod tests {
    use super::*;

    #[test]
    fn hidden_commands_have_no_page_and_are_named_on_none() {
        let elect = Command::new("elect")
            .subcommand(Command::new("server"))
            .subcommand(Command::new("guard").hide(true));
        let mut elect = elect.disable_help_subcommand(true);
        elect.build();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_all(&elect, dir).unwrap();
        let mut pages: Vec<_> = fs::read_dir(dir).unwrap().map(|page| page.unwrap().file_name()).collect();
        pages.sort_unstable();
        assert_eq!(pages, ["elect-server.1", "elect.1"]);
        let front = fs::read_to_string(dir.join("elect.1")).unwrap();
        // An existing page is overwritten; a symbolic link is replaced.
        std::os::unix::fs::symlink("elsewhere", dir.join("link.1")).unwrap();
        fs::rename(dir.join("link.1"), dir.join("elect-server.1")).unwrap();
        assert!(write_all(&elect, dir).is_err() && !dir.join("elsewhere").exists());
        assert!(front.contains("server") && !front.contains("guard"), "{front}");
    }
}
