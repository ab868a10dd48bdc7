//! Builds the `/proc` and `/sys` of a machine from its description in `tests/fixtures/<machine>/tree`.
//!
//! A machine has thousands of small files, of which the readers read few, so a fixture is a text with one line a file:
//!
//! ```text
//! # a comment
//! sys/class/dmi/id/bios_vendor: Acme          a file; \n and \xNN are replaced, a line end is added
//! sys/firmware/efi/                           a folder
//! sys/class/x -> ../devices/x                 a link
//! @cpus sockets=2 cores=4 threads=2 offline=3,5 model=…   topology files and /proc/cpuinfo, numbered as Intel does
//! @memory blocks=8 offline=1 bytes=8000000    memory blocks; the size of one in hex
//! @pci 0000:1b:00.0 10de:2330 030200          a PCI function: address, vendor:device, class
//! @block pci0000:00/0000:00:17.0/…/block/sda SECTORS  a block device under sys/devices, and /sys/block/sda
//! @net 3 eth0 DEVICE DRIVER MAC               a link of a device: index, name, …; DEVICE - for a virtual one
//! ```

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

pub mod big;

/// The tree of `tests/fixtures/<machine>/tree` in a temporary folder.
pub fn build(machine: &str) -> TempDir {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(machine).join("tree");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("reading {}: {error}", file.display()));
    let dir = temporary_folder();
    build_lines(dir.path(), &text);
    dir
}

/// In memory where that can be had: a big machine has thousands of files.
pub fn temporary_folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("temporary folder")
}

pub fn build_lines(root: &Path, text: &str) {
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(directive) = line.strip_prefix('@') {
            build_directive(root, directive);
        } else if let Some((path, target)) = line.split_once(" -> ") {
            link(&root.join(path), target);
        } else if let Some(path) = line.strip_suffix('/') {
            fs::create_dir_all(root.join(path)).expect("making a folder");
        } else {
            // PCI and SCSI addresses in a path have colons of their own, but no space after them.
            let (path, value) = line
                .split_once(": ")
                .or_else(|| Some((line.strip_suffix(':')?, "")))
                .unwrap_or_else(|| panic!("not a line of a fixture: {line}"));
            write_bytes(&root.join(path), unescape(value));
        }
    }
}

fn build_directive(root: &Path, directive: &str) {
    let (kind, rest) = directive.split_once(' ').expect("a directive has arguments");
    let words: Vec<&str> = rest.split_whitespace().collect();
    match (kind, words.as_slice()) {
        ("cpus", _) => build_cpus(root, rest),
        ("memory", _) => build_memory(root, rest),
        ("pci", [address, ids, class]) => build_pci(root, address, ids, class),
        ("block", [device, sectors]) => build_block(root, device, sectors),
        ("net", [index, name, device, driver, mac]) => build_net(root, index, name, device, driver, mac),
        _ => panic!("not a directive of a fixture: @{directive}"),
    }
}

/// The value of `key=` up to the next space; of the last key, `model=`, up to the end.
fn option<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    let start = options.find(&format!("{key}="))? + key.len() + 1;
    let value = &options[start..];
    Some(if key == "model" { value } else { value.split(' ').next().unwrap_or(value) })
}

fn number(options: &str, key: &str) -> u32 {
    option(options, key).map_or(0, |value| value.parse().expect("a number"))
}

fn list(options: &str, key: &str) -> Vec<u32> {
    let text = option(options, key).unwrap_or_default();
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().expect("a number")).collect()
}

/// All first threads of all sockets, then all second ones.
fn build_cpus(root: &Path, options: &str) {
    let (sockets, cores, threads) = (number(options, "sockets"), number(options, "cores"), number(options, "threads"));
    let offline = list(options, "offline");
    let model = option(options, "model").unwrap_or_default();
    let mut cpuinfo = String::new();
    for cpu in 0..sockets * cores * threads {
        let (socket, core) = (cpu / cores % sockets, cpu % cores);
        let dir = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
        fs::create_dir_all(&dir).expect("making a folder");
        if offline.contains(&cpu) {
            continue;
        }
        for (name, id) in [("physical_package_id", socket), ("die_id", 0), ("core_id", core * 2)] {
            write(&dir.join("topology").join(name), &id.to_string());
        }
        cpuinfo += &format!("processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: {model}\n");
        cpuinfo += &format!("physical id\t: {socket}\ncore id\t\t: {}\nflags\t\t: fpu vme\n\n", core * 2);
    }
    write(&root.join("proc/cpuinfo"), cpuinfo.trim_end());
}

fn build_memory(root: &Path, options: &str) {
    let dir = root.join("sys/devices/system/memory");
    write(&dir.join("block_size_bytes"), option(options, "bytes").expect("the size of a block"));
    let offline = list(options, "offline");
    for block in 0..number(options, "blocks") {
        let online = if offline.contains(&block) { "0" } else { "1" };
        write(&dir.join(format!("memory{block}/online")), online);
    }
}

fn build_pci(root: &Path, address: &str, ids: &str, class: &str) {
    let (vendor, device) = ids.split_once(':').expect("vendor:device");
    let dir = root.join("sys/bus/pci/devices").join(address);
    for (name, id) in [("vendor", vendor), ("device", device), ("class", class)] {
        write(&dir.join(name), &format!("0x{id}"));
    }
}

fn build_block(root: &Path, device: &str, sectors: &str) {
    let dir = root.join("sys/devices").join(device);
    let name = device.rsplit('/').next().expect("a name");
    write(&dir.join("size"), sectors);
    for (file, value) in [("removable", "0"), ("ro", "0"), ("queue/rotational", "0")] {
        write(&dir.join(file), value);
    }
    for file in ["queue/logical_block_size", "queue/physical_block_size"] {
        write(&dir.join(file), "512");
    }
    if !device.starts_with("virtual/block/") {
        let is_below_block = dir.parent().is_some_and(|parent| parent.ends_with("block"));
        link(&dir.join("device"), if is_below_block { "../.." } else { ".." });
    }
    link(&root.join("sys/block").join(name), &format!("../devices/{device}"));
}

fn build_net(root: &Path, index: &str, name: &str, device: &str, driver: &str, mac: &str) {
    let parent = if device == "-" { "virtual" } else { device };
    let dir = root.join("sys/devices").join(parent).join("net").join(name);
    for (file, value) in [("ifindex", index), ("address", mac), ("addr_assign_type", "0"), ("operstate", "down")] {
        write(&dir.join(file), value);
    }
    if device != "-" {
        link(&dir.join("device"), "../..");
        link(&dir.join("device/driver"), &format!("../../../bus/pci/drivers/{driver}"));
    }
    link(&root.join("sys/class/net").join(name), &format!("../../devices/{parent}/net/{name}"));
}

fn write(path: &Path, value: &str) {
    write_bytes(path, value.as_bytes().to_vec());
}

fn write_bytes(path: &Path, mut value: Vec<u8>) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("making a folder");
    value.push(b'\n');
    fs::write(path, value).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

fn link(path: &Path, target: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("making a folder");
    // Two links of one device share its driver.
    if path.is_symlink() {
        return;
    }
    symlink(target, path).unwrap_or_else(|error| panic!("linking {}: {error}", path.display()));
}

/// `\n` is a line end, `\xNN` any byte.
fn unescape(value: &str) -> Vec<u8> {
    let mut parts = value.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = match part.strip_prefix('x') {
            Some(hex) => (u8::from_str_radix(&hex[..2], 16).expect("two hex digits"), &hex[2..]),
            None => (b'\n', part.strip_prefix('n').expect("only \\n and \\xNN")),
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}
