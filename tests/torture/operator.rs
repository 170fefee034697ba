//! The test's own access to etcd: an administrator, a careless third party, and the final reader.
//!
//! It runs on a thread of its own, in the hub, unaffected by faults between hosts. It has a client
//! for each member and takes the first answer; every call has a time limit, since members may be frozen or dead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{
    Client, CompactionOptions, ConnectOptions, GetOptions, SortOrder, SortTarget, WatchOptions,
};
use tokio::time::{sleep, timeout};

use super::{
    history::{At, Event, EventKind, Token, WriteTarget},
    programs::{ELECTION, WRITES},
    system::ElectionState,
    testbed::{Host, Hub, Testbed},
};

/// Time limit for one call, to a member that may not answer.
const PATIENCE: Duration = Duration::from_millis(700);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A candidate in the queue.
#[derive(Debug, Clone)]
struct QueuedKey {
    name: String,
    key: Vec<u8>,
    lease: i64,
    token: Token,
}

/// The last observed state of etcd.
#[derive(Debug, Clone, Default)]
struct QueueState {
    /// The first one leads.
    queue: Vec<QueuedKey>,
    leading_member: Option<usize>,
    looks: u64,
}

#[derive(Clone)]
pub(crate) struct Operator {
    hub: Hub,
    clients: Arc<Vec<Client>>,
    seen: Arc<Mutex<QueueState>>,
    noted: Arc<Mutex<Vec<Event>>>,
}

/// The way a candidate is deposed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deposition {
    Revoke,
    Delete,
}

impl Operator {
    pub(crate) fn of(testbed: &Arc<Mutex<Testbed>>, members: usize) -> Self {
        let urls: Vec<String> = {
            let testbed = testbed.lock().unwrap_or_else(PoisonError::into_inner);
            (0..members)
                .map(|member| format!("http://{}", testbed.addresses(Host::Member(member)).client))
                .collect()
        };
        let hub = Hub::start(testbed, "operator");
        let clients = hub.wait(async move {
            let mut clients = Vec::new();
            for url in urls {
                let options = ConnectOptions::new().with_connect_timeout(PATIENCE);
                let client = Client::connect([url], Some(options)).await;
                clients.push(client.expect("nothing is sent before the first call"));
            }
            clients
        });
        let operator = Self { hub, clients: Arc::new(clients), seen: Arc::default(), noted: Arc::default() };
        operator.hub.spawn(operator.clone().look_on());
        operator.hub.spawn(operator.clone().follow_deletions());
        operator
    }

    /// The last observed state.
    pub(crate) fn sight(&self) -> ElectionState {
        let QueueState { queue, leading_member, looks } = self.seen();
        let there: Vec<String> = queue.into_iter().map(|queued| queued.name).collect();
        ElectionState { leader: there.first().cloned(), there, leading_member, looks }
    }

