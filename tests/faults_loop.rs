//! Disks that fail, lie, are slow or hang, by device mapper below loop devices: what is told, what is not claimed, and
//! whether the next run succeeds. Needs root, and a kernel with device mapper and md: without those the tests say so.

mod loop_device;

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use drophammer::api::layout::FilesystemLayout;
use drophammer::disk::apply::{apply, wipe_filesystems};
use drophammer::disk::erase::{EraseOptions, EraseRecord, EraseResult, Level, Method, erase_named};
use drophammer::disk::mount::mount_all;
use drophammer::disk::plan::{Mode, Plan};
use serde_json::json;

use loop_device::layouts::{
    Made, assert_released, check_by_tools, free_array, free_group, kernel_has, layout, made, planned, read_file,
    refused, write_file,
};
use loop_device::mapped::{Fault, fragile, fragile_on, logged};
use loop_device::write_log::{Entry, WriteLog};
use loop_device::{Loop, output};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// A disk full of old data.
fn dirty(size_mib: u64) -> Loop {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let block = [0x5a_u8; MIB as usize];
    for _ in 0..size_mib {
        file.write_all(&block).unwrap();
    }
    fragile_on(file, 512)
}

fn erase(disk: &Loop, level: Level) -> EraseRecord {
    erase_named(&[disk.facts()], &EraseOptions::of_level(level), &mut |_| {}).remove(0)
}

/// Why the disk was not erased; it must not say that it was.
fn failure(record: &EraseRecord) -> &str {
    match &record.result {
        EraseResult::Failed { reason } => reason,
        EraseResult::Erased(_) | EraseResult::Skipped { .. } => panic!("{record}"),
    }
}

fn assert_all_zero(disk: &Loop, size_mib: u64) {
    let bytes = disk.read(0, (size_mib * MIB) as usize);
    assert_eq!(bytes.iter().position(|byte| *byte != 0), None);
}

/// One bad place at the beginning, in the middle, at the end of a disk.
fn places(size: u64) -> [Range<u64>; 3] {
    [0..4 * KIB, size / 2..size / 2 + 4 * KIB, size - 4 * KIB..size]
}

#[test]
fn an_erasure_that_fails_or_is_only_claimed_is_told_with_the_place_and_the_next_succeeds() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    const SIZE_MIB: u64 = 32;
    for fault in [Fault::Error, Fault::WritesFail, Fault::WritesLost] {
        for place in places(SIZE_MIB * MIB) {
            let disk = dirty(SIZE_MIB);
            disk.mapping().fail(&[(place.clone(), fault)]);
            let record = erase(&disk, Level::Clear);
            let reason = failure(&record);
            let at = place.start;
            let expected = match fault {
                // Both ways of writing zeros were tried; the second knows the place.
                Fault::Error | Fault::WritesFail => at_piece(at),
                Fault::WritesLost | Fault::Late(_) => {
                    format!("not blank when read back: at offset {at}, expected zeros, found 5a5a")
                }
            };
            assert!(reason.contains(&expected), "{fault:?} at {at}: {reason}");
            assert!(reason.contains("overwriting with zeros: "), "{reason}");
            disk.mapping().heal();
            let record = erase(&disk, Level::Clear);
            assert!(!record.is_failure(), "{record}");
            assert_all_zero(&disk, SIZE_MIB);
        }
    }
}

/// What is written at once when zeros are written by hand.
fn at_piece(offset: u64) -> String {
    format!("overwriting with zeros: {} bytes at offset {}: Input", 4 * MIB, offset / (4 * MIB) * (4 * MIB))
}

