//! Several attempts, each with a head start before the next; the first to succeed is taken.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::etcd::error::EtcdError;

/// Head start of an attempt before the next one joins the race.
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// Starts `count` attempts in turn. A failed one is repeated a head start later while another is still
/// running, since that one may take long and fail.
///
/// # Errors
///
/// The error of each attempt, once all have failed, or the time of the last one, `within`, is over.
pub(super) async fn race<T, F>(
    count: usize,
    within: Duration,
    attempt: impl Fn(usize) -> F,
) -> Result<T, BTreeMap<usize, EtcdError>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EtcdError>> + Send + 'static,
{
    let mut racing = JoinSet::new();
    let mut problems = BTreeMap::new();
    let (mut started, mut next_start) = (0, Instant::now());
    let mut deadline = next_start + within;
    loop {
        tokio::select! {
            biased;
            Some(finished) = racing.join_next() => match finished {
                Ok((_, Ok(won))) => return Ok(won),
                Ok((turn, Err(error))) => {
                    problems.insert(turn, error);
                    if problems.len() == count {
                        return Err(problems);
                    }
                    next_start = Instant::now();
                    let again = attempt(turn);
                    racing.spawn(async move {
                        sleep(HEAD_START).await;
                        (turn, again.await)
                    });
                }
                // Aborted, or a panic that was reported where it happened: it never succeeds.
                Err(_panicked_or_aborted) => {}
            },
            () = wait_until(next_start), if started < count => {
                let (turn, attempt) = (started, attempt(started));
                racing.spawn(async move { (turn, attempt.await) });
                started += 1;
                next_start = Instant::now() + HEAD_START;
                deadline = Instant::now() + within;
            }
            () = sleep_until(deadline) => {
                for turn in 0..started {
                    problems.entry(turn).or_insert_with(|| EtcdError::unanswered(within));
                }
                return Err(problems);
            }
        }
    }
}

/// Waits until then; not at all if that is now. Even a timer that is due takes a millisecond.
async fn wait_until(then: Instant) {
    if then > Instant::now() {
        sleep_until(then).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;

    const WITHIN: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn the_next_joins_at_once_where_one_fails_and_after_a_head_start_where_it_is_silent() {
        let start = Instant::now();
        let won = race(3, WITHIN, |turn| async move {
            match turn {
                0 => Err(EtcdError::elsewhere("refused")),
                1 => pending().await,
                _ => Ok(turn),
            }
        });
        assert_eq!(won.await.unwrap(), 2);
        assert_eq!(start.elapsed(), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refused_is_asked_again_while_another_is_silent() {
        let asked = Arc::new(AtomicUsize::new(0));
        let won = race(2, WITHIN, |turn| {
            let asked = Arc::clone(&asked);
            async move {
                match turn {
                    0 => pending().await,
                    _ if asked.fetch_add(1, Ordering::Relaxed) < 3 => Err(EtcdError::elsewhere("refused")),
                    _ => Ok("back"),
                }
            }
        });
        assert_eq!(won.await.unwrap(), "back");
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_fail_are_named_and_silence_ends() {
        let refuse = |turn| async move { Err::<(), _>(EtcdError::elsewhere(format!("{turn}"))) };
        assert_eq!(race(3, WITHIN, refuse).await.unwrap_err().len(), 3);
        let start = Instant::now();
        let silence = race(2, WITHIN, |_| pending::<Result<(), EtcdError>>()).await;
        let silence = silence.unwrap_err().into_values().map(|error| error.to_string());
        assert_eq!(silence.collect::<Vec<_>>(), ["no answer within 3s"; 2]);
        assert_eq!(start.elapsed(), WITHIN + HEAD_START);
    }
}
