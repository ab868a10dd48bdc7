//! Images on disks: raw ones that grow to their disk, judged by the tools of GPT and of the file systems, and disks that
//! lie or fail, below raw images and below file systems. Needs root. A kernel that lets us (user-mode Linux's does) grows
//! ext4 itself; elsewhere its tools do.

mod loop_device;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "image/support.rs"]
mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use drophammer::image::{DigestRule, ImageError, Options, Report, Source, Unobserved, write_raw};
use drophammer::sys::units::Bytes;

use loop_device::layouts::kernel_has;
use loop_device::mapped::{Fault, fragile};
use support::{Loop, Mounted, block_on, content, options, run, text, unpack_file};

const MIB: u64 = 1 << 20;

fn write(image: &Path, target: &Path) -> Result<Report, ImageError> {
    let options = Options { grow: true, ..options(DigestRule::AllowMissing) };
    block_on(write_raw(&Source::File(image.to_owned()), target, &options, &Unobserved))
}

fn write_only(image: &Source, target: &Path) -> Result<Report, ImageError> {
    block_on(write_raw(image, target, &options(DigestRule::AllowMissing), &Unobserved))
}

/// A disk as cloud images are made: a small partition 14 in front, and the root, number 1, with an attribute and all
/// the room behind it. `filesystem` makes what is in the root, of a file and its mebibytes.
fn image(dir: &Path, sector: u32, root_mib: u64, filesystem: &str) -> PathBuf {
    let path = dir.join("disk.img");
    let root = dir.join("root.img");
    std::fs::File::create(&path).unwrap().set_len((root_mib + 3) * MIB).unwrap();
    let disk = Loop::attach(&path, sector);
    let mib_sectors = MIB / u64::from(sector);
    let (first, last) = (2 * mib_sectors, (2 + root_mib) * mib_sectors - 1);
    let small = format!("14:{}:{}", mib_sectors, 2 * mib_sectors - 1);
    let table = ["-n", &small, "-t", "14:ef02", "-n", &format!("1:{first}:{last}"), "-c", "1:root", "-A", "1:set:2"];
    run("sgdisk", &[&["-a", "1"][..], &table, &[text(&disk.0)]].concat());
    drop(disk);
    std::fs::File::create(&root).unwrap().set_len(root_mib * MIB).unwrap();
    run("sh", &["-e", "-c", filesystem, "sh", text(&root), &sector.to_string()]);
    run(
        "dd",
        &["conv=notrunc,sparse", "bs=1M", "seek=2", &format!("if={}", text(&root)), &format!("of={}", text(&path))],
    );
    path
}

/// What `sgdisk` says of a partition.
fn partition(device: &Path, number: u32) -> String {
    String::from_utf8(run("sgdisk", &["-i", &number.to_string(), text(device)])).unwrap()
}

fn assert_no_problems(device: &Path) {
    let found = String::from_utf8(run("sgdisk", &["-v", text(device)])).unwrap();
    assert!(found.contains("No problems found"), "{found}");
    let found = Command::new("sfdisk").args(["--verify", text(device)]).output().unwrap();
    let words = String::from_utf8_lossy(&found.stdout).into_owned() + &String::from_utf8_lossy(&found.stderr);
    assert!(words.contains("No errors detected"), "{words}");
}

#[test]
fn table_partition_and_file_system_grow_to_the_disk() {
    for (kind, sector, root_mib, make, check) in [
        ("ext4", 512, 64, "mkfs.ext4 -q $1", "e2fsck -fn"),
        ("ext4", 4096, 64, "mkfs.ext4 -q -b 4096 $1", "e2fsck -fn"),
        ("ext3", 512, 64, "mkfs.ext3 -q $1", "e2fsck -fn"),
        ("xfs", 512, 320, "mkfs.xfs -q $1", "xfs_repair -n"),
        ("xfs", 4096, 320, "mkfs.xfs -q -s size=4096 $1", "xfs_repair -n"),
        ("btrfs", 512, 128, "mkfs.btrfs -q $1", "btrfs check"),
    ] {
        // ext3 is ext4's driver's
        let driver = if kind == "ext3" { "ext4" } else { kind };
        if !std::fs::read_to_string("/proc/filesystems").unwrap().contains(driver) {
            eprintln!("not tested: this kernel has no {driver}");
            continue;
        }
        let temp = tempfile::tempdir().unwrap();
        let fill = "d=$(mktemp -d); mount $1 $d; printf kept > $d/file; umount $d; rmdir $d";
        let image = image(temp.path(), sector, root_mib, &format!("{make}; {fill}"));
        let disk = Loop::new(temp.path(), 1000 * MIB, sector);
        // of an earlier system, right where the new backup comes
        run("sgdisk", &["-a", "1", "-N", "3", text(&disk.0)]);
        let before = Loop::attach(&image, sector);
        let was = partition(&before.0, 1);
        drop(before);
        let report = write(&image, &disk.0).unwrap_or_else(|err| panic!("{kind} {sector}: {err:?}"));

        let grown = report.grown.unwrap();
        assert_eq!((grown.partition, grown.filesystem.as_deref()), (1, Some(kind)));
        // the last whole mebibyte is the backup's
        assert_eq!((grown.from, grown.to), (Bytes(root_mib * MIB), Bytes((1000 - 3) * MIB)));
        assert_eq!(report.warnings.len(), 1, "{kind}: {:?}", report.warnings);
        assert_no_problems(&disk.0);
        let now = partition(&disk.0, 1);
        for known in ["Partition unique GUID", "Attribute flags", "Partition name", "First sector"] {
            let line = |text: &str| text.lines().find(|line| line.starts_with(known)).unwrap().to_owned();
            assert_eq!(line(&was), line(&now));
        }
        assert!(now.contains("Attribute flags: 0000000000000004"), "{now}");
        assert_eq!(partition(&disk.0, 14).lines().count(), was.lines().count(), "the other is there");

        let node = PathBuf::from(format!("{}p1", text(&disk.0)));
        let mounted = Mounted::device(&node, &temp.path().join("mnt"));
        assert_eq!(std::fs::read(mounted.0.join("file")).unwrap(), b"kept");
        let size = nix::sys::statvfs::statvfs(&mounted.0).unwrap();
        let bytes = size.blocks() * size.fragment_size();
        assert!(bytes > 900 * MIB, "{kind}: {bytes} bytes after growing");
        drop(mounted);
        run("sh", &["-c", &format!("{check} {}", text(&node))]);
    }
}