    fn seen(&self) -> QueueState {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its actions and observations, for the history.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: EventKind) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(Event { at: At::now(), what });
    }

    async fn look_on(self) {
        loop {
            let queue = self.queue().await;
            let leading_member = self.leading_member().await;
            {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.looks += 1;
                seen.queue = queue.unwrap_or_else(|| std::mem::take(&mut seen.queue));
                seen.leading_member = leading_member.or(seen.leading_member);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Notes the revision at which each key of the queue was deleted. Compacted revisions are missed.
    async fn follow_deletions(self) {
        let mut made: BTreeMap<Vec<u8>, Token> = BTreeMap::new();
        let mut next = 1;
        for client in self.clients.iter().cycle() {
            let _ = self.follow_on(client.clone(), &mut made, &mut next).await;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Follows from revision `next` on, by one member, until that falls silent.
    async fn follow_on(
        &self,
        mut client: Client,
        made: &mut BTreeMap<Vec<u8>, Token>,
        next: &mut i64,
    ) -> Result<(), etcd_client::Error> {
        /// A frozen member is silent too; then another is asked.
        const SILENCE: Duration = Duration::from_secs(2);
        let options = WatchOptions::new().with_prefix().with_start_revision(*next);
        let opening = timeout(PATIENCE, client.watch(format!("{ELECTION}/"), Some(options)));
        let Ok(stream) = opening.await else { return Ok(()) };
        let mut stream = stream?;
        while let Ok(Some(response)) = timeout(SILENCE, stream.message()).await.unwrap_or(Ok(None)) {
            if response.compact_revision() > 0 {
                *next = response.compact_revision() + 1;
                return Ok(());
            }
            for kv in response.events().iter().filter_map(|event| event.kv()) {
                *next = kv.mod_revision() + 1;
                if kv.create_revision() > 0 {
                    made.insert(kv.key().to_vec(), kv.create_revision().unsigned_abs());
                } else if let Some(token) = made.remove(kv.key()) {
                    self.note(EventKind::Gone { token, order: kv.mod_revision().unsigned_abs() });
                }
            }
        }
        Ok(())
    }

    /// The first answer of any member, tried in turn.
    async fn ask<T, F>(&self, call: impl Fn(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        for client in self.clients.iter() {
            if let Ok(Ok(answer)) = timeout(PATIENCE, call(client.clone())).await {
                return Some(answer);
            }
        }
        None
    }

    async fn queue(&self) -> Option<Vec<QueuedKey>> {
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let prefix = format!("{ELECTION}/");
        let read = |mut client: Client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.get(prefix, Some(options)).await }
        };
        let answer = self.ask(read).await?;
        let queued = answer.kvs().iter().map(|kv| QueuedKey {
            name: String::from_utf8_lossy(kv.value()).into_owned(),
            key: kv.key().to_vec(),
            lease: kv.lease(),
            token: kv.create_revision().unsigned_abs(),
        });
        Some(queued.collect())
    }

    async fn leading_member(&self) -> Option<usize> {
        for (place, client) in self.clients.iter().enumerate() {
            let mut client = client.clone();
            if let Ok(Ok(status)) = timeout(PATIENCE, client.status()).await
                && status.header().is_some_and(|header| header.member_id() == status.leader())
            {
                return Some(place);
            }
        }
        None
    }

    /// Waits until etcd answers.
    pub(crate) fn wait_for_etcd(&self, within: Duration) -> bool {
        let operator = self.clone();
        self.hub.wait(async move {
            timeout(within, async {
                while operator.leading_member().await.is_none() || operator.queue().await.is_none() {
                    sleep(LOOK_EVERY).await;
                }
            })
            .await
            .is_ok()
        })
    }

    /// Has etcd delete the last known key of that name in the queue. Does not wait for it.
    pub(crate) fn depose(&self, name: &str, blow: Deposition) {
        let Some(target) = self.seen().queue.into_iter().find(|queued| queued.name == name) else { return };
        // Noted before it is sent: etcd may do it at any time from here on, even if it never answers.
        self.note(EventKind::Deposed { token: target.token });
        let operator = self.clone();
        self.hub.spawn(async move {
            let (key, lease) = (target.key, target.lease);
            match blow {
                Deposition::Revoke => {
                    let _ = operator.ask(|mut client| async move { client.lease_revoke(lease).await }).await;
                }
                Deposition::Delete => {
                    let delete = |mut client: Client| {
                        let key = key.clone();
                        async move { client.delete(key, None).await }
                    };
                    let _ = operator.ask(delete).await;
                }
            }
        });
    }

    /// Has etcd's leader hand over to another member. Does not wait for it.
    pub(crate) fn move_leader(&self) {
        let operator = self.clone();
        self.hub.spawn(async move {
            let place = operator.leading_member().await?;
            let mut leader = operator.clients.get(place)?.clone();
            let next = operator.clients.get((place + 1) % operator.clients.len())?.clone();
            let status = timeout(PATIENCE, next.clone().status()).await.ok()?.ok()?;
            let to = status.header()?.member_id();
            drop(timeout(PATIENCE, leader.move_leader(to)).await);
            Some(())
        });
    }

    /// Has all of the history so far compacted. Does not wait for it.
    pub(crate) fn compact(&self) {
        let operator = self.clone();
        self.hub.spawn(async move {
            let answer = operator.ask(|mut client| async move { client.get("revision", None).await }).await?;
            let revision = answer.header()?.revision();
            let options = CompactionOptions::new().with_physical();
            operator
                .ask(|mut client| {
                    let options = options.clone();
                    async move { client.compact(revision, Some(options)).await }
                })
                .await
        });
    }

    /// Reads the queue, and notes it.
    pub(crate) fn note_queue(&self) {
        let operator = self.clone();
        let queue = self.hub.wait(async move { operator.queue().await });
        if let Some(queue) = queue {
            self.note(EventKind::Queue { names: queue.into_iter().map(|queued| queued.name).collect() });
        }
    }

    /// Reads all guarded writes that etcd accepted, and notes them in etcd's order.
    pub(crate) fn note_writes(&self) {
        const MANY: Duration = Duration::from_secs(20);
        let operator = self.clone();
        let answer = self.hub.wait(async move {
            let options = GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Ascend);
            for client in operator.clients.iter() {
                let mut client = client.clone();
                if let Ok(Ok(answer)) = timeout(MANY, client.get(WRITES, Some(options.clone()))).await {
                    return Some(answer);
                }
            }
            None
        });
        for kv in answer.iter().flat_map(|answer| answer.kvs()) {
            let token = String::from_utf8_lossy(kv.value()).parse().unwrap_or_default();
            let order = kv.mod_revision().unsigned_abs();
            self.note(EventKind::Wrote { place: WriteTarget::Etcd, order, token });
        }
    }
}
