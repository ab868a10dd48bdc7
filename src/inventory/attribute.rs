//! The small files of `/sys` and `/proc`: one value each, bounded, and absent when they can't be read.
//!
//! The kernel answers some of them with an error as their normal way of saying "not now" (`speed` of a link that is
//! down), so an unreadable file is an absent value, not a failure.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Nothing that we read is longer: `/proc/cpuinfo` of 1024 threads has about 2 MB.
const LONGEST_FILE_BYTES: u64 = 16 << 20;

/// All bytes of a regular file, up to a limit. In a captured tree anything may lie there, so a pipe is not opened
/// for waiting on it.
pub fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The text of a file without the white space and zero bytes around it; `None` when nothing is left.
/// Bytes that are not UTF-8 (vendors' strings) are replaced.
pub fn read_text(path: &Path) -> Option<String> {
    parse_text(&read_bytes(path)?)
}

pub fn parse_text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A decimal number; negative ones (the kernel's "unknown", such as speed -1) are absent.
pub fn read_number(path: &Path) -> Option<u64> {
    read_text(path)?.parse().ok()
}

/// A hexadecimal number with or without `0x`.
pub fn read_hex(path: &Path) -> Option<u64> {
    parse_hex(&read_text(path)?)
}

pub fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// `1` or `0`.
pub fn read_flag(path: &Path) -> Option<bool> {
    match read_text(path)?.as_str() {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// Names in a folder, sorted; `None` when there is no such folder.
pub fn read_names(dir: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(dir).ok()?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Some(names)
}

/// The numbers N of the entries `<prefix>N` of a folder, in order.
pub fn read_indices(dir: &Path, prefix: &str) -> Vec<u32> {
    let names = read_names(dir).unwrap_or_default();
    let mut indices: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix(prefix)).filter_map(|number| number.parse().ok()).collect();
    indices.sort_unstable();
    indices
}

/// The last part of what a link points to (`driver`, `subsystem`).
pub fn read_link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

/// Where a device lives in the tree of devices: its path with all links resolved.
pub fn read_device_path(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// The innermost PCI device on the way to a device, e.g. `0000:3b:00.0`.
pub fn pci_address(device_path: &Path) -> Option<String> {
    device_path.iter().rev().filter_map(|part| part.to_str()).find(|part| is_pci_address(part)).map(str::to_owned)
}

/// `domain:bus:device.function` in hexadecimal; a domain may be longer than four digits (VMD).
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    (4..=8).contains(&domain.len()) && hex(domain, domain.len()) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_and_zero_padded_values_are_absent_or_trimmed() {
        assert_eq!(parse_text(b" \n\0"), None);
        assert_eq!(parse_text(b"Virtual HD  \0\0\n").as_deref(), Some("Virtual HD"));
        assert_eq!(parse_text(b"bad \xff byte").as_deref(), Some("bad \u{fffd} byte"));
    }

    #[test]
    fn the_innermost_pci_device_is_found() {
        let path = Path::new("/sys/devices/pci0000:00/0000:00:1d.0/10000:01:00.0/nvme/nvme0/nvme0n1");
        assert_eq!(pci_address(path).as_deref(), Some("10000:01:00.0"));
        assert_eq!(pci_address(Path::new("/sys/devices/virtual/net/lo")), None);
        assert_eq!(pci_address(Path::new("/sys/devices/pci0000:00/4:0:0:0")), None);
    }

    #[test]
    fn a_folder_or_a_pipe_in_place_of_a_file_is_an_absent_value() {
        let dir = tempfile::tempdir().expect("temporary folder");
        assert_eq!(read_bytes(dir.path()), None);
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("making a pipe");
        assert_eq!(read_bytes(&pipe), None);
    }
}
