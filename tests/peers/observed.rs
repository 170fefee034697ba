//! `elect status --peers` and `elect observe --peers`: what an observer can know of a group, and what it can't.

use serde_json::Value;

use crate::support::{
    capture::Captured,
    elect::Elect,
    eventually::eventually,
    islands::Islands,
    peers::{Group, leads_after, settled, with_parts},
    server::SOON,
};

const A_LEADER: i32 = 0;
const VACANT: i32 = 3;
const UNKNOWN: i32 = 4;

fn asking(list: &str, more: &[&str]) -> Vec<String> {
    ["status", "--json", "--peers", list].iter().chain(more).map(ToString::to_string).collect()
}

/// The exit code and the output.
#[track_caller]
fn status(elect: Elect) -> (i32, Value) {
    let mut elect = elect.called("elect status").start();
    let code = elect.wait_exit(SOON).code().expect("it was not killed");
    let said = elect.stdout();
    let said = said.first().and_then(|line| serde_json::from_str(line).ok());
    (code, said.unwrap_or_else(|| panic!("exit {code}; {:?}", elect.stderr())))
}

fn status_of(group: &Group) -> (i32, Value) {
    status(Elect::new(asking(&group.list(), &[])))
}

/// Waits for this answer. Only for states that last once they are reached.
#[track_caller]
fn comes_to(group: &Group, wanted: i32) -> Value {
    eventually(SOON, &format!("a status with code {wanted}"), || {
        let (code, said) = status_of(group);
        (code == wanted).then_some(said)
    })
}

fn problem(said: &Value) -> &str {
    said["problem"].as_str().unwrap_or_default()
}

#[test]
fn contract_9_status_tells_the_leader_and_who_waits_as_long_as_it_can_be_known() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let name = group.name(lead.place);
    let (code, said) = status_of(&group);
    assert_eq!((code, &said["state"], &said["leader"]), (A_LEADER, &"leader".into(), &name.into()), "{said}");
    assert_eq!(said["token"], lead.token);
    let candidates = said["candidates"].as_array().unwrap();
    assert_eq!((candidates.len(), &candidates[0]["name"]), (3, &name.into()));

    // One silent member changes nothing.
    let (one, other) = ((lead.place + 1) % 3, (lead.place + 2) % 3);
    servers[one].freeze();
    let (code, said) = status_of(&group);
    assert_eq!((code, &said["leader"]), (A_LEADER, &name.into()), "{said}");

    // With two silent members the third is alone, and knows only that.
    servers[other].freeze();
    let said = comes_to(&group, UNKNOWN);
    assert_eq!(
        (&said["state"], &said["leader"], &said["token"]),
        (&"unknown".into(), &Value::Null, &Value::Null)
    );
    assert!(problem(&said).contains("1 of 3 servers answers"), "{said}");
    assert!(problem(&said).contains(group.name(one)) && problem(&said).contains(group.name(other)), "{said}");

    servers[one].thaw();
    servers[other].thaw();
    let said = comes_to(&group, A_LEADER);
    assert!(said["token"].as_u64().unwrap() > lead.token);
}

#[test]
fn contract_9_what_a_follower_alone_remembers_of_its_leader_does_not_count_for_long() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    servers[lead.place].kill();
    servers[(lead.place + 1) % 3].kill();
    let said = comes_to(&group, UNKNOWN);
    assert!(problem(&said).contains("1 of 3 servers answers"), "{said}");
}

#[test]
fn contract_9_without_any_answer_the_state_is_unknown_and_not_vacant() {
    let group = Group::of(3);
    let (code, said) = status_of(&group);
    assert_eq!((code, &said["state"]), (UNKNOWN, &"unknown".into()));
    assert!(problem(&said).contains("0 of 3 servers answer"), "{said}");
    assert!((0..3).all(|place| problem(&said).contains(group.address(place))), "{said}");
}

