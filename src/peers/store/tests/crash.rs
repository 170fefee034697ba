//! Killed processes, power cuts, full disks.

use std::{
    io::{self, BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

/// The possible contents of a store that acknowledged `acknowledged` writes: these, or with them the one under way.
fn one_of(history: &[Stored], acknowledged: usize, found: &Stored) -> Option<usize> {
    [acknowledged, acknowledged + 1].into_iter().find(|count| history.get(*count) == Some(found))
}

/// A run of a member between two power cuts. Returns the disk's contents then.
fn until_the_power_goes(platter: Platter, author: &mut Author, cut: u64) -> (Platter, Result<(), String>) {
    let mut random = author.random.fork();
    let mut history = vec![author.kept.clone()];
    let mut opened = resume(&platter).unwrap();
    assert_eq!(opened.stored, author.kept);
    platter.fail_after(cut, io::ErrorKind::Other);
    let mut before = (author.log.clone(), author.ballot);
    let image = loop {
        let write = author.write();
        history.push(author.kept.clone());
        if opened.store.write(&[write], &MemberRecords::default()).is_err() {
            break platter.after_power_cut(&mut random);
        }
        before = (author.log.clone(), author.ballot);
    };
    let acknowledged = history.len() - 2;
    let restarted = Platter::with(image);
    let found = match resume(&restarted) {
        Ok(opened) => opened.stored,
        Err(error) => return (restarted, Err(error.to_string())),
    };
    match one_of(&history, acknowledged, &found) {
        None => {
            return (restarted, Err(format!("{acknowledged} writes were acknowledged, and are not there")));
        }
        Some(count) if count == acknowledged => (author.log, author.ballot) = before,
        Some(_) => {}
    }
    author.kept = found;
    (restarted, Ok(()))
}

/// Each of the pieces that were not synced may be there or not.
#[test]
fn a_power_cut_takes_back_nothing_that_was_acknowledged() {
    for seed in 0..12 {
        let mut author = Author::new(seed);
        let mut platter = Platter::default();
        drop(begin(&platter));
        for cut in 0..12 {
            // Mostly in the middle of a transaction, and some right behind the opening.
            let operations = author.random.u64(..60);
            let (restarted, outcome) = until_the_power_goes(platter, &mut author, operations);
            if let Err(why) = outcome {
                panic!("seed {seed}, cut {cut}: {why}");
            }
            platter = restarted;
        }
    }
}

/// The repair after a crash can itself be interrupted.
#[test]
fn a_power_cut_while_it_starts_takes_back_nothing() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut author = Author::new(seed);
        let platter = Platter::default();
        let mut store = begin(&platter).store;
        for _ in 0..10 {
            store.write(&[author.write()], &MemberRecords::default()).unwrap();
        }
        let mut bytes = platter.bytes();
        for operations in 0..30 {
            let restarted = Platter::with(bytes);
            restarted.fail_after(operations, io::ErrorKind::Other);
            // It may start, and is killed; or not, and in both cases the power fails.
            match resume(&restarted) {
                Ok(opened) => assert_eq!(opened.stored, author.kept, "seed {seed}"),
                Err(StoreError::Io { .. }) => {}
                Err(error) => panic!("seed {seed}, {operations} operations: {error}"),
            }
            bytes = restarted.after_power_cut(&mut random);
        }
        assert_eq!(resume(&Platter::with(bytes)).unwrap().stored, author.kept);
    }
}

