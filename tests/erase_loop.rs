//! Erasing real loop devices, judged by the distribution's own tools. Needs root.

mod loop_device;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use drophammer::disk::command::{EraseArgs, OutputFormat, run_erase, stop_on_signal};
use drophammer::disk::erase::release::{plan_release, release};
use drophammer::disk::erase::{EraseOptions, EraseResult, Level, Method, erase_all, erase_named};
use drophammer::sys::roots::Roots;
use nix::sys::signal::Signal;
use serde_json::Value;

use loop_device::{Loop, blkid, output};

/// What wipefs would remove, from all over the device.
fn signatures(node: &str) -> Vec<String> {
    let told: Option<Value> = serde_json::from_str(&output("wipefs", &["--json", "--no-act", node])).ok();
    let found = told.as_ref().and_then(|told| told["signatures"].as_array().cloned()).unwrap_or_default();
    found.iter().map(|one| format!("{} at {}", one["type"], one["offset"])).collect()
}

fn dirty(size_mib: u64, tail: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let block = [0x5a_u8; 1 << 16];
    for _ in 0..size_mib * 16 {
        file.write_all(&block).unwrap();
    }
    file.write_all(&block[..tail as usize]).unwrap();
    file
}

fn quick(disk: &Loop) -> String {
    let records = erase_named(&[disk.facts()], &EraseOptions::of_level(Level::Quick), &mut |_| {});
    let EraseResult::Erased(erased) = &records[0].result else { panic!("{}", records[0]) };
    assert_eq!(erased.method, Method::Signatures);
    assert_eq!(erased.bytes, erased.verified_bytes, "all that was wiped is read back");
    records[0].to_string()
}

/// Whether the kernel has md and device-mapper; without them those tests have nothing to look at.
fn has_kernel(what: &str) -> bool {
    let _ = Command::new("modprobe").args(["-q", what]).status();
    let known = fs::read_to_string("/proc/devices").unwrap_or_default();
    let name = if what == "dm-mod" { "device-mapper" } else { "md" };
    let there = known.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
    if !there {
        eprintln!("not tested: this kernel lacks {name}");
    }
    there
}

#[test]
fn every_byte_is_erased_also_of_an_odd_tail() {
    for (sector, tail) in [(512, 512 * 7), (4096, 4096 * 3)] {
        let disk = Loop::attach(dirty(70, tail), sector);
        let mut steps = 0;
        let outcomes = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| steps += 1);
        let EraseResult::Erased(erased) = &outcomes[0].result else { panic!("{}", outcomes[0]) };
        assert_eq!(erased.bytes, (70 << 20) + tail);
        assert!(erased.verified_bytes >= 64 << 20 && steps > 0, "{erased:?}");
        assert_eq!(erased.verified.zeros, erased.verified.places);
        let mut bytes = Vec::new();
        File::open(disk.file.path()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.iter().position(|byte| *byte != 0), None);
        assert_eq!(bytes.len() as u64, erased.bytes);
    }
}

#[test]
fn erase_wants_the_right_confirmation_for_every_disk_before_the_first() {
    let (one, two) = (Loop::attach(dirty(1, 0), 512), Loop::attach(dirty(1, 0), 512));
    let size = (1_u64 << 20).to_string();
    let run = |devices: &[&str], confirm: &[&str]| {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let (devices, confirm) = (strings(devices), strings(confirm));
        let (level, format_unit, format) = (Level::Clear, false, OutputFormat::Json);
        run_erase(&EraseArgs { devices, confirm, level, format_unit, format })
    };
    let error = run(&[&one.device, &two.device], &[&size, "wrong"]).unwrap_err().to_string();
    let expected = format!(
        "the size in bytes (it has no serial number) of {} is \"{size}\", --confirm says \"wrong\"",
        two.device
    );
    assert!(error.ends_with(&expected), "{error}");
    assert!(run(&[&one.device, &one.device], &[&size, &size]).is_err());
    assert!(run(&["/dev/no-such-disk"], &["x"]).is_err());
    assert_eq!(
        format!("{:?}", run(&[&one.device], &[&size, &size]).unwrap()),
        format!("{:?}", std::process::ExitCode::from(2))
    );
    let first = |disk: &Loop| {
        let mut byte = [0; 1];
        File::open(disk.file.path()).unwrap().read_exact_at(&mut byte, 0).unwrap();
        byte[0]
    };
    assert_eq!((first(&one), first(&two)), (0x5a, 0x5a));
    run(&[&one.device], &[&size]).unwrap();
    assert_eq!((first(&one), first(&two)), (0, 0x5a));
}

