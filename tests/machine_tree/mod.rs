//! Builds the `/proc` and `/sys` of a machine from its description in `tests/fixtures/<machine>/tree`.
//!
//! A machine has thousands of small files, of which the readers read few, so a fixture is a text with one line a file:
//!
//! ```text
//! # a comment
//! sys/class/dmi/id/bios_vendor: Acme          a file; \n and \xNN are replaced, a line end is added
//! sys/firmware/efi/                           a folder
//! sys/class/x -> ../devices/x                 a link
//! @cpus sockets=2 cores=4 threads=2 offline=3,5 vendor=… microcode=… flags=a,b model=…   topology files and
//!                                             /proc/cpuinfo, numbered as Intel does
//! @memory blocks=8 offline=1 bytes=8000000 nodes=2   memory blocks; the size of one in hex; shared out among NUMA nodes
//! @pci 0000:1b:00.0 10de:2330 030200          a PCI function: address, vendor:device, class
//! @block pci0000:00/0000:00:17.0/…/block/sda SECTORS  a block device under sys/devices, and /sys/block/sda
//! @net 3 eth0 DEVICE DRIVER MAC               a link of a device: index, name, …; DEVICE - for a virtual one
//! @bytes sys/x 0601                           a file of just these bytes, without a line end
//! @smbios 3 7                                 the entry point of the SMBIOS tables: the version
//! @structure 17 5c 0c=0040 10=01 | P1-DIMMA1  a structure at the end of the SMBIOS table: type, length in hex, bytes at
//!                                             offsets in hex, strings; its handle is its place unless 02= says it
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
        ("bytes", [path, hex]) => write_all(&root.join(path), &unhex(hex)),
        ("smbios", [major, minor]) => build_entry_point(root, major, minor),
        ("structure", _) => build_structure(root, rest),
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
    let vendor = option(options, "vendor").unwrap_or("GenuineIntel");
    let flags = option(options, "flags").unwrap_or("fpu,vme").replace(',', " ");
    let microcode = option(options, "microcode").map_or_else(String::new, |number| format!("microcode\t: {number}\n"));
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
        cpuinfo += &format!("processor\t: {cpu}\nvendor_id\t: {vendor}\nmodel name\t: {model}\n");
        cpuinfo += &microcode;
        cpuinfo += &format!("physical id\t: {socket}\ncore id\t\t: {}\nflags\t\t: {flags}\n\n", core * 2);
    }
    write(&root.join("proc/cpuinfo"), cpuinfo.trim_end());
}

fn build_memory(root: &Path, options: &str) {
    let dir = root.join("sys/devices/system/memory");
    write(&dir.join("block_size_bytes"), option(options, "bytes").expect("the size of a block"));
    let offline = list(options, "offline");
    let (blocks, has_nodes) = (number(options, "blocks"), option(options, "nodes").is_some());
    for block in 0..blocks {
        let online = if offline.contains(&block) { "0" } else { "1" };
        write(&dir.join(format!("memory{block}/online")), online);
        if let Some(node) = (block * number(options, "nodes")).checked_div(blocks).filter(|_| has_nodes) {
            let node = root.join(format!("sys/devices/system/node/node{node}"));
            link(&node.join(format!("memory{block}")), &format!("../../memory/memory{block}"));
        }
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

/// The 64-bit entry point; its checksum is not looked at.
fn build_entry_point(root: &Path, major: &str, minor: &str) {
    let version = [major, minor].map(|number| number.parse::<u8>().expect("a number"));
    let bytes = [b"_SM3_".as_slice(), &[0, 0x18], &version, &[0; 15]].concat();
    write_all(&root.join("sys/firmware/dmi/tables/smbios_entry_point"), &bytes);
}

fn build_structure(root: &Path, description: &str) {
    let mut parts = description.split('|').map(str::trim);
    let mut words = parts.next().expect("a type").split_whitespace();
    let kind = words.next().expect("a type").parse::<u8>().expect("a type");
    let length = usize::from_str_radix(words.next().expect("a length"), 16).expect("a length");
    let path = root.join("sys/firmware/dmi/tables/DMI");
    let mut table = fs::read(&path).unwrap_or_default();
    // No two structures of a table begin at the same place.
    let handle = u16::try_from(table.len()).expect("a short table");
    let mut fields = vec![0; length];
    fields[0] = kind;
    fields[1] = u8::try_from(length).expect("a short structure");
    fields[2..4].copy_from_slice(&handle.to_le_bytes());
    for word in words {
        let (offset, value) = word.split_once('=').expect("offset=bytes");
        let (offset, value) = (usize::from_str_radix(offset, 16).expect("an offset"), unhex(value));
        fields[offset..offset + value.len()].copy_from_slice(&value);
    }
    table.extend(fields);
    let strings: Vec<&str> = parts.collect();
    for string in &strings {
        table.extend(unescape(string));
        table.push(0);
    }
    table.extend(if strings.is_empty() { [0, 0].as_slice() } else { &[0] });
    write_all(&path, &table);
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn write_all(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("making a folder");
    fs::write(path, bytes).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
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
