//! Erasing disks, all at once, by the strongest method that each has, and proving it.
//!
//! A disk has a ladder of methods. When one is refused, fails, or lies (the disk does not read as blank afterwards), the
//! next is tried, and the outcome tells of it. A disk on which none works is an error: the machine must not be offered.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::block::{AlignedBuffer, BlockDevice, OpenDisk};
use super::device::{DiskFacts, DiskKind};
use super::partition::forget_partitions;
use super::verify::{Blank, verify};
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One piece of work between two reports of progress: about a second on a hard disk.
const STEP_BYTES: u64 = 256 << 20;
/// One write when zeros are written by hand.
const CHUNK_BYTES: u64 = 4 << 20;
/// The longest that a controller may take for Format NVM. Large drives without crypto erase need up to an hour.
const NVME_FORMAT_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How long a disk may be silent before it counts as hanging. SCSI error recovery of one command takes minutes.
const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// NVMe Format NVM with user data erase.
    NvmeFormat,
    /// eMMC's secure erase.
    SecureDiscard,
    /// The device's own command for zeros, else zeros written by the kernel.
    ZeroOut,
    /// Zeros written by us.
    Overwrite,
}

impl Method {
    fn blank(self) -> Blank {
        match self {
            Self::NvmeFormat | Self::SecureDiscard => Blank::ZerosOrOnes,
            Self::ZeroOut | Self::Overwrite => Blank::Zeros,
        }
    }

    /// How long it may say nothing.
    fn patience(self, stall_limit: Duration) -> Duration {
        match self {
            Self::NvmeFormat => NVME_FORMAT_LIMIT + stall_limit,
            Self::SecureDiscard | Self::ZeroOut | Self::Overwrite => stall_limit,
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NvmeFormat => "NVMe format",
            Self::SecureDiscard => "secure discard",
            Self::ZeroOut => "zero-out",
            Self::Overwrite => "overwriting with zeros",
        })
    }
}

/// Strongest first.
pub fn ladder(disk: &DiskFacts) -> Vec<Method> {
    if disk.name.starts_with("nvme") {
        vec![Method::NvmeFormat, Method::ZeroOut, Method::Overwrite]
    } else if disk.name.starts_with("mmcblk") {
        vec![Method::SecureDiscard, Method::ZeroOut, Method::Overwrite]
    } else {
        vec![Method::ZeroOut, Method::Overwrite]
    }
}

#[derive(Clone, Debug)]
pub struct EraseOptions {
    /// For the random sample that is read back.
    pub seed: u64,
    /// A disk that is silent for so long is given up.
    pub stall_limit: Duration,
}

impl Default for EraseOptions {
    fn default() -> Self {
        // Other places at each erasure. Without entropy it is the same sample each time, which is still a sample.
        let seed = getrandom::u64().unwrap_or(0x5eed);
        Self { seed, stall_limit: DEFAULT_STALL_LIMIT }
    }
}

/// How far one disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraseProgress {
    pub device: String,
    pub method: Method,
    /// Bytes of `total`, by this method.
    pub done: Bytes,
    pub total: Bytes,
}

/// What became of one disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EraseOutcome {
    pub device: String,
    pub serial: Option<String>,
    pub size: Bytes,
    pub result: EraseResult,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseResult {
    Erased(Erased),
    /// Not a disk of the machine, so not to be erased; the machine can be offered.
    Skipped {
        reason: String,
    },
    /// Data may be left: the machine must not be offered.
    Failed {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Erased {
    pub method: Method,
    pub bytes: u64,
    pub verified_bytes: u64,
    pub seconds: f64,
    /// Stronger methods that did not work.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    pub method: Method,
    pub reason: String,
}

impl EraseOutcome {
    pub fn is_failure(&self) -> bool {
        match self.result {
            EraseResult::Failed { .. } => true,
            EraseResult::Erased(_) | EraseResult::Skipped { .. } => false,
        }
    }
}

impl std::fmt::Display for EraseOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let serial = self.serial.as_deref().unwrap_or("none");
        write!(f, "{} ({}, serial {serial}): ", self.device, self.size)?;
        match &self.result {
            EraseResult::Erased(erased) => {
                let verified = Bytes(erased.verified_bytes);
                write!(f, "erased by {} in {:.1} s, {verified} read back", erased.method, erased.seconds)?;
                erased.refused.iter().try_for_each(|r| write!(f, "; {} did not work: {}", r.method, r.reason))
            }
            EraseResult::Skipped { reason } => write!(f, "skipped: {reason}"),
            EraseResult::Failed { reason } => write!(f, "NOT ERASED: {reason}"),
        }
    }
}

