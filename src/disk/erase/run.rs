//! All disks at once: a thread for each, or for those that share a controller, and one that listens.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::method::Method;
use super::nvme::Siblings;
use super::one::{Places, Prepared, erase_device, prepare};
use super::quick::signature_ranges;
use super::record::{EraseRecord, EraseResult};
use super::watch::{Activity, Cancelled, Step, Watch};
use super::{EraseOptions, exclude};
use crate::disk::block::{BlockDevice, OpenDisk};
use crate::disk::device::{DiskFacts, DiskKind};
use crate::disk::partition::forget_partitions;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// For a disk that erases itself and tells no progress meanwhile. Some know only the beginning and the end.
const BY_ITSELF_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// After a request to stop: for disks that are within a step of seconds.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How far one disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraseProgress {
    pub device: String,
    pub method: Method,
    /// Bytes of `total`, by this method: written, told by the device, or estimated from the time it said to need.
    pub done: Bytes,
    pub total: Bytes,
    /// Whether `done` counts what was read back. That is a part of `total` only.
    pub verifying: bool,
}

/// Erases every fixed disk that is not excluded. One record per entry of `disks`, in its order. Blocks until the last
/// disk is done.
pub fn erase_all(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
) -> Vec<EraseRecord> {
    let excluded = |disk: &DiskFacts| options.excluded.contains(&disk.device).then(|| exclude::REASON.to_owned());
    erase_where(disks, options, progress, |disk| excluded(disk).or_else(|| reason_to_skip(disk)))
}

/// As [`erase_all`], for disks that a person named: of any kind. Those in use are still refused.
pub fn erase_named(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
) -> Vec<EraseRecord> {
    erase_where(disks, options, progress, |_| None)
}

/// Devices that are not storage of the machine. A fixed disk that is in use or write-protected is none of these: it
/// may hold data, so it fails.
pub fn reason_to_skip(disk: &DiskFacts) -> Option<String> {
    let what = match disk.kind {
        DiskKind::Fixed if disk.size.0 == 0 => "no medium",
        DiskKind::Fixed => return None,
        DiskKind::Removable => "removable medium",
        DiskKind::Optical => "optical drive",
        DiskKind::Floppy => "floppy drive",
        DiskKind::Loop => "loop device",
        DiskKind::Ram | DiskKind::Zram => "memory",
        DiskKind::DeviceMapper => "device mapper, made of other disks",
        DiskKind::Md => "RAID array, made of other disks",
        DiskKind::Virtual => "in software only",
        DiskKind::SpecialArea => "special area of the firmware",
    };
    Some(what.to_owned())
}

fn reason_to_fail(disk: &DiskFacts) -> Option<String> {
    if disk.read_only {
        return Some("write-protected".to_owned());
    }
    if disk.uses.is_empty() {
        return None;
    }
    let uses: Vec<String> = disk.uses.iter().map(ToString::to_string).collect();
    Some(format!("in use: {}", uses.join(", ")))
}

/// What a thread tells of one disk.
enum News {
    Progress(Step),
    End(Box<EraseRecord>),
}

fn erase_where(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
    skip: impl Fn(&DiskFacts) -> Option<String>,
) -> Vec<EraseRecord> {
    let begin = |disk: &DiskFacts| EraseRecord::begin(disk, options.level);
    let began = OffsetDateTime::now_utc();
    let (sender, receiver) = channel();
    let mut records: Vec<Option<EraseRecord>> = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let early = skip(disk).map(|reason| EraseResult::Skipped { reason });
        let early = early.or_else(|| reason_to_fail(disk).map(|reason| EraseResult::Failed { reason }));
        if early.is_none() {
            join_group(&mut groups, index, disk, options.stall_limit);
        }
        records.push(early.map(|result| begin(disk).end(result)));
    }
    for group in &groups {
        let members: Vec<(usize, DiskFacts)> =
            group.members.iter().filter_map(|index| Some((*index, disks.get(*index)?.clone()))).collect();
        if let Err(error) = start(members, options.clone(), sender.clone()) {
            for index in &group.members {
                let reason = format!("starting its thread: {error}");
                records[*index] = Some(begin(&disks[*index]).end(EraseResult::Failed { reason }));
            }
        }
    }
    drop(sender);
    Listener { disks, options, groups, records: &mut records, began, stopping: None }.listen(&receiver, progress);
    disks.iter().zip(records).map(|(disk, record)| record.unwrap_or_else(|| begin(disk))).collect()
}

/// Disks that one thread erases, one after the other, since one command can reach all of them.
struct Group {
    /// Name of the NVMe controller; of the disk, where it has one for itself.
    name: String,
    members: Vec<usize>,
    /// Last sign of life, and how long the next one may take.
    heard: Instant,
    limit: Duration,
    /// What it is busy with.
    busy: Option<(usize, Step)>,
}

