//! One disk: down its ladder until it reads as it should.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result};

use super::ladder::{Abilities, ladder, read_abilities};
use super::method::Method;
use super::nvme::Siblings;
use super::record::{Attempt, EraseResult, Erased, Refusal};
use super::watch::{Cancelled, Watch};
use super::{EraseOptions, ata, nvme, scsi, steps};
use crate::disk::block::BlockDevice;
use crate::disk::verify::{Before, Blank, Check, Verified, verify, verify_ranges};

/// Where to look on a disk.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// To be read back for certain: ends of old partitions.
    pub known: Vec<u64>,
    /// To be wiped at level quick.
    pub signatures: Vec<Range<u64>>,
}

/// A disk that was looked at.
pub struct Prepared {
    pub ladder: Vec<Method>,
    pub notes: Vec<String>,
    abilities: Abilities,
    before: Before,
}

/// Makes a disk ready: ends what an erasure that was broken off has left, asks what the disk can do, and remembers what
/// is on it where that is needed to judge. Nothing is erased.
pub fn prepare(
    device: &dyn BlockDevice,
    name: &str,
    places: &Places,
    options: &EraseOptions,
    watch: &Watch<'_>,
) -> Prepared {
    let mut notes = Vec::new();
    let mut abilities = read_abilities(device, name);
    finish_broken_off(device, &mut abilities, watch, &mut notes);
    if let Some(nvme) = abilities.nvme.as_ref().filter(|nvme| !nvme.unattached.is_empty()) {
        let ids: Vec<String> = nvme.unattached.iter().map(ToString::to_string).collect();
        let ids = ids.join(", ");
        notes.push(format!("namespace {ids} of its controller is not attached to this machine and was left alone"));
    }
    let ladder = ladder(&abilities, options.level, options.format_unit);
    let judged_by_change = ladder.iter().any(|method| method.promises() == Blank::Changed);
    let before = if judged_by_change { Before::read(device, &places.known, options.seed) } else { Before::default() };
    Prepared { ladder, notes, abilities, before }
}

/// A sanitize goes on by itself after a power cut, and meanwhile the disk takes nothing else. A security erase leaves
/// the disk locked.
fn finish_broken_off(device: &dyn BlockDevice, abilities: &mut Abilities, watch: &Watch<'_>, notes: &mut Vec<String>) {
    let size = device.size_bytes();
    if let (Some(port), Some(able)) = (device.nvme(), &abilities.nvme)
        && (able.sanitize_block || able.sanitize_crypto)
    {
        watch.begin(Method::NvmeSanitizeBlock);
        let left = nvme::wait_for_sanitize(port, watch, size).and_then(|status| match status {
            nvme::Sanitize::Failed => nvme::leave_failure_mode(port),
            nvme::Sanitize::Never | nvme::Sanitize::Completed | nvme::Sanitize::InProgress { .. } => Ok(()),
        });
        // The log keeps a failure that was left long ago, so this alone means nothing.
        if let Err(error) = left {
            notes.push(format!("its last sanitize did not end well: {error:#}"));
        }
    }
    let (Some(port), Some(able)) = (device.scsi(), &abilities.ata) else { return };
    if able.sanitize_block || able.sanitize_crypto || able.sanitize_overwrite {
        watch.begin(Method::AtaSanitizeBlock);
        if let Err(error) = ata::wait_for_sanitize(port, watch, size) {
            ata::leave_failure_mode(port);
            notes.push(format!("its last sanitize did not end well: {error:#}"));
        }
    }
    match ata::remove_own_password(port, able.security) {
        Ok(false) => {}
        Ok(true) => notes.push("the password of an erasure that was broken off was removed".to_owned()),
        Err(error) => notes.push(format!("it has a password, which is not ours: {error:#}")),
    }
    if let Ok(now) = ata::read_ata_abilities(port) {
        abilities.ata = Some(now);
    }
}

