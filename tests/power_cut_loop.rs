//! The power goes while disks are erased and laid out: every write of one whole run is recorded, and the disks are made
//! again as they may have been at some moment of it. Needs root, and a kernel with device mapper and md: without those
//! the tests say so.
//!
//! Killing a virtual machine would lose nothing: its host has every write by then. So what a cut may lose is worked out
//! from the log: all that was not flushed, in any choice.
//!
//! Five seeds by default, which cut every step once; `DROPHAMMER_POWER_CUTS=50` for fifty, which cut it ten times. A seed
//! always cuts at the same places.

mod loop_device;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use drophammer::api::layout::FilesystemLayout;
use drophammer::disk::apply::apply;
use drophammer::disk::erase::{EraseOptions, Level, erase_named};
use drophammer::disk::mount::mount_all;
use drophammer::disk::plan::{Mode, Plan};
use drophammer::disk::release::release;
use serde_json::json;
use tempfile::NamedTempFile;

use loop_device::layouts::{
    Made, assert_released, check_by_tools, free_array, free_group, kernel_has, layout, made, planned, read_file,
    write_file,
};
use loop_device::mapped::logged;
use loop_device::write_log::WriteLog;
use loop_device::{Loop, output};

const MIB: u64 = 1 << 20;
const SYSTEM_MIB: u64 = 176;
const DATA_MIB: u64 = 160;

/// Each stands for one choice of moments, and of what is lost.
fn seeds() -> Range<u64> {
    let count = std::env::var("DROPHAMMER_POWER_CUTS").ok().map(|text| text.parse().expect("a number of power cuts"));
    0..count.unwrap_or(5)
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014), SplitMix64.
struct Luck(u64);

