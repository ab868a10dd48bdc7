//! Phase erase: no data of a former owner leaves this phase.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tracing::{error, info};

use super::Agent;
use crate::api::progress::{Note, Progress};
use crate::client::events::Events;
use crate::disk::device::read_disks;
use crate::disk::erase::{EraseOptions, EraseProgress, erase_all};

/// Erases all disks at once. An error names every disk that may still hold data.
pub(crate) async fn run(agent: &Agent) -> Result<()> {
    let roots = agent.roots.clone();
    let mut teller = Teller { events: agent.events.clone(), next: Instant::now() };
    let outcomes = tokio::task::spawn_blocking(move || {
        let disks = read_disks(&roots).context("listing the disks")?;
        anyhow::Ok(erase_all(&disks, &EraseOptions::default(), &mut |progress| teller.tell(progress)))
    })
    .await
    .context("erasing the disks")??;
    let mut failures = Vec::new();
    for outcome in &outcomes {
        if outcome.is_failure() {
            error!("{outcome}");
            failures.push(outcome.to_string());
        } else {
            info!("{outcome}");
        }
    }
    if !failures.is_empty() {
        bail!("disks may still hold data, so this machine is not offered: {}", failures.join("; "));
    }
    Ok(())
}

/// Tells how far the disks are, every few seconds.
struct Teller {
    events: Events,
    next: Instant,
}

const TELL_EVERY: Duration = Duration::from_secs(10);

impl Teller {
    fn tell(&mut self, progress: &EraseProgress) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + TELL_EVERY;
        info!("{} by {}: {} of {}", progress.device, progress.method, progress.done, progress.total);
        self.events.note(&Note::Progress(Progress {
            step: format!("erase-{}", progress.device.trim_start_matches("/dev/")),
            done: progress.done.0,
            total: Some(progress.total.0),
            rate: 0,
            left_s: None,
        }));
    }
}
