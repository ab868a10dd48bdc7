//! Who uses a disk now: mounts, swap, and what the kernel made of it.
//!
//! Sources: `/proc/self/mountinfo`, `/proc/swaps`, and the holders that the inventory found.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::inventory::attribute::read_text;
use crate::inventory::disk::{Disk, kernel_name};
use crate::sys::roots::Roots;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskUse {
    Mounted {
        device: String,
        target: String,
    },
    Swap {
        device: String,
    },
    /// md, dm or bcache above it.
    Held {
        device: String,
        by: String,
    },
}

impl std::fmt::Display for DiskUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted { device, target } => write!(f, "{device} is mounted at {target}"),
            Self::Swap { device } => write!(f, "{device} is active swap"),
            Self::Held { device, by } => write!(f, "{device} is held by {by}"),
        }
    }
}

/// A line of mountinfo or swaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `8:1`; swap has none.
    number: Option<String>,
    source: String,
    /// `None`: swap.
    target: Option<String>,
}

pub(super) fn read_mounts(roots: &Roots) -> Result<Vec<Mount>> {
    let mut mounts = parse_mountinfo(&read_if_there(&roots.proc.join("self/mountinfo"))?);
    mounts.extend(parse_swaps(&read_if_there(&roots.proc.join("swaps"))?));
    Ok(mounts)
}

/// A captured tree need not have it.
fn read_if_there(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// proc(5): `36 35 98:0 /root /mnt rw - ext3 /dev/root rw`, with any number of optional fields before the dash.
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        Some(Mount {
            number: Some((*before.get(2)?).to_owned()),
            source: after.split(' ').nth(1)?.to_owned(),
            target: Some((*before.get(4)?).to_owned()),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// proc(5): a heading, then `/dev/sda2 partition 524284 0 -2`.
fn parse_swaps(text: &str) -> Vec<Mount> {
    let sources = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    sources.map(|source| Mount { number: None, source: source.to_owned(), target: None }).collect()
}

/// Mounts and swap of the disk and its partitions, then what holds them.
pub(super) fn read_uses(roots: &Roots, disk: &Disk, mounts: &[Mount]) -> Vec<DiskUse> {
    let folder = roots.sys.join("block").join(disk.kernel_name());
    let own = std::iter::once((folder.clone(), &disk.name));
    let parts = disk.partitions.iter().map(|partition| (folder.join(kernel_name(&partition.name)), &partition.name));
    let mut uses = Vec::new();
    for (folder, device) in own.chain(parts) {
        let number = read_text(&folder.join("dev"));
        // The number finds /dev/root; the source finds btrfs, which invents a number of its own.
        let fits = |mount: &&Mount| mount.source == *device || (mount.number.is_some() && mount.number == number);
        uses.extend(mounts.iter().filter(fits).map(|mount| match &mount.target {
            Some(target) => DiskUse::Mounted { device: device.clone(), target: target.clone() },
            None => DiskUse::Swap { device: device.clone() },
        }));
    }
    uses.extend(disk.holders.iter().map(|held| DiskUse::Held { device: held.device.clone(), by: held.by.clone() }));
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_and_without_optional_fields() {
        let text =
            "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n30 29 0:26 / /sub rw - btrfs /dev/sdb1 rw\nodd\n";
        let mounts = parse_mountinfo(text);
        let shown: Vec<_> =
            mounts.iter().map(|m| (m.number.as_deref(), m.source.as_str(), m.target.as_deref())).collect();
        assert_eq!(shown, [(Some("254:0"), "/dev/vda", Some("/")), (Some("0:26"), "/dev/sdb1", Some("/sub"))]);
    }
}