impl Luck {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

fn blank(size_mib: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(size_mib * MIB).unwrap();
    file
}

/// Sparse, as the original.
fn copy_of(file: &Path) -> NamedTempFile {
    let copy = NamedTempFile::new().unwrap();
    output("cp", &["--sparse=always", file.to_str().unwrap(), copy.path().to_str().unwrap()]);
    copy
}

/// Names that stay the same over the power cut.
struct Names {
    array: String,
    group: String,
    kept: String,
}

/// Two disks that are made anew and one that is kept, with all that a layout can have.
fn layout_of([one, two, data]: [&Loop; 3], names: &Names) -> FilesystemLayout {
    let table = |disk: &Loop| {
        json!({"device": disk.device, "wipeonreinstall": true, "partitions": [
            {"number": 1, "size": 40, "gpttype": "ef00"}, {"number": 2, "size": 40, "gpttype": "fd00"},
            {"number": 3, "size": 70, "gpttype": "8e00"}, {"number": 4, "size": 0}]})
    };
    let Names { array, group, kept } = names;
    layout(json!({
        "disks": [table(one), table(two), {"device": data.device, "wipeonreinstall": false, "partitions": [
            {"number": 1, "size": 60}, {"number": 2, "size": 0, "gpttype": "8e00"}]}],
        "raid": [{"arrayname": array, "devices": [one.part(2), two.part(2)], "level": "1",
                  "createoptions": ["--metadata", "1.0"]}],
        "volumegroups": [{"name": group, "devices": [one.part(3), two.part(3)]},
                         {"name": kept, "devices": [data.part(2)]}],
        "logicalvolumes": [{"name": "var", "volumegroup": group, "size": 60, "lvmtype": "linear"},
                           {"name": "kept", "volumegroup": kept, "size": 60, "lvmtype": "linear"}],
        "filesystems": [
            {"path": "/boot/efi", "device": one.part(1), "format": "vfat", "label": "EFI"},
            {"path": "/", "device": array, "format": "ext4", "label": "root"},
            {"path": "/var", "device": format!("/dev/{group}/var"), "format": "ext3"},
            {"device": one.part(4), "format": "swap", "label": "swap"},
            {"path": "/data", "device": data.part(1), "format": "ext4"},
            {"path": "/kept", "device": format!("/dev/{kept}/kept"), "format": "ext4"}]}))
}

fn quick(disks: &[&Loop]) {
    let facts: Vec<_> = disks.iter().map(|disk| disk.facts()).collect();
    for record in erase_named(&facts, &EraseOptions::of_level(Level::Quick), &mut |_| {}) {
        assert!(!record.is_failure(), "{record}");
    }
}

/// One run: what was on the disks before, all writes, and the steps' names, which are marks in the logs.
struct Run {
    before: Vec<NamedTempFile>,
    logs: Vec<WriteLog>,
    steps: Vec<String>,
}

/// Erases two disks, lays all three out, mounts, writes files, unmounts and releases, as an installation does.
fn record_reinstallation(before: Vec<NamedTempFile>, names: &Names) -> Run {
    let disks: Vec<Loop> = before.iter().map(|file| logged(copy_of(file.path()), 160)).collect();
    let [one, two, data] = &disks[..] else { panic!("three disks") };
    let mut steps = Vec::new();
    let mut begin = |step: &str| {
        for disk in &disks {
            disk.mapping().mark(&format!("step-{}", steps.len()));
        }
        steps.push(step.to_owned());
    };
    begin("erasing");
    quick(&[one, two]);
    let made = Made(planned(&layout_of([one, two, data], names), &[one, two, data], Mode::Reinstall));
    apply(&made.0, &mut |line| {
        if !line.starts_with("keeping") {
            begin(line);
        }
    })
    .unwrap();
    begin("mounting and writing files");
    write_image(&made.0);
    begin("stopping");
    release(&made.0).unwrap();
    begin("end");
    drop(made);
    let logs = disks.into_iter().map(|disk| disk.detach().1.unwrap().into_log()).collect();
    Run { before, logs, steps }
}

/// Also where files are kept: what is installed is mounted with them.
fn write_image(plan: &Plan) {
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(plan, target.path()).unwrap();
    for (file, kib) in
        [("kernel", 3000), ("boot/efi/loader", 300), ("var/log", 500), ("data/new", 40), ("kept/new", 40)]
    {
        std::fs::write(target.path().join(file), vec![0x42; kib << 10]).unwrap();
    }
    mounts.unmount().unwrap();
}

impl Run {
    /// The disks after a power cut in one step. Each disk lost what it had not flushed, on its own.
    fn cut(&self, step: usize, luck: &mut Luck) -> Vec<Loop> {
        let moment = |log: &WriteLog, luck: &mut Luck| {
            let entries = log.after_mark(&format!("step-{step}"));
            entries.start + luck.below(entries.len() as u64 + 1) as usize
        };
        let disks = self.before.iter().zip(&self.logs);
        disks
            .map(|(before, log)| {
                let image = copy_of(before.path());
                let cut = moment(log, luck);
                log.replay(image.as_file(), cut, &mut |limit| luck.below(limit));
                Loop::attach(image, 512)
            })
            .collect()
    }
}

#[test]
fn after_a_power_cut_in_any_step_the_next_run_ends_well_and_what_is_kept_is_unchanged() {
    if !kernel_has(&["dm_mod", "dm_log_writes", "raid1", "vfat"]) {
        return;
    }
    let names = Names { array: free_array(), group: free_group(), kept: free_group() };
    let run = {
        let disks = [blank(SYSTEM_MIB), blank(SYSTEM_MIB), blank(DATA_MIB)].map(|file| Loop::attach(file, 512));
        let [one, two, data] = &disks;
        let first = made(&layout_of([one, two, data], &names), &[one, two, data], Mode::Install);
        write_file(&first.0, "data/precious", "still here");
        write_file(&first.0, "kept/precious", "here too");
        assert_released(&first.0);
        drop(first);
        record_reinstallation(disks.map(|disk| disk.detach().0).into(), &names)
    };
    let until_mounted = run.steps.iter().position(|step| step.starts_with("mounting")).unwrap();
    let mount = run.logs[2].after_mark(&format!("step-{until_mounted}")).start;
    let kept_writes: Vec<_> = run.logs[2].entries[..mount].iter().filter_map(|entry| entry.range()).collect();
    assert_eq!(kept_writes, [], "a kept disk is not written to before it is mounted");

    let steps = &run.steps[..run.steps.len() - 1];
    for seed in seeds() {
        for (step, name) in steps.iter().enumerate() {
            // Five seeds in a row cut every step once.
            if step as u64 % 5 != seed % 5 {
                continue;
            }
            eprintln!("seed {seed}, power cut while: {name}");
            let mut luck = Luck(seed << 32 | step as u64);
            let disks = run.cut(step, &mut luck);
            let [one, two, data] = &disks[..] else { panic!("three disks") };
            start_over([one, two, data], &names, luck.below(2) == 0);
        }
    }
}

/// What the next run does with the disks as it finds them.
fn start_over(disks: [&Loop; 3], names: &Names, erase_first: bool) {
    let [one, two, data] = disks;
    let kept = data.hash();
    if erase_first {
        quick(&[one, two]);
    }
    let made = made(&layout_of(disks, names), &disks, Mode::Reinstall);
    assert_eq!(data.hash(), kept, "the kept disk");
    check_by_tools(&made.0);
    assert_eq!(read_file(&made.0, "data/precious"), "still here");
    assert_eq!(read_file(&made.0, "kept/precious"), "here too");
    write_image(&made.0);
    assert_released(&made.0);
}

#[test]
fn after_a_power_cut_while_erasing_the_next_erasure_leaves_nothing() {
    if !kernel_has(&["dm_mod", "dm_log_writes"]) {
        return;
    }
    let mut old = NamedTempFile::new().unwrap();
    for block in 0..48_u8 {
        old.write_all(&[block | 0x80; MIB as usize]).unwrap();
    }
    let disk = logged(copy_of(old.path()), 64);
    disk.mapping().mark("step-0");
    let record = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {}).remove(0);
    assert!(!record.is_failure(), "{record}");
    let log = disk.detach().1.unwrap().into_log();
    let entries = log.after_mark("step-0");
    assert!(entries.len() > 10, "{entries:?}");
    let mut partly = 0;
    for seed in seeds() {
        let mut luck = Luck(seed);
        let image = copy_of(old.path());
        let cut = entries.start + luck.below(entries.len() as u64 + 1) as usize;
        log.replay(image.as_file(), cut, &mut |limit| luck.below(limit));
        partly += u32::from(first_byte(image.as_file()).is_some());
        let disk = Loop::attach(image, 512);
        let record = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {}).remove(0);
        assert!(!record.is_failure(), "seed {seed}: {record}");
        assert_eq!(first_byte(disk.file.as_file()), None, "seed {seed}");
    }
    assert!(partly > 0, "some of the cuts have left something");
}