fn join_group(groups: &mut Vec<Group>, index: usize, disk: &DiskFacts, limit: Duration) {
    let name = controller_name(&disk.name);
    match groups.iter_mut().find(|group| group.name == name) {
        Some(group) => group.members.push(index),
        None => {
            groups.push(Group { name: name.to_owned(), members: vec![index], heard: Instant::now(), limit, busy: None })
        }
    }
}

/// `nvme0` of `nvme0n2`; any other disk has its own.
fn controller_name(name: &str) -> &str {
    let split = name.strip_prefix("nvme").and_then(|rest| rest.find('n'));
    split.and_then(|at| name.get(.."nvme".len() + at)).unwrap_or(name)
}

/// A thread that is not joined: one that hangs in the kernel can't be ended, only left behind.
fn start(
    members: Vec<(usize, DiskFacts)>,
    options: EraseOptions,
    sender: Sender<(usize, News)>,
) -> std::io::Result<()> {
    let name = members.first().map(|(_, disk)| format!("erase {}", disk.name)).unwrap_or_default();
    let work = move || erase_group(&members, &options, &sender);
    std::thread::Builder::new().name(name).spawn(work).map(|_| ())
}

/// A disk of a group, opened and looked at.
struct Opened<'a> {
    index: usize,
    disk: &'a DiskFacts,
    device: OpenDisk,
    record: EraseRecord,
    places: Places,
}

fn erase_group(members: &[(usize, DiskFacts)], options: &EraseOptions, sender: &Sender<(usize, News)>) {
    // Who listens may have given up on us; then nobody does.
    let end = |index: usize, record: EraseRecord| {
        let _ = sender.send((index, News::End(Box::new(record))));
    };
    let mut opened = Vec::new();
    for (index, disk) in members {
        let record = EraseRecord::begin(disk, options.level);
        match open(disk) {
            Ok(device) => {
                opened.push(Opened { index: *index, disk, device, record, places: places_of(disk) });
            }
            Err(reason) => end(*index, record.end(EraseResult::Failed { reason })),
        }
    }
    let namespaces = opened.iter().filter_map(|disk| disk.device.nvme()?.namespace_id().ok()).collect();
    let siblings = Siblings::of(namespaces);
    let report = |index: usize| {
        move |step: Step| {
            let _ = sender.send((index, News::Progress(step)));
        }
    };
    // All are looked at before the first is erased, since that may erase them all.
    let prepared: Vec<Prepared> = opened
        .iter()
        .map(|Opened { index, disk, device, places, .. }| {
            let report = report(*index);
            prepare(device, &disk.name, places, options, &Watch::new(&report, &options.cancel, options.poll))
        })
        .collect();
    for (opened, prepared) in opened.into_iter().zip(prepared) {
        let Opened { index, disk, device, mut record, places } = opened;
        let report = report(index);
        let watch = Watch::new(&report, &options.cancel, options.poll);
        let (attempts, result) = erase_device(&device, &prepared, &siblings, &places, options, &watch);
        if matches!(result, EraseResult::Erased(_)) {
            // The kernel would go on with partitions of a table that is gone.
            if let Err(error) = forget_partitions(&Roots::system(), &disk.device, device.as_file()) {
                tracing::warn!(disk = %disk.device, error = format!("{error:#}"), "old partitions are still known");
            }
        }
        for attempt in &attempts {
            if let Some(reason) = &attempt.refusal {
                tracing::warn!(disk = %disk.device, %reason, "{} did not work", attempt.method);
            }
        }
        (record.attempts, record.notes) = (attempts, prepared.notes);
        end(index, record.end(result));
    }
}

fn open(disk: &DiskFacts) -> Result<OpenDisk, String> {
    let device =
        OpenDisk::claim(Path::new(&disk.device)).map_err(|error| format!("opening it for itself alone: {error}"))?;
    if device.size_bytes() != disk.size.0 {
        return Err(format!("it has {} bytes and had {} when it was looked at", device.size_bytes(), disk.size.0));
    }
    Ok(device)
}

fn places_of(disk: &DiskFacts) -> Places {
    let known = disk.old_ranges().iter().flat_map(|old| [old.start, old.end.saturating_sub(1)]).collect();
    Places { known, signatures: signature_ranges(disk) }
}

struct Listener<'a> {
    disks: &'a [DiskFacts],
    options: &'a EraseOptions,
    groups: Vec<Group>,
    records: &'a mut [Option<EraseRecord>],
    began: OffsetDateTime,
    /// When the request to stop was seen.
    stopping: Option<Instant>,
}

