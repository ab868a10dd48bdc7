//! Disks as their last owner left them, also with what is still running on them: each erased quickly, cleared, and laid
//! out without being erased before. Needs root, and a kernel with md, device mapper and dm-crypt: without those the
//! tests say so.

mod loop_device;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use drophammer::api::layout::FilesystemLayout;
use drophammer::disk::device::DiskFacts;
use drophammer::disk::erase::release::release;
use drophammer::disk::erase::{EraseOptions, Level, erase_named};
use drophammer::disk::plan::Mode;
use drophammer::sys::roots::Roots;
use serde_json::{Value, json};

use loop_device::layouts::{
    assert_released, check_by_tools, free_array, free_group, kernel_has, layout, made, read_file, write_file,
};
use loop_device::{Loop, output};

const DISK_MIB: u64 = 160;

/// Two disks, and a directory for mounts.
struct Machine {
    disks: [Loop; 2],
    folder: tempfile::TempDir,
    /// Of the old volume groups and of the new one.
    group: String,
}

impl Machine {
    fn new() -> Self {
        let disks = [Loop::new(DISK_MIB, 512), Loop::new(DISK_MIB, 512)];
        Self { disks, folder: tempfile::tempdir().unwrap(), group: free_group() }
    }

    fn devices(&self) -> [&str; 2] {
        [&self.disks[0].device, &self.disks[1].device]
    }

    fn facts(&self) -> Vec<DiskFacts> {
        self.disks.iter().map(Loop::facts).collect()
    }

    fn mount(&self, node: &str) {
        output("mount", &[node, self.folder.path().to_str().unwrap()]);
    }

    fn erase(&self, level: Level) {
        for record in erase_named(&self.facts(), &EraseOptions::of_level(level), &mut |_| {}) {
            assert!(!record.is_failure(), "{record}");
        }
    }
}

/// Nodes of partitions that sgdisk or sfdisk has just made.
fn find_partitions(disk: &Loop) {
    // The kernel of a test machine need not know the table.
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
    output("partx", &["-a", &disk.device]);
}

/// What wipefs would remove, from all over the device.
fn signatures(node: &str) -> BTreeSet<String> {
    let told: Option<Value> = serde_json::from_str(&output("wipefs", &["--json", "--no-act", node])).ok();
    let found = told.as_ref().and_then(|told| told["signatures"].as_array().cloned()).unwrap_or_default();
    found.iter().filter_map(|one| one["type"].as_str().map(str::to_owned)).collect()
}

/// A mirror on the first partitions, and a volume group of the old one's name on the second.
fn layout_on(machine: &Machine, array: &str) -> FilesystemLayout {
    let (group, [one, two]) = (&machine.group, &machine.disks);
    let table = |disk: &Loop| {
        json!({"device": disk.device, "partitions": [
            {"number": 1, "size": 64, "gpttype": "fd00"}, {"number": 2, "size": 0, "gpttype": "8e00"}]})
    };
    layout(json!({
        "disks": [table(one), table(two)],
        "raid": [{"arrayname": array, "devices": [one.part(1), two.part(1)], "level": "1"}],
        "volumegroups": [{"name": group, "devices": [one.part(2), two.part(2)]}],
        "logicalvolumes": [{"name": "data", "volumegroup": group, "size": 0, "lvmtype": "linear"}],
        "filesystems": [
            {"path": "/", "device": array, "format": "ext4", "label": "root"},
            {"path": "/data", "device": format!("/dev/{group}/data"), "format": "ext3"}]}))
}

