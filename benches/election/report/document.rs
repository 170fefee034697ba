//! docs/benchmarks.md: everything, in the reader's order.

use std::fmt::Write as _;

use super::{
    Report, Section,
    measure::Measure,
    number::Unit,
    plot,
    table::{self, Table},
    verdict::{self, Check},
};

/// A file of the report, with its path relative to the output directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The document and its plots.
pub(crate) fn files(report: &Report) -> Vec<File> {
    let document = File { path: "benchmarks.md".to_owned(), text: document(report) };
    let plots = report.measures().filter(|measure| is_drawn(measure));
    let plots = plots.map(|measure| File { path: path_of(measure), text: plot::svg(measure) });
    std::iter::once(document).chain(plots).collect()
}

/// One section, as in docs/benchmarks.md and on the terminal.
pub(crate) fn section(section: &Section, report: &Report, with_plots: bool) -> String {
    let mut text = format!("## {}\n\n{}\n", section.title, wrapped(&section.how));
    for measure in &section.measures {
        if with_plots && is_drawn(measure) {
            let _ = write!(text, "\n![{}]({})\n", measure.what, path_of(measure));
        }
        let _ = write!(text, "\n{}", table::of_measure(measure, &report.floors));
    }
    let checks = verdict::of_section(section);
    if !checks.is_empty() {
        let _ = write!(text, "\n{}", of_checks(&checks));
    }
    for note in &section.notes {
        let _ = write!(text, "\n{}\n", wrapped(note));
    }
    for failed in &section.failed {
        let _ = write!(text, "\n**Could not be measured:** {failed}.\n");
    }
    text
}

fn document(report: &Report) -> String {
    let mut text = String::from(
        "# Benchmarks\n\n\
         This page is for anyone who compares `elect` with other programs on etcd. `make bench` writes it,\nfrom one run on \
         one machine: change `benches/`, not this file.\n\n",
    );
    text.push_str(&table::overview(report));
    text.push_str(
        "\nMedians. Of two leaders at once: in how many trials, and for how long at most. \
         `make bench` repeats all of it.\n\n## The targets\n\n\
         Nowhere slower than the fastest rival of the same kind, never two leaders at once, and the limits that \
         are set below.\n\n",
    );
    text.push_str(&of_checks(&report.checks()));
    text.push_str("\n## Who, and on what\n\n");
    text.push_str(&contenders(report));
    text.push('\n');
    text.push_str(&setting(report));
    text.push_str(READING);
    text.push_str(&floors(report));
    for each in &report.sections {
        let _ = write!(text, "\n{}", section(each, report, true));
    }
    for failed in &report.failed {
        let _ = write!(text, "\n**Could not be measured:** {failed}.\n");
    }
    text
}

/// Explains the words in the tables.
const READING: &str = "
## How to read it

* *n* trials; p95 by nearest rank; a ratio is that of the medians, ours to the other's, in brackets its 95 % interval
  (bootstrap). Below 1, ours takes less.
* Contenders take turns within one run, so that whatever else the machine does falls on all alike.
* *× event*, *× fdatasync*: the median as a multiple of the floors below, which no election on etcd, and none that
  keeps what it promised on a disk, can beat.
* **Who claims to lead** is judged as the contender's own user would see it. A program: it asks what it was given to ask,
  every millisecond, and writes down the time when the answer was yes. For ours that is `Leadership::holds()`; for Go's package
  that the session is not done; for the bare program that no renewal has failed. `etcdctl elect`: it has printed that it
  leads, and has not exited. A runner: its command is alive; it writes down the time every millisecond.
* **Two claim** from the moment of the next leader's first claim (or from when the former one runs again, if that is later) until
  the former leader's last. While a process is frozen it claims nothing.
";

fn of_checks(checks: &[Check]) -> String {
    let mut table = Table::new(["target", "", "found", "came out"]).words(4);
    for check in checks {
        table.row([check.what.as_str(), &check.target, &check.found, check.came.word()]);
    }
    table.markdown()
}

fn contenders(report: &Report) -> String {
    let mut table = Table::new(["who", "what"]).words(2);
    for (who, what) in &report.contenders {
        let what = match what {
            Ok(what) => what.clone(),
            Err(why) => format!("not measured: {why}"),
        };
        table.row([who.title(), &what]);
    }
    table.markdown()
}

fn setting(report: &Report) -> String {
    let mut table = Table::new(["on", ""]).words(2);
    for (name, value) in &report.setting {
        table.row([name, value.as_str()]);
    }
    table.markdown()
}

