//! Directories that are refused, and stay unchanged.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

/// Names and bytes of all files.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

fn refused(directory: &Path, owner: &Owner) -> String {
    let before = everything(directory);
    let error = Store::open(directory, owner).expect_err("not to be used");
    assert_eq!(everything(directory), before, "{error}");
    error.to_string()
}

fn used(owner: &Owner) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), owner).unwrap().store;
    store.write(&[Author::new(1).write()], &MemberRecords::default()).unwrap();
    directory
}

#[test]
fn a_directory_is_made_with_those_above_it_and_for_its_owner_alone() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("elect/server1");
    drop(Store::open(&directory, &us()).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("elect.db")), 0o600);
    assert_eq!(everything(&directory).len(), 1);
}

#[test]
fn an_empty_directory_is_used_and_so_is_the_root_of_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    assert_eq!(Store::open(directory.path(), &us()).unwrap().stored, Stored::nothing());
}

#[test]
fn another_members_directory_is_refused() {
    let directory = used(&owner("b", "leader", &["a", "b", "c"]));
    let said = refused(directory.path(), &us());
    assert!(said.starts_with(directory.path().to_str().unwrap()), "{said}");
    let who =
        "belongs to 'b' in the election 'leader' among a, b, c, and this is 'a' in the election 'leader'";
    assert!(said.contains(who), "{said}");
    assert!(said.contains("a directory of its own"), "{said}");
}

#[test]
fn a_directory_of_another_election_or_group_is_refused() {
    let said = refused(used(&owner("a", "other", &["a", "b", "c"])).path(), &us());
    assert!(said.contains("election 'other' among a, b, c"), "{said}");
    let said = refused(used(&owner("a", "leader", &["a", "b"])).path(), &us());
    assert!(said.contains("election 'leader' among a, b, and this"), "{said}");
}

#[test]
fn the_order_of_the_list_of_members_does_not_matter() {
    let directory = used(&us());
    let other = owner("a", "leader", &["c", "b", "a"]);
    assert_ne!(Store::open(directory.path(), &other).unwrap().stored, Stored::nothing());
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Store::open(directory.path(), &us()).unwrap();
    let said = refused(directory.path(), &us());
    assert!(said.contains("in use by another process"), "{said}");
    drop(opened);
    Store::open(directory.path(), &us()).unwrap();
}

#[test]
fn of_many_that_make_a_directory_at_once_one_has_it() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let opening = (0..4).map(|_| scope.spawn(|| Store::open(&path, &us())));
            let opening: Vec<_> = opening.collect();
            opening.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        }
    }
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused() {
    let above = tempfile::tempdir().unwrap();
    let file = above.path().join("data");
    fs::write(&file, "something").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Store::open(&path, &us()).expect_err("a file");
        assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"something");
}

#[test]
fn a_directory_with_other_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("holiday.jpg"), "a beach").unwrap();
    let said = refused(directory.path(), &us());
    assert!(said.contains("was not made by elect, as it has 'holiday.jpg' in it"), "{said}");
}

#[test]
fn what_is_no_database_is_refused() {
    for garbage in [&b""[..], b"something", &[0; 100_000], &[0xff; 8192]] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("elect.db"), garbage).unwrap();
        let said = refused(directory.path(), &us());
        assert!(said.contains("is damaged"), "{said}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let directory = used(&us());
    let path = directory.path().join("elect.db");
    let mut bytes = fs::read(&path).unwrap();
    super::super::file::tests::claim_format(&mut bytes, 7);
    fs::write(&path, bytes).unwrap();
    let said = refused(directory.path(), &us());
    assert!(said.contains("has format 7, and this version knows up to 1"), "{said}");
}

#[test]
fn a_creation_that_was_cut_short_is_done_again() {
    for rest in [&b""[..], &[0; 5000], b"elect: data of one peer\n"] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("elect.db.unfinished"), rest).unwrap();
        let first = Store::open(directory.path(), &us()).unwrap();
        assert_eq!(first.stored, Stored::nothing());
        let id = first.directory;
        drop(first);
        assert_eq!(Store::open(directory.path(), &us()).unwrap().directory, id);
        assert_eq!(everything(directory.path()).len(), 1);
    }
}

/// On a file system that was mounted read-only for this test alone.
#[test]
fn a_read_only_directory_is_refused() {
    let directory = used(&us());
    let empty = tempfile::tempdir().unwrap();
    for (path, child) in [(directory.path(), "complete"), (empty.path(), "empty")] {
        let test = "peers::store::tests::refusal::refuses_a_read_only_file_system";
        let script = r#"mount --bind -o ro "$STORE_DIRECTORY" "$STORE_DIRECTORY" || { echo unmountable; exit; }; exec "$@""#;
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--mount", "sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
        outer.args([test, "--exact", "--ignored", "--nocapture"]).env("STORE_DIRECTORY", path);
        let Ok(output) = outer.output() else { return println!("skipped: there is no unshare here") };
        let said = String::from_utf8(output.stdout).unwrap();
        if said.contains("unmountable") || (said.is_empty() && !output.status.success()) {
            return println!("skipped: this user may not mount a file system");
        }
        assert!(output.status.success() && said.contains("1 passed"), "{child}: {said}");
    }
}

#[test]
#[ignore = "another test mounts what it needs"]
fn refuses_a_read_only_file_system() {
    let directory = std::env::var("STORE_DIRECTORY").unwrap();
    let error = Store::open(Path::new(&directory), &us()).expect_err("it is read-only");
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    assert!(error.to_string().contains("mount it writable"), "{error}");
}
