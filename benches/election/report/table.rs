//! Markdown tables with aligned columns, for reading in a terminal too.

use super::{
    Floors, Report,
    measure::{Beside, Better, Measure, Outcome},
    sample::Sample,
    who::Who,
};

/// A table. The first column has words, the others numbers.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    words: usize,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(heads: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![heads.into_iter().map(Into::into).collect()], words: 1 }
    }

    /// Number of columns from the left that have words.
    pub(crate) fn words(mut self, columns: usize) -> Self {
        self.words = columns;
        self
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.rows[0].len(), String::new());
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    pub(crate) fn markdown(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| cell.replace('|', "\\|")).collect()).collect();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < self.words { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = widths.iter().enumerate().map(|(column, width)| {
            if column < self.words { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
        });
        let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
        let mut text = line(&rows[0]);
        text.push_str(&rule);
        text.extend(rows[1..].iter().map(|row| line(row)));
        text
    }
}

/// The README's table: a row for each headline, a column for each contender that has one.
pub(crate) fn overview(report: &Report) -> String {
    let headlines: Vec<_> = report.measures().filter(|measure| measure.headline).collect();
    let has_one = |who: &Who| headlines.iter().any(|measure| measure.sample(*who).is_some());
    let columns: Vec<_> = Who::ALL.into_iter().filter(has_one).collect();
    let heads = columns.iter().map(|who| match who.is_ours() {
        true => format!("**{}**", who.title()),
        false => who.title().to_owned(),
    });
    let mut table = Table::new(std::iter::once(String::new()).chain(heads));
    for measure in &headlines {
        let cells = columns.iter().map(|who| measure.cell(*who));
        table.row(std::iter::once(measure.what.clone()).chain(cells));
    }
    if table.is_empty() { String::new() } else { table.markdown() }
}

/// All results of one measure: a row for each contender.
pub(crate) fn of_measure(measure: &Measure, floors: &Floors) -> String {
    let floors = match measure.beside {
        Beside::Nothing => Vec::new(),
        Beside::Floors => [("× event", &floors.event), ("× fdatasync", &floors.fdatasync)]
            .into_iter()
            .filter(|(_, floor)| !floor.is_empty())
            .collect(),
    };
    let never = measure.better == Better::Never;
    let mut heads = vec![measure.what.as_str(), "n"];
    heads.extend(match measure.better {
        Better::Never => ["violated", "median", "max"],
        Better::More => ["median", "p5", "min"],
        Better::Less | Better::Neither => ["median", "p95", "max"],
    });
    heads.extend(floors.iter().map(|(name, _)| *name));
    if !never {
        heads.push("ours to it");
    }
    let mut table = Table::new(heads);
    for (who, outcome) in &measure.outcomes {
        let row = match outcome {
            Outcome::Missing(why) => vec![format!("{}: {why}", who.title()), "–".to_owned()],
            Outcome::Measured { sample, but } => {
                let name = match but {
                    Some(but) => format!("{} ({but})", who.title()),
                    None => who.title().to_owned(),
                };
                let mut row = vec![name, sample.len().to_string()];
                row.extend(numbers(measure, sample));
                row.extend(floors.iter().map(|(_, floor)| {
                    format!("{:.1}", measure.unit.in_milliseconds(sample.median()) / floor.median())
                }));
                if !never {
                    row.push(ratio_of_ours(measure, *who, sample));
                }
                row
            }
        };
        table.row(row);
    }
    table.markdown()
}

fn numbers(measure: &Measure, sample: &Sample) -> [String; 3] {
    if sample.is_empty() {
        return std::array::from_fn(|_| "–".to_owned());
    }
    match measure.better {
        Better::Never => {
            [sample.above_zero().to_string(), measure.unit.of(sample.median()), measure.most(sample)]
        }
        Better::More => [sample.median(), sample.p5(), sample.min()].map(|value| measure.unit.of(value)),
        Better::Less | Better::Neither => {
            [sample.median(), sample.p95(), sample.max()].map(|value| measure.unit.of(value))
        }
    }
}

/// Our result of the same kind, relative to this one.
fn ratio_of_ours(measure: &Measure, who: Who, sample: &Sample) -> String {
    let ours = [Who::Elect, Who::ElectRun].into_iter().find(|ours| ours.kind() == who.kind());
    match ours.and_then(|ours| measure.sample(ours)) {
        // There is no multiple of zero.
        Some(ours) if !who.is_ours() && measure.is_alike(who) && sample.above_zero() == sample.len() => {
            ours.ratio_to(sample).to_string()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::number::Unit;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["", "a", "bb"]);
        table.row(["first", "1.50 ms", "–"]);
        table.row(["second | third", "2"]);
        let expected = "\
|                 |       a |  bb |
|-----------------|--------:|----:|
| first           | 1.50 ms |   – |
| second \\| third |       2 |     |
";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn a_row_says_why_there_are_no_numbers() {
        let mut measure = Measure::new("start", "start", Unit::Milliseconds, Better::Less);
        measure.add(Who::Elect, [4.0, 5.0].into_iter().collect());
        measure.missing(Who::Go, "not a Debian machine");
        let expected = "\
| start                                |   n |  median |     p95 |     max | ours to it |
|--------------------------------------|----:|--------:|--------:|--------:|-----------:|
| elect, etcd                          |   2 | 4.50 ms | 5.00 ms | 5.00 ms |            |
| Go concurrency: not a Debian machine |   – |         |         |         |            |
";
        assert_eq!(of_measure(&measure, &Floors::default()), expected);
    }

    #[test]
    fn what_was_measured_otherwise_or_is_nothing_has_no_ratio() {
        let mut measure = Measure::new("crash", "crash", Unit::Seconds, Better::Less);
        measure.add(Who::Elect, [4.0].into_iter().collect());
        measure.add(Who::Twin, [5.0].into_iter().collect());
        measure.add(Who::Go, [0.0].into_iter().collect());
        measure.add_but(Who::EtcdctlElect, [60.0].into_iter().collect(), Some("TTL 60 s".to_owned()));
        let text = of_measure(&measure, &Floors::default());
        let ratios: Vec<_> = text.lines().skip(2).map(|row| row.split('|').nth(6).unwrap().trim()).collect();
        assert_eq!(ratios, ["", "0.80 [0.80–0.80]", "", ""]);
    }

    #[test]
    fn of_what_should_be_large_the_small_ones_are_shown() {
        let mut measure = Measure::new("crowd", "handoffs", Unit::PerSecond, Better::More);
        measure.add(Who::Elect, (1..=20).map(f64::from).collect());
        let text = of_measure(&measure, &Floors::default());
        assert!(text.contains("| median |     p5 |    min |"), "{text}");
        assert!(text.contains("| 10.5/s | 1.00/s | 1.00/s |"), "{text}");
    }

    #[test]
    fn times_are_multiples_of_the_floors_in_whatever_unit() {
        let floors = Floors { event: [2.0].into_iter().collect(), fdatasync: [0.5].into_iter().collect() };
        let mut measure = Measure::new("crash", "crash", Unit::Seconds, Better::Less).beside_floors();
        measure.add(Who::Elect, [0.004].into_iter().collect());
        let row = of_measure(&measure, &floors);
        let cells: Vec<_> = row.lines().last().unwrap().split('|').map(str::trim).collect();
        assert_eq!(cells[6..8], ["2.0", "8.0"]);
    }
}