/// Where the first byte lies that is not zero.
fn first_byte(file: &File) -> Option<usize> {
    let mut bytes = Vec::new();
    let mut file = file.try_clone().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes.iter().position(|byte| *byte != 0)
}

#[test]
fn a_replayed_log_makes_the_disk_as_it_was_flushed() {
    if !kernel_has(&["dm_mod", "dm_log_writes"]) {
        return;
    }
    let disk = logged(blank(8), 32);
    let file = File::options().write(true).open(&disk.device).unwrap();
    file.write_all_at(&[1; 8192], 4096).unwrap();
    file.sync_all().unwrap();
    disk.mapping().mark("middle");
    file.write_all_at(&[2; 4096], 8192).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let (after, mapping) = disk.detach();
    let log = mapping.unwrap().into_log();
    let replayed = |cut: usize, luck: &mut dyn FnMut(u64) -> u64| {
        let image = blank(8);
        log.replay(image.as_file(), cut, luck);
        std::fs::read(image.path()).unwrap()
    };
    // All is flushed at the end, whatever the luck.
    assert!(replayed(log.entries.len(), &mut |_| 0) == std::fs::read(after.path()).unwrap());
    let middle = log.after_mark("middle");
    let before = replayed(middle.start, &mut |_| 0);
    assert_eq!((before[4096], before[8192]), (1, 1));
    // What was written after it comes through or not.
    let write = middle.clone().find(|entry| log.entries[*entry].range().is_some()).unwrap();
    assert_eq!(replayed(write + 1, &mut |_| 0)[8192], 1);
    assert_eq!(replayed(write + 1, &mut |_| 3)[8192], 2);
}
