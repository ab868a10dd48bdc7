//! How a failed life is reported and ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Error;
use tokio::time::Instant;
use tracing::{Level, error};

use super::Agent;
use crate::api::event::ProvisioningEvent;
use crate::client::events::Events;
use crate::client::log_queue::{Line, LogQueue};
use crate::init::console;
use crate::init::exit::{self, Ending};

/// From the agent's first line to a reboot after a failure, at least: what fails at once must not become a fast loop.
const SHORTEST_LIFE: Duration = Duration::from_secs(30);
/// For a person at the console to read the reason.
const COUNT_DOWN: Duration = Duration::from_secs(10);
/// For the event to reach the control plane.
const REPORT_LIMIT: Duration = Duration::from_secs(30);

/// Reports the failure to the control plane, waits as long as it takes to be no fast loop, and reboots.
pub(crate) async fn end(agent: &Agent, failure: &Error) -> (Ending, String) {
    let reason = format!("{failure:#}");
    error!(error = reason, "the agent failed");
    agent.events.send(ProvisioningEvent::Crashed, reason.clone());
    if !agent.events.flush(REPORT_LIMIT).await {
        error!("the failure could not be reported to the control plane");
    }
    let wait = SHORTEST_LIFE.saturating_sub(agent.runner.age()).max(COUNT_DOWN);
    error!(error = reason, "rebooting in {} s to start over", wait.as_secs());
    tokio::time::sleep(wait).await;
    (Ending::Reboot, reason)
}

/// Says the reason every 10 s until the time is over.
pub(crate) fn count_down(reason: &str, time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        console::say(&format!("{reason}; rebooting in {} s", left.as_secs()));
        let step = left.min(Duration::from_secs(10));
        thread::sleep(step);
        left -= step;
    }
}

/// Makes every panic end through the exit door, after it was told on the console and to the control plane.
///
/// The thread that panicked is parked for ever inside the hook, as unwinding (or aborting) PID 1 is a kernel panic.
/// A thread of its own does the rest while the runtime's other threads still send.
pub(crate) fn report_panics(events: Events, log: LogQueue) {
    static FIRST: AtomicBool = AtomicBool::new(true);
    std::panic::set_hook(Box::new(move |panic| {
        if FIRST.swap(false, Ordering::SeqCst) {
            let reason = format!("the agent panicked, which is a defect of drophammer: {panic}").replace('\n', " ");
            let (events, log) = (events.clone(), log.clone());
            thread::spawn(move || report_and_leave(&events, &log, &reason));
        }
        loop {
            thread::park();
        }
    }));
}

fn report_and_leave(events: &Events, log: &LogQueue, reason: &str) -> ! {
    console::say(reason);
    log.push(Line { at: Instant::now(), level: Level::ERROR, message: reason.to_owned(), fields: Vec::new() });
    events.send(ProvisioningEvent::Crashed, reason);
    let mut left = REPORT_LIMIT;
    let is_told = || events.is_idle() && log.is_idle();
    while !is_told() && !left.is_zero() {
        thread::sleep(Duration::from_millis(100));
        left = left.saturating_sub(Duration::from_millis(100));
    }
    count_down(reason, SHORTEST_LIFE);
    exit::leave(Ending::Reboot, reason)
}
