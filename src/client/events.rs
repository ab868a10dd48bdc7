//! Provisioning events, sent in order by a task of their own.
//!
//! Events that make the server's state are sent until the server took them, since a lost one puts all that follow out
//! of order. `Alive` events, and the notes that travel in them, are dropped when the server is away; but records, which
//! travel in them too, are sent until they arrive.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::{debug, error, warn};

use super::boot::{describe, is_transient};
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::event_service_client::EventServiceClient;
use crate::api::grpc::{EventServiceSendRequest, MachineProvisioningEvent};
use crate::api::progress::{Note, RECORD_LIMIT, Record};
use crate::net::Backoff;
use crate::redact::redacted;

const DEADLINE: Duration = Duration::from_secs(10);
const ALIVE_EVERY: Duration = Duration::from_secs(60);
/// Notes waiting for a server. The oldest is dropped beyond.
const NOTE_LIMIT: usize = 64;
/// Tries for a record that the server answers with an error: about two minutes. Those that follow wait for it meanwhile.
const RECORD_REFUSALS: u32 = 10;

/// Hands events to the sending task. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    /// The task has taken an event out and not yet sent it.
    sending: bool,
    /// Where to, and for whom; absent until the configuration is there.
    target: Option<(Channel, String)>,
}

#[derive(Clone, Debug)]
struct Pending {
    /// By the clock that nobody sets: the events before the clock was set get the right time all the same.
    at: Instant,
    event: ProvisioningEvent,
    message: String,
    care: Care,
}

/// What happens to an event that the server did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// A newer one will say the same.
    Drop,
    /// Sent again until the server took it.
    Keep,
    /// As `Keep`; given up, loudly, only when the server refuses it again and again.
    Record,
}

impl Pending {
    fn now(event: ProvisioningEvent, message: &str) -> Self {
        Self { at: Instant::now(), event, message: redacted(message).into_owned(), care: Care::of(event) }
    }
}

impl Care {
    fn of(event: ProvisioningEvent) -> Self {
        if event == ProvisioningEvent::Alive { Self::Drop } else { Self::Keep }
    }
}

impl Events {
    /// Queues one event.
    pub fn send(&self, event: ProvisioningEvent, message: impl Into<String>) {
        let pending = Pending::now(event, &message.into());
        let mut queue = self.lock();
        if pending.care == Care::Drop {
            let notes = queue.waiting.iter().filter(|p| p.care == Care::Drop).count();
            if notes >= NOTE_LIMIT
                && let Some(oldest) = queue.waiting.iter().position(|p| p.care == Care::Drop)
            {
                queue.waiting.remove(oldest);
            }
        }
        queue.waiting.push_back(pending);
        drop(queue);
        self.shared.changed.notify_waiters();
    }

    /// Queues `event` before all that wait already: `Preparing` has to be the first that the server sees.
    pub fn send_first(&self, event: ProvisioningEvent, message: impl Into<String>) {
        let pending = Pending::now(event, &message.into());
        self.lock().waiting.push_front(pending);
        self.shared.changed.notify_waiters();
    }

    /// Queues what goes beyond metal-stack's events.
    pub fn note(&self, note: &Note) {
        self.send(ProvisioningEvent::Alive, note.to_string());
    }

    /// Queues what goes beyond metal-stack's events and is said only once: it is sent until the server took it.
    pub fn tell(&self, note: &Note) {
        let (event, message) = (ProvisioningEvent::Alive, note.to_string());
        self.lock().waiting.push_back(Pending { at: Instant::now(), event, message, care: Care::Keep });
        self.shared.changed.notify_waiters();
    }

    /// Queues what the server is to keep. It is sent until it arrives.
    pub fn record(&self, record: Record) {
        if record.jws.len() > RECORD_LIMIT {
            return error!(bytes = record.jws.len(), "a {:?} is too long for the control plane", record.kind);
        }
        let message = Note::Record(record).to_string();
        let pending = Pending { at: Instant::now(), event: ProvisioningEvent::Alive, message, care: Care::Record };
        self.lock().waiting.push_back(pending);
        self.shared.changed.notify_waiters();
    }

    /// From now on events go over `channel`, also those that an older channel could not deliver.
    pub fn connect(&self, channel: Channel, machine_id: &str) {
        self.lock().target = Some((channel, machine_id.to_owned()));
        self.shared.changed.notify_waiters();
    }