/// Erases every fixed disk. One outcome per entry of `disks`, in its order. Blocks until the last disk is done.
pub fn erase_all(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
) -> Vec<EraseOutcome> {
    erase_where(disks, options, progress, reason_to_skip)
}

/// As [`erase_all`], for disks that a person named: of any kind. Those in use are still refused.
pub fn erase_named(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
) -> Vec<EraseOutcome> {
    erase_where(disks, options, progress, |_| None)
}

/// Devices that are not storage of the machine. A fixed disk that is in use or write-protected is none of these: it
/// may hold data, so it fails.
fn reason_to_skip(disk: &DiskFacts) -> Option<String> {
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
        DiskKind::Nbd => "network block device",
        DiskKind::EmmcBoot => "boot area of the firmware",
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

/// What the thread of one disk tells.
enum News {
    Progress(Method, u64),
    End(EraseResult),
}

fn erase_where(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
    skip: impl Fn(&DiskFacts) -> Option<String>,
) -> Vec<EraseOutcome> {
    let (sender, receiver) = channel();
    let mut results: Vec<Option<EraseResult>> = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let result = if let Some(reason) = skip(disk) {
            Some(EraseResult::Skipped { reason })
        } else if let Some(reason) = reason_to_fail(disk) {
            Some(EraseResult::Failed { reason })
        } else {
            start(index, disk.clone(), options.clone(), sender.clone())
        };
        results.push(result);
    }
    drop(sender);
    follow(disks, options, progress, &receiver, &mut results);
    let outcome = |(disk, result): (&DiskFacts, Option<EraseResult>)| EraseOutcome {
        device: disk.device.clone(),
        serial: disk.serial.clone(),
        size: disk.size,
        result: result.unwrap_or(EraseResult::Failed { reason: "its thread ended without a word".to_owned() }),
    };
    disks.iter().zip(results).map(outcome).collect()
}

/// A thread that is not joined: one that hangs in the kernel can't be ended, only left behind.
fn start(index: usize, disk: DiskFacts, options: EraseOptions, sender: Sender<(usize, News)>) -> Option<EraseResult> {
    let name = format!("erase {}", disk.name);
    let work = move || {
        let result = erase_disk(&disk, &options, &|method, done| {
            // The coordinator may have given up on us; then nobody listens.
            let _ = sender.send((index, News::Progress(method, done)));
        });
        let _ = sender.send((index, News::End(result)));
    };
    match std::thread::Builder::new().name(name).spawn(work) {
        Ok(_) => None,
        Err(error) => Some(EraseResult::Failed { reason: format!("starting its thread: {error}") }),
    }
}

