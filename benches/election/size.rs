//! The size of the released binary. The release profile strips it.

use std::fs;

use crate::{
    Bench, programs,
    report::{Floors, Section},
};

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn measure(_: &Bench, _: &mut Floors) -> Section {
    let how = "The file `elect`, as built by the release profile (stripped).";
    let mut section = Section::new("size", "Size", how);
    let size = fs::metadata(programs::elect()).expect("Cargo has built it").len();
    section.at_most("release binary", "MiB", size as f64 / MIB, 12.0, "");
    section
}
