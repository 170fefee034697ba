//! `make install` puts every file where Debian expects it, and the programs that read them accept them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use support::{
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    server::{LEADER, SOON, token_of},
    tool,
};
use tempfile::TempDir;

/// Each file under PREFIX, by Debian's policy, and its mode.
const FILES: [(&str, u32); 20] = [
    ("bin/elect", 0o755),
    ("share/man/man1/elect.1", 0o644),
    ("share/man/man1/elect-server.1", 0o644),
    ("share/man/man1/elect-run.1", 0o644),
    ("share/man/man1/elect-observe.1", 0o644),
    ("share/man/man1/elect-status.1", 0o644),
    ("share/man/man1/elect-peers.1", 0o644),
    ("share/man/man1/elect-peers-replace.1", 0o644),
    ("share/man/man1/elect-witness.1", 0o644),
    ("share/man/man1/elect-release.1", 0o644),
    ("share/man/man1/elect-completions.1", 0o644),
    ("share/man/man1/elect-demo.1", 0o644),
    ("share/man/man1/elect-man.1", 0o644),
    ("share/bash-completion/completions/elect", 0o644),
    ("share/zsh/vendor-completions/_elect", 0o644),
    ("share/fish/vendor_completions.d/elect.fish", 0o644),
    ("lib/systemd/system/elect@.service", 0o644),
    ("lib/systemd/system/elect-run@.service", 0o644),
    ("lib/systemd/system/elect-witness.service", 0o644),
    ("lib/sysusers.d/elect.conf", 0o644),
];

/// Highest exposure that systemd may report for the units of server and witness, from 0 (sealed) to 10 (open). Today 1.3.
const EXPOSURE_AT_MOST: f32 = 2.0;

/// A directory that `make install DESTDIR=…` or `PREFIX=…` fills with this test run's binary.
struct Installed {
    dir: TempDir,
    make: Vec<String>,
    prefix: PathBuf,
}

impl Installed {
    /// Installs as a package does: under DESTDIR, for /usr.
    fn for_a_package() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = vec!["PREFIX=/usr".to_owned(), format!("DESTDIR={}", dir.path().display())];
        let prefix = dir.path().join("usr");
        Self { dir, make, prefix }.make("install")
    }

    /// Installs under a PREFIX to run from, without DESTDIR. Settings would go to /etc.
    fn in_place() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("local");
        let make = vec![
            format!("PREFIX={}", prefix.display()),
            format!("SETTINGS={}", dir.path().join("default").display()),
        ];
        Self { dir, make, prefix }.make("install")
    }

    fn make(self, target: &str) -> Self {
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        make.arg(target).arg(concat!("ELECT_BINARY=", env!("CARGO_BIN_EXE_elect"))).args(&self.make);
        tool::succeeds(&mut make);
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        let file = self.prefix.join(name);
        assert!(file.is_file(), "{} is not there", file.display());
        file
    }

    fn settings(&self) -> PathBuf {
        self.dir.path().join("etc/default/elect")
    }
}

#[test]
fn everything_is_where_debian_looks_for_it_with_the_mode_it_should_have() {
    let installed = Installed::for_a_package();
    for (name, mode) in FILES {
        let file = installed.file(name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode, "{name}");
        assert!(fs::metadata(&file).unwrap().len() > 0, "{name}");
    }
    assert!(installed.settings().is_file());
    tool::succeeds(Command::new(installed.file("bin/elect")).arg("--version"));
}

