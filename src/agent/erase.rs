//! Phase erase: no data of a former owner leaves this phase.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tracing::{error, info, warn};

use super::Agent;
use crate::api::progress::{Note, Progress};
use crate::client::events::Events;
use crate::disk::device::{DiskFacts, read_disks};
use crate::disk::erase::release::release;
use crate::disk::erase::run::reason_to_skip;
use crate::disk::erase::{EraseOptions, EraseProgress, erase_all, record};
use crate::sys::roots::Roots;

/// Erases all disks at once. An error names every disk that may still hold data.
pub(crate) async fn run(agent: &Agent) -> Result<()> {
    let roots = agent.roots.clone();
    let options = EraseOptions::from_words(agent.cmdline.erase_words());
    let mut teller = Teller { events: agent.events.clone(), next: Instant::now() };
    let records = tokio::task::spawn_blocking(move || {
        let disks = free_disks(&roots)?;
        anyhow::Ok(erase_all(&disks, &options, &mut |progress| teller.tell(progress)))
    })
    .await
    .context("erasing the disks")??;
    record::log(&records);
    let mut failures = Vec::new();
    for record in &records {
        if record.is_failure() {
            error!("{record}");
            failures.push(record.to_string());
        } else {
            info!("{record}");
        }
    }
    if !failures.is_empty() {
        bail!("disks may still hold data, so this machine is not offered: {}", failures.join("; "));
    }
    Ok(())
}

/// All disks, after what the last system left running on them was taken down. What could not be is in their uses, and
/// the eraser then refuses them.
fn free_disks(roots: &Roots) -> Result<Vec<DiskFacts>> {
    let disks = read_disks(roots).context("listing the disks")?;
    let used: Vec<DiskFacts> =
        disks.iter().filter(|disk| reason_to_skip(disk).is_none() && !disk.uses.is_empty()).cloned().collect();
    if used.is_empty() {
        return Ok(disks);
    }
    for problem in release(roots, &used) {
        warn!("{problem}");
    }
    read_disks(roots).context("listing the disks")
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
        let what = if progress.verifying { "read back" } else { "erased" };
        info!("{} by {}: {} of {} {what}", progress.device, progress.method, progress.done, progress.total);
        if progress.verifying {
            return;
        }
        self.events.note(&Note::Progress(Progress {
            step: format!("erase-{}", progress.device.trim_start_matches("/dev/")),
            done: progress.done.0,
            total: Some(progress.total.0),
            rate: 0,
            left_s: None,
        }));
    }
}
