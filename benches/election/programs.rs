//! The measured programs: their files, and how they are built.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

/// The project's directory.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A directory of existing programs, measured in place of the present ones.
pub(crate) const PROGRAMS: &str = "BENCH_PROGRAMS";

pub(crate) fn elect() -> PathBuf {
    static ELECT: LazyLock<PathBuf> = LazyLock::new(|| program("elect"));
    ELECT.clone()
}

/// The minimal program on etcd-client.
pub(crate) fn twin() -> PathBuf {
    static TWIN: LazyLock<PathBuf> = LazyLock::new(|| program("bench-twin"));
    TWIN.clone()
}

/// Programs on the library; also the command for contenders that run one.
pub(crate) fn library() -> PathBuf {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| program("bench-library"));
    LIBRARY.clone()
}

/// Go's official election, with its versions; or the reason why it is missing.
pub(crate) fn go() -> Result<(PathBuf, String), String> {
    static GO: LazyLock<Result<(PathBuf, String), String>> = LazyLock::new(build_go);
    GO.clone()
}

/// Reports whether `elect server` supports the backend without etcd.
pub(crate) fn elect_knows_peers() -> bool {
    static KNOWS: LazyLock<bool> = LazyLock::new(|| {
        let help = Command::new(elect()).args(["server", "--help"]).output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--peers"))
    });
    *KNOWS
}

/// The program's version, from the first output line that contains `before`.
pub(crate) fn version(program: impl AsRef<Path>, args: &[&str], before: &str) -> Option<String> {
    let output = Command::new(program.as_ref()).args(args).env("ETCDCTL_API", "3").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| Some(line.split_once(before)?.1.trim().to_owned()))
}

fn program(name: &str) -> PathBuf {
    let given = env::var_os(PROGRAMS).map(|dir| PathBuf::from(dir).join(name));
    let path = given.unwrap_or_else(|| profile_dir().join(name));
    // In the form that the kernel shows in /proc.
    path.canonicalize().unwrap_or(path)
}

/// Builds what is started, by the profile that this was built by. What Cargo builds for a benchmark is able to
/// unwind, where the released program aborts. Each package in a build of its own, so that `elect` has only its own
/// dependencies' features.
pub(crate) fn build() {
    if env::var_os(PROGRAMS).is_some() {
        return;
    }
    let dir = profile_dir();
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    for package in [
        &["--package", "leader-election", "--bin", "elect"][..],
        &["--package", "leader-election-bench", "--bins"],
    ] {
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(ROOT)
            .args(["build", "--quiet", "--locked", "--profile", profile])
            .args(package)
            .arg("--target-dir")
            .arg(target_dir())
            .stdin(Stdio::null())
            .status();
        let built = status.as_ref().is_ok_and(|status| status.success());
        assert!(built, "cargo failed to build the programs to compare with: {status:?}");
    }
}

fn build_go() -> Result<(PathBuf, String), String> {
    let dir = target_dir().join("bench-go");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/go/build.sh");
    let output = Command::new("sh").arg(script).arg(&dir).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("failed to run {script}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("{said}");
        return Err(said.lines().last().unwrap_or("it can't be built").to_owned());
    }
    let versions = fs::read_to_string(dir.join("version")).unwrap_or_default();
    Ok((dir.join("bench-go"), versions.trim().to_owned()))
}

/// The directory for results that are not the project's documentation.
pub(crate) fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's directory is in the target directory").to_owned()
}

/// `target/release`, where this program is in `deps`.
fn profile_dir() -> PathBuf {
    let this = env::current_exe().expect("Linux tells a program its path");
    this.ancestors().nth(2).expect("it is in PROFILE/deps").to_owned()
}
