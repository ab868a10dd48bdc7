use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fake::Behaviour::{LeavesTail, Lies, MakesNoise, Refuses, Works};
use super::fake::{FakeAta, FakeDisk, FakeNvme, FakeSas};
use super::nvme::Siblings;
use super::one::{Places, erase_device, prepare};
use super::run::erase_all;
use super::watch::{Activity, Step, Watch};
use super::*;
use crate::disk::device::{DiskFacts, DiskKind, DiskUse};
use crate::sys::units::Bytes;

const SIZE: u64 = (9 << 20) + 512;

fn options(level: Level) -> EraseOptions {
    let (stall_limit, poll) = (Duration::from_secs(60), Duration::from_millis(1));
    EraseOptions { seed: 1, stall_limit, poll, ..EraseOptions::of_level(level) }
}

/// What a person would want to know: methods with their refusals, the result, notes.
struct Told {
    attempts: Vec<(Method, Option<String>)>,
    result: EraseResult,
    notes: Vec<String>,
    steps: Vec<Step>,
}

impl Told {
    fn methods(&self) -> Vec<Method> {
        self.attempts.iter().map(|(method, _)| *method).collect()
    }

    fn refusal(&self, index: usize) -> &str {
        self.attempts[index].1.as_deref().unwrap_or("worked")
    }

    fn erased(&self) -> &Erased {
        match &self.result {
            EraseResult::Erased(erased) => erased,
            EraseResult::Skipped { reason } | EraseResult::Failed { reason } => panic!("{reason}"),
        }
    }

    fn reason(&self) -> &str {
        match &self.result {
            EraseResult::Failed { reason } => reason,
            EraseResult::Erased(_) | EraseResult::Skipped { .. } => panic!("{:?}", self.result),
        }
    }
}

fn erase_with(disk: &FakeDisk, options: &EraseOptions) -> Told {
    let steps = RefCell::new(Vec::new());
    let report = |step| steps.borrow_mut().push(step);
    let watch = Watch::new(&report, &options.cancel, options.poll);
    let places = Places { known: vec![], signatures: vec![0..4096, SIZE - 4096..SIZE] };
    let prepared = prepare(disk, "fake", &places, options, &watch);
    let siblings = Siblings::of(BTreeSet::from([1]));
    let (attempts, result) = erase_device(disk, &prepared, &siblings, &places, options, &watch);
    let attempts = attempts.into_iter().map(|attempt| (attempt.method, attempt.refusal)).collect();
    Told { attempts, result, notes: prepared.notes, steps: steps.into_inner() }
}

fn erase(disk: &FakeDisk) -> Told {
    erase_with(disk, &options(Level::Clear))
}

fn nvme(nvme: FakeNvme) -> FakeDisk {
    FakeDisk { nvme: Some(nvme), ..FakeDisk::dirty(Works) }
}

fn ata(ata: FakeAta) -> FakeDisk {
    FakeDisk { ata: Some(Mutex::new(ata)), ..FakeDisk::dirty(Works) }
}

const CRYPTO: u8 = 0b100;

#[test]
fn the_strongest_method_that_works_is_used_alone_and_keeps_the_format() {
    let disk = nvme(FakeNvme::new(CRYPTO, 0, Works, Refuses));
    let told = erase(&disk);
    assert_eq!((told.methods(), told.erased().verified_bytes), (vec![Method::NvmeFormatCrypto], SIZE));
    // Secure erase 2, protection type 1, format 1; of this namespace alone.
    assert_eq!(*disk.nvme.unwrap().calls.lock().unwrap(), [(1, 2 << 9 | 1 << 5 | 1)]);
}

#[test]
fn a_new_key_may_leave_noise_but_not_what_was_there() {
    let told = erase(&nvme(FakeNvme::new(CRYPTO, 0, MakesNoise, Refuses)));
    let verified = told.erased().verified;
    assert_eq!((verified.places, verified.changed, verified.zeros), (10, 10, 0));
    let told = erase(&nvme(FakeNvme::new(CRYPTO, 0, Lies, Works)));
    assert_eq!(told.methods(), [Method::NvmeFormatCrypto, Method::NvmeFormat]);
    let expected = "not blank when read back: at offset 0, expected anything but what was there before, found 5a5a";
    assert!(told.refusal(0).starts_with(expected), "{}", told.refusal(0));
}

