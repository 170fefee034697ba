//! Expiry of the certificates that this process uses for TLS, read from their files at each scrape.
//!
//! Files can hang, on a network or a broken disk. Then a scrape gets the previous values, and one thread
//! waits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leader_election::etcd::{Expiry, Tls};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// Time before a scrape is answered without new values. A scraper waits for 3 s or more; the files have a few
/// kilobytes.
const WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct CertificateExpiry {
    /// `None` without TLS.
    tls: Option<Tls>,
    last: Arc<Mutex<Expiry>>,
    /// One reading at a time.
    reading: Arc<Semaphore>,
}

impl CertificateExpiry {
    pub(super) fn of(tls: Option<&Tls>) -> Self {
        Self { tls: tls.cloned(), last: Arc::default(), reading: Arc::new(Semaphore::new(1)) }
    }

    /// Reads them again, within a time limit.
    pub(super) async fn read(&self) {
        let Some(tls) = self.tls.clone() else { return };
        let Ok(alone) = Arc::clone(&self.reading).try_acquire_owned() else { return };
        let last = Arc::clone(&self.last);
        let reading = spawn_blocking(move || {
            let _alone = alone;
            let expiry = tls.expiry();
            *last.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
        });
        // Too late, or not at all: the previous values stay.
        let _ = timeout(WITHIN, reading).await;
    }

    /// Returns the last values read.
    pub(super) fn expiry(&self) -> Expiry {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_hang_hold_up_one_scrape_for_a_moment_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca");
        let pem = rcgen::generate_simple_self_signed(["etcd".to_owned()]).unwrap().cert.pem();
        std::fs::write(&ca, pem).unwrap();
        let certificates = CertificateExpiry::of(Some(&Tls::default().trusting(&ca).unwrap()));
        certificates.read().await;
        let read = certificates.expiry();
        assert!(read.authority.is_some(), "{read:?}");

        // A pipe without a writer.
        std::fs::remove_file(&ca).unwrap();
        nix::unistd::mkfifo(&ca, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..2 {
            timeout(WITHIN * 10, certificates.read()).await.expect("it gives up");
            assert_eq!(certificates.expiry(), read);
        }
        assert_eq!(certificates.reading.available_permits(), 0, "the one that hangs");
        // Ends it, or the runtime would wait for it.
        let _ = std::fs::OpenOptions::new().write(true).open(&ca).unwrap();
    }
}
