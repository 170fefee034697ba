//! How large the released binary is. The release profile strips it.

use std::fs;

use crate::{Bench, programs, report::Report};

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn measure(_: &Bench, report: &mut Report) {
    report.section("size", "the file `elect`, as built by the release profile (stripped)");
    let size = fs::metadata(programs::elect()).expect("Cargo has built it").len();
    report.at_most("release binary", "MiB", size as f64 / MIB, 12.0, "");
}
