//! A disk that syncs slowly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::LazyLock,
    time::Duration,
};

use super::tool;

/// Built once for a test program, with the compiler that Rust links with.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = directory.join(format!("slow_sync.{}.c", process::id()));
    fs::write(&source, include_str!("slow_sync.c")).expect("the target directory can be written");
    let (built, library) =
        (directory.join(format!("slow_sync.{}", process::id())), directory.join("libslow_sync.so"));
    tool::succeeds(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&built, &source]).arg("-ldl"));
    // Another test program may be using the existing one.
    let _ = fs::remove_file(source);
    fs::rename(&built, &library).expect("both are in one directory");
    library
});

/// The environment of a process whose syncs take this much longer.
pub(crate) fn slow_disk(by: Duration) -> [(&'static str, String); 2] {
    let library = LIBRARY.to_str().expect("target directories have plain names").to_owned();
    [("LD_PRELOAD", library), ("SYNC_MS", by.as_millis().to_string())]
}
