//! A small file system for one server's data directory, which can be filled, emptied, and made read-only.
//!
//! It is mounted in a mount namespace of an otherwise idle process, so that nothing of it
//! is left once that process is gone.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use super::{
    elect::{self, Elect},
    eventually::eventually,
    process::{self, Process},
    server::SOON,
};

/// A file system in memory, at one directory.
#[derive(Debug)]
pub(crate) struct Volume {
    at: PathBuf,
    holder: Process,
}

/// The file that fills it.
const FILLER: &str = "lost+found/filler";

impl Volume {
    /// Mounts so many KiB over the directory `at`, for processes started with it; or returns `None`, with a message,
    /// if this machine does not allow it.
    pub(crate) fn try_new(at: &Path, kib: usize) -> Option<Self> {
        fs::create_dir_all(at).expect("a temporary directory is ours");
        let at = at.to_owned();
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let probe =
            Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none"]).arg(&at).output();
        match probe {
            Ok(probe) if probe.status.success() => {}
            Ok(probe) => {
                let why = String::from_utf8_lossy(&probe.stderr);
                let _ = writeln!(std::io::stderr(), "{name}: SKIPPED, as nothing can be mounted here: {why}");
                return None;
            }
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "{name}: SKIPPED, as unshare can't be run: {error}");
                return None;
            }
        }
        let mut command = process::command("unshare");
        let script = format!(
            "mount -t tmpfs -o size={kib}k none \"$0\" && mkdir \"$0/lost+found\" && exec sleep infinity"
        );
        command.args(["--mount", "sh", "-c", &script]).arg(&at);
        let volume = Self { at, holder: Process::start("a volume", command) };
        eventually(SOON, "a volume", || volume.inside("lost+found").exists().then_some(()));
        Some(volume)
    }

    /// `PROGRAM ARGS…` with this volume.
    pub(crate) fn run(&self, program: impl AsRef<OsStr>, args: Vec<String>) -> Elect {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        let before = [namespace.into(), "--".into(), program.as_ref().to_owned()];
        Elect::of("nsenter", before.into_iter().chain(args.into_iter().map(OsString::from)))
    }

    /// `elect ARGS…` with this volume.
    pub(crate) fn elect(&self, args: Vec<String>) -> Elect {
        self.run(elect::program(), args)
    }

    /// Leaves no space. Existing files stay readable.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.inside(FILLER)).expect("the volume is writable");
        let zeros = [0; 4096];
        loop {
            match filler.write(&zeros) {
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("failed to fill a volume: {error}"),
            }
        }
    }

    /// Makes space again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.inside(FILLER)).expect("it was filled");
    }

    pub(crate) fn make_read_only(&self) {
        self.remount("ro");
    }

    pub(crate) fn make_writable(&self) {
        self.remount("rw");
    }

    fn remount(&self, how: &str) {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        let mut command = Command::new("nsenter");
        command.args([&namespace, "--", "mount", "-o", &format!("remount,{how}")]).arg(&self.at);
        let done = command.output().expect("nsenter runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn inside(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let at = self.at.strip_prefix("/").expect("temporary directories are absolute");
        root.join(at).join(path)
    }
}
