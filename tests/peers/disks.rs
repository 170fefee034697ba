//! Damage to a data directory, at the start or later: reported, and never a reason for two leaders.

use std::{fs, io::Write as _, path::Path};

use crate::support::{
    capture::{Captured, Mark},
    elect::Elect,
    eventually::eventually,
    member::{self, nothing_is_lost},
    peers::{BRISK, Group, leads_after, leads_on, saw_a_change, settled, told, with_parts},
    server::{FOLLOWER, LEADER, SOON},
    volume::Volume,
};

/// Starts that server of the group, which must refuse with these words.
#[track_caller]
fn refuses(elect: Elect, parts: &[&str]) {
    let mut refused = elect.start();
    let status = refused.wait_exit(SOON);
    let said = refused.stderr().join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// A file's contents, to see whether it was changed.
fn contents(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_directory_of_another_member_election_or_group_is_refused_and_left_as_it_was() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    settled(&servers);
    servers[0].kill();
    let before = contents(&group.database(0));
    let data = group.data(0);
    let another_member = group.command_line_with(1, &group.list(), &data);
    let another_election = [group.command_line(0), vec!["--election".into(), "other".into()]].concat();
    let list = group.list().replace("server3=", "server4=");
    let another_group = group.command_line_with(0, &list, &data);
    servers[1].kill();
    for args in [another_member, another_election, another_group] {
        refuses(
            Elect::new(args),
            &["--data", data.to_str().unwrap(), "belongs to", "a directory of its own"],
        );
        assert!(contents(&group.database(0)) == before, "it was changed");
    }
    // It works again as before.
    let back = group.start(0);
    leads_after([&back, &servers[2]], 0);
}

#[test]
fn a_directory_that_is_in_use_or_that_has_other_files_is_refused() {
    let group = Group::of(3);
    let servers = group.start_all();
    let lead = settled(&servers);
    let elsewhere = ["--listen".to_owned(), "127.0.0.9:10000".to_owned()];
    let second = [group.command_line(0), elsewhere.to_vec()].concat();
    refuses(Elect::new(second), &["--data", "is in use by another process"]);
    leads_on(&servers[lead.place], Mark::START, 2);

    let foreign = group.data(0).with_file_name("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "all of it").unwrap();
    let args = Group::of(1).command_line_with(0, &group.list(), &foreign);
    let elsewhere = Elect::new(args).args(["--listen", "127.0.0.9:10000"]);
    refuses(elsewhere, &["--data", "was not made by elect", "thesis.tex"]);
    assert_eq!(fs::read_to_string(foreign.join("thesis.tex")).unwrap(), "all of it");
}

#[test]
fn a_damaged_directory_is_refused_and_the_others_go_on() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let place = (lead.place + 1) % 3;
    servers[place].kill();
    let path = group.database(place);
    let flipped = |whole: &[u8], at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        bytes
    };
    let used = |whole: &[u8]| whole.iter().rposition(|byte| *byte != 0).unwrap();
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let damages: [(Damage<'_>, bool); 7] = [
        (&|whole| flipped(whole, 0), true),
        (&|whole| vec![0; whole.len()], true),
        (&|_| Vec::new(), true),
        (&|whole| whole[..used(whole) / 2].to_vec(), true),
        // Damage that no promise depends on any more: the member keeps its identity and its state.
        (&|whole| flipped(whole, used(whole)), false),
        (&|whole| flipped(whole, used(whole) / 2), false),
        (&|whole| whole[..=used(whole)].to_vec(), false),
    ];
    for (damage, is_fatal) in damages {
        // The current file: an older copy is refused, however intact.
        let whole = contents(&path);
        let damage = damage(&whole);
        fs::write(&path, &damage).unwrap();
        let mut server = group.start(place);
        let is_refused = eventually(SOON, "a verdict", || {
            let follows = server.told().iter().any(|told| told.text == FOLLOWER);
            if follows { Some(false) } else { server.status().map(|_| true) }
        });
        if is_refused {
            server.exits(1);
            let said = server.stderr().join("\n");
            assert!(said.contains("is damaged") && said.contains("--data"), "{said}");
            assert!(contents(&path) == damage, "a damaged file was changed");
            fs::write(&path, &whole).unwrap();
        } else {
            assert!(!is_fatal, "it started from what is not what was written");
            server.kill();
        }
    }
    let back = group.start(place);
    back.wait_for_line(told(FOLLOWER), SOON);
    assert!(!saw_a_change(&servers[lead.place], Mark::START));
}

#[test]
fn a_member_that_lost_its_directory_is_not_let_in_again() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let place = (lead.place + 1) % 3;
    // Removed while it runs: it has its file open, and continues with that.
    fs::remove_dir_all(group.data(place)).unwrap();
    leads_on(&servers[lead.place], servers[lead.place].mark(), 2);
    servers[place].stop(0);

    let forgetful = group.start(place);
    let words = ["another data directory than when it was first met", "lost its disk"];
    forgetful.wait_for_line(with_parts(&words), SOON);
    for other in (0..3).filter(|other| *other != place) {
        servers[other].wait_for_line(with_parts(&words), SOON);
    }
    leads_on(&servers[lead.place], servers[lead.place].mark(), 1);
    assert!(!saw_a_change(&servers[lead.place], Mark::START));

    // With one more down, the other two are no majority, as this one does not vote.
    let third = 3 - place - lead.place;
    servers[lead.place].kill();
    let alone = &servers[third];
    alone.wait_for_line(with_parts(&["no majority votes", "lost its disk"]), SOON);
    assert!(!forgetful.told().iter().any(|told| told.token.is_some()));
    servers[lead.place] = group.start(lead.place);
    leads_after([&servers[lead.place], &servers[third]], lead.token);
}