fn follow(
    disks: &[DiskFacts],
    options: &EraseOptions,
    progress: &mut dyn FnMut(&EraseProgress),
    receiver: &Receiver<(usize, News)>,
    results: &mut [Option<EraseResult>],
) {
    let mut heard = vec![(Instant::now(), options.stall_limit, 0_u64); disks.len()];
    let tick = options.stall_limit.min(Duration::from_secs(1));
    while results.iter().any(Option::is_none) {
        match receiver.recv_timeout(tick) {
            // News of a disk that was given up comes too late to be believed.
            Ok((index, _)) if results.get(index).is_none_or(Option::is_some) => {}
            Ok((index, News::End(result))) => results[index] = Some(result),
            Ok((index, News::Progress(method, done))) => {
                heard[index] = (Instant::now(), method.patience(options.stall_limit), done);
                let (device, total) = (disks[index].device.clone(), disks[index].size);
                progress(&EraseProgress { device, method, done: Bytes(done), total });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (result, (when, limit, done)) in results.iter_mut().zip(&heard) {
            if result.is_none() && when.elapsed() > *limit {
                let reason = format!("no sign of life for {} s, at offset {done}", limit.as_secs());
                *result = Some(EraseResult::Failed { reason });
            }
        }
    }
}

fn erase_disk(disk: &DiskFacts, options: &EraseOptions, report: &dyn Fn(Method, u64)) -> EraseResult {
    let device = match OpenDisk::claim(Path::new(&disk.device)) {
        Ok(device) => device,
        Err(error) => return EraseResult::Failed { reason: format!("opening it for itself alone: {error}") },
    };
    if device.size_bytes() != disk.size.0 {
        let reason = format!("it has {} bytes and had {} when it was looked at", device.size_bytes(), disk.size.0);
        return EraseResult::Failed { reason };
    }
    let known: Vec<u64> = disk.old_ranges().iter().flat_map(|old| [old.start, old.end.saturating_sub(1)]).collect();
    match erase_device(&device, &ladder(disk), &known, options, report) {
        Ok(erased) => {
            // The kernel would go on with partitions of a table that is gone.
            if let Err(error) = forget_partitions(&Roots::system(), &disk.device, device.as_file()) {
                tracing::warn!(disk = %disk.device, error = format!("{error:#}"), "old partitions are still known");
            }
            EraseResult::Erased(erased)
        }
        Err(refusals) => {
            let told = refusals.iter().map(|r| format!("{}: {}", r.method, r.reason));
            EraseResult::Failed { reason: told.collect::<Vec<_>>().join("; ") }
        }
    }
}

/// Goes down the ladder until the disk reads as blank. `known`: places to read back for certain.
pub fn erase_device(
    device: &dyn BlockDevice,
    ladder: &[Method],
    known: &[u64],
    options: &EraseOptions,
    report: &dyn Fn(Method, u64),
) -> Result<Erased, Vec<Refusal>> {
    let began = Instant::now();
    let mut refused = Vec::new();
    for method in ladder.iter().copied() {
        report(method, 0);
        match try_method(device, method, known, options, report) {
            Ok(verified_bytes) => {
                let (bytes, seconds) = (device.size_bytes(), began.elapsed().as_secs_f64());
                return Ok(Erased { method, bytes, verified_bytes, seconds, refused });
            }
            Err(reason) => refused.push(Refusal { method, reason: format!("{reason:#}") }),
        }
    }
    Err(refused)
}

fn try_method(
    device: &dyn BlockDevice,
    method: Method,
    known: &[u64],
    options: &EraseOptions,
    report: &dyn Fn(Method, u64),
) -> anyhow::Result<u64> {
    use anyhow::Context;
    match method {
        Method::NvmeFormat => device.nvme_format(NVME_FORMAT_LIMIT)?,
        Method::SecureDiscard => in_steps(device, method, report, &|at, length| device.secure_discard(at, length))?,
        Method::ZeroOut => in_steps(device, method, report, &|at, length| device.zero_out(at, length))?,
        Method::Overwrite => overwrite(device, report)?,
    }
    device.sync().context("flushing what was written")?;
    report(method, device.size_bytes());
    let verified = verify(device, method.blank(), known, options.seed).context("not blank when read back")?;
    Ok(verified.bytes)
}

fn in_steps(
    device: &dyn BlockDevice,
    method: Method,
    report: &dyn Fn(Method, u64),
    step: &dyn Fn(u64, u64) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    use anyhow::Context;
    let (size, mut at) = (device.size_bytes(), 0);
    while at < size {
        let length = STEP_BYTES.min(size - at);
        step(at, length).with_context(|| format!("{length} bytes at offset {at}"))?;
        at += length;
        report(method, at);
    }
    Ok(())
}

fn overwrite(device: &dyn BlockDevice, report: &dyn Fn(Method, u64)) -> anyhow::Result<()> {
    let zeros = AlignedBuffer::zeroed(CHUNK_BYTES as usize);
    in_steps(device, Method::Overwrite, report, &|start, length| {
        let mut at = start;
        while at < start + length {
            // Less than a chunk, so it fits usize. The tail of the disk counts: there lie backups of tables.
            let part = CHUNK_BYTES.min(start + length - at);
            device.write_at(&zeros.as_slice()[..part as usize], at)?;
            at += part;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
