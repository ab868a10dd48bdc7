//! Phase erase: no data of a former owner leaves this phase.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tracing::{debug, error, info, warn};

use super::Agent;
use super::session::Session;
use crate::api::jws::Kind;
use crate::api::progress::{Note, Progress, Record};
use crate::client::events::Events;
use crate::client::signature::Signer;
use crate::disk::answers::{READ_LIMIT, read_disks_within};
use crate::disk::device::DiskFacts;
use crate::disk::erase::exclude::{self, Excluded};
use crate::disk::erase::release::{Holder, plan_release, release};
use crate::disk::erase::run::reason_to_skip;
use crate::disk::erase::{EraseOptions, EraseProgress, EraseRecord, erase_all, record};
use crate::inventory::readers::Question;
use crate::sys::roots::Roots;

/// For what the last system left running: a mount writes back what it holds, through a disk that may be dying.
const RELEASE_LIMIT: Duration = Duration::from_secs(600);

/// Erases all disks at once, and returns what became of them in one line. An error names every disk that may still
/// hold data.
pub(crate) async fn run(agent: &Agent, session: &Session) -> Result<String> {
    let roots = agent.roots.clone();
    let options = EraseOptions::from_words(agent.cmdline.erase_words());
    let names = agent.cmdline.erase_exclude();
    let mut teller = Teller { events: agent.events.clone(), next: Instant::now() };
    let records = tokio::task::spawn_blocking(move || {
        let (disks, excluded) = free_disks(&roots, &names)?;
        let options = EraseOptions { excluded: excluded.devices, ..options };
        anyhow::Ok(erase_all(&disks, &options, &mut |progress| teller.tell(progress)))
    })
    .await
    .context("erasing the disks")??;
    for (record, json) in record::log(&records) {
        send(&agent.events, session.signer(), record, &json);
    }
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
    Ok(record::sentences(&records))
}

/// Gives the control plane a signed record of a disk. It goes before the event that ends this phase, also when that is
/// a crash.
fn send(events: &Events, signer: &Signer, record: &EraseRecord, json: &str) {
    match signer.sign(Kind::EraseRecord, json) {
        Ok(jws) => {
            // Two thousand characters that no person reads: not for the console of every machine.
            debug!(target: record::LOG_TARGET, jws, "signed erase record of {}", record.device);
            events.record(Record { kind: Kind::EraseRecord, jws });
        }
        Err(error) => error!(disk = %record.device, error = format!("{error:#}"), "erase record can't be signed"),
    }
}

/// All disks and which of them are excluded, after what the last system left running on the others was taken down. What
/// could not be is in their uses, and the eraser then refuses them.
fn free_disks(roots: &Roots, names: &[String]) -> Result<(Vec<DiskFacts>, Excluded)> {
    let disks = read_all(roots)?;
    let excluded = Excluded::find(names, &disks)?;
    for device in &excluded.devices {
        info!("{device} is {}: it is not touched", exclude::REASON);
    }
    for name in &excluded.unknown {
        warn!("drophammer.erase_exclude: no disk of this machine is {name:?}");
    }
    let used = to_release(roots, &disks, &excluded);
    if used.is_empty() {
        return Ok((disks, excluded));
    }
    let what = "taking down what lies on the disks";
    let on = roots.clone();
    for problem in Question::ask(RELEASE_LIMIT, what, move || release(&on, &used)).answer()? {
        warn!("{problem}");
    }
    Ok((read_all(roots)?, excluded))
}

/// One that can't be read may hold anybody's data, and can't be shown to be erased.
fn read_all(roots: &Roots) -> Result<Vec<DiskFacts>> {
    let answers = read_disks_within(roots, READ_LIMIT).context("listing the disks")?;
    if !answers.unread.is_empty() {
        bail!(
            "disks can't be read, so nothing was erased and this machine is not offered: {}",
            answers.unread.join("; ")
        );
    }
    Ok(answers.disks)
}

/// Disks in use that are to be erased; not those that share an array or mapping with an excluded one, as taking it
/// down would write to both.
fn to_release(roots: &Roots, disks: &[DiskFacts], excluded: &Excluded) -> Vec<DiskFacts> {
    let (kept, others): (Vec<&DiskFacts>, Vec<&DiskFacts>) =
        disks.iter().partition(|disk| excluded.contains(&disk.device));
    let holders = |disk: &DiskFacts| plan_release(roots, std::slice::from_ref(disk));
    let used_by_kept: BTreeSet<Holder> = kept.into_iter().flat_map(holders).collect();
    let in_use = others.into_iter().filter(|disk| reason_to_skip(disk).is_none() && !disk.uses.is_empty());
    let is_free = |disk: &&DiskFacts| {
        let shared: Vec<String> =
            holders(disk).iter().filter(|holder| used_by_kept.contains(holder)).map(ToString::to_string).collect();
        if !shared.is_empty() {
            warn!("{} is shared with an excluded disk and stays: {}", disk.device, shared.join(", "));
        }
        shared.is_empty()
    };
    in_use.filter(is_free).cloned().collect()
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_on_an_excluded_disk_and_another_stays() {
        let dir = tempfile::tempdir().unwrap();
        let block = dir.path().join("sys/block");
        for disk in ["sda", "sdb", "sdc", "sdd", "sde", "md0", "md1", "dm-0", "dm-1"] {
            fs::create_dir_all(block.join(disk)).unwrap();
            fs::write(block.join(disk).join("size"), "2048\n").unwrap();
            fs::write(block.join(disk).join("removable"), "0\n").unwrap();
        }
        // A mirror of sda and sdb; sdc alone; a volume group over sda and an array of sdd; sde is free.
        let held = [("sda", "md0"), ("sdb", "md0"), ("sdc", "dm-0"), ("sda", "dm-1"), ("sdd", "md1"), ("md1", "dm-1")];
        for (disk, by) in held {
            fs::create_dir_all(block.join(disk).join("holders").join(by)).unwrap();
        }
        let roots = Roots::under(dir.path());
        let disks = read_all(&roots).unwrap();
        let released = |names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let excluded = Excluded::find(&names, &disks).unwrap();
            to_release(&roots, &disks, &excluded).into_iter().map(|disk| disk.name).collect()
        };
        assert_eq!(released(&[]), ["sda", "sdb", "sdc", "sdd"]);
        assert_eq!(released(&["/dev/sda"]), ["sdc"]);
        assert_eq!(released(&["/dev/sde"]), ["sda", "sdb", "sdc", "sdd"]);
    }

    #[test]
    fn a_disk_that_cannot_be_read_stops_the_phase() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/block/sda")).unwrap();
        fs::write(dir.path().join("sys/block/sda/removable"), "0\n").unwrap();
        let error = read_all(&Roots::under(dir.path())).unwrap_err().to_string();
        assert!(error.contains("nothing was erased") && error.contains("/dev/sda"), "{error}");
    }
}
