//! Runs HTTP/2's tasks for a connection, as long as it exists.

use tokio_util::sync::CancellationToken;

/// Spawns tasks that end with a token.
#[derive(Debug, Clone)]
pub(super) struct BoundExecutor(CancellationToken);

impl BoundExecutor {
    pub(super) fn to(over: &CancellationToken) -> Self {
        Self(over.clone())
    }
}

impl<F> hyper::rt::Executor<F> for BoundExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}