/// Goes down the ladder until the disk reads as the method promises.
pub fn erase_device(
    device: &dyn BlockDevice,
    prepared: &Prepared,
    siblings: &Siblings,
    places: &Places,
    options: &EraseOptions,
    watch: &Watch<'_>,
) -> (Vec<Attempt>, EraseResult) {
    let began = Instant::now();
    let mut attempts = Vec::new();
    let work = Work { device, prepared, siblings, places, options, watch };
    for method in prepared.ladder.iter().copied() {
        if watch.check().is_err() && attempts.is_empty() {
            return (attempts, EraseResult::Failed { reason: "stopped by request before it was begun".to_owned() });
        }
        let begun = Instant::now();
        watch.begin(method);
        let outcome = work.attempt(method);
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(verified) => {
                let refused = refusals(&attempts);
                attempts.push(Attempt { method, seconds, refusal: None });
                let bytes = match method {
                    Method::Signatures => places.signatures.iter().map(|range| range.end - range.start).sum(),
                    _ => device.size_bytes(),
                };
                let (verified_bytes, seconds) = (verified.bytes, began.elapsed().as_secs_f64());
                let erased = Erased { method, bytes, verified_bytes, verified, seconds, refused };
                return (attempts, EraseResult::Erased(erased));
            }
            Err(error) => attempts.push(Attempt { method, seconds, refusal: Some(format!("{error:#}")) }),
        }
        if watch.check().is_err() {
            return (attempts, EraseResult::Failed { reason: format!("{method}: {Cancelled}") });
        }
    }
    let told: Vec<String> = refusals(&attempts).iter().map(|r| format!("{}: {}", r.method, r.reason)).collect();
    let reason = match (told.is_empty(), options.level) {
        (false, _) => told.join("; "),
        (true, level) => format!("it has no command to erase itself, and level {level} takes nothing else"),
    };
    (attempts, EraseResult::Failed { reason })
}

fn refusals(attempts: &[Attempt]) -> Vec<Refusal> {
    let refusal = |attempt: &Attempt| Some(Refusal { method: attempt.method, reason: attempt.refusal.clone()? });
    attempts.iter().filter_map(refusal).collect()
}

struct Work<'a> {
    device: &'a dyn BlockDevice,
    prepared: &'a Prepared,
    siblings: &'a Siblings,
    places: &'a Places,
    options: &'a EraseOptions,
    watch: &'a Watch<'a>,
}

impl Work<'_> {
    fn attempt(&self, method: Method) -> Result<Verified> {
        self.run(method)?;
        self.device.sync().context("flushing what was written")?;
        self.watch.erased(self.device.size_bytes())?;
        self.verify(method).context("not blank when read back")
    }

    fn run(&self, method: Method) -> Result<()> {
        let (device, watch, size) = (self.device, self.watch, self.device.size_bytes());
        match method {
            Method::NvmeSanitizeCrypto | Method::NvmeSanitizeBlock => {
                let port = device.nvme().context("not an NVMe disk")?;
                let abilities = self.prepared.abilities.nvme.as_ref().context("the controller was not asked")?;
                nvme::sanitize(port, abilities, self.siblings, method, watch, size)
            }
            Method::NvmeFormatCrypto | Method::NvmeFormat => {
                let port = device.nvme().context("not an NVMe disk")?;
                let abilities = self.prepared.abilities.nvme.as_ref().context("the controller was not asked")?;
                nvme::format(port, abilities, self.siblings, method, watch)
            }
            Method::AtaSanitizeCrypto | Method::AtaSanitizeBlock | Method::AtaSanitizeOverwrite => {
                ata::sanitize(device.scsi().context("not an ATA disk")?, method, watch, size)
            }
            Method::AtaSecureEraseEnhanced | Method::AtaSecureErase => {
                ata::secure_erase(device.scsi().context("not an ATA disk")?, method, watch)
            }
            Method::ScsiSanitizeCrypto | Method::ScsiSanitizeBlock | Method::ScsiSanitizeOverwrite => {
                scsi::sanitize(device.scsi().context("not a SCSI disk")?, method, watch, size)
            }
            Method::ScsiFormat => scsi::format(device.scsi().context("not a SCSI disk")?, watch, size),
            Method::SecureDiscard => steps::secure_discard(device, watch),
            Method::ZeroOut => steps::zero_out(device, watch),
            Method::Overwrite => steps::overwrite(device, watch),
            Method::Signatures => steps::wipe_ranges(device, &self.places.signatures, watch),
        }
    }

    fn verify(&self, method: Method) -> Result<Verified> {
        let go_on = |done| self.watch.verified(done).is_ok();
        let verified = if method == Method::Signatures {
            verify_ranges(self.device, &self.places.signatures, &go_on)?
        } else {
            let check = Check {
                expected: method.promises(),
                known: &self.places.known,
                seed: self.options.seed,
                before: &self.prepared.before,
            };
            verify(self.device, &check, &go_on)?
        };
        Ok(verified)
    }
}
