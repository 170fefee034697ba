//! The test's own access to etcd: what an administrator, or a careless third party, does to an election.
//!
//! An [`Admin`] talks to one endpoint only, so that no balancing hides which member answered. Each call is
//! given [`CALL_DEADLINE`] and panics on failure, naming the call; a test that expects an error uses
//! [`Admin::client`].

use std::{future::Future, time::Duration};

use etcd_client::{
    Client, CompactionOptions, ConnectOptions, DeleteOptions, Error, GetOptions, KeyValue, Permission,
    PutOptions, RoleRevokePermissionOptions, SortOrder, SortTarget, UserAddOptions,
};
use tonic::Code;

use super::{eventually::eventually, runtime::wait_within};

/// Time limit for one call, with an etcd that is up, on a machine under load.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// A key under an election's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CandidateKey {
    pub(crate) key: String,
    /// Its proclaimed value; bytes that are not UTF-8 become U+FFFD.
    pub(crate) value: String,
    /// 0 if the key has none.
    pub(crate) lease: i64,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
}

/// A member's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberStatus {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// The member that this one takes for etcd's leader, if any.
    pub(crate) leader_id: Option<u64>,
    pub(crate) raft_term: u64,
    pub(crate) revision: i64,
    pub(crate) version: String,
}

#[derive(Clone)]
pub(crate) struct Admin {
    client: Client,
}

impl Admin {
    /// Connects to one endpoint, `http(s)://HOST:PORT`.
    #[track_caller]
    pub(crate) fn connect(url: &str, options: ConnectOptions) -> Self {
        Self::try_connect(url, options)
            .unwrap_or_else(|error| panic!("failed to connect to etcd at {url}: {error}"))
    }

    /// As [`connect`](Self::connect), for a test that expects a refusal. Without a user this succeeds at
    /// once, since nothing is sent yet.
    pub(crate) fn try_connect(url: &str, options: ConnectOptions) -> Result<Self, Error> {
        let url = url.to_owned();
        // Renews an expired token.
        let options = options.with_auto_token_refresh(true).with_timeout(CALL_DEADLINE);
        let connect = async move { Client::connect([url], Some(options)).await };
        let client =
            wait_within(CALL_DEADLINE, connect).expect("etcd takes a connection within the deadline")?;
        Ok(Self { client })
    }

    /// A client for calls that this type lacks, for any runtime.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Puts a value; returns the revision.
    #[track_caller]
    pub(crate) fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> i64 {
        self.put_leased(key, value, 0)
    }

    /// Puts a value that ends with `lease`; returns the revision.
    #[track_caller]
    pub(crate) fn put_leased(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: i64) -> i64 {
        let (mut client, key, value) = (self.client(), key.into(), value.into());
        let options = PutOptions::new().with_lease(lease);
        let answer = call("put", async move { client.put(key, value, Some(options)).await });
        answer.header().map_or(0, |header| header.revision())
    }