    /// Sends for ever what is queued, and `Alive` every minute.
    pub async fn run(self) {
        let mut next_alive = Instant::now() + ALIVE_EVERY;
        loop {
            let changed = self.shared.changed.notified();
            let next = self.take();
            match next {
                Some(pending) => {
                    self.deliver(pending).await;
                    self.lock().sending = false;
                    self.shared.changed.notify_waiters();
                }
                None => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(next_alive) => {
                        next_alive = Instant::now() + ALIVE_EVERY;
                        self.send(ProvisioningEvent::Alive, "");
                    }
                },
            }
        }
    }

    /// Nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.waiting.is_empty() && !queue.sending
    }

    /// Waits until everything is sent; `false` when that took longer than `limit`, or when there is no server.
    pub async fn flush(&self, limit: Duration) -> bool {
        let empty = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.is_idle() {
                    return;
                }
                changed.await;
            }
        };
        self.lock().target.is_some() && tokio::time::timeout(limit, empty).await.is_ok()
    }

    fn take(&self) -> Option<Pending> {
        let mut queue = self.lock();
        queue.target.as_ref()?;
        let next = queue.waiting.pop_front();
        queue.sending = next.is_some();
        next
    }

    async fn deliver(&self, pending: Pending) {
        let mut backoff = Backoff::for_server();
        let mut refusals = 0;
        loop {
            // Asked for at each try: the channel is replaced when the configuration is.
            let Some((channel, machine_id)) = self.lock().target.clone() else { return };
            match send_once(channel, &machine_id, &pending).await {
                Ok(()) => return debug!(event = %pending.event, "event sent"),
                Err(failure) if pending.care == Care::Drop => {
                    return debug!(error = failure.reason, "dropped an {} event", pending.event);
                }
                Err(failure) => {
                    refusals += u32::from(!failure.is_transient);
                    if pending.care == Care::Record && refusals == RECORD_REFUSALS {
                        let (error, record) = (failure.reason, pending.message);
                        return error!(error, record, "the control plane does not take a record, it is only here");
                    }
                    let delay = backoff.next_delay();
                    let what = if pending.care == Care::Record { "a record" } else { pending.event.as_str() };
                    warn!(error = failure.reason, "sending event {what} failed; again in {} s", delay.as_secs());
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// The queue is consistent after every statement, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the server did not take an event.
struct Failure {
    reason: String,
    /// It was not reached; else it answered with an error.
    is_transient: bool,
}

async fn send_once(channel: Channel, machine_id: &str, pending: &Pending) -> Result<(), Failure> {
    let mut client = EventServiceClient::new(channel);
    let event = MachineProvisioningEvent {
        time: Some((SystemTime::now() - pending.at.elapsed()).into()),
        event: pending.event.as_str().to_owned(),
        message: pending.message.clone(),
    };
    let mut request =
        tonic::Request::new(EventServiceSendRequest { events: [(machine_id.to_owned(), event)].into_iter().collect() });
    request.set_timeout(DEADLINE);
    // tonic's time-out is the server's to keep; ours holds when nothing answers.
    match tokio::time::timeout(DEADLINE, client.send(request)).await {
        Err(_) => Err(Failure { reason: format!("no answer within {} s", DEADLINE.as_secs()), is_transient: true }),
        Ok(Err(status)) => Err(Failure { reason: describe(&status), is_transient: is_transient(&status) }),
        // The server knows the machine but not the event: sending it again changes nothing.
        Ok(Ok(answer)) => {
            if !answer.get_ref().failed.is_empty() {
                warn!(event = %pending.event, "the API does not know this event");
            }
            Ok(())
        }
    }
}

#[cfg(test)]
impl Events {
    /// What waits to be sent, oldest first.
    pub fn queued(&self) -> Vec<(ProvisioningEvent, String)> {
        self.lock().waiting.iter().map(|pending| (pending.event, pending.message.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::jws::Kind;

    #[test]
    fn notes_never_push_out_an_event_of_the_state() {
        let events = Events::default();
        events.send(ProvisioningEvent::Registering, "");
        for _ in 0..(2 * NOTE_LIMIT) {
            events.send(ProvisioningEvent::Alive, "phase");
        }
        events.send_first(ProvisioningEvent::Preparing, "");
        let queued = events.queued();
        assert_eq!(queued.len(), NOTE_LIMIT + 2);
        assert_eq!(queued[0].0, ProvisioningEvent::Preparing);
        assert_eq!(queued[1].0, ProvisioningEvent::Registering);
    }

    #[test]
    fn notes_never_push_out_a_record() {
        let events = Events::default();
        let record = Record { kind: Kind::EraseRecord, jws: "a.b.c".into() };
        events.record(record.clone());
        for _ in 0..(2 * NOTE_LIMIT) {
            events.send(ProvisioningEvent::Alive, "phase");
        }
        let queued = events.queued();
        assert_eq!(queued.len(), NOTE_LIMIT + 1);
        assert_eq!(Note::parse(&queued[0].1), Some(Note::Record(record)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_server_nothing_is_taken_out_of_the_queue() {
        let events = Events::default();
        events.send(ProvisioningEvent::Crashed, "reason");
        assert!(!events.flush(Duration::from_secs(5)).await);
        assert_eq!(events.queued().len(), 1);
    }
}
