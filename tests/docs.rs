//! The documents: where their lines end, whom they are for, where their links lead, and the words they use.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const WIDTH: usize = 100;

/// The README has to fit into two or three screens of a browser.
const README_LINES: usize = 200;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Pages under docs/.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap()))
        .collect();
    pages.sort_unstable();
    assert!(pages.len() >= 9, "{pages:?}");
    pages
}

/// All documents that people read, outside the sources.
fn documents() -> Vec<String> {
    let others = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    pages().into_iter().chain(others.map(str::to_owned)).collect()
}

/// Lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().map(|(number, line)| (number + 1, line)).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

#[test]
fn lines_of_prose_end_at_a_hundred_columns() {
    for page in pages().into_iter().chain(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned))
    {
        for (number, line) in prose(&read(&page)) {
            let may_be_longer = line.starts_with('|') || !line.trim().contains(' ');
            assert!(may_be_longer || line.chars().count() <= WIDTH, "{page}:{number}: {line}");
        }
    }
}

#[test]
fn the_readme_has_at_most_two_hundred_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "{lines}");
}

#[test]
fn the_first_paragraph_of_each_page_says_for_whom_it_is() {
    for page in pages() {
        let text = read(&page);
        let first = text.split("\n\n").nth(1).unwrap();
        assert!(first.starts_with("This page is for "), "{page}: {first}");
    }
}

#[test]
fn subjects_are_leaders_and_clients() {
    let deployed =
        ["Dockerfile", "docker-compose.yaml", "docker-compose-etcd.yaml", "Makefile"].map(PathBuf::from);
    let mut files: Vec<PathBuf> = documents().iter().map(PathBuf::from).chain(deployed).collect();
    let mut directories = vec![PathBuf::from("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() >= 20, "{files:?}");
    for file in files {
        let text = read(file.to_str().unwrap()).to_lowercase();
        for (number, line) in text.lines().enumerate() {
            let words = line.split(|letter: char| !letter.is_alphabetic());
            let mut vague = words
                .filter(|word| matches!(*word, "somebody" | "nobody" | "whoever" | "everybody" | "anybody"));
            assert_eq!(vague.next(), None, "{}:{}: {line}", file.display(), number + 1);
            assert!(!line.contains("those who"), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

/// The ratio of each target that was missed is in the README, which would otherwise show what went well.
#[test]
fn the_readme_tells_of_every_target_that_is_missed() {
    let benchmarks = read("docs/benchmarks.md");
    let (_, targets) = benchmarks.split_once("## The targets").unwrap();
    let (targets, _) = targets.split_once("\n## ").unwrap();
    let missed: Vec<_> = targets.lines().filter(|line| line.contains("**missed**")).collect();
    let readme = read("README.md");
    let (_, told) = readme.split_once("Targets that are missed").unwrap();
    let (told, _) = told.split_once("\n\n").unwrap();
    for line in &missed {
        let found = line.split('|').nth(3).unwrap().trim();
        let ratio = found.split(' ').next().unwrap();
        assert!(told.contains(&format!("{ratio} times")), "{line}");
    }
    let ratios =
        told.split_whitespace().filter(|word| word.parse::<f64>().is_ok_and(|ratio| ratio.fract() != 0.0));
    assert_eq!(ratios.count(), missed.len(), "{told}");
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let headings = prose(&text).filter_map(|(_, line)| line.strip_prefix('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let mut followed = 0;
    for page in documents() {
        let text = read(&page);
        // A link's text may end on the next line; its target does not.
        for (number, line) in prose(&text) {
            for target in targets(line).filter(|target| !target.contains("://")) {
                let (file, heading) = target.split_once('#').map_or((target, None), |(a, b)| (a, Some(b)));
                let file = match file {
                    "" => page.clone(),
                    file => {
                        let beside = Path::new(&page).parent().unwrap().join(file);
                        assert!(root().join(&beside).exists(), "{page}:{number}: there is no {file}");
                        beside.to_str().unwrap().to_owned()
                    }
                };
                if let Some(heading) = heading {
                    let known = anchors(&file);
                    assert!(known.contains(heading), "{page}:{number}: {file} has no #{heading}: {known:?}");
                }
                followed += 1;
            }
        }
    }
    assert!(followed > 50, "{followed}");
}

/// Sources move; what the documents say of them moves along.
#[test]
fn source_files_that_the_documents_name_are_there() {
    let bases = ["", "src", "src/bin/elect", "deploy"];
    let mut named = 0;
    for page in pages() {
        let text = read(&page);
        // In a line of prose each second piece is code.
        let quoted = prose(&text).flat_map(|(_, line)| line.split('`').skip(1).step_by(2));
        let listed =
            text.lines().filter_map(|line| line.split(' ').next()).filter(|word| word.starts_with("src/"));
        for file in quoted.chain(listed).filter(|word| word.ends_with(".rs") && !word.contains(' ')) {
            let is_there = bases.iter().any(|base| root().join(base).join(file).exists());
            assert!(is_there, "{page} names {file}");
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}

/// The picture is of the recording beside it, and not of another run or of none.
#[test]
fn the_picture_of_the_demo_is_made_from_the_recording() {
    let Ok(printed) = Command::new("python3").arg(root().join("scripts/pictures.py")).arg("--print").output()
    else {
        assert!(std::env::var_os("TEST_TOOLS").is_none(), "python3 is not installed");
        return;
    };
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), read("docs/demo.svg"));
}

/// String literals of the sources in one text, with lines that end in a backslash joined.
fn sources() -> String {
    let mut text = String::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut joined = String::new();
    for piece in text.split("\\\n") {
        joined.push_str(if joined.is_empty() { piece } else { piece.trim_start() });
    }
    joined
}

/// A reader searches this page for the words of a message, so they have to be those of today.
#[test]
fn the_messages_that_troubleshooting_quotes_are_in_the_sources() {
    let page = read("docs/troubleshooting.md");
    let sources = sources();
    let mut quoted = 0;
    let mut gone = Vec::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (message, _) = line.split_once('`').unwrap();
        if message.starts_with('/') {
            continue;
        }
        quoted += 1;
        if message.split('…').any(|part| !sources.contains(part)) {
            gone.push(message);
        }
    }
    assert!(quoted > 50, "{quoted}");
    assert_eq!(gone, [""; 0]);
}
