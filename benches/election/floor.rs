//! Lower bounds for any election's times, measured beside the elections.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    time::Duration,
};

use etcd_client::{EventType, WatchOptions};
use tempfile::tempfile;
use tokio::time::timeout;

use crate::{Bench, contender::SOON, report::Floors, support::clock::BootTime, trials::election};

/// About the size of etcd's log entry for one small request.
const RECORD: [u8; 256] = [b'x'; 256];

/// Like etcd, allocates the file beforehand, so that a write changes only its data.
const PREPARED: u64 = 1 << 20;

pub(crate) fn measure(bench: &Bench, floors: &mut Floors, trials: usize) {
    let mut file = prepared();
    for trial in 0..trials {
        floors.event.add_time(delete_to_event(bench));
        floors.fdatasync.add_time(fdatasync(&mut file, trial as u64));
    }
}

/// In the directory for temporary files, on the same disk as etcd's data.
fn prepared() -> File {
    let mut file = tempfile().expect("a temporary file can be made");
    file.write_all(&vec![0; PREPARED as usize]).expect("a file can be written to");
    file.sync_all().expect("a file can be synced");
    file
}

fn fdatasync(file: &mut File, trial: u64) -> Duration {
    let offset = trial * RECORD.len() as u64 % PREPARED;
    let started = BootTime::now();
    file.seek(SeekFrom::Start(offset)).expect("a file has an offset");
    file.write_all(&RECORD).expect("a file can be written to");
    file.sync_data().expect("a file can be synced");
    started.elapsed()
}

/// The time from a client's delete to another client's watch event.
fn delete_to_event(bench: &Bench) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts wherever this does");
    let (key, mut deleter, mut watcher) = (election("floor"), bench.etcd.admin(), bench.etcd.admin());
    let revision = deleter.put(key.clone(), "");
    let (deleter, watcher) = (&mut deleter, &mut watcher);
    let measured = async {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut events = watcher.client().watch(key.clone(), Some(options)).await?;
        let asked = BootTime::now();
        let mut client = deleter.client();
        let deleting = tokio::spawn(async move { client.delete(key, None).await });
        let took = loop {
            let message = events.message().await?.expect("etcd keeps the watch open");
            if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                break asked.elapsed();
            }
        };
        deleting.await.expect("nothing panics here")?;
        Ok::<_, etcd_client::Error>(took)
    };
    let measured = runtime.block_on(async { timeout(SOON, measured).await });
    measured.expect("etcd answers in time").expect("etcd deletes a key")
}