#[test]
fn what_a_killed_process_had_not_synced_is_durable_once_it_was_read() {
    for seed in 0..10 {
        let mut author = Author::new(seed);
        let platter = Platter::default();
        let mut store = begin(&platter).store;
        store.write(&[author.write()], &MemberRecords::default()).unwrap();
        platter.fail_syncs();
        store.write(&[author.append(100)], &MemberRecords::default()).expect_err("it is not durable");
        let seen = platter.bytes();
        let synced = platter.after_power_cut(&mut fastrand::Rng::with_seed(seed));
        // The pages that the killed process wrote are seen, and maybe not on the disk.
        let restarted = Platter::unsynced(synced, &seen);
        let read = resume(&restarted).unwrap();
        assert_eq!(read.stored, author.kept, "all of it is seen");
        // Before it is closed, which would sync it.
        for cut in 0..8 {
            let lost = Platter::with(restarted.after_power_cut(&mut fastrand::Rng::with_seed(cut)));
            assert_eq!(resume(&lost).unwrap().stored, read.stored, "seed {seed}, cut {cut}");
        }
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_leaves_what_was_durable() {
    for seed in 0..6 {
        let mut author = Author::new(seed);
        let platter = Platter::default();
        let mut store = begin(&platter).store;
        platter.limit(Some(platter.len() as u64 + 4096 * author.random.u64(..40)));
        let mut history = vec![author.kept.clone()];
        let error = loop {
            let write = author.append(20_000);
            history.push(author.kept.clone());
            if let Err(error) = store.write(&[write], &MemberRecords::default()) {
                break error;
            }
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        let again = store
            .write(&[author.write()], &MemberRecords::default())
            .expect_err("nothing follows a write that failed");
        drop((again, store));
        platter.limit(None);
        let found = resume(&platter).unwrap().stored;
        assert!(one_of(&history, history.len() - 2, &found).is_some(), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_is_never_followed_by_another_write() {
    let platter = Platter::default();
    let mut store = begin(&platter).store;
    let mut author = Author::new(3);
    platter.fail_after(3, io::ErrorKind::Other);
    store.write(&[author.write()], &MemberRecords::default()).expect_err("the disk fails");
    // The kernel may let the next one succeed, and have lost the pages of the first.
    platter.fail_after(u64::MAX / 2, io::ErrorKind::Other);
    let seen = platter.bytes();
    store.write(&[author.write()], &MemberRecords::default()).expect_err("it failed before");
    assert_eq!(platter.bytes(), seen);
}

/// Runs one of the tests below, which do nothing by themselves, as a process with this environment.
fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("peers::store::tests::crash::{test}");
    command.args([&test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("STORE_DIRECTORY", directory).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_has_written_all_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::new();
    let mut written = 0;
    for _ in 0..12 {
        let mut running = Killed(child("writes_until_killed", directory.path()).spawn().unwrap());
        let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        let mut numbers = lines.filter_map(|line| line.unwrap().strip_prefix("acknowledged ")?.parse().ok());
        let wanted = written + random.u64(1..120);
        let mut acknowledged: u64 = numbers.by_ref().find(|number| *number >= wanted).expect("it writes on");
        running.0.kill().unwrap();
        acknowledged = numbers.last().unwrap_or(acknowledged);
        drop(running);
        let found = Store::open(directory.path(), &us()).unwrap().stored;
        written = found.ballot.term.get();
        assert!(written == acknowledged || written == acknowledged + 1, "{written} of {acknowledged}");
        assert_eq!(found, chapter(written));
    }
}

/// The `number`th write of the process that is killed, and the disk's contents after it.
fn chapter(number: u64) -> Stored {
    let mut kept = Stored::nothing();
    (1..=number).for_each(|number| kept.apply(&page(number)));
    kept
}

fn page(number: u64) -> Write {
    let at = Position { term: Term::new(number), index: Index::new(number) };
    let entry = Entry { at, payload: Payload::Record(Arc::from(vec![number as u8; 300])) };
    let snapshot = (number.is_multiple_of(50)).then(|| {
        let end = Position { term: Term::new(number - 20), index: Index::new(number - 20) };
        Snapshot {
            at: end,
            data: Arc::from(number.to_be_bytes()),
            disks: None,
            record: crate::raft::orders::ElectionRecord::default(),
        }
    });
    let ballot = Ballot { term: at.term, vote: Some(NodeId::new((number % 3) as u8)) };
    Write::numbered(number, ballot, Some(Change { snapshot, tail: Some((at.index, vec![entry])) }))
}

#[test]
#[ignore = "it is killed by another test"]
fn writes_until_killed() {
    let directory = std::env::var("STORE_DIRECTORY").unwrap();
    let opened = Store::open(Path::new(&directory), &us()).unwrap();
    let (mut store, written) = (opened.store, opened.stored.ballot.term.get());
    for number in written + 1.. {
        store.write(&[page(number)], &MemberRecords::default()).unwrap();
        println!("acknowledged {number}");
    }
}

/// Runs a test on a file system of its own, of that size, in a mount namespace of its own. `None` if that is not
/// possible.
fn on_a_small_file_system(test: &str, size: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let inner = child(test, directory.path());
    let script =
        r#"mount -t tmpfs -o "size=$0" none "$STORE_DIRECTORY" || { echo unmountable; exit; }; exec "$@""#;
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-c", script, size]).arg(inner.get_program()).args(inner.get_args());
    outer.env("STORE_DIRECTORY", directory.path()).stderr(Stdio::null());
    let Ok(output) = outer.output() else {
        println!("skipped: there is no unshare here");
        return None;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    if said.contains("unmountable") || (said.is_empty() && !output.status.success()) {
        println!("skipped: this user may not mount a file system");
        return None;
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    Some(said)
}

#[test]
fn a_full_file_system_is_an_error_that_says_so() {
    if let Some(said) = on_a_small_file_system("fills_its_file_system", "3m") {
        assert!(said.contains("as no space is left there"), "{said}");
    }
}

#[test]
fn a_directory_for_which_there_is_no_space_is_none_until_there_is() {
    on_a_small_file_system("has_no_room_to_begin", "16k");
}

#[test]
#[ignore = "another test gives it a tiny file system"]
fn has_no_room_to_begin() {
    let directory = std::env::var("STORE_DIRECTORY").unwrap();
    let directory = Path::new(&directory).join("data");
    for _ in 0..3 {
        let error = Store::open(&directory, &us()).expect_err("there is no room");
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    }
    let larger = ["-o", "remount,size=16m", "none"];
    let above = directory.parent().unwrap();
    assert!(Command::new("mount").args(larger).arg(above).status().unwrap().success());
    assert_eq!(Store::open(&directory, &us()).unwrap().stored, Stored::nothing());
}

#[test]
#[ignore = "another test gives it a small file system"]
fn fills_its_file_system() {
    let directory = std::env::var("STORE_DIRECTORY").unwrap();
    let directory = Path::new(&directory).join("data");
    let mut store = Store::open(&directory, &us()).unwrap().store;
    let mut author = Author::new(1);
    let mut history = vec![author.kept.clone()];
    let error = loop {
        let write = author.append(20_000);
        history.push(author.kept.clone());
        if let Err(error) = store.write(&[write], &MemberRecords::default()) {
            break error;
        }
    };
    println!("{error}");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    drop(store);
    // With as little room as before.
    let found = Store::open(&directory, &us()).unwrap().stored;
    assert!(one_of(&history, history.len() - 2, &found).is_some());
}

/// As a user who is not root, whom permissions stop.
#[test]
fn a_directory_of_another_user_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path(), &us()).unwrap());
    let mut stranger = child("may_not_open", directory.path());
    let Ok(output) = stranger.uid(65534).gid(65534).output() else {
        return println!("skipped: this user can't become another one");
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "another test runs it as another user"]
fn may_not_open() {
    let directory = std::env::var("STORE_DIRECTORY").unwrap();
    let error = Store::open(Path::new(&directory), &us()).expect_err("it is another user's");
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
}