#[test]
fn quick_does_not_claim_what_a_disk_that_loses_writes_still_has() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    for (place, fault, expected) in [
        (0..4096, Fault::WritesLost, "not blank when read back: at offset 0, expected zeros, found 5a5a"),
        (64 * MIB - 4096..64 * MIB, Fault::WritesLost, "not blank when read back: at offset 67104768, expected zeros"),
        (64 * MIB - 4096..64 * MIB, Fault::WritesFail, "bytes at offset 62914560: "),
        (8192..12288, Fault::Error, "bytes at offset 0: "),
    ] {
        let disk = dirty(64);
        disk.mapping().fail(&[(place, fault)]);
        let record = erase(&disk, Level::Quick);
        assert!(failure(&record).contains(expected), "{record}");
        disk.mapping().heal();
        let record = erase(&disk, Level::Quick);
        let EraseResult::Erased(erased) = &record.result else { panic!("{record}") };
        assert_eq!((erased.method, erased.bytes), (Method::Signatures, erased.verified_bytes));
        assert_eq!(disk.read(20 * MIB, 4), [0x5a; 4], "quick is not more than quick");
    }
}

#[test]
fn sectors_that_can_not_be_read_are_healed_by_erasing_and_by_partitioning() {
    if !kernel_has(&["dm_mod", "dm_dust"]) {
        return;
    }
    let disk = dirty(128);
    let last = 128 * MIB / 512 - 1;
    // Where the old table and its backup would be, and in between.
    disk.mapping().lose_sectors(&[0, 1, 2, 5000, last]);
    assert_eq!(disk.facts().content, None, "it can't be known what is on it");
    let one = small_root(&disk);
    let made = made(&one, &[&disk], Mode::Install);
    check_by_tools(&made.0);
    disk.mapping().lose_sectors(&[0, 1, 5000, last]);
    let record = erase(&disk, Level::Clear);
    assert!(!record.is_failure(), "{record}");
    assert_all_zero(&disk, 128);
}

#[test]
fn a_disk_that_comes_and_goes_is_erased_or_not_but_never_half() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let disk = dirty(64);
    disk.mapping().come_and_go(1, 1);
    let mut outcomes = (0, 0);
    for _ in 0..12 {
        // It must be readable for a moment to be looked at.
        let record = erase(&disk, Level::Clear);
        match &record.result {
            EraseResult::Erased(_) => {
                outcomes.0 += 1;
                assert_all_zero(&disk, 64);
            }
            EraseResult::Failed { reason } => {
                outcomes.1 += 1;
                assert!(reason.contains("os error 5"), "{reason}");
            }
            EraseResult::Skipped { reason } => panic!("{reason}"),
        }
        disk.file.as_file().write_at_random_places(outcomes.0 + outcomes.1);
    }
    eprintln!("erased {} times, refused {} times", outcomes.0, outcomes.1);
    disk.mapping().heal();
    let record = erase(&disk, Level::Clear);
    assert!(!record.is_failure(), "{record}");
    assert_all_zero(&disk, 64);
}

/// Something to erase again.
trait Spoil {
    fn write_at_random_places(&self, seed: u64);
}

impl Spoil for std::fs::File {
    fn write_at_random_places(&self, seed: u64) {
        use std::os::unix::fs::FileExt;
        for piece in 0..16 {
            self.write_all_at(&[0x77; 4096], (seed * 37 + piece * 4) % 64 * MIB).unwrap();
        }
    }
}

#[test]
fn a_disk_that_hangs_is_given_up_with_the_place_and_the_other_is_erased() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let (hanging, well) = (dirty(64), dirty(64));
    let facts = [hanging.facts(), well.facts()];
    let options = EraseOptions { stall_limit: Duration::from_secs(5), ..EraseOptions::default() };
    hanging.mapping().hang();
    let records = erase_named(&facts, &options, &mut |_| {});
    hanging.mapping().go_on();
    assert_eq!(failure(&records[0]), "no sign of life for 5 s, at offset 0");
    assert!(!records[1].is_failure(), "{}", records[1]);
    assert_all_zero(&well, 64);
    // The thread that was left behind lets go of it.
    let deadline = Instant::now() + Duration::from_secs(100);
    while erase(&hanging, Level::Clear).is_failure() {
        assert!(Instant::now() < deadline, "it stays in use");
        sleep(Duration::from_millis(100));
    }
    assert_all_zero(&hanging, 64);
}

fn small_root(disk: &Loop) -> FilesystemLayout {
    layout(
        json!({"disks": [{"device": disk.device, "partitions": [{"number": 1, "size": 40}, {"number": 2, "size": 0}]}],
        "filesystems": [
            {"path": "/", "device": disk.part(1), "format": "ext4", "label": "root"},
            {"path": "/data", "device": disk.part(2), "format": "ext4"}]}),
    )
}