    #[track_caller]
    pub(crate) fn get(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        let key = key.into();
        let answer = self.read("get", |mut client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        });
        answer.kvs().first().cloned()
    }

    /// Deletes one key; returns whether it existed.
    #[track_caller]
    pub(crate) fn delete(&self, key: impl Into<Vec<u8>>) -> bool {
        let (mut client, key) = (self.client(), key.into());
        call("delete", async move { client.delete(key, None).await }).deleted() > 0
    }

    /// Deletes all keys that start with `prefix`; returns how many.
    #[track_caller]
    pub(crate) fn delete_prefix(&self, prefix: impl Into<Vec<u8>>) -> i64 {
        let (mut client, prefix) = (self.client(), prefix.into());
        let options = DeleteOptions::new().with_prefix();
        call("delete", async move { client.delete(prefix, Some(options)).await }).deleted()
    }

    /// Grants a lease; returns its id and the TTL that etcd granted, in seconds.
    #[track_caller]
    pub(crate) fn grant(&self, ttl_seconds: i64) -> (i64, i64) {
        let mut client = self.client();
        let lease = call("grant a lease", async move { client.lease_grant(ttl_seconds, None).await });
        (lease.id(), lease.ttl())
    }

    #[track_caller]
    pub(crate) fn revoke(&self, lease: i64) {
        let mut client = self.client();
        call("revoke a lease", async move { client.lease_revoke(lease).await });
    }

    /// The ids of all leases, in ascending order.
    #[track_caller]
    pub(crate) fn leases(&self) -> Vec<i64> {
        let answer = self.read("list the leases", |mut client| async move { client.leases().await });
        let mut leases: Vec<_> = answer.leases().iter().map(|lease| lease.id()).collect();
        leases.sort_unstable();
        leases
    }

    /// The store's revision.
    #[track_caller]
    pub(crate) fn revision(&self) -> i64 {
        let answer =
            self.read("read the revision", |mut client| async move { client.get("revision", None).await });
        answer.header().map_or(0, |header| header.revision())
    }

    /// Compacts the history up to and including `revision`, physically.
    #[track_caller]
    pub(crate) fn compact(&self, revision: i64) {
        let mut client = self.client();
        let options = CompactionOptions::new().with_physical();
        call("compact", async move { client.compact(revision, Some(options)).await });
    }

    /// All keys of an election, in the queue's order. The first one leads.
    #[track_caller]
    pub(crate) fn candidates(&self, election: &str) -> Vec<CandidateKey> {
        let prefix = format!("{election}/");
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let answer = self.read("list the candidates", |mut client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.get(prefix, Some(options)).await }
        });
        answer.kvs().iter().map(CandidateKey::from).collect()
    }

    /// The first in the queue.
    #[track_caller]
    pub(crate) fn leader(&self, election: &str) -> Option<CandidateKey> {
        self.candidates(election).into_iter().next()
    }

    /// Waits until at least `count` candidates are in the queue.
    #[track_caller]
    pub(crate) fn wait_for_candidates(
        &self,
        election: &str,
        count: usize,
        within: Duration,
    ) -> Vec<CandidateKey> {
        eventually(within, &format!("{count} candidates in the election {election:?}"), || {
            Some(self.candidates(election)).filter(|candidates| candidates.len() >= count)
        })
    }

    /// Repeats a read-only call while etcd reports that it is unavailable, as it does
    /// for a moment whenever its leader changes.
    #[track_caller]
    fn read<T, F>(&self, what: &str, request: impl Fn(Client) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let answer = eventually(CALL_DEADLINE, &format!("the test's own client to {what}"), || {
            let request = request(self.client());
            let answer = call(what, async move { Ok(request.await) });
            (!is_unavailable(&answer)).then_some(answer)
        });
        answer.unwrap_or_else(|error| panic!("the test's own client failed to {what}: {error}"))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> MemberStatus {
        self.try_status().unwrap_or_else(|error| panic!("failed to read the member's status: {error}"))
    }

    pub(crate) fn try_status(&self) -> Result<MemberStatus, Error> {
        let mut client = self.client();
        let status = async move { client.status().await };
        let status = wait_within(CALL_DEADLINE, status).expect("etcd answers within the deadline")?;
        let header = status.header().expect("etcd sends a header with each answer");
        Ok(MemberStatus {
            cluster_id: header.cluster_id(),
            member_id: header.member_id(),
            leader_id: Some(status.leader()).filter(|&id| id != 0),
            raft_term: status.raft_term(),
            revision: header.revision(),
            version: status.version().to_owned(),
        })
    }

    /// Makes another member etcd's leader. Works only at the present leader's endpoint.
    #[track_caller]
    pub(crate) fn move_leader(&self, to_member_id: u64) {
        let mut client = self.client();
        call("move etcd's leader", async move { client.move_leader(to_member_id).await });
    }

    /// Turns authentication on, with `root` as the only user.
    #[track_caller]
    pub(crate) fn enable_auth(&self, root_password: &str) {
        let (mut client, password) = (self.client(), root_password.to_owned());
        call("enable authentication", async move {
            client.user_add("root", password, None).await?;
            client.role_add("root").await?;
            client.user_grant_role("root", "root").await?;
            client.auth_enable().await
        });
    }

    /// Adds a user who may read and write the keys that start with `prefix`, by a role of the user's name.
    #[track_caller]
    pub(crate) fn add_user(&self, name: &str, password: &str, prefix: &str) {
        let mut client = self.client();
        let (name, password, prefix) = (name.to_owned(), password.to_owned(), prefix.to_owned());
        call("add a user", async move {
            client.user_add(name.clone(), password, None).await?;
            client.role_add(name.clone()).await?;
            let permission = Permission::read_write(prefix).with_prefix();
            client.role_grant_permission(name.clone(), permission).await?;
            client.user_grant_role(name.clone(), name).await
        });
    }

    /// Revokes the permission on `prefix` from a user made by [`add_user`](Self::add_user).
    #[track_caller]
    pub(crate) fn revoke_permission(&self, name: &str, prefix: &str) {
        let (mut client, name, prefix) = (self.client(), name.to_owned(), prefix.to_owned());
        let options = RoleRevokePermissionOptions::new().with_prefix();
        call("revoke a permission", async move {
            client.role_revoke_permission(name, prefix, Some(options)).await
        });
    }

    /// Adds a user that can log in only by a certificate's name.
    #[track_caller]
    pub(crate) fn add_user_without_password(&self, name: &str) {
        let (mut client, name) = (self.client(), name.to_owned());
        let options = UserAddOptions::new().with_no_pwd();
        call("add a user", async move { client.user_add(name, "", Some(options)).await });
    }

    #[track_caller]
    pub(crate) fn change_password(&self, name: &str, password: &str) {
        let (mut client, name, password) = (self.client(), name.to_owned(), password.to_owned());
        call("change a password", async move { client.user_change_password(name, password).await });
    }
}

impl From<&KeyValue> for CandidateKey {
    fn from(kv: &KeyValue) -> Self {
        Self {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: String::from_utf8_lossy(kv.value()).into_owned(),
            lease: kv.lease(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
        }
    }
}

#[track_caller]
fn call<T: Send + 'static>(what: &str, future: impl Future<Output = Result<T, Error>> + Send + 'static) -> T {
    match wait_within(CALL_DEADLINE, future) {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => panic!("the test's own client failed to {what}: {error}"),
        Err(_elapsed) => panic!("the test's own client failed to {what} within {CALL_DEADLINE:?}"),
    }
}

fn is_unavailable<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::GRpcStatus(status)) if status.code() == Code::Unavailable)
}