#[test]
fn contract_9_a_majority_that_has_no_leader_is_a_vacancy() {
    let Some(islands) = Islands::try_new(4) else { return };
    let group = Group::at((0..3).map(Islands::address).collect());
    let servers: Vec<_> = (0..3)
        .map(|place| {
            // The test's hosts are unreachable from elsewhere.
            let elect = islands.elect(place, group.command_line(place)).arg("--insecure-peers");
            group.start_as(place, elect)
        })
        .collect();
    let lead = settled(&servers);
    let ask = || status(islands.elect(3, asking(&group.list(), &[])));
    let (code, said) = ask();
    assert_eq!((code, &said["leader"]), (A_LEADER, &group.name(lead.place).into()), "{said}");

    // All of them answer, and none of them hears another.
    for one in 0..3 {
        for other in (0..3).filter(|other| *other != one) {
            islands.cut(one, other);
        }
    }
    let said = eventually(SOON, "a vacancy", || {
        let (code, said) = ask();
        (code == VACANT).then_some(said)
    });
    assert_eq!((&said["state"], &said["leader"]), (&"vacant".into(), &Value::Null));
    assert_eq!(said["candidates"].as_array().unwrap().len(), 3, "they stand all the same: {said}");

    islands.heal();
    let next = leads_after(&servers, lead.token);
    eventually(SOON, "the next leader", || {
        let (_, said) = ask();
        (said["token"].as_u64()? >= next.token).then_some(())
    });
}

#[test]
fn another_group_or_another_election_is_told_apart() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let other = group.list().replace("server3=", "server4=");
    let (code, said) = status(Elect::new(asking(&other, &[])));
    assert_eq!(code, UNKNOWN, "{said}");
    let words = ["its group is server1, server2, server3", "ask with its --peers"];
    assert!(words.iter().all(|word| problem(&said).contains(word)), "{said}");

    let (code, said) = status(Elect::new(asking(&group.list(), &["--election", "other"])));
    assert_eq!(code, UNKNOWN, "{said}");
    assert!(problem(&said).contains("it takes part in the election 'leader', and not in 'other'"), "{said}");

    // Two addresses were swapped: these two answer under the wrong name. The third one's answer is enough,
    // and the only one.
    let (one, two) = (group.address(0), group.address(1));
    let confused = group.list().replace(one, "X").replace(two, one).replace('X', two);
    let (code, said) = status(Elect::new(asking(&confused, &[])));
    assert_eq!((code, &said["leader"]), (A_LEADER, &group.name(lead.place).into()), "{said}");
    servers[2].kill();
    let (code, said) = status(Elect::new(asking(&confused, &[])));
    assert_eq!(code, UNKNOWN, "{said}");
    assert!(problem(&said).contains("'server2' answers there, and not 'server1'"), "{said}");
}

/// Waits until the observer reports a leader with a later token, and returns it.
#[track_caller]
fn told_of_leader_after(observer: &Captured, token: u64) -> (String, u64) {
    eventually(SOON, &format!("news of a leader after {token}"), || {
        observer.stdout().iter().find_map(|line| {
            let said: Value = serde_json::from_str(line).ok()?;
            let newer = said["token"].as_u64().filter(|told| *told > token)?;
            Some((said["leader"].as_str()?.to_owned(), newer))
        })
    })
}

#[test]
fn contract_9_an_observer_is_told_of_each_leader_in_order_and_of_not_knowing() {
    let group = Group::of(3);
    let observer =
        Elect::new(["observe", "--json", "--peers", &group.list()]).called("elect observe").start();
    observer.wait_for_line(with_parts(&["\"state\":\"unknown\""]), SOON);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    assert_eq!(told_of_leader_after(&observer, 0), (group.name(lead.place).to_owned(), lead.token));

    // One leader is killed, one frozen, one told to stop.
    servers[lead.place].kill();
    let next = leads_after(&servers, lead.token);
    assert_eq!(told_of_leader_after(&observer, lead.token), (group.name(next.place).to_owned(), next.token));
    servers[lead.place] = group.start(lead.place);
    servers[lead.place].wait_for_line(crate::support::peers::told(crate::support::server::FOLLOWER), SOON);
    servers[next.place].freeze();
    let third = leads_after(&servers, next.token);
    assert_eq!(
        told_of_leader_after(&observer, next.token),
        (group.name(third.place).to_owned(), third.token)
    );
    servers[next.place].thaw();
    servers[third.place].stop(0);
    let last = leads_after(&servers, third.token);
    assert_eq!(told_of_leader_after(&observer, third.token), (group.name(last.place).to_owned(), last.token));

    let mark = observer.mark();
    for server in &mut servers {
        server.kill();
    }
    observer.wait_for_line_since(mark, with_parts(&["\"state\":\"unknown\"", "0 of 3 servers answer"]), SOON);
    let tokens: Vec<u64> = observer
        .stdout()
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["token"].as_u64())
        .collect();
    assert!(tokens.is_sorted(), "an older leader after a newer one: {tokens:?}");
}
