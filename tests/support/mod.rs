//! The real world, for integration tests to break: etcd servers, the `elect` binary, `etcdctl`, and a
//! network that fails.
//!
//! Everything here is synchronous, so that a plain `#[test]` can use it; it may be called from an async test
//! as well, where it blocks the calling thread. Each process that a test starts ends with it, passed or failed:
//! it is killed and reaped when its handle is dropped, and the kernel kills it should the test process
//! itself be killed.
//!
//! All traffic stays on 127.0.0.1. All times are [`clock::BootTime`].

#![allow(dead_code, reason = "each file in tests/ compiles this module and uses its own part of it")]

pub(crate) mod capture;
pub(crate) mod cgroup;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod delay;
pub(crate) mod elect;
pub(crate) mod election;
pub(crate) mod etcd;
pub(crate) mod etcdctl;
pub(crate) mod eventually;
pub(crate) mod http;
pub(crate) mod islands;
pub(crate) mod member;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod peers;
pub(crate) mod pki;
pub(crate) mod port;
pub(crate) mod privilege;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod slow_disk;
pub(crate) mod tool;
pub(crate) mod volume;
pub(crate) mod worker;

/// Runs each test body against both versions of etcd, as `name::etcd_3_7` and `name::etcd_3_4`. A body may be
/// async; then it has a multi-threaded runtime of its own. Attributes such as `#[ignore]` go to both tests.
///
/// ```ignore
/// on_each_etcd! {
///     fn the_key_deleted_by_another_ends_leadership(version: EtcdVersion) { … }
///
///     async fn lost_resolves_at_the_deadline(version: EtcdVersion) { … }
/// }
/// ```
#[allow(unused_macros, reason = "each file in tests/ compiles this module and uses its own part of it")]
macro_rules! on_each_etcd {
    () => {};
    ($(#[$attribute:meta])* fn $name:ident($version:ident: EtcdVersion) $body:block $($more:tt)*) => {
        mod $name {
            #[allow(unused_imports, reason = "a body may need nothing from outside")]
            use super::*;

            fn body($version: EtcdVersion) $body

            $(#[$attribute])*
            #[test]
            fn etcd_3_7() {
                body($crate::support::etcd::EtcdVersion::V3_7);
            }

            $(#[$attribute])*
            #[test]
            fn etcd_3_4() {
                body($crate::support::etcd::EtcdVersion::V3_4);
            }
        }

        $crate::support::on_each_etcd! { $($more)* }
    };
    ($(#[$attribute:meta])* async fn $name:ident($version:ident: EtcdVersion) $body:block $($more:tt)*) => {
        $crate::support::on_each_etcd! {
            $(#[$attribute])*
            fn $name($version: EtcdVersion) {
                let runtime = tokio::runtime::Runtime::new().expect("a test can start threads");
                runtime.block_on(async move $body);
            }
            $($more)*
        }
    };
}
#[allow(unused_imports, reason = "each file in tests/ compiles this module and uses its own part of it")]
pub(crate) use on_each_etcd;
