//! A thread of the test in the hub, unaffected by faults between hosts.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::runtime::{Builder, Handle};

use super::Testbed;

/// Runs the test's own requests to the processes under test. The thread lasts as long as the test.
#[derive(Clone)]
pub(crate) struct Hub(Handle);

impl Hub {
    pub(crate) fn start(testbed: &Arc<Mutex<Testbed>>, name: &str) -> Self {
        let (started, ready) = mpsc::sync_channel(1);
        let testbed = Arc::clone(testbed);
        let serve = move || {
            testbed.lock().unwrap_or_else(PoisonError::into_inner).enter();
            drop(testbed);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _ = started.send(runtime.handle().clone());
            runtime.block_on(std::future::pending::<()>());
        };
        thread::Builder::new().name(name.into()).spawn(serve).expect("a test can start a thread");
        Self(ready.recv().expect("the thread is ready"))
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) {
        self.0.spawn(future);
    }

    /// Blocks the calling thread until `future` has ended.
    pub(crate) fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = done.send(future.await);
        });
        result.recv().expect("the future panicked; its message is above")
    }
}
