//! Bytes that change spontaneously.

use super::*;

/// Damages the bytes of a file at random.
fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) -> String {
    // Most of a file is empty. Pages in use are at its beginning more often than at its end.
    let end = if random.bool() { bytes.len() } else { bytes.len().min(64 << 10) };
    let at = match random.u32(..8) {
        0 => random.usize(..4096),
        1 => 4096 + random.usize(..512),
        _ => random.usize(..end),
    };
    match random.u32(..10) {
        0 => {
            bytes.truncate(at);
            format!("cut off at {at}")
        }
        1 => {
            let sector = at / 512 * 512;
            let end = (sector + 512).min(bytes.len());
            bytes[sector..end].fill(0);
            format!("zeros in {sector}..{end}")
        }
        2 => {
            let (from, page) = (random.usize(..end) / 4096 * 4096, at / 4096 * 4096);
            let len = 4096.min(bytes.len() - from).min(bytes.len() - page);
            bytes.copy_within(from..from + len, page);
            format!("page at {page} is that at {from}")
        }
        3 => {
            bytes[at] = random.u8(..);
            format!("another byte at {at}")
        }
        _ => {
            let bit = random.u32(..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
    }
}

fn told(opened: &Opened) -> (Stored, DirectoryId, MemberRecords, Option<Duration>) {
    (opened.stored.clone(), opened.directory, opened.store.known().clone(), opened.previous_shortest)
}

/// One damage to a directory that was closed, or whose process was killed.
fn damaged_once(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let platter = Platter::default();
    let mut store = begin(&platter).store;
    let mut author = Author::new(seed);
    store.begin_run(Duration::from_millis(250), false).unwrap();
    store.keep_met(NodeId::new(1), super::record(&mut random), Admission::First, VotingRights::Full).unwrap();
    for _ in 0..random.u32(..40) {
        store.write(&[author.write()], &MemberRecords::default()).unwrap();
    }
    let killed = random.bool().then(|| platter.bytes());
    drop(store);
    let whole = killed.unwrap_or_else(|| platter.bytes());
    let expected = told(&resume(&Platter::with(whole.clone())).unwrap());
    assert_eq!(expected.0, author.kept);

    for _ in 0..20 {
        let mut bytes = whole.clone();
        let what = damage(&mut bytes, &mut random);
        let platter = Platter::with(bytes.clone());
        match resume(&platter) {
            Ok(opened) if told(&opened) == expected => {}
            Ok(_) => return Err(format!("seed {seed}, {what}: other contents")),
            Err(StoreError::Damaged { .. }) if platter.bytes() == bytes => {}
            Err(StoreError::Damaged { .. }) => {
                return Err(format!("seed {seed}, {what}: refused, and changed"));
            }
            Err(error) => return Err(format!("seed {seed}, {what}: {error}")),
        }
    }
    Ok(())
}

/// `SEEDS=n` for more.
#[test]
fn no_damaged_byte_makes_other_contents() {
    let seeds = std::env::var("SEEDS").map_or(40, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        if let Err(why) = damaged_once(seed) {
            panic!("{why}");
        }
    }
}
