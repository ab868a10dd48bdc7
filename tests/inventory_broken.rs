//! Whatever lies under the roots, the inventory ends, and says what it could.
//!
//! The trees of the described machines are damaged more and more, by a fixed seed, and read after each round. A reader
//! that hung or panicked would be named in the warnings as one that was given up or died.

mod machine_tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drophammer::inventory::readers::Limits;
use drophammer::inventory::table::Table;
use drophammer::inventory::{self, Inventory};
use drophammer::sys::roots::Roots;

const ROUNDS: usize = 6;
const DAMAGES_OF_A_ROUND: usize = 40;
const SEED: u64 = 0x5eed_0003;

/// Far more than any of them takes, so that only one that hangs reaches it.
const LIMITS: Limits =
    Limits { files: Duration::from_secs(60), disks: Duration::from_secs(60), bmc: Duration::from_secs(60) };

/// Steele's and Vigna's splitmix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("below the limit")
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).expect("a byte")).collect()
    }
}

/// Files, folders and links, in order of their names; links are not followed.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut names: Vec<PathBuf> = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names {
        if path.is_dir() && !path.is_symlink() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found
}

fn remove(path: &Path) {
    let result = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.expect("removing an entry");
}

/// One thing that goes wrong with one entry; its name is for the failing test's output.
fn damage(path: &Path, random: &mut Random) -> &'static str {
    let is_file = path.is_file() && !path.is_symlink();
    // Folders and links break much at once: rarely.
    if !is_file && random.below(8) != 0 {
        return "left as it is";
    }
    let content = if is_file { fs::read(path).expect("a file of the tree") } else { Vec::new() };
    remove(path);
    match random.below(10) {
        0 => "removed",
        1 => {
            fs::write(path, &content[..random.below(content.len() + 1)]).expect("writing");
            "truncated"
        }
        2 => {
            let length = random.below(300);
            fs::write(path, random.bytes(length)).expect("writing");
            "binary"
        }
        3 => {
            fs::create_dir(path).expect("making a folder");
            "a folder"
        }
        4 => {
            symlink(path.file_name().expect("a name"), path).expect("linking");
            "a link to itself"
        }
        5 => {
            symlink("..", path).expect("linking");
            "a link to its folder"
        }
        6 => {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("making a pipe");
            "a pipe"
        }
        7 => {
            symlink("/dev/zero", path).expect("linking");
            "an endless device"
        }
        8 => {
            fs::write(path, "9".repeat(1 + random.below(40))).expect("writing");
            "a large number"
        }
        _ => {
            let mut bytes = content;
            if !bytes.is_empty() {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            fs::write(path, bytes).expect("writing");
            "one bit"
        }
    }
}

/// All that is made of an inventory.
fn use_all_of(inventory: &Inventory) {
    assert!(!serde_json::to_string(inventory).expect("JSON").is_empty());
    let table = Table(inventory).to_string();
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    inventory.to_register(&BTreeMap::new());
}

fn assert_all_readers_ended(inventory: &Inventory, story: &[String]) {
    let unanswered: Vec<&String> = inventory
        .warnings
        .iter()
        .filter(|warning| warning.contains("given up") || warning.contains("ended without an answer"))
        .collect();
    assert!(unanswered.is_empty(), "{unanswered:?} after {story:#?}");
}

#[test]
fn no_damage_to_a_tree_makes_a_reader_hang_or_panic() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut machines: Vec<PathBuf> =
        fs::read_dir(fixtures).expect("the fixtures").flatten().map(|e| e.path()).collect();
    machines.retain(|machine| machine.join("tree").is_file());
    machines.sort();
    for (number, machine) in (0_u64..).zip(machines) {
        let mut random = Random(SEED + number);
        let name = machine.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let tree = machine_tree::build(&name);
        let mut story = vec![name];
        for _ in 0..ROUNDS {
            let entries = entries(tree.path());
            for _ in 0..DAMAGES_OF_A_ROUND {
                let path = &entries[random.below(entries.len())];
                // Gone with its folder.
                if path.symlink_metadata().is_err() {
                    continue;
                }
                let what = damage(path, &mut random);
                story.push(format!("{}: {what}", path.strip_prefix(tree.path()).unwrap_or(path).display()));
            }
            let inventory = inventory::read_within(&Roots::under(tree.path()), &LIMITS);
            assert_all_readers_ended(&inventory, &story);
            use_all_of(&inventory);
        }
    }
}

/// Sparse files: they take no room, but read as zeros without an end.
#[test]
fn huge_files_are_read_up_to_a_limit() {
    let tree = machine_tree::build("server-8-h100");
    for file in ["proc/cpuinfo", "sys/class/dmi/id/product_name", "sys/block/sda/size", "sys/firmware/dmi/tables/DMI"] {
        let path = tree.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("making a folder");
        File::create(path).and_then(|file| file.set_len(1 << 40)).expect("writing");
    }
    let inventory = inventory::read_within(&Roots::under(tree.path()), &LIMITS);
    assert_all_readers_ended(&inventory, &["four files of 1 TiB".to_owned()]);
    use_all_of(&inventory);
}

/// The files with the most to read in them, each cut after every byte of its beginning.
#[test]
fn a_file_that_ends_anywhere_is_read_up_to_there() {
    const FILES: [&str; 6] = [
        "proc/cpuinfo",
        "proc/meminfo",
        "sys/firmware/dmi/tables/DMI",
        "sys/block/sda/device/vpd_pg80",
        "sys/block/sda/device/vpd_pg83",
        "sys/bus/pci/devices/0000:1b:00.0/resource",
    ];
    for machine in ["server-8-h100", "laptop-hybrid"] {
        let tree = machine_tree::build(machine);
        let roots = Roots::under(tree.path());
        for file in FILES {
            let path = tree.path().join(file);
            let Ok(content) = fs::read(&path) else { continue };
            for length in (0..content.len().min(200)).step_by(7) {
                fs::write(&path, &content[..length]).expect("writing");
                let inventory = inventory::read_within(&roots, &LIMITS);
                assert_all_readers_ended(&inventory, &[format!("{machine}: {file} cut after {length} bytes")]);
                use_all_of(&inventory);
            }
            fs::write(&path, content).expect("writing");
        }
    }
}