impl Listener<'_> {
    fn listen(&mut self, receiver: &Receiver<(usize, News)>, progress: &mut dyn FnMut(&EraseProgress)) {
        let tick = self.options.stall_limit.min(Duration::from_secs(1));
        while self.records.iter().any(Option::is_none) {
            match receiver.recv_timeout(tick) {
                Ok((index, news)) => self.hear(index, news, progress),
                Err(RecvTimeoutError::Timeout) => self.estimate(progress),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.give_up();
        }
    }

    fn hear(&mut self, index: usize, news: News, progress: &mut dyn FnMut(&EraseProgress)) {
        let stall_limit = self.options.stall_limit;
        let Some(group) = self.groups.iter_mut().find(|group| group.members.contains(&index)) else { return };
        // News of a disk that was given up comes too late to be believed.
        if self.records[index].is_some() {
            return;
        }
        match news {
            News::End(record) => {
                (group.heard, group.busy, group.limit) = (Instant::now(), None, stall_limit);
                self.records[index] = Some(*record);
            }
            News::Progress(step) => {
                group.limit = match step.activity {
                    Activity::Silent { limit, .. } => limit + stall_limit,
                    Activity::ByItself => BY_ITSELF_LIMIT + stall_limit,
                    Activity::Erasing | Activity::Verifying => stall_limit,
                };
                // A disk that says the same for ever does nothing.
                if group.busy != Some((index, step)) {
                    (group.heard, group.busy) = (Instant::now(), Some((index, step)));
                }
                progress(&tell(&self.disks[index], &step, step.done));
            }
        }
    }

    /// Of commands that say nothing until they end, but whose disk said how long they take.
    fn estimate(&self, progress: &mut dyn FnMut(&EraseProgress)) {
        for group in &self.groups {
            let Some((index, step)) = &group.busy else { continue };
            let Activity::Silent { estimate: Some(estimate), .. } = step.activity else { continue };
            let disk = &self.disks[*index];
            let percent = (group.heard.elapsed().as_secs() * 100 / estimate.as_secs().max(1)).min(99);
            progress(&tell(disk, step, Bytes(disk.size.0 / 100 * percent)));
        }
    }

    fn give_up(&mut self) {
        if self.stopping.is_none() && self.options.cancel.load(Ordering::Relaxed) {
            self.stopping = Some(Instant::now());
        }
        let stopped = self.stopping.is_some_and(|since| since.elapsed() > STOP_LIMIT);
        for group in &self.groups {
            let reason = if group.heard.elapsed() > group.limit {
                let done = group.busy.map_or(0, |(_, step)| step.done.0);
                format!("no sign of life for {} s, at offset {done}", group.limit.as_secs())
            } else if stopped {
                let what = group.busy.map_or(String::new(), |(_, step)| {
                    format!("; {} can't be stopped, the disk may go on with it by itself", step.method)
                });
                format!("{Cancelled}{what}")
            } else {
                continue;
            };
            for index in &group.members {
                if self.records[*index].is_none() {
                    let mut record = EraseRecord::begin(&self.disks[*index], self.options.level);
                    record.started = self.began;
                    self.records[*index] = Some(record.end(EraseResult::Failed { reason: reason.clone() }));
                }
            }
        }
    }
}

fn tell(disk: &DiskFacts, step: &Step, done: Bytes) -> EraseProgress {
    EraseProgress {
        device: disk.device.clone(),
        method: step.method,
        done,
        total: disk.size,
        verifying: step.activity == Activity::Verifying,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;

    #[test]
    fn namespaces_of_one_controller_are_one_group() {
        let names = ["nvme0n1", "nvme0n12", "nvme11n1", "sda", "nvme", "mmcblk0"];
        assert_eq!(names.map(controller_name), ["nvme0", "nvme0", "nvme11", "sda", "nvme", "mmcblk0"]);
    }

    #[test]
    fn a_disk_that_says_nothing_or_always_the_same_is_given_up_and_the_others_go_on() {
        let disk = |name: &str| facts(name, DiskKind::Fixed);
        let disks = [disk("sda"), disk("sdb")];
        let options = EraseOptions { stall_limit: Duration::from_millis(50), ..EraseOptions::default() };
        let mut groups = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            join_group(&mut groups, index, disk, options.stall_limit);
        }
        let mut records = vec![None, None];
        let (sender, receiver) = channel();
        let done = EraseRecord::begin(&disks[1], options.level).end(EraseResult::Skipped { reason: "done".into() });
        sender.send((1, News::End(Box::new(done)))).unwrap();
        let same = Step { method: Method::ZeroOut, done: Bytes(512), activity: Activity::Erasing };
        for _ in 0..3 {
            sender.send((0, News::Progress(same))).unwrap();
        }
        let mut told = Vec::new();
        Listener {
            disks: &disks,
            options: &options,
            groups,
            records: &mut records,
            began: OffsetDateTime::UNIX_EPOCH,
            stopping: None,
        }
        .listen(&receiver, &mut |progress| told.push(progress.done.0));
        let shown: Vec<String> = records.iter().flatten().map(ToString::to_string).collect();
        let silent = "/dev/sda (4.0 kB, serial none): NOT ERASED: no sign of life for 0 s, at offset 512";
        assert_eq!(shown, [silent, "/dev/sdb (4.0 kB, serial none): skipped: done"]);
        assert_eq!(told, [512, 512, 512]);
        assert_eq!(records.iter().flatten().next().map(|record| record.started), Some(OffsetDateTime::UNIX_EPOCH));
        drop(sender);
    }
}
