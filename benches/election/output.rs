//! The report's output: to the terminal as it grows, and at the end into files.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    programs,
    report::{
        Report, Section,
        document::{self, File},
        table,
    },
};

/// Prints a section as soon as it is measured, also into a pipe.
pub(crate) fn show(section: &Section, report: &Report) {
    println!("{}", document::section(section, report, false));
    let _ = io::stdout().flush();
}

/// Writes the document and its plots, and shows the table for the README.
///
/// Only a full run of the present programs without haste is the project's documentation; other runs' files go to the
/// target directory.
pub(crate) fn write(report: &Report, is_documentation: bool) -> io::Result<()> {
    let dir = if is_documentation {
        Path::new(programs::ROOT).join("docs")
    } else {
        programs::target_dir().join("bench-report")
    };
    let files = document::files(report);
    remove_plots(&dir)?;
    for file in &files {
        put(&dir, file)?;
    }
    println!("For the README:\n\n{}", table::overview(report));
    println!("Written: {}", dir.join("benchmarks.md").display());
    Ok(())
}

/// Removes the plots of measures that no longer exist.
fn remove_plots(dir: &Path) -> io::Result<()> {
    let plots = match fs::read_dir(dir.join("benchmarks")) {
        Ok(plots) => plots,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let paths: Vec<PathBuf> = plots.flatten().map(|entry| entry.path()).collect();
    paths.iter().filter(|path| path.extension().is_some_and(|end| end == "svg")).try_for_each(fs::remove_file)
}

fn put(dir: &Path, file: &File) -> io::Result<()> {
    let path = dir.join(&file.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.text)
}