#[test]
fn what_nobody_knows_is_left_in_a_larger_partition() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path(), 512, 8, "head -c 8M /dev/urandom > $1");
    let disk = Loop::new(temp.path(), 64 * MIB, 512);
    let report = write(&image, &disk.0).unwrap();
    let grown = report.grown.unwrap();
    assert_eq!((grown.to, grown.filesystem), (Bytes(61 * MIB), None));
    assert!(report.warnings.iter().any(|warning| warning.contains("(unknown) was left")), "{:?}", report.warnings);
    assert_no_problems(&disk.0);
    let (made, found) = (std::fs::read(temp.path().join("root.img")).unwrap(), std::fs::read(&disk.0).unwrap());
    assert!(found[2 * MIB as usize..10 * MIB as usize] == made);
}

#[test]
fn a_disk_of_the_images_size_has_nothing_to_grow() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path(), 512, 8, "mkfs.ext4 -q $1");
    let disk = Loop::new(temp.path(), image.metadata().unwrap().len(), 512);
    let grown = write(&image, &disk.0).unwrap().grown.unwrap();
    assert_eq!((grown.from, grown.to, grown.filesystem.as_deref()), (Bytes(8 * MIB), Bytes(8 * MIB), Some("ext4")));
    assert_no_problems(&disk.0);
    let (made, found) = (std::fs::read(&image).unwrap(), std::fs::read(&disk.0).unwrap());
    assert!(made[..2 * MIB as usize] == found[..2 * MIB as usize], "the table is what it was");
    assert!(made[10 * MIB as usize..] == found[10 * MIB as usize..], "and its backup");
}

/// Whatever does not fit is told before the first byte is written.
#[test]
fn what_can_not_grow_is_refused_and_the_disk_stays_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let old = content(16 << 20);
    let disk = Loop::new(temp.path(), 16 * MIB, 512);
    std::fs::write(&disk.0, &old).unwrap();
    let mbr = temp.path().join("mbr.img");
    std::fs::File::create(&mbr).unwrap().set_len(4 * MIB).unwrap();
    run("sh", &["-c", "echo ',,83' | sfdisk -q --label dos $0", text(&mbr)]);
    let bare = temp.path().join("bare.img");
    std::fs::File::create(&bare).unwrap().set_len(4 * MIB).unwrap();
    run("mkfs.ext4", &["-q", text(&bare)]);
    let sectors = image(temp.path(), 4096, 4, "true");
    let large = temp.path().join("large.img");
    std::fs::File::create(&large).unwrap().set_len(32 * MIB).unwrap();
    run("sgdisk", &["-N", "1", text(&large)]);
    let damaged = temp.path().join("damaged.img");
    std::fs::File::create(&damaged).unwrap().set_len(8 * MIB).unwrap();
    run("sgdisk", &["-N", "1", text(&damaged)]);
    std::fs::File::options().write(true).open(&damaged).unwrap().write_all_at(b"x", 1024).unwrap();
    for (image, known) in [
        (&mbr, "it has an MBR"),
        (&bare, "it has no partition table"),
        (&sectors, "sectors of 4096 bytes, and the device has sectors of 512"),
        (&large, "bigger than"),
        (&damaged, "entries with a wrong checksum"),
    ] {
        let err = write(image, &disk.0).unwrap_err().to_string();
        assert!(err.contains(known), "{err}");
        assert!(std::fs::read(&disk.0).unwrap() == old, "{known}: something was written");
    }
    let file = temp.path().join("file");
    std::fs::write(&file, "stays").unwrap();
    let err = write(&large, &file).unwrap_err().to_string();
    assert!(err.contains("it is a file"), "{err}");
    assert_eq!(std::fs::read(&file).unwrap(), b"stays");
}