#[test]
fn loop_devices_are_no_disks_of_the_machine() {
    let disk = Loop::attach(dirty(1, 0), 512);
    let outcomes = erase_all(&[disk.facts()], &EraseOptions::default(), &mut |_| panic!("it was begun"));
    assert!(outcomes[0].to_string().ends_with("skipped: loop device"), "{}", outcomes[0]);
    assert!(Path::new(&disk.device).exists());
}

#[test]
fn the_record_says_which_disk_and_what_was_tried_and_found() {
    let disk = Loop::attach(dirty(70, 0), 512);
    let record = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {}).remove(0);
    let json: Value = serde_json::to_value(&record).unwrap();
    assert_eq!((json["device"].as_str(), json["size"].as_u64()), (Some(disk.device.as_str()), Some(70 << 20)));
    assert_eq!((json["level"].as_str(), json["attempts"][0]["method"].as_str()), (Some("clear"), Some("zero_out")));
    assert_eq!(json["attempts"][0]["refusal"], Value::Null);
    assert_eq!(json["result"]["erased"]["verified"]["places"].as_u64(), Some(64));
    let (started, ended) = (json["started"].as_str().unwrap(), json["ended"].as_str().unwrap());
    assert!(started.ends_with('Z') && started.contains('T') && started <= ended, "{started} {ended}");
}

#[test]
fn purge_fails_with_the_reason_and_leaves_the_disk_as_it_was() {
    let disk = Loop::attach(dirty(1, 0), 512);
    let records = erase_named(&[disk.facts()], &EraseOptions::of_level(Level::Purge), &mut |_| {});
    assert!(records[0].is_failure());
    let end = "NOT ERASED: it has no command to erase itself, and level purge takes nothing else";
    assert!(records[0].to_string().ends_with(end), "{}", records[0]);
    assert!(disk.read(0, 1 << 20).iter().all(|byte| *byte == 0x5a));
}

#[test]
fn quick_leaves_no_table_and_no_file_system_of_any_partition_and_keeps_the_rest() {
    let disk = Loop::new(400, 512);
    output("sgdisk", &["-n", "1:2048:+100M", "-n", "2:0:+100M", "-n", "3:0:0", &disk.device]);
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
    output("partx", &["-a", &disk.device]);
    output("mkfs.ext4", &["-q", "-F", &disk.node(1)]);
    output("mkswap", &["-q", &disk.node(2)]);
    let starts: Vec<u64> = disk.facts().partitions.iter().map(|partition| partition.start.0).collect();
    assert_eq!(starts.len(), 3);
    disk.write(starts[1] + (50 << 20), b"in the middle");
    quick(&disk);
    assert_eq!(disk.facts().partitions, [], "the kernel has them no more");
    assert_eq!(signatures(&disk.device), Vec::<String>::new());
    // As they would be found when somebody makes the same partitions again.
    output("sgdisk", &["-n", "1:2048:+100M", "-n", "2:0:+100M", "-n", "3:0:0", &disk.device]);
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
    output("partx", &["-a", &disk.device]);
    for number in 1..=3 {
        assert_eq!(blkid(disk.node(number)).get("TYPE"), None, "partition {number}");
    }
    assert_eq!(disk.read(starts[1] + (50 << 20), 13), b"in the middle", "quick is not more than quick");
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
}

