//! The table, printed row by row as the measurements end.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::sample::Sample;

/// What a ratio of ours to the other's should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// For comparison only.
    None,
}

#[derive(Debug)]
pub(crate) struct Report {
    missed: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        line(["", "ours", "compared with", "ratio", "target", ""]);
        Self { missed: Vec::new(), failed: Vec::new() }
    }

    /// A section's heading, with how it was measured.
    pub(crate) fn section(&self, name: &str, how: &str) {
        println!("\n{name}: {how}");
    }

    /// A remark under a row.
    pub(crate) fn note(&self, note: &str) {
        println!("    {note}");
    }

    /// Ours beside another's, as `median / p95 / max` and the ratio of the medians.
    pub(crate) fn ratio(
        &mut self,
        what: &str,
        unit: &str,
        ours: &Sample,
        other: &Sample,
        name: &str,
        target: Target,
    ) {
        if ours.is_empty() || other.is_empty() {
            self.failed(what);
            return;
        }
        let ratio = ours.ratio_to(other);
        // What is printed is what is judged.
        let printed = (ratio.value * 100.0).round() / 100.0;
        let (wanted, met, unsure) = match target {
            Target::AtMost(limit) => (format!("<= {limit}"), Some(printed <= limit), ratio.low <= limit),
            Target::AtLeast(limit) => (format!(">= {limit}"), Some(printed >= limit), ratio.high >= limit),
            Target::None => (String::new(), None, false),
        };
        let verdict = match met {
            Some(true) => "met",
            Some(false) if unsure => "MISSED (the interval allows for it)",
            Some(false) => "MISSED",
            None => "",
        };
        let counts = format!("n {}", ours.len().min(other.len()));
        line([
            &format!("  {what}, {unit}"),
            &spread(ours),
            &format!("{name} {}", spread(other)),
            &format!("{printed:.2} [{:.2}-{:.2}] {counts}", ratio.low, ratio.high),
            &wanted,
            verdict,
        ]);
        self.judge(what, met);
    }

    /// A number that may not be larger than `limit`.
    pub(crate) fn at_most(&mut self, what: &str, unit: &str, value: f64, limit: f64, other: &str) {
        let met = value <= limit;
        let (value, limit) = (format!("{value:.3}"), format!("<= {limit}"));
        line([&format!("  {what}, {unit}"), &value, other, "", &limit, verdict(met)]);
        self.judge(what, Some(met));
    }

    /// How many trials went well; all of them should.
    pub(crate) fn all(&mut self, what: &str, good: usize, of: usize, detail: &str) {
        let met = good == of && of > 0;
        line([&format!("  {what}"), &format!("{good} of {of}"), detail, "", "all", verdict(met)]);
        self.judge(what, Some(met));
    }

    /// Could not be measured at all.
    pub(crate) fn failed(&mut self, what: &str) {
        println!("  {what}: FAILED TO MEASURE, see above");
        self.failed.push(what.to_owned());
    }

    /// Says what was missed. A missed target is a result; what could not be measured is a failure.
    pub(crate) fn summary(self) -> ExitCode {
        println!();
        if self.missed.is_empty() {
            println!("no target missed");
        } else {
            println!("MISSED: {}", self.missed.join("; "));
        }
        if self.failed.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("FAILED TO MEASURE: {}", self.failed.join("; "));
        ExitCode::FAILURE
    }

    fn judge(&mut self, what: &str, met: Option<bool>) {
        if met == Some(false) {
            self.missed.push(what.to_owned());
        }
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn spread(sample: &Sample) -> String {
    let number = |value: f64| {
        if value < 10.0 {
            format!("{value:.2}")
        } else if value < 1000.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        }
    };
    format!("{} / {} / {}", number(sample.median()), number(sample.p95()), number(sample.max()))
}

fn line([what, ours, other, ratio, target, verdict]: [&str; 6]) {
    let line = format!("{what:<54} {ours:>21}  {other:<28} {ratio:<24} {target:<8} {verdict}");
    println!("{}", line.trim_end());
    // Whoever follows a long run through a pipe sees each row at once.
    let _ = io::stdout().flush();
}
