//! What is made of a disk, and what a disk is made of: partitions, holders (md, dm), members.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::attribute::{read_names, read_number};
use super::contents::Content;
use super::{device_name, kernel_name};
use crate::sys::units::Bytes;

/// A partition as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Partition {
    /// `/dev/nvme0n1p1`.
    pub name: String,
    /// `partition`.
    pub number: u64,
    /// `start`, which counts 512-byte units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Bytes>,
    /// `size`, which counts 512-byte units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// What is on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// Something that uses a disk or one of its partitions, and keeps it from being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Holder {
    /// What is held: the disk or a partition of it.
    pub device: String,
    /// `/dev/md127`, `/dev/dm-0`.
    pub by: String,
}

/// By their numbers.
pub(super) fn read_partitions(block: &Path, entries: &[String]) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = entries.iter().filter_map(|name| read_partition(block, name)).collect();
    partitions.sort_by_key(|partition| partition.number);
    partitions
}

/// `None` for all other entries of the folder.
fn read_partition(block: &Path, name: &str) -> Option<Partition> {
    let dir = block.join(name);
    let number = read_number(&dir.join("partition"))?;
    let bytes = |file: &str| read_number(&dir.join(file))?.checked_mul(512).map(Bytes);
    Some(Partition { name: device_name(name), number, start: bytes("start"), size: bytes("size"), content: None })
}

/// `holders` of the disk and of its partitions.
pub(super) fn read_holders(block: &Path, name: &str, partitions: &[Partition]) -> Vec<Holder> {
    let held = |dir: &Path, device: &str| -> Vec<Holder> {
        let holders = read_names(&dir.join("holders")).unwrap_or_default();
        holders.iter().map(|by| Holder { device: device.to_owned(), by: device_name(by) }).collect()
    };
    let of_partition = |partition: &Partition| held(&block.join(kernel_name(&partition.name)), &partition.name);
    held(block, &device_name(name)).into_iter().chain(partitions.iter().flat_map(of_partition)).collect()
}

/// `slaves`: what an array or a mapping is made of.
pub(super) fn read_members(block: &Path) -> Vec<String> {
    read_names(&block.join("slaves")).unwrap_or_default().iter().map(|name| device_name(name)).collect()
}