fn floors(report: &Report) -> String {
    let floors = [
        ("one delete to its watch event, by two clients", &report.floors.event),
        ("one fdatasync of a small write, on etcd's disk", &report.floors.fdatasync),
    ];
    let mut table = Table::new(["floor", "n", "median", "p95", "max"]);
    for (name, floor) in floors.into_iter().filter(|(_, floor)| !floor.is_empty()) {
        let numbers = [floor.median(), floor.p95(), floor.max()].map(|value| Unit::Milliseconds.of(value));
        let [median, p95, max] = numbers;
        table.row([name.to_owned(), floor.len().to_string(), median, p95, max]);
    }
    if table.is_empty() { String::new() } else { format!("\n## The floor\n\n{}", table.markdown()) }
}

/// Wrapped for readers of the source file.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 100;
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        let more = word.chars().count();
        if length > 0 && length + 1 + more > WIDTH {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += more;
    }
    lines
}

fn is_drawn(measure: &Measure) -> bool {
    measure.plotted && measure.outcomes.keys().any(|who| measure.sample(*who).is_some())
}

fn path_of(measure: &Measure) -> String {
    format!("benchmarks/{}.svg", measure.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Floors, measure::Better, who::Who};

    /// A report with invented numbers.
    fn invented() -> Report {
        let mut handoff =
            Measure::new("handoff", "planned handoff", Unit::Milliseconds, Better::Less).headline().plotted();
        handoff.add(Who::Elect, [1.0, 2.0, 3.0].into_iter().collect());
        handoff.add(Who::Twin, [2.0, 2.0, 2.0].into_iter().collect());
        handoff.missing(Who::Go, "no Go here");
        let mut overlap =
            Measure::new("overlap", "two leaders at once", Unit::Milliseconds, Better::Never).headline();
        overlap.add(Who::Elect, [0.0, 0.0].into_iter().collect());
        overlap.add(Who::EtcdctlLock, [7.0, 9.0].into_iter().collect());
        let mut section = Section::new("handoff", "Planned handoff", "From SIGTERM to the next one.");
        section.measures = vec![handoff, overlap];
        section.at_most("the leader's memory", "MiB", 9.0, 8.0, "by RSS");
        section.note("A remark.");
        Report {
            setting: vec![("machine", "invented".to_owned())],
            contenders: vec![(Who::Elect, Ok("elect 0".to_owned())), (Who::Go, Err("no Go here".to_owned()))],
            floors: Floors { event: [1.0].into_iter().collect(), fdatasync: Default::default() },
            sections: vec![section],
            failed: vec!["run".to_owned()],
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_who_was_measured_and_no_other() {
        let expected = "\
|                     | **elect, etcd** | etcd-client, bare |          etcdctl lock |
|---------------------|----------------:|------------------:|----------------------:|
| planned handoff     |         2.00 ms |           2.00 ms |                     – |
| two leaders at once |          0 of 2 |                 – | 2 of 2, up to 9.00 ms |
";
        assert_eq!(table::overview(&invented()), expected);
    }

    #[test]
    fn the_document_names_targets_absentees_and_failures() {
        let text = document(&invented());
        for part in [
            "| elect, etcd: planned handoff     | at most 1     | 1.00 [0.50–1.50] of etcd-client, bare's | met        |",
            "| elect, etcd: two leaders at once | never         | 0 of 2                                  | met        |",
            "| the leader's memory              | at most 8 MiB | 9.00 MiB; by RSS                        | **missed** |",
            "| Go concurrency | not measured: no Go here |",
            "| machine | invented |",
            "| one delete to its watch event, by two clients |   1 | 1.00 ms | 1.00 ms | 1.00 ms |",
            "| Go concurrency: no Go here |   – |",
            "![planned handoff](benchmarks/handoff.svg)",
            "A remark.",
            "**Could not be measured:** run.",
        ] {
            assert!(text.contains(part), "there is no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn the_same_findings_give_the_same_files() {
        let paths: Vec<_> = files(&invented()).into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["benchmarks.md", "benchmarks/handoff.svg"]);
        assert_eq!(files(&invented()), files(&invented()));
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let text = ["word"; 50].join(" ");
        let wrapped = wrapped(&text);
        assert!(wrapped.lines().all(|line| line.len() <= 100), "{wrapped}");
        assert_eq!(wrapped.replace('\n', " "), text);
    }

    #[test]
    fn what_is_printed_needs_no_pictures() {
        let report = invented();
        let printed = section(&report.sections[0], &report, false);
        assert!(printed.contains("From SIGTERM to the next one."));
        assert!(!printed.contains("svg"), "{printed}");
    }
}