#[test]
fn an_image_in_a_partition_is_not_grown() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path(), 512, 4, "true");
    let disk = Loop::new(temp.path(), 64 * MIB, 512);
    run("sgdisk", &["-N", "1", text(&disk.0)]);
    run("partx", &["-u", text(&disk.0)]);
    let node = PathBuf::from(format!("{}p1", text(&disk.0)));
    let err = write(&image, &node).unwrap_err().to_string();
    assert!(err.contains("only a whole disk"), "{err}");
}

#[test]
fn the_command_tells_what_grew() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path(), 512, 16, "mkfs.ext4 -q $1");
    let disk = Loop::new(temp.path(), 64 * MIB, 512);
    let command = |format| {
        let arguments = ["write", "--no-digest", "--grow", "--verify", "full", "--format", format];
        let mut command = Command::new(env!("CARGO_BIN_EXE_drophammer"));
        let output = command.args(arguments).args([text(&image), text(&disk.0)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told: serde_json::Value = serde_json::from_str(&command("json")).unwrap();
    let grown = serde_json::json!({"partition": 1, "from": 16 * MIB, "to": 61 * MIB, "filesystem": "ext4"});
    assert_eq!(told["grown"], grown);
    assert!(told["bytes_zeroed"].as_u64().unwrap() > 8 * MIB, "{told}");
    let told = command("text");
    assert!(told.contains("; partition 1 grown from 16 MB to 63 MB with its ext4;"), "{told}");
    assert!(told.contains("of them zeros, not sent"), "{told}");
}

/// A disk that takes all and keeps nothing of it is found out, as what is read back comes from there.
#[test]
fn a_disk_that_lost_what_was_written_is_found_when_it_is_read_back() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(24 << 20)).unwrap();
    let disk = fragile(32);
    disk.mapping().fail(&[(17 * MIB..17 * MIB + 4096, Fault::WritesLost)]);
    let source = Source::File(image);
    match write_only(&source, Path::new(&disk.device)).unwrap_err() {
        ImageError::ReadBack { path, found, .. } => {
            assert_eq!(path, disk.device);
            assert!(found.ends_with("over 25165824 bytes"), "{found}");
        }
        other => panic!("{other}"),
    }
    assert!(disk.read(0, MIB as usize).iter().all(|byte| *byte == 0), "it boots");
}

#[test]
fn a_disk_that_fails_is_named() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(24 << 20)).unwrap();
    for fault in [Fault::WritesFail, Fault::Error] {
        let disk = fragile(32);
        disk.mapping().fail(&[(17 * MIB..17 * MIB + 4096, fault)]);
        let source = Source::File(image.clone());
        match write_only(&source, Path::new(&disk.device)).unwrap_err() {
            // of the piece that holds it; a loop device may take a piece that failed in its middle, and tell later
            ImageError::Device { action: "writing" | "reading back", offset, .. } => {
                assert!((15 * MIB..=17 * MIB).contains(&offset), "{fault:?}: {offset}");
            }
            ImageError::Sync { path, .. } => assert_eq!(path, disk.device),
            other => panic!("{fault:?}: {other}"),
        }
        assert!(disk.read(0, MIB as usize).iter().all(|byte| *byte == 0), "{fault:?}: it boots");
    }
}

/// What does not get to the disk is known to nobody but the one who waits for it, and the kernel tells it once. Files are
/// put there while others are made, and at the end: whoever waited, the installation must fail.
#[test]
fn a_file_system_that_loses_files_on_their_way_to_the_disk_is_no_success() {
    if !kernel_has(&["dm_mod", "dm_flakey"]) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (tree, archive) = (temp.path().join("tree"), temp.path().join("image.tar"));
    // the short ones wait for each other, each long one is begun by itself
    for (name, size, count) in [("short", 48 << 10, 1500), ("long", 20 << 20, 4)] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
        for number in 0..count {
            std::fs::write(tree.join(name).join(number.to_string()), content(size)).unwrap();
        }
    }
    for name in ["short", "long"] {
        run("tar", &["-cf", text(&archive), "-C", text(&tree), name]);
        let disk = fragile(256);
        let device = Path::new(&disk.device);
        // no journal: its failure would be told by all that follows
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0", text(device)]);
        let at = temp.path().join("mnt");
        let mounted = Mounted::device(device, &at);
        disk.mapping().fail(&[(20 * MIB..20 * MIB + (32 << 10), Fault::WritesFail)]);
        let failure = unpack_file(&archive, &at).unwrap_err();
        disk.mapping().heal();
        match &failure {
            ImageError::Sync { path, .. } => assert!(path.starts_with("file system "), "{failure}"),
            ImageError::Write { action, .. } => assert_eq!(*action, "writing", "{failure}"),
            _ => panic!("{failure}"),
        }
        drop(mounted);
    }
}