#[test]
fn debians_package_has_the_same_files_and_the_same_bytes_each_time() {
    let Some(dpkg_deb) = tool::find_where_present("dpkg-deb") else { return };
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let into = dir.path().join(name);
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        // Compressing a binary with its symbols takes most of a minute.
        make.env("CARGO_TARGET_DIR", &into).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
        tool::succeeds(make.args(["deb", concat!("ELECT_BINARY=", env!("CARGO_BIN_EXE_elect"))]));
        let made: Vec<_> = fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [package] = &made[..] else { panic!("{made:?}") };
        package.clone()
    };
    let [first, second] = ["first", "second"].map(build);
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "it differs from build to build");

    let unpacked = dir.path().join("unpacked");
    tool::succeeds(Command::new(&dpkg_deb).arg("-x").arg(&first).arg(&unpacked));
    for (name, mode) in FILES {
        let name = if name.ends_with(".1") { format!("{name}.gz") } else { name.to_owned() };
        let found = fs::metadata(unpacked.join("usr").join(&name)).unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
    let version = tool::succeeds(Command::new(unpacked.join("usr/bin/elect")).arg("--version"));
    let field = |name: &str| tool::succeeds(Command::new(&dpkg_deb).arg("-f").arg(&first).arg(name));
    assert_eq!(version.trim(), format!("elect {}", field("Version").trim()));
    assert!(field("Depends").contains("libc6 (>= 2."), "{}", field("Depends"));
    let settings = tool::succeeds(Command::new(&dpkg_deb).args(["-I"]).arg(&first).arg("conffiles"));
    assert_eq!(settings, "/etc/default/elect\n");
}

#[test]
fn an_administrators_settings_outlive_an_installation_and_its_removal() {
    let installed = Installed::for_a_package();
    fs::write(installed.settings(), "ELECT_TTL=7s\n").unwrap();
    let installed = installed.make("install").make("uninstall");

    let left = tool::succeeds(Command::new("find").arg(installed.dir.path()).args(["-type", "f"]));
    assert_eq!(left.lines().collect::<Vec<_>>(), [installed.settings().to_str().unwrap()]);
    assert_eq!(fs::read_to_string(installed.settings()).unwrap(), "ELECT_TTL=7s\n");
}

#[test]
fn a_prefix_of_ones_own_is_in_the_units_and_only_debians_has_vendor_completions_for_zsh() {
    let installed = Installed::in_place();
    for unit in ["elect@.service", "elect-run@.service", "elect-witness.service"] {
        let unit = fs::read_to_string(installed.file(&format!("lib/systemd/system/{unit}"))).unwrap();
        let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert!(
            start.starts_with(&format!("ExecStart={}/bin/elect ", installed.prefix.display())),
            "{start}"
        );
    }
    installed.file("share/zsh/site-functions/_elect");
}

#[test]
fn every_page_of_the_manual_renders_without_a_complaint() {
    let Some(man) = tool::find("man") else { return };
    let installed = Installed::for_a_package();
    let pages: Vec<_> = fs::read_dir(installed.prefix.join("share/man/man1")).unwrap().collect();
    assert!(pages.len() >= 6, "{pages:?}");
    for page in pages {
        let page = page.unwrap().path();
        let name = page.file_stem().unwrap().to_str().unwrap();
        let rendered = tool::run(
            Command::new(&man)
                .env("MANWIDTH", "100")
                .env("LC_ALL", "C.UTF-8")
                .args(["--warnings", "-l"])
                .arg(&page),
        );
        let text = String::from_utf8(rendered.stdout).unwrap();
        assert_eq!(String::from_utf8_lossy(&rendered.stderr), "", "{name}");
        assert!(text.starts_with(&format!("{name}(1)")), "{text}");
        assert!(text.contains("leader-election"), "{text}");
        for section in ["SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == section), "{name} has no {section}: {text}");
        }
    }
}

#[test]
fn what_the_manual_refers_to_is_installed() {
    let installed = Installed::for_a_package();
    let manual = installed.prefix.join("share/man/man1");
    let (mut pages, mut documents) = (0, 0);
    for page in fs::read_dir(&manual).unwrap() {
        let text = fs::read_to_string(page.unwrap().path()).unwrap().replace('\\', "");
        let (_, see_also) = text.split_once("SEE ALSO").unwrap();
        for name in see_also.split("(1)").filter_map(|before| before.rsplit([' ', '\n']).next()) {
            if name.starts_with("elect") {
                installed.file(&format!("share/man/man1/{name}.1"));
                pages += 1;
            }
        }
        if let Some((_, named)) = see_also.split_once("In PREFIX/share/doc/leader-election: ") {
            for document in named.trim().split(", ") {
                installed.file(&format!("share/doc/leader-election/{document}"));
                documents += 1;
            }
        }
    }
    assert!(pages > 20 && documents > 10, "{pages}, {documents}");
    // What those pages show.
    for picture in ["demo.svg", "page.png", "demo.txt", "benchmarks/crash.svg"] {
        installed.file(&format!("share/doc/leader-election/{picture}"));
    }
}

