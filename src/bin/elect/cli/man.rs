//! `elect man [DIR]`: the manual, as pages for `man`.
//!
//! Made from the same definitions that the command line is parsed by. Without DIR `elect.1` goes to
//! standard output; with it each command gets a page of its own in DIR, such as `elect-server.1`.
//! Hidden commands have none.

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
    roff::{Roff, roman},
};
use nix::libc::O_NOFOLLOW;

/// Prints `elect.1`, or writes all pages into `dir`, which is made if it is not there.
pub(super) fn run(elect: Command, dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    // A page for `elect help` would say nothing.
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
    let commands = elect.get_subcommands().filter(|command| !command.is_hide_set());
    for command in [elect].into_iter().chain(commands) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        write(&dir.join(format!("{name}.1")), &page(command)?)?;
    }
    Ok(())
}

/// Writes a file, but not to where a link leads: it is mostly root who does it.
fn write(path: &Path, page: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(O_NOFOLLOW);
    options.open(path)?.write_all(page)
}

/// One page, in the order that manual pages have.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .source(concat!("leader-election ", env!("CARGO_PKG_VERSION")))
        .manual("leader-election");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_help() {
        // The generator's own heading for this is EXTRA.
        let mut section = Roff::new();
        section.control("SH", ["ENVIRONMENT AND EXIT STATUS"]);
        for line in notes.to_string().lines() {
            match line {
                "" => section.control("PP", []),
                line => section.text([roman(line)]),
            };
        }
        section.to_writer(&mut page)?;
    }
    Ok(page)
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
        // A page that is there is written over; one that is a link is not.
        std::os::unix::fs::symlink("elsewhere", dir.join("link.1")).unwrap();
        fs::rename(dir.join("link.1"), dir.join("elect-server.1")).unwrap();
        assert!(write_all(&elect, dir).is_err() && !dir.join("elsewhere").exists());
        assert!(front.contains("server") && !front.contains("guard"), "{front}");
    }
}