#[test]
fn a_lying_disk_is_found_out_and_overwritten() {
    let disk = FakeDisk { zero_out: LeavesTail, ..nvme(FakeNvme::new(0, 0, Refuses, Lies)) };
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::NvmeFormat, Method::ZeroOut, Method::Overwrite]);
    let found = "5a".repeat(16);
    let format = format!("not blank when read back: at offset 0, expected zeros or 0xff throughout, found {found}");
    let zero_out = format!("not blank when read back: at offset 9437184, expected zeros, found {found}");
    assert_eq!((told.refusal(0), told.refusal(1)), (format.as_str(), zero_out.as_str()));
    assert!(disk.is_zero());
}

#[test]
fn a_disk_that_can_not_be_erased_is_an_error_with_all_reasons() {
    let mut disk = FakeDisk { zero_out: Refuses, ..nvme(FakeNvme::new(CRYPTO, 0, Refuses, Refuses)) };
    disk.broken_from = Some(8 << 20);
    let told = erase(&disk);
    let ladder = [Method::NvmeFormatCrypto, Method::NvmeFormat, Method::ZeroOut, Method::Overwrite];
    assert_eq!(told.methods(), ladder);
    let expected = "NVMe format (crypto erase): unsupported; NVMe format: unsupported; \
        zero-out: 9437696 bytes at offset 0: unsupported; \
        overwriting with zeros: 1049088 bytes at offset 8388608: Input/output error (os error 5)";
    assert_eq!(told.reason(), expected);
}

#[test]
fn a_format_that_reaches_all_namespaces_waits_until_all_are_to_be_erased() {
    let mut fake = FakeNvme::new(CRYPTO | 0b10, 0, Works, Works);
    fake.attached = vec![1, 2];
    let told = erase(&nvme(fake));
    assert_eq!(told.methods(), [Method::NvmeFormatCrypto, Method::NvmeFormat, Method::ZeroOut]);
    assert_eq!(told.refusal(0), "it would also reach namespace 2, which is not being erased");

    let disk = nvme(FakeNvme::new(CRYPTO | 0b10, 0, Works, Works));
    assert_eq!(erase(&disk).methods(), [Method::NvmeFormatCrypto]);
    assert_eq!(disk.nvme.unwrap().calls.lock().unwrap()[0].0, u32::MAX, "once for all");
}

#[test]
fn one_format_serves_all_namespaces_that_it_reaches() {
    let mut fake = FakeNvme::new(CRYPTO | 0b10, 0, Works, Works);
    fake.attached = vec![1, 2];
    let disk = nvme(fake);
    let (options, siblings) = (options(Level::Clear), Siblings::of(BTreeSet::from([1, 2])));
    let watch = Watch::new(&|_| {}, &options.cancel, options.poll);
    let places = Places::default();
    for _ in 0..2 {
        let prepared = prepare(&disk, "fake", &places, &options, &watch);
        let (_, result) = erase_device(&disk, &prepared, &siblings, &places, &options, &watch);
        assert!(matches!(result, EraseResult::Erased(_)), "{result:?}");
    }
    assert_eq!(disk.nvme.unwrap().calls.lock().unwrap().len(), 1);
}

#[test]
fn purge_sanitizes_and_tells_the_controllers_progress() {
    let disk = nvme(FakeNvme::new(CRYPTO, 0b11, Works, Works));
    // Nothing runs when it is looked at first.
    disk.nvme.as_ref().unwrap().log.lock().unwrap().insert(0, (0, 0));
    let told = erase_with(&disk, &options(Level::Purge));
    assert_eq!(told.methods(), [Method::NvmeSanitizeCrypto]);
    let half =
        Step { method: Method::NvmeSanitizeCrypto, done: Bytes(SIZE / 65536 * 0x8000), activity: Activity::ByItself };
    assert!(told.steps.contains(&half), "{:?}", told.steps);
    assert_eq!(*disk.nvme.unwrap().calls.lock().unwrap(), [(0, 4 | 1 << 3)]);
}

#[test]
fn a_sanitize_that_fails_is_left_for_the_next_method() {
    let fake = FakeNvme::new(CRYPTO, 0b01, Works, Works);
    *fake.log.lock().unwrap() = vec![(0, 0), (2, 5), (3, 0xffff)];
    let disk = nvme(fake);
    let told = erase_with(&disk, &options(Level::Purge));
    assert_eq!(told.methods(), [Method::NvmeSanitizeCrypto, Method::NvmeFormatCrypto]);
    assert_eq!(told.refusal(0), "the controller reports that it failed");
    let calls: Vec<u32> = disk.nvme.unwrap().calls.lock().unwrap().iter().map(|(_, dword)| dword & 0x7).collect();
    assert_eq!(calls[..2], [4, 1], "exit of the failure mode");
}