#[test]
fn the_synopsis_of_run_has_the_dashes() {
    let installed = Installed::for_a_package();
    let page = fs::read_to_string(installed.file("share/man/man1/elect-run.1")).unwrap().replace('\\', "");
    assert!(page.contains("elect run [OPTIONS] -- COMMAND [ARG]…"), "{page}");
}

#[test]
fn the_printed_page_is_the_installed_one() {
    let installed = Installed::for_a_package();
    let printed = tool::succeeds(Command::new(installed.file("bin/elect")).arg("man"));
    assert_eq!(printed, fs::read_to_string(installed.file("share/man/man1/elect.1")).unwrap());
}

#[test]
fn bash_completes_commands_and_flags() {
    let Some(bash) = tool::find("bash") else { return };
    let installed = Installed::for_a_package();
    let script = installed.file("share/bash-completion/completions/elect");
    tool::succeeds(Command::new(&bash).arg("-n").arg(&script));

    let completes = |words: &str| {
        let program = format!(
            "set -u; source '{}'; complete -p elect; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _elect elect \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        tool::succeeds(Command::new(&bash).args(["--norc", "-c", &program]))
    };
    let said = completes("elect ser");
    assert!(said.lines().next().unwrap().contains("-F _elect"), "{said}");
    assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), ["server"]);
    assert_eq!(completes("elect server --tt").lines().skip(1).collect::<Vec<_>>(), ["--ttl"]);
    assert_eq!(completes("elect completions z").lines().skip(1).collect::<Vec<_>>(), ["zsh"]);
}

#[test]
fn zsh_finds_its_completions() {
    let Some(zsh) = tool::find("zsh") else { return };
    let installed = Installed::for_a_package();
    let script = installed.file("share/zsh/vendor-completions/_elect");
    tool::succeeds(Command::new(&zsh).arg("-n").arg(&script));

    // -f: no user configuration. `compinit -u` does not ask about the directories' owner.
    let program = format!(
        "fpath=({} $fpath); autoload -Uz compinit && compinit -u -D; print -r -- $_comps[elect]; autoload +X _elect",
        script.parent().unwrap().display()
    );
    assert_eq!(tool::succeeds(Command::new(&zsh).args(["-f", "-c", &program])), "_elect\n");
}

#[test]
fn fish_completes_commands_and_flags() {
    let Some(fish) = tool::find("fish") else { return };
    let installed = Installed::for_a_package();
    let script = installed.file("share/fish/vendor_completions.d/elect.fish");
    let home = tempfile::tempdir().unwrap();
    let fish = |program: &str| {
        tool::succeeds(
            Command::new(&fish).env("HOME", home.path()).args(["--no-config", "-c", program]).arg(&script),
        )
    };
    fish("fish --no-execute $argv[1]");
    let commands = fish("source $argv[1]; complete -C 'elect ser'");
    assert!(commands.starts_with("server\t"), "{commands}");
    let flags = fish("source $argv[1]; complete -C 'elect server --tt'");
    assert!(flags.starts_with("--ttl\t"), "{flags}");
}

#[test]
fn systemd_takes_the_units_and_finds_server_and_witness_well_sealed() {
    let Some(analyze) = tool::find_where_present("systemd-analyze") else { return };
    let installed = Installed::in_place();
    let pages = installed.prefix.join("share/man");
    let analyze = |verb: &[&str], unit: &Path| {
        tool::run(Command::new(&analyze).args(verb).arg(unit).env("MANPATH", &pages))
    };
    let units = ["elect@.service", "elect-run@.service", "elect-witness.service"];
    for unit in units.map(|unit| installed.file(&format!("lib/systemd/system/{unit}"))) {
        let verified = analyze(&["verify"], &unit);
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && said.is_empty(), "{}: {said}", unit.display());
    }

    for unit in ["elect@.service", "elect-witness.service"] {
        let unit = installed.file(&format!("lib/systemd/system/{unit}"));
        let judged = analyze(&["security", "--offline=true"], &unit);
        let judged = String::from_utf8_lossy(&judged.stdout).into_owned();
        let (_, level) = judged.split_once("Overall exposure level for").expect("a verdict");
        let level: f32 = level.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(level <= EXPOSURE_AT_MOST, "{judged}");
    }
}