/// Makes the disks dirty three times: for each level, and for a layout straight onto them. `proof`: what is on them then.
fn clean(what: &str, proof: &str, dirty: impl Fn(&Machine)) {
    let machine = Machine::new();
    for level in [Some(Level::Quick), Some(Level::Clear), None] {
        dirty(&machine);
        let found: BTreeSet<String> = machine.devices().iter().flat_map(|device| nodes_of(device)).collect();
        assert!(found.contains(proof), "{what}: {found:?}");
        // As the agent does before it erases, or a person before a layout.
        assert_eq!(release(&Roots::system(), &machine.facts()), Vec::<String>::new(), "{what}");
        for facts in machine.facts() {
            assert_eq!(facts.uses, [], "{what}");
        }
        // The old system's lvm made it; the agent, which never ran that, has none.
        let _ = std::fs::remove_dir_all(Path::new("/dev").join(&machine.group));
        match level {
            Some(level) => {
                machine.erase(level);
                for device in machine.devices() {
                    assert_eq!(signatures(device), BTreeSet::new(), "{what}, {level}: {device}");
                }
            }
            None => lay_out(what, &machine),
        }
    }
}

/// Signatures of a disk and its partitions.
fn nodes_of(device: &str) -> BTreeSet<String> {
    let mut found = signatures(device);
    for number in [1, 2, 9] {
        let node = format!("{device}p{number}");
        if Path::new(&node).exists() {
            found.extend(signatures(&node));
        }
    }
    found
}

fn lay_out(what: &str, machine: &Machine) {
    let [one, two] = &machine.disks;
    let made = made(&layout_on(machine, &free_array()), &[one, two], Mode::Install);
    check_by_tools(&made.0);
    write_file(&made.0, "data/file", what);
    assert_eq!(read_file(&made.0, "data/file"), what);
    assert_released(&made.0);
    for disk in [one, two] {
        let found = [signatures(&disk.device), signatures(&disk.node(1)), signatures(&disk.node(2))];
        let expected: [&[&str]; 3] = [&["PMBR", "gpt"], &["linux_raid_member"], &["LVM2_member"]];
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.iter().eq(expected), "{what}: {found:?} on {}", disk.device);
        }
    }
}

fn has_all() -> bool {
    kernel_has(&["raid1", "dm_mod", "dm_crypt"])
}

#[test]
fn tables_of_strangers_are_cleaned_away() {
    if !has_all() {
        return;
    }
    clean("partitions past the new ones", "ext4", |machine| {
        for disk in &machine.disks {
            output("sgdisk", &["-Z", &disk.device]);
            output("sgdisk", &["-n", "1:0:+10M", "-n", "9:0:+90M", "-n", "128:0:0", &disk.device]);
            find_partitions(disk);
            output("mkfs.ext4", &["-q", "-F", "-L", "OLD", &disk.node(9)]);
            output("mkswap", &["-L", "OLD", &disk.node(128)]);
        }
    });
    clean("a GPT of which only the backup is left", "gpt", |machine| {
        for disk in &machine.disks {
            output("sgdisk", &["-n", "1:0:+100M", &disk.device]);
            find_partitions(disk);
            disk.write(0, &[0; 34 * 512]);
        }
    });
    clean("an MBR", "dos", |machine| {
        for disk in &machine.disks {
            let mut child = Command::new("sfdisk")
                .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=always", &disk.device])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(b"label: dos\n,60M\n,60M\n").unwrap();
            assert!(child.wait().unwrap().success());
            find_partitions(disk);
            output("mkfs.ext4", &["-q", "-F", &disk.node(2)]);
        }
    });
}

fn mirror(machine: &Machine, metadata: &str) -> String {
    let array = free_array();
    let [one, two] = machine.devices();
    let metadata = format!("--metadata={metadata}");
    let create = ["--create", &array, "--run", "--assume-clean", "--level=1", "--raid-devices=2", &metadata, one, two];
    output("mdadm", &create);
    array
}

