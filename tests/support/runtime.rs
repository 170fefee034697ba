//! The Tokio runtime behind the synchronous test support.
//!
//! One for the test process, never dropped: dropping a runtime inside another one panics, and a `Proxy`
//! or an `Admin` may be dropped inside the runtime of an async test.

use std::{
    future::Future,
    sync::{LazyLock, mpsc},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::{error::Elapsed, timeout},
};

/// Two, so that one busy proxy does not hold up the others and the admin client.
const WORKERS: usize = 2;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("test-support")
        .enable_all()
        .build()
        .expect("a runtime starts wherever a test does")
});

pub(crate) fn handle() -> &'static Handle {
    RUNTIME.handle()
}

/// Runs `future` to its end on the support runtime; blocks the calling thread meanwhile.
///
/// Unlike `Runtime::block_on` it may be called from a thread that drives another runtime.
#[track_caller]
pub(crate) fn wait_for<F>(future: F) -> F::Output
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (done, result) = mpsc::sync_channel(1);
    handle().spawn(async move {
        let _ = done.send(future.await);
    });
    result.recv().expect("the future panicked on the support runtime; its message is above")
}

/// As [`wait_for`], but drops `future` once `deadline` has passed.
#[track_caller]
pub(crate) fn wait_within<F>(deadline: Duration, future: F) -> Result<F::Output, Elapsed>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    // Inside, since a timer can be made only on a runtime.
    wait_for(async move { timeout(deadline, future).await })
}