#[test]
fn the_user_that_a_unit_names_is_one_that_systemd_makes_from_the_file_beside_it() {
    let Some(sysusers) = tool::find_where_present("systemd-sysusers") else { return };
    let installed = Installed::for_a_package();
    let root = installed.dir.path();
    installed.file("lib/sysusers.d/elect.conf");
    tool::succeeds(Command::new(sysusers).arg(format!("--root={}", root.display())));
    let users = fs::read_to_string(root.join("etc/passwd")).unwrap();
    for unit in ["elect-run@.service", "elect-witness.service"] {
        let unit = fs::read_to_string(installed.file(&format!("lib/systemd/system/{unit}"))).unwrap();
        let user = unit.lines().find_map(|line| line.strip_prefix("User=")).expect("a user");
        assert!(users.lines().any(|line| line.starts_with(&format!("{user}:"))), "{users}");
    }
}

/// A witness that is restarted must find the tickets of the servers that run.
#[test]
fn the_witnesss_unit_witnesses_in_a_directory_that_outlives_it() {
    let installed = Installed::for_a_package();
    let text = fs::read_to_string(installed.file("lib/systemd/system/elect-witness.service")).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).expect(key).to_owned();
    assert_eq!(value("RuntimeDirectoryPreserve="), "yes");
    let directory = format!("%t/{}", value("RuntimeDirectory="));
    assert_eq!(value("ExecStart="), format!("/usr/bin/elect witness {directory}"));
}

/// A member keeps its votes where the unit says, whatever the instance's name, and for itself alone.
#[test]
fn a_member_that_a_unit_starts_keeps_its_votes_in_the_units_directory() {
    let installed = Installed::for_a_package();
    for unit in ["elect@.service", "elect-run@.service"] {
        let text = fs::read_to_string(installed.file(&format!("lib/systemd/system/{unit}"))).unwrap();
        let directory = text.lines().find_map(|line| line.strip_prefix("StateDirectory=")).expect("one");
        assert!(directory.ends_with("/%i"), "{unit}: instances share {directory}");
        for line in ["StateDirectoryMode=0700", "LimitCORE=0", "LoadCredential=elect.password"] {
            assert!(text.lines().any(|found| found == line), "{unit} lacks {line}");
        }
    }
}

#[test]
fn the_servers_unit_starts_a_server_that_is_called_as_its_instance() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let installed = Installed::for_a_package();
    let unit = fs::read_to_string(installed.file("lib/systemd/system/elect@.service")).unwrap();
    let start =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/elect ")).expect("a command");
    let args: Vec<_> = start.split(' ').map(|arg| arg.replace("%i", "server1")).collect();
    let server =
        Elect::new(&args).env("ELECT_ETCD", etcd.endpoint()).env("ELECT_LOG_FORMAT", "plain").start();
    server.wait_for_line(LEADER, SOON);
    // Under that name.
    token_of(&etcd.endpoint(), "server1");
}

#[test]
fn each_setting_that_the_sample_offers_is_one() {
    let installed = Installed::for_a_package();
    let settings = fs::read_to_string(installed.settings()).unwrap();
    let offered = settings.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let offered: Vec<_> = offered.map(|(name, _)| name).filter(|name| name.starts_with("ELECT_")).collect();
    assert!(offered.len() >= 4, "{offered:?}");
    let help = tool::succeeds(Command::new(installed.file("bin/elect")).args(["server", "--help"]));
    for name in offered {
        assert!(help.contains(&format!("[env: {name}=")), "{name} is read by no flag of {help}");
    }
}