#[test]
fn purge_fails_on_a_disk_without_commands_of_its_own_and_changes_nothing() {
    let disk = FakeDisk::dirty(Works);
    let told = erase_with(&disk, &options(Level::Purge));
    assert_eq!(told.reason(), "it has no command to erase itself, and level purge takes nothing else");
    assert!(disk.data.lock().unwrap().iter().all(|byte| *byte == 0x5a));
}

#[test]
fn quick_wipes_the_places_it_was_given_and_reads_them_back() {
    for behaviour in [Works, Refuses] {
        let disk = FakeDisk::dirty(behaviour);
        let told = erase_with(&disk, &options(Level::Quick));
        assert_eq!((told.methods(), told.erased().verified_bytes), (vec![Method::Signatures], 8192));
        let data = disk.data.lock().unwrap();
        assert!(data[..4096].iter().chain(&data[data.len() - 4096..]).all(|byte| *byte == 0));
        assert_eq!((data[4096], data[data.len() - 4097]), (0x5a, 0x5a));
    }
    let told = erase_with(&FakeDisk::dirty(Lies), &options(Level::Quick));
    assert!(told.reason().contains("not blank when read back: at offset 0"), "{}", told.reason());
}

#[test]
fn sata_is_sanitized_with_its_own_progress() {
    let disk = ata(FakeAta { sanitize_word: 0xb000, sanitize: Some(Works), ..FakeAta::default() });
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::AtaSanitizeCrypto]);
    assert!(told.steps.iter().any(|step| step.done.0 == SIZE / 65536 * 0x8000), "{:?}", told.steps);
}

#[test]
fn a_security_erase_leaves_no_password_whether_it_works_or_not() {
    let disk = ata(FakeAta { erase: [Some(Refuses), Some(Works)], ..FakeAta::default() });
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::AtaSecureEraseEnhanced, Method::AtaSecureErase]);
    assert_eq!(told.refusal(0), "SECURITY ERASE UNIT: the disk aborts it with status 0x51, error 0x04");
    let estimates: Vec<Option<Duration>> = told
        .steps
        .iter()
        .filter_map(|step| match step.activity {
            Activity::Silent { estimate, .. } => Some(estimate),
            Activity::Erasing | Activity::ByItself | Activity::Verifying => None,
        })
        .collect();
    assert_eq!(estimates, [None, Some(Duration::from_secs(240))], "the disk's own times");
    let fake = disk.ata.as_ref().unwrap().lock().unwrap();
    assert_eq!(fake.password, None);
    assert!(
        fake.commands.windows(2).any(|pair| pair == [0xf3, 0xf4]),
        "prepare comes right before: {:x?}",
        fake.commands
    );
    assert!(disk.is_zero());
}

#[test]
fn a_security_erase_that_lies_is_found_out() {
    let disk = ata(FakeAta { erase: [None, Some(Lies)], ..FakeAta::default() });
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::AtaSecureErase, Method::ZeroOut]);
    assert!(told.refusal(0).starts_with("not blank when read back: at offset 0"), "{}", told.refusal(0));
}

#[test]
fn a_frozen_disk_and_one_with_a_strangers_password_say_so() {
    let disk = ata(FakeAta { erase: [None, Some(Works)], frozen: true, ..FakeAta::default() });
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::AtaSecureErase, Method::ZeroOut]);
    let frozen = "the firmware has frozen the disk's security commands until its next power-on";
    assert_eq!(told.refusal(0), frozen);

    let strange = FakeAta { password: Some(vec![7; 32]), locked: true, ..FakeAta::default() };
    let disk = ata(FakeAta { erase: [None, Some(Works)], ..strange });
    let told = erase(&disk);
    assert_eq!(told.refusal(0), "the disk is locked with a user or master password that is not ours");
    assert!(told.notes[0].starts_with("it has a password, which is not ours: SECURITY UNLOCK: "), "{:?}", told.notes);
    assert_eq!(disk.ata.unwrap().lock().unwrap().password, Some(vec![7; 32]));
}

#[test]
fn the_password_of_an_erasure_that_a_power_cut_broke_off_is_removed_first() {
    let mut ours = ata::PASSWORD.to_vec();
    ours.resize(32, 0);
    let left = FakeAta { password: Some(ours), locked: true, ..FakeAta::default() };
    let disk = ata(FakeAta { erase: [None, Some(Works)], ..left });
    let told = erase(&disk);
    assert_eq!(told.notes, ["the password of an erasure that was broken off was removed"]);
    assert_eq!(told.methods(), [Method::AtaSecureErase]);
    let fake = disk.ata.as_ref().unwrap().lock().unwrap();
    assert_eq!(fake.commands[..3], [0xec, 0xf2, 0xf6], "before anything else");
    assert_eq!((&fake.password, fake.locked), (&None, false));
}