#[test]
fn a_slow_disk_is_erased_and_laid_out_all_the_same() {
    if !kernel_has(&["dm_mod", "dm_delay"]) {
        return;
    }
    let disk = dirty(96);
    disk.mapping().fail(&[(0..96 * MIB, Fault::Late(20))]);
    let mut told = Vec::new();
    let record = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |step| told.push(step.clone())).remove(0);
    assert!(!record.is_failure(), "{record}");
    assert!(told.iter().any(|step| step.verifying) && told.iter().any(|step| !step.verifying), "{told:?}");
    let made = made(&small_root(&disk), &[&disk], Mode::Install);
    check_by_tools(&made.0);
    write_file(&made.0, "data/file", "slow");
    assert_eq!(read_file(&made.0, "data/file"), "slow");
}

/// The writes of each step of a layout, as one run of it did them.
struct Steps {
    lines: Vec<String>,
    /// By disk.
    logs: Vec<WriteLog>,
}

const DISK_MIB: u64 = 96;

/// A layout for these disks. Names of arrays and groups are new each time.
type Describe = fn(&[&Loop]) -> FilesystemLayout;

fn recorded_steps(describe: Describe, count: usize) -> Steps {
    let blank = |_| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(DISK_MIB * MIB).unwrap();
        logged(file, 64)
    };
    let disks: Vec<Loop> = (0..count).map(blank).collect();
    let loops: Vec<&Loop> = disks.iter().collect();
    let made = Made(planned(&describe(&loops), &loops, Mode::Install));
    let mut lines = Vec::new();
    let mark = |number: usize| disks.iter().for_each(|disk| disk.mapping().mark(&format!("step-{number}")));
    apply(&made.0, &mut |line| {
        mark(lines.len());
        lines.push(line.to_owned());
    })
    .unwrap();
    mark(lines.len());
    drop(made);
    let logs = disks.into_iter().map(|disk| disk.detach().1.unwrap().into_log()).collect();
    Steps { lines, logs }
}

impl Steps {
    /// The first, the middle and the last place that a step writes to: number of the disk, and the bytes.
    fn places(&self, step: usize) -> Vec<(usize, Range<u64>)> {
        // By pages: that is how much goes bad at a time.
        let writes = |(disk, log): (usize, &WriteLog)| {
            let entries = log.entries[log.after_mark(&format!("step-{step}"))].iter();
            let pages = entries.filter_map(Entry::range).flat_map(|range| range.start / 4096..range.end.div_ceil(4096));
            pages.map(|page| (disk, page * 4096..(page + 1) * 4096)).collect::<Vec<_>>()
        };
        let all: Vec<(usize, Range<u64>)> = self.logs.iter().enumerate().flat_map(writes).collect();
        let Some(last) = all.len().checked_sub(1) else { return vec![] };
        let mut places = vec![all[0].clone(), all[last / 2].clone(), all[last].clone()];
        places.dedup();
        places
    }
}

/// What an error in a step must speak of: what the line of the step speaks of.
fn subject(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["writing", _, "partitions", "to", device] => format!("partitioning {device}"),
        ["making", "volume", "group", name, ..] => format!("making volume group {name}"),
        ["making", what, "on", node] => format!("making {what} on {node}"),
        ["making", _, array, ..] => format!("making {array}"),
        _ => panic!("a step that this test does not know: {line}"),
    }
}

/// Lets one page of a disk go bad at the beginning, the middle and the end of what a step writes, as the step begins.
/// `of_interest`: which steps.
fn fail_steps(describe: Describe, count: usize, of_interest: fn(&str) -> bool) {
    let steps = recorded_steps(describe, count);
    let disks: Vec<Loop> = (0..count).map(|_| fragile(DISK_MIB)).collect();
    let loops: Vec<&Loop> = disks.iter().collect();
    let mut tried = 0;
    for (step, line) in steps.lines.iter().enumerate().filter(|(_, line)| of_interest(line)) {
        let places = steps.places(step);
        assert!(!places.is_empty(), "{line} has written nothing");
        for (position, (bad, page)) in places.into_iter().enumerate() {
            let fault = [Fault::WritesFail, Fault::Error][(step + position) % 2];
            let case = format!("{line}, {fault:?} at {page:?} of disk {bad}");
            fail_step(describe, &loops, (step, bad, page, fault), &case);
            tried += 1;
        }
    }
    eprintln!("{tried} faults");
}

