//! Who waits for an allocation right now: the open `Wait` calls, one a machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// What a waiting call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The machine's record changed: look again.
    Look,
    /// A newer call of the same machine took over.
    Replaced,
    /// The server stops.
    ShuttingDown,
}

/// The open calls. A cheap handle over a mutex that is never held across an `.await`.
#[derive(Clone, Default)]
pub struct Waiters {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next_ticket: u64,
    closed: bool,
    calls: HashMap<String, (u64, mpsc::UnboundedSender<Signal>)>,
}

/// One open call; leaving the registry is explicit, by [`Waiters::leave`].
pub struct Call {
    machine: String,
    ticket: u64,
    signals: mpsc::UnboundedReceiver<Signal>,
}

impl Call {
    /// The next signal; the registry keeps the other end as long as the call is the newest.
    pub async fn signal(&mut self) -> Signal {
        self.signals.recv().await.unwrap_or(Signal::Replaced)
    }
}

impl Waiters {
    /// Enters a call. An older one of the same machine is told that it was replaced.
    pub fn enter(&self, machine: &str) -> Call {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, signals) = mpsc::unbounded_channel();
        if inner.closed {
            // Unbounded and its receiver is alive: can't fail.
            let _ = sender.send(Signal::ShuttingDown);
        }
        inner.next_ticket += 1;
        let ticket = inner.next_ticket;
        if let Some((_, older)) = inner.calls.insert(machine.to_owned(), (ticket, sender)) {
            let _ = older.send(Signal::Replaced);
        }
        Call { machine: machine.to_owned(), ticket, signals }
    }

    /// Whether the call is still the newest of its machine.
    pub fn is_current(&self, call: &Call) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.calls.get(&call.machine).is_some_and(|(ticket, _)| *ticket == call.ticket)
    }

    /// Takes a call out; a newer one of the same machine stays.
    pub fn leave(&self, call: &Call) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.calls.get(&call.machine).is_some_and(|(ticket, _)| *ticket == call.ticket) {
            inner.calls.remove(&call.machine);
        }
    }

    /// Tells the machine's call, if there is one, to look again.
    pub fn wake(&self, machine: &str) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, call)) = inner.calls.get(machine) {
            let _ = call.send(Signal::Look);
        }
    }

    /// Ends every call, also those that come later.
    pub fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        for (_, call) in inner.calls.values() {
            let _ = call.send(Signal::ShuttingDown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_call_replaces_an_older_one() {
        let waiters = Waiters::default();
        let mut older = waiters.enter("m");
        let mut newer = waiters.enter("m");
        assert_eq!(older.signal().await, Signal::Replaced);
        assert!(!waiters.is_current(&older) && waiters.is_current(&newer));
        waiters.leave(&older);
        waiters.wake("m");
        assert_eq!(newer.signal().await, Signal::Look);
    }

    #[tokio::test]
    async fn closing_ends_calls_now_and_later() {
        let waiters = Waiters::default();
        let mut before = waiters.enter("a");
        waiters.close();
        let mut after = waiters.enter("b");
        assert_eq!((before.signal().await, after.signal().await), (Signal::ShuttingDown, Signal::ShuttingDown));
    }
}