#[test]
fn sas_is_sanitized_and_formatted_only_when_asked_and_a_format_that_lies_is_found_out() {
    let sas = |knows: &[(u8, u8)]| FakeDisk {
        sas: Some(FakeSas {
            knows: knows.to_vec(),
            sanitize: Works,
            format: Lies,
            busy: Mutex::new(0),
            commands: Mutex::default(),
        }),
        ..FakeDisk::dirty(Works)
    };
    let disk = sas(&[(0x48, 2), (0x04, 0)]);
    let told = erase(&disk);
    assert_eq!(told.methods(), [Method::ScsiSanitizeBlock]);
    assert!(told.steps.iter().any(|step| step.done.0 == SIZE / 65536 * 0x8000), "{:?}", told.steps);

    let disk = sas(&[(0x04, 0)]);
    assert_eq!(erase(&disk).methods(), [Method::ZeroOut]);
    let disk = sas(&[(0x04, 0)]);
    let told = erase_with(&disk, &EraseOptions { format_unit: true, ..options(Level::Clear) });
    assert_eq!(told.methods(), [Method::ScsiFormat, Method::ZeroOut]);
    assert!(told.refusal(0).starts_with("not blank when read back: at offset 0"), "{}", told.refusal(0));
    let commands = disk.sas.as_ref().unwrap().commands.lock().unwrap().clone();
    let format = commands.iter().find(|command| command[0] == 0x04).unwrap();
    assert_eq!(format[1], 3 << 6 | 0x10, "the protection is kept");
}

#[test]
fn progress_ends_with_the_size_of_the_disk() {
    let told = erase(&FakeDisk::dirty(Works));
    let erased = told.steps.iter().rfind(|step| step.activity == Activity::Erasing);
    assert_eq!(erased.map(|step| (step.method, step.done)), Some((Method::ZeroOut, Bytes(SIZE))));
}

#[test]
fn a_request_to_stop_ends_the_ladder() {
    let options = options(Level::Clear);
    let disk = FakeDisk::dirty(Works);
    let stop_once_begun = |step: Step| options.cancel.store(step.done.0 > 0, Ordering::Relaxed);
    let watch = Watch::new(&stop_once_begun, &options.cancel, options.poll);
    let places = Places::default();
    let prepared = prepare(&disk, "fake", &places, &options, &watch);
    let (attempts, result) = erase_device(&disk, &prepared, &Siblings::default(), &places, &options, &watch);
    assert_eq!(attempts.len(), 1);
    let reason = "zero-out: stopped by request; the disk is partly erased".to_owned();
    assert_eq!(result, EraseResult::Failed { reason });
    let never = AtomicBool::new(false);
    assert!(Watch::new(&|_| {}, &never, options.poll).check().is_ok());
}

pub(super) fn facts(name: &str, kind: DiskKind) -> DiskFacts {
    DiskFacts {
        device: format!("/dev/{name}"),
        name: name.to_owned(),
        size: Bytes(4096),
        sector_bytes: 512,
        serial: None,
        wwn: None,
        model: None,
        links: vec![],
        kind,
        read_only: false,
        rotational: None,
        uses: vec![],
        partitions: vec![],
        content: None,
    }
}

#[test]
fn what_is_no_disk_of_the_machine_is_skipped_and_what_can_not_be_erased_fails() {
    let mut busy = facts("no-such-disk", DiskKind::Fixed);
    busy.uses.push(DiskUse::Held { device: "/dev/no-such-disk".into(), by: "/dev/md0".into() });
    let mut write_protected = facts("no-such-disk", DiskKind::Fixed);
    write_protected.read_only = true;
    let disks = [
        facts("sr0", DiskKind::Optical),
        facts("loop0", DiskKind::Loop),
        facts("sdz", DiskKind::Removable),
        facts("md0", DiskKind::Md),
        busy,
        write_protected,
        facts("no-such-disk", DiskKind::Fixed),
    ];
    let records = erase_all(&disks, &options(Level::Clear), &mut |_| {});
    let told: Vec<String> = records.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "/dev/sr0 (4.0 kB, serial none): skipped: optical drive",
            "/dev/loop0 (4.0 kB, serial none): skipped: loop device",
            "/dev/sdz (4.0 kB, serial none): skipped: removable medium",
            "/dev/md0 (4.0 kB, serial none): skipped: RAID array, made of other disks",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: in use: /dev/no-such-disk is held by /dev/md0",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: write-protected",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: opening it for itself alone: \
             No such file or directory (os error 2)",
        ]
    );
    assert_eq!(records.iter().filter(|record| record.is_failure()).count(), 3);
}