fn fail_step(describe: Describe, disks: &[&Loop], at: (usize, usize, Range<u64>, Fault), case: &str) {
    let (step, bad, page, fault) = at;
    let layout = describe(disks);
    let half = Made(planned(&layout, disks, Mode::Install));
    let mut told = Vec::new();
    let result = apply(&half.0, &mut |line| {
        if told.len() == step {
            disks[bad].mapping().fail(&[(page.clone(), fault)]);
        }
        told.push(line.to_owned());
    });
    let Err(error) = result else { panic!("{case}: said to be done") };
    let error = format!("{:#}", anyhow::Error::from(error));
    eprintln!("{case}: {error}");
    check_told(&half.0, &told, step, &error, case);
    disks[bad].mapping().heal();
    wipe_filesystems(&half.0).unwrap();
    drop(half);
    let again = made(&layout, disks, Mode::Install);
    check_by_tools(&again.0);
    assert_released(&again.0);
}

/// The step is the last that was begun, and it is what the error is about. Of an array only a member fails: then all goes
/// on, and the array is told of at the end.
fn check_told(plan: &Plan, told: &[String], step: usize, error: &str, case: &str) {
    if let Some(array) = plan.arrays.first().filter(|_| error.contains(" is not whole")) {
        let expected = format!("the disks are half-made: {} is not whole: /dev/loop", array.device);
        assert!(error.starts_with(&expected), "{case}: {error}");
        return;
    }
    assert_eq!(told.len(), step + 1, "{case}: {told:?}");
    let about = |what: &str| error.starts_with(&format!("the disks are half-made: {what}"));
    // The ends of a new volume are cleared in the step that makes its group.
    let is_group = told[step].starts_with("making volume group");
    assert!(about(&subject(&told[step])) || (is_group && about("clearing /dev/mapper/")), "{case}: {error}");
}

#[test]
fn a_failure_anywhere_in_partitioning_or_in_making_a_file_system_is_told_and_the_next_run_succeeds() {
    if !kernel_has(&["dm_mod", "dm_flakey", "dm_log_writes", "vfat"]) {
        return;
    }
    let describe = |disks: &[&Loop]| {
        let disk = disks[0];
        layout(json!({"disks": [{"device": disk.device, "partitions": [
                {"number": 1, "size": 20, "gpttype": "ef00"}, {"number": 2, "size": 40}, {"number": 3, "size": 0}]}],
            "filesystems": [
                {"path": "/boot/efi", "device": disk.part(1), "format": "vfat", "label": "EFI"},
                {"path": "/", "device": disk.part(2), "format": "ext4", "label": "root"},
                {"device": disk.part(3), "format": "swap"}]}))
    };
    fail_steps(describe, 1, |_| true);
}

#[test]
fn a_failure_anywhere_in_making_a_mirror_or_on_it_is_told_and_the_next_run_succeeds() {
    if !kernel_has(&["dm_mod", "dm_flakey", "dm_log_writes", "raid1"]) {
        return;
    }
    let describe = |disks: &[&Loop]| {
        let array = free_array();
        let table =
            |disk: &&Loop| json!({"device": disk.device, "partitions": [{"number": 1, "size": 0, "gpttype": "fd00"}]});
        layout(json!({"disks": disks.iter().map(table).collect::<Vec<_>>(),
            "raid": [{"arrayname": array, "devices": [disks[0].part(1), disks[1].part(1)], "level": "1",
                      "createoptions": ["--metadata", "1.0"]}],
            "filesystems": [{"path": "/", "device": array, "format": "ext4"}]}))
    };
    fail_steps(describe, 2, |line| line.starts_with("making"));
}