#[test]
fn contract_4_a_leader_whose_disk_is_full_gives_up_and_says_so_and_comes_back_with_all_it_had() {
    let group = Group::of(3).with_timing(BRISK);
    let volumes: Option<Vec<_>> = (0..3).map(|place| Volume::try_new(&group.data(place), 8192)).collect();
    let Some(volumes) = volumes else { return };
    let start = |place: usize| member::start(&group, place, Some(&volumes[place]));
    let mut members: Vec<Captured> = (0..3).map(start).collect();
    let lead = member::commits_after(&members, 0, 5);
    volumes[lead.place].fill();
    members[lead.place].wait_for_line(with_parts(&[&format!("lost {} ", lead.token)]), SOON);
    members[lead.place].wait_for_line(with_parts(&["failed", "no space is left there", "make some"]), SOON);
    assert_eq!(members[lead.place].wait_exit(SOON).code(), Some(1));

    let next = member::commits_after(&members, lead.token, 5);
    assert_ne!(next.place, lead.place);
    volumes[lead.place].free();
    let full = std::mem::replace(&mut members[lead.place], start(lead.place));
    nothing_is_lost(&[full], &members);
}

#[test]
fn a_server_that_cannot_write_its_vote_ends_and_says_why_and_is_back_once_there_is_space() {
    let group = Group::of(1);
    let Some(volume) = Volume::try_new(&group.data(0), 8192) else { return };
    let start = || group.start_as(0, volume.elect(group.command_line(0)));
    let mut server = start();
    let mut token = leads_after([&server], 0).token;
    server.kill();
    volume.fill();
    // A term's few bytes may fit into the file's allocated space: then it leads, rightly so.
    for _ in 0..50 {
        server = start();
        let led = eventually(SOON, "a term, or its end", || {
            let led = server.told().into_iter().rfind(|told| told.text == LEADER).and_then(|told| told.token);
            if server.status().is_some() { Some(None) } else { led.map(Some) }
        });
        let Some(led) = led else { break };
        assert!(led > token);
        token = led;
        server.kill();
    }
    server.exits(1);
    let said = server.stderr().join("\n");
    assert!(said.contains("no space is left there; make some"), "{said}");
    volume.free();
    server = start();
    assert!(leads_after([&server], token).token > token);
}

#[test]
fn a_directory_on_a_read_only_file_system_is_refused() {
    let group = Group::of(1);
    let Some(volume) = Volume::try_new(&group.data(0), 8192) else { return };
    volume.make_read_only();
    refuses(volume.elect(group.command_line(0)), &["--data", "read-only file system", "mount it writable"]);
}

#[test]
fn a_directory_that_becomes_read_only_is_refused_and_good_again_later() {
    let group = Group::of(1);
    let Some(volume) = Volume::try_new(&group.data(0), 8192) else { return };
    let mut server = group.start_as(0, volume.elect(group.command_line(0)));
    let lead = leads_after([&server], 0);
    server.stop(0);
    volume.make_read_only();
    refuses(volume.elect(group.command_line(0)), &["--data", "read-only file system"]);
    volume.make_writable();
    let server = group.start_as(0, volume.elect(group.command_line(0)));
    assert!(leads_after([&server], lead.token).token > lead.token);
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let group = Group::of(1);
    fs::File::create(group.data(0)).unwrap().write_all(b"no directory").unwrap();
    refuses(Elect::new(group.command_line(0)), &["--data", "is not a directory"]);
}
