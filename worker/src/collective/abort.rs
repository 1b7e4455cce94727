//! The handle by which another thread ends every wait of one generation. Knows neither sockets nor threads, only whom to
//! wake; whoever is woken closes what it owns.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Ends a generation's exchange from another thread, before, during or after `connect`. Clones are one handle.
#[derive(Clone, Default)]
pub struct Abort {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    reason: OnceLock<String>,
    /// At most two for each exchange: the thread that connects, then the engine.
    wakers: Mutex<Vec<Waker>>,
}

type Waker = Box<dyn Fn() + Send>;

impl Abort {
    pub fn new() -> Abort {
        Abort::default()
    }

    /// Every wait of the generation returns `Aborted` with this reason; a second reason is ignored.
    pub fn abort(&self, reason: &str) {
        if self.shared.reason.set(reason.to_owned()).is_ok() {
            let wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            wakers.iter().for_each(|wake| wake());
        }
    }

    pub fn is_aborted(&self) -> bool {
        self.reason().is_some()
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.shared.reason.get().map(String::as_str)
    }

    /// Calls `wake` on abort, at once when that has happened. It must not block.
    pub(super) fn on_abort(&self, wake: impl Fn() + Send + 'static) {
        let mut wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: an abort from now on finds the waker, an earlier one is seen here.
        if self.is_aborted() {
            wake();
        }
        wakers.push(Box::new(wake));
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Abort").field("reason", &self.reason()).finish()
    }
}