#[test]
fn a_failure_anywhere_in_making_a_volume_group_or_on_it_is_told_and_the_next_run_succeeds() {
    if !kernel_has(&["dm_mod", "dm_flakey", "dm_log_writes"]) {
        return;
    }
    let describe = |disks: &[&Loop]| {
        let group = free_group();
        let table =
            |disk: &&Loop| json!({"device": disk.device, "partitions": [{"number": 1, "size": 0, "gpttype": "8e00"}]});
        layout(json!({"disks": disks.iter().map(table).collect::<Vec<_>>(),
            "volumegroups": [{"name": group, "devices": [disks[0].part(1), disks[1].part(1)]}],
            "logicalvolumes": [{"name": "v", "volumegroup": group, "size": 0, "lvmtype": "linear"}],
            "filesystems": [{"path": "/", "device": format!("/dev/{group}/v"), "format": "ext3"}]}))
    };
    fail_steps(describe, 2, |line| line.starts_with("making"));
}

#[test]
fn a_table_that_was_only_claimed_to_be_written_is_told() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let disk = fragile(128);
    let end = 128 * MIB;
    // The backup that is found is the one before, to which other entries belong.
    for (place, copy) in [(512..1024, "no GPT header at sector 1"), (end - 512..end, "GPT entries at sector 262111")] {
        disk.mapping().fail(&[(place, Fault::WritesLost)]);
        let error = refused(&planned(&small_root(&disk), &[&disk], Mode::Install));
        let expected = format!("partitioning {0}: reading the new table of {0} back: ", disk.device);
        assert!(error.contains(&expected) && error.contains(copy), "{error}");
        disk.mapping().heal();
    }
    // Half of an ext4: its super block.
    let plan = planned(&small_root(&disk), &[&disk], Mode::Install);
    let start = plan.disks[0].partitions[0].first_lba * 512;
    let result = apply(&plan, &mut |line| {
        if line.starts_with("making ext4") {
            disk.mapping().fail(&[(start..start + 4096, Fault::WritesLost)]);
        }
    });
    let error = format!("{:#}", anyhow::Error::from(result.unwrap_err()));
    let expected = format!("making ext4 on {0}: nothing is found on {0} afterwards", disk.node(1));
    assert!(error.contains(&expected), "{error}");
    disk.mapping().heal();
    let made = made(&small_root(&disk), &[&disk], Mode::Install);
    check_by_tools(&made.0);
}

#[test]
fn what_can_not_be_mounted_or_written_out_is_told_and_nothing_stays_mounted() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let disk = fragile(128);
    let layout = small_root(&disk);
    let made = made(&layout, &[&disk], Mode::Install);
    let second = &made.0.disks[0].partitions[1];
    let start = second.first_lba * 512;
    let whole = start..start + second.size.0;
    let target = tempfile::tempdir().unwrap();
    let mounted = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(target.path().to_str().unwrap());

    disk.mapping().fail(&[(start..start + 4096, Fault::Error)]);
    let error = format!("{:#}", mount_all(&made.0, target.path()).unwrap_err());
    let expected = format!("mounting {} (ext4) at {}", disk.node(2), target.path().join("data").display());
    assert!(error.contains(&expected) && error.contains("EIO"), "{error}");
    assert!(!mounted());
    disk.mapping().heal();

    let mounts = mount_all(&made.0, target.path()).unwrap();
    disk.mapping().fail(&[(whole, Fault::WritesFail)]);
    // Far more than the journal.
    std::fs::write(target.path().join("data/file"), vec![1; 16 << 20]).unwrap();
    let error = format!("{:#}", mounts.unmount().unwrap_err());
    assert!(error.contains(&format!("flushing {}", target.path().join("data").display())), "{error}");
    assert!(!mounted());
    disk.mapping().heal();
    wipe_filesystems(&made.0).unwrap();
    let again = loop_device::layouts::made(&layout, &[&disk], Mode::Install);
    check_by_tools(&again.0);
    write_file(&again.0, "data/file", "whole");
    assert_eq!(read_file(&again.0, "data/file"), "whole");
    assert!(Path::new(&disk.device).exists() && output("lsblk", &[&disk.device]).contains("loop"));
}
