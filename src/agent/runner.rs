//! The runner of the phases: it does the telling, so that the phases need not.
//!
//! Each phase is announced and ended on the console, in the log, and as a note to the control plane, with its duration.
//! What happens when it fails is in the list that calls it (`life.rs`), by the name of the method.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::fault::Fault;
use crate::api::progress::{Note, Phase, PhaseState};
use crate::client::events::Events;
use crate::net::Backoff;

/// Runs phases one after the other.
pub struct Runner {
    /// The agent's first line.
    started: Instant,
    events: Events,
    fault: Option<Fault>,
}

impl Runner {
    pub(super) fn new(started: Instant, events: Events, fault: Option<Fault>) -> Self {
        Self { started, events, fault }
    }

    /// A failure ends the agent's life, with the phase in the error.
    pub async fn or_stop<T>(&self, name: &'static str, task: impl Future<Output = Result<T>>) -> Result<T> {
        let running = self.begin(name);
        match task.await {
            Ok(value) => {
                running.end(PhaseState::Done);
                Ok(value)
            }
            Err(error) => {
                error!(error = format!("{error:#}"), "phase {name}: failed after {}", running.seconds());
                running.end(PhaseState::Failed);
                Err(error).with_context(|| format!("phase {name}"))
            }
        }
    }

    /// A failure is tried again with back-off, for ever, saying so.
    pub async fn or_retry<T>(&self, name: &'static str, mut task: impl AsyncFnMut() -> Result<T>) -> T {
        let running = self.begin(name);
        let mut backoff = Backoff::for_server();
        let mut first_failure: Option<Instant> = None;
        loop {
            let error: Error = match task().await {
                Ok(value) => {
                    running.end(PhaseState::Done);
                    return value;
                }
                Err(error) => error,
            };
            let since = first_failure.get_or_insert_with(Instant::now).elapsed();
            let delay = backoff.next_delay();
            warn!(
                error = format!("{error:#}"),
                "phase {name}: not yet, trying for {} s, again in {} s",
                since.as_secs(),
                delay.as_secs().max(1)
            );
            tokio::time::sleep(delay).await;
        }
    }

    /// A failure is a warning, and the life goes on without.
    pub async fn or_warn<T>(&self, name: &'static str, task: impl Future<Output = Result<T>>) -> Option<T> {
        let running = self.begin(name);
        match task.await {
            Ok(value) => {
                running.end(PhaseState::Done);
                Some(value)
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "phase {name}: going on without");
                running.end(PhaseState::Warned);
                None
            }
        }
    }

    /// Time since the agent's first line.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn begin(&self, name: &'static str) -> Running<'_> {
        info!("phase {name}: start");
        let running = Running { runner: self, name, began: Instant::now() };
        running.note(PhaseState::Running, Duration::ZERO);
        if let Some(fault) = &self.fault {
            fault.strike(name);
        }
        running
    }
}

/// A phase between its start and its end.
struct Running<'a> {
    runner: &'a Runner,
    name: &'static str,
    began: Instant,
}

impl Running<'_> {
    fn end(&self, state: PhaseState) {
        if state == PhaseState::Done {
            info!("phase {}: done, {}", self.name, self.seconds());
        }
        self.note(state, self.began.elapsed());
    }

    fn seconds(&self) -> String {
        format!("{:.1} s", self.began.elapsed().as_secs_f64())
    }

    fn note(&self, state: PhaseState, took: Duration) {
        self.runner.events.note(&Note::Phase(Phase {
            name: self.name.to_owned(),
            state,
            start_ms: millis(self.began.duration_since(self.runner.started)),
            took_ms: millis(took),
        }));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn runner() -> (Runner, Events) {
        let events = Events::default();
        (Runner::new(Instant::now(), events.clone(), None), events)
    }

    fn phases(events: &Events) -> Vec<Phase> {
        let note = |message: String| match Note::parse(&message) {
            Some(Note::Phase(phase)) => phase,
            other => panic!("{other:?}"),
        };
        events.queued().into_iter().map(|(_, message)| note(message)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_is_told_at_its_start_and_end_with_its_duration() {
        let (runner, events) = runner();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let value = runner
            .or_stop("network", async {
                tokio::time::sleep(Duration::from_millis(1200)).await;
                Ok(7)
            })
            .await
            .unwrap();
        assert_eq!(value, 7);
        let phase = |state, took_ms| Phase { name: "network".into(), state, start_ms: 300, took_ms };
        assert_eq!(phases(&events), [phase(PhaseState::Running, 0), phase(PhaseState::Done, 1200)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_names_its_phase_and_keeps_its_cause() {
        let (runner, events) = runner();
        let error = runner.or_stop("erase", async { bail!("vda did not answer") as Result<()> }).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "phase erase: vda did not answer");
        assert_eq!(phases(&events).last().unwrap().state, PhaseState::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_go_on_until_it_works_and_never_fast() {
        let (runner, events) = runner();
        let mut tries = 0;
        let begun = Instant::now();
        runner
            .or_retry("configure", async || {
                tries += 1;
                if tries < 20 { bail!("connection refused") } else { Ok(()) }
            })
            .await;
        assert_eq!(tries, 20);
        // 1 + 2 + 4 + 8 and then 15 s each, at least three quarters of it.
        assert!(begun.elapsed() >= Duration::from_secs(180), "{:?}", begun.elapsed());
        assert_eq!(phases(&events).last().unwrap().state, PhaseState::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn a_best_effort_phase_that_fails_is_left_out() {
        let (runner, events) = runner();
        let nothing = runner.or_warn("clock", async { bail!("no NTP server is configured") as Result<()> }).await;
        assert_eq!(nothing, None);
        assert_eq!(phases(&events).last().unwrap().state, PhaseState::Warned);
    }
}