/// Super blocks that other tools would find again, by the place where each lies (size of the disk: 200 MiB).
#[test]
fn quick_finds_members_of_raid_lvm_zfs_ceph_and_luks_where_they_lie() {
    const SIZE: u64 = 200 << 20;
    let md = |minor: u32| [&0xa92b_4efc_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &minor.to_le_bytes()].concat();
    let luks2 = |magic: &[u8]| [magic, &[0, 2]].concat();
    let uberblock = 0x00ba_b10c_u64.to_le_bytes();
    let places: Vec<(&str, u64, Vec<u8>)> = vec![
        ("md 0.90", (SIZE & !0xffff) - 0x1_0000, md(90)),
        ("md 1.0", SIZE - 0x2000, md(0)),
        ("md 1.1", 0, md(0)),
        ("md 1.2", 0x1000, md(0)),
        ("LVM", 512, b"LABELONE".to_vec()),
        ("ZFS label 0", 128 << 10, uberblock.to_vec()),
        ("ZFS label 1", (256 + 128) << 10, uberblock.to_vec()),
        ("ZFS label 2", SIZE - ((512 - 128) << 10), uberblock.to_vec()),
        ("ZFS label 3", SIZE - ((256 - 128) << 10), uberblock.to_vec()),
        ("Ceph", 0, b"bluestore block device\n".to_vec()),
        ("LUKS 1", 0, b"LUKS\xba\xbe\x00\x01".to_vec()),
        ("LUKS 2", 0, luks2(b"LUKS\xba\xbe")),
        ("LUKS 2, second header", 0x4000, luks2(b"SKUL\xba\xbe")),
        ("LUKS 2, second header of the largest kind", 0x40_0000, luks2(b"SKUL\xba\xbe")),
        ("LUKS 2, last key slot", (16 << 20) - 4096, vec![0xa5; 4096]),
        ("btrfs, second copy", (64 << 20) + 64, b"_BHRfS_M".to_vec()),
    ];
    for (what, offset, bytes) in places {
        let disk = Loop::new(200, 512);
        disk.write(offset, &bytes);
        quick(&disk);
        assert_eq!(disk.read(offset, bytes.len()), vec![0; bytes.len()], "{what}");
        assert_eq!(signatures(&disk.device), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_request_to_stop_leaves_a_record_and_the_disk() {
    let disk = Loop::attach(dirty(1, 0), 512);
    let options = EraseOptions::default();
    options.cancel.store(true, Ordering::Relaxed);
    let told = erase_named(&[disk.facts()], &options, &mut |_| {})[0].to_string();
    assert!(told.ends_with("NOT ERASED: stopped by request before it was begun"), "{told}");
    assert!(disk.read(0, 1 << 20).iter().all(|byte| *byte == 0x5a));
}

#[test]
fn swap_and_nested_mounts_of_a_disk_are_taken_down_and_then_it_is_erased() {
    let disk = Loop::new(300, 512);
    output("sgdisk", &["-n", "1:0:+100M", "-n", "2:0:+100M", &disk.device]);
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
    output("partx", &["-a", &disk.device]);
    output("mkfs.ext4", &["-q", "-F", &disk.node(1)]);
    output("mkfs.ext4", &["-q", "-F", &disk.node(2)]);
    let outer = tempfile::Builder::new().prefix("with space ").tempdir().unwrap();
    let path = outer.path().to_str().unwrap();
    output("mount", &[&disk.node(1), path]);
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    output("mount", &[&disk.node(2), inner.to_str().unwrap()]);

    let roots = Roots::system();
    let refused = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {})[0].to_string();
    assert!(refused.contains("NOT ERASED: in use"), "a desk: {refused}");
    assert_eq!(plan_release(&roots, &[disk.facts()]).len(), 2);
    assert_eq!(release(&roots, &[disk.facts()]), Vec::<String>::new());
    assert_eq!(disk.facts().uses, []);
    assert!(!erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {})[0].is_failure());
}

#[test]
fn what_can_not_be_taken_down_is_told_with_the_reason() {
    let disk = Loop::new(64, 512);
    output("mkfs.ext4", &["-q", "-F", &disk.device]);
    let place = tempfile::tempdir().unwrap();
    output("mount", &[&disk.device, place.path().to_str().unwrap()]);
    let held = File::create(place.path().join("open")).unwrap();
    let problems = release(&Roots::system(), &[disk.facts()]);
    drop(held);
    output("umount", &[place.path().to_str().unwrap()]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains(&disk.device) && problems[0].ends_with("EBUSY: Device or resource busy"),
        "{problems:?}"
    );
}

#[test]
fn lvm_on_a_degraded_array_is_taken_down_without_their_tools() {
    if !has_kernel("md-mod") || !has_kernel("dm-mod") {
        return;
    }
    let (one, two) = (Loop::new(100, 512), Loop::new(100, 512));
    let md = "/dev/md/drophammer-erase-test";
    output(
        "mdadm",
        &["--create", md, "--run", "--level=1", "--raid-devices=2", "--metadata=1.2", &one.device, &two.device],
    );
    let node = fs::canonicalize(md).unwrap().display().to_string();
    output("mdadm", &["--stop", &node]);
    output("mdadm", &["--assemble", "--run", &node, &one.device]);
    let devices = format!("devices {{ filter=[\"a|{node}|\",\"r|.*|\"] }}");
    output("pvcreate", &["--config", &devices, &node]);
    output("vgcreate", &["--config", &devices, "drophammer-erase-test", &node]);
    output("lvcreate", &["--config", &devices, "-n", "data", "-l", "100%FREE", "-Zn", "-an", "drophammer-erase-test"]);
    output("lvchange", &["--config", &devices, "-ay", "drophammer-erase-test/data"]);
    assert!(!one.facts().uses.is_empty());
    let problems = release(&Roots::system(), &[one.facts(), two.facts()]);
    assert_eq!(problems, Vec::<String>::new());
    for disk in [&one, &two] {
        assert_eq!(disk.facts().uses, []);
        quick(disk);
        assert_eq!(signatures(&disk.device), Vec::<String>::new());
    }
}

/// That the eraser then stops is shown above.
#[test]
fn a_signal_asks_the_eraser_to_stop_instead_of_ending_the_program() {
    let cancel = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&cancel));
    nix::sys::signal::raise(Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !cancel.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the signal was not heard");
        sleep(Duration::from_millis(10));
    }
}