#[test]
fn members_of_arrays_and_a_degraded_one_that_runs_are_cleaned_away() {
    if !has_all() {
        return;
    }
    for metadata in ["0.90", "1.0", "1.2"] {
        clean(&format!("stopped array {metadata}"), "linux_raid_member", |machine| {
            let array = mirror(machine, metadata);
            output("mkfs.ext4", &["-q", "-F", &array]);
            output("mdadm", &["--stop", &array]);
        });
    }
    clean("a degraded array with a mounted file system", "linux_raid_member", |machine| {
        let array = mirror(machine, "1.2");
        output("mkfs.ext4", &["-q", "-F", &array]);
        output("mdadm", &[&array, "--fail", machine.devices()[1]]);
        machine.mount(&array);
    });
}

#[test]
fn volume_groups_of_one_name_on_two_disks_are_cleaned_away() {
    if !has_all() {
        return;
    }
    clean("two volume groups of one name, one of them active", "LVM2_member", |machine| {
        let quiet = "activation{udev_sync=0 udev_rules=0 monitoring=0} devices{obtain_device_list_from_udev=0} \
                     backup{backup=0 archive=0}";
        for device in machine.devices() {
            let lvm = |words: &[&str]| {
                let all = [&words[..1], &["--config", quiet, "--devices", device], &words[1..]].concat();
                output("lvm", &all);
            };
            lvm(&["pvcreate", "-ff", "--yes", device]);
            lvm(&["vgcreate", &machine.group, device]);
            lvm(&["lvcreate", "--yes", "--name", "old", "--size", "60m", &machine.group]);
            if device == machine.devices()[0] {
                lvm(&["vgchange", "--activate", "n", &machine.group]);
            } else {
                output("mkswap", &[&format!("/dev/mapper/{}-old", machine.group.replace('-', "--"))]);
            }
        }
    });
}

/// Without the tools of ZFS: its four labels, each with 128 uberblocks.
fn write_zfs(disk: &Loop) {
    let size = DISK_MIB << 20;
    let mut label = vec![0; 128 << 10];
    for uberblock in label.chunks_exact_mut(1 << 10) {
        uberblock[..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
    }
    for start in [0, 256 << 10, size - (512 << 10), size - (256 << 10)] {
        disk.write(start + (128 << 10), &label);
    }
}

/// cryptsetup with a key that nobody keeps.
fn cryptsetup(words: &[&str]) {
    let mut child = Command::new("cryptsetup")
        .env("DM_DISABLE_UDEV", "1")
        .args(["--batch-mode", "--key-file=-"])
        .args(words)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a key").unwrap();
    assert!(child.wait().unwrap().success(), "cryptsetup {words:?}");
}

fn luks(kind: &str, device: &str) {
    let cheap = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--type", kind, device];
    cryptsetup(&[&["luksFormat"], &cheap[..]].concat());
}

#[test]
fn labels_of_zfs_and_luks_are_cleaned_away_also_when_open() {
    if !has_all() {
        return;
    }
    clean("ZFS", "zfs_member", |machine| machine.disks.iter().for_each(write_zfs));
    for kind in ["luks1", "luks2"] {
        clean(kind, "crypto_LUKS", |machine| luks(kind, machine.devices()[0]));
    }
    clean("an open LUKS 2 with a mounted file system", "crypto_LUKS", |machine| {
        luks("luks2", machine.devices()[1]);
        let name = format!("old-{}", machine.group);
        cryptsetup(&["open", machine.devices()[1], &name]);
        let node = format!("/dev/mapper/{name}");
        output("mkfs.ext4", &["-q", "-F", &node]);
        machine.mount(&node);
    });
}

#[test]
fn a_mounted_file_system_and_swap_in_use_are_cleaned_away() {
    if !has_all() {
        return;
    }
    clean("mounted, and swap in use", "ext4", |machine| {
        let [one, two] = &machine.disks;
        output("sgdisk", &["-Z", &one.device]);
        output("sgdisk", &["-n", "1:0:+60M", &one.device]);
        find_partitions(one);
        output("mkfs.ext4", &["-q", "-F", &one.node(1)]);
        machine.mount(&one.node(1));
        output("wipefs", &["--all", &two.device]);
        output("mkswap", &[&two.device]);
        output("swapon", &[&two.device]);
    });
}
