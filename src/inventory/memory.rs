//! The amount of memory.
//!
//! Sources, the first that answers: the memory blocks of `/sys/devices/system/memory` (installed memory), the line
//! `Memory: …K/<total>K available` of the kernel's log, the modules of SMBIOS, `MemTotal` of `/proc/meminfo` (without
//! what the kernel took for itself). metal-hammer goes the same way but for SMBIOS, so that a machine keeps its size
//! under both: only where its answer would be `MemTotal`, which differs from kernel to kernel, is ours a better one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{read_bytes, read_hex, read_indices, read_text};
use super::dimm;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub amount: Bytes,
    pub source: MemorySource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemorySource {
    /// Online memory blocks: what is installed and in use.
    Blocks,
    /// The kernel's log at boot.
    KernelLog,
    /// The memory modules of SMBIOS.
    Smbios,
    /// `MemTotal`: less than what is installed.
    MemTotal,
}

/// One NUMA node with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MemoryNode {
    pub node: u32,
    pub amount: Bytes,
    /// [`MemorySource::Blocks`] or [`MemorySource::MemTotal`].
    pub source: MemorySource,
}

pub fn read(roots: &Roots) -> Reading<Option<Memory>> {
    let memory = |amount, source| Some(Memory { amount, source });
    if let Some(amount) = read_blocks(roots) {
        return Reading { found: memory(amount, MemorySource::Blocks), warnings: Vec::new() };
    }
    if let Some(amount) = read_kernel_log(roots).and_then(|log| parse_kernel_log(&log)) {
        let warning = "memory: no blocks in /sys/devices/system/memory, the amount is that of the kernel's log";
        return Reading { found: memory(amount, MemorySource::KernelLog), warnings: vec![warning.to_owned()] };
    }
    if let Some(amount) = dimm::read(roots).found.and_then(|dimms| dimm::installed(&dimms)) {
        let warning = "memory: no blocks in /sys/devices/system/memory, the amount is that of the modules in SMBIOS";
        return Reading { found: memory(amount, MemorySource::Smbios), warnings: vec![warning.to_owned()] };
    }
    let meminfo = read_bytes(&roots.proc.join("meminfo"));
    let total = meminfo.and_then(|bytes| parse_meminfo(&String::from_utf8_lossy(&bytes)));
    let warning = match total {
        Some(_) => "memory: no blocks in /sys/devices/system/memory, the amount is MemTotal of /proc/meminfo",
        None => "memory: neither blocks in /sys/devices/system/memory nor MemTotal in /proc/meminfo",
    };
    let found = total.and_then(|amount| memory(amount, MemorySource::MemTotal));
    Reading { found, warnings: vec![warning.to_owned()] }
}

/// What each NUMA node has: its online blocks; where it has none, `MemTotal` of its own `meminfo`.
pub fn read_nodes(roots: &Roots) -> Reading<Vec<MemoryNode>> {
    let dir = roots.sys.join("devices/system/node");
    let mut blocks = OnlineBlocks::read(roots);
    let mut read_node = |node: u32| {
        let dir = dir.join(format!("node{node}"));
        let of_blocks = blocks.as_mut().and_then(|blocks| blocks.take(&read_indices(&dir, "memory")));
        let (amount, source) = match of_blocks {
            Some(amount) => (amount, MemorySource::Blocks),
            None => {
                let meminfo = read_bytes(&dir.join("meminfo"))?;
                (parse_node_meminfo(&String::from_utf8_lossy(&meminfo))?, MemorySource::MemTotal)
            }
        };
        (amount.0 > 0).then_some(MemoryNode { node, amount, source })
    };
    let found = read_indices(&dir, "node").into_iter().filter_map(&mut read_node).collect();
    Reading { found, warnings: Vec::new() }
}

/// The memory blocks that are in use.
struct OnlineBlocks {
    /// `block_size_bytes`, which is hexadecimal without `0x`.
    block_bytes: u64,
    numbers: BTreeSet<u32>,
}

impl OnlineBlocks {
    /// `None` on a kernel without memory blocks.
    fn read(roots: &Roots) -> Option<Self> {
        let dir = roots.sys.join("devices/system/memory");
        let block_bytes = read_hex(&dir.join("block_size_bytes"))?;
        let is_online = |block: &u32| {
            let block = dir.join(format!("memory{block}"));
            match read_text(&block.join("online")) {
                Some(online) => online == "1",
                None => read_text(&block.join("state")).is_some_and(|state| state == "online"),
            }
        };
        let numbers: BTreeSet<u32> = read_indices(&dir, "memory").into_iter().filter(is_online).collect();
        (!numbers.is_empty()).then_some(Self { block_bytes, numbers })
    }

    fn amount_of(&self, count: usize) -> Option<Bytes> {
        let bytes = u64::try_from(count).ok()?.checked_mul(self.block_bytes)?;
        (bytes > 0).then_some(Bytes(bytes))
    }

    /// The amount of those of `numbers` that are in use and that no other node took: a block over the border of two
    /// nodes is linked in both.
    fn take(&mut self, numbers: &[u32]) -> Option<Bytes> {
        let count = numbers.iter().filter(|number| self.numbers.remove(number)).count();
        self.amount_of(count)
    }
}

fn read_blocks(roots: &Roots) -> Option<Bytes> {
    let blocks = OnlineBlocks::read(roots)?;
    blocks.amount_of(blocks.numbers.len())
}

/// All records that `/dev/kmsg` still has, without waiting for the next; in a captured tree an ordinary file.
fn read_kernel_log(roots: &Roots) -> Option<String> {
    const LONGEST_LOG_BYTES: usize = 16 << 20;
    let mut kmsg = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(roots.dev.join("kmsg"))
        .ok()?;
    let mut log = Vec::new();
    // One read is one record; the kernel's longest has 8 KiB.
    let mut record = [0; 8192];
    while log.len() < LONGEST_LOG_BYTES {
        match kmsg.read(&mut record) {
            Ok(0) => break,
            Ok(length) => log.extend_from_slice(record.get(..length).unwrap_or_default()),
            // The record was overwritten while we read: the next read goes on after it.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    Some(String::from_utf8_lossy(&log).into_owned())
}

/// `Memory: 1996224K/2096632K available (14339K kernel code, …)`: the second number, in KiB.
fn parse_kernel_log(log: &str) -> Option<Bytes> {
    log.lines().find_map(|line| {
        let (_, rest) = line.split_once("Memory: ")?;
        let (amounts, _) = rest.split_once(" available")?;
        let (_, total) = amounts.split_once('/')?;
        parse_kib(total.strip_suffix('K')?)
    })
}

fn parse_meminfo(text: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    parse_kib(value.trim().strip_suffix("kB")?.trim())
}

/// `Node 0 MemTotal:       131886300 kB`
fn parse_node_meminfo(text: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    parse_kib(value.trim().strip_suffix("kB")?.trim())
}

fn parse_kib(text: &str) -> Option<Bytes> {
    text.parse::<u64>().ok()?.checked_mul(1024).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_the_kernels_log_is_the_second_number() {
        let log = "6,1,0,-;Linux version 6.1.0\n6,99,0,-;Memory: 1996224K/2096632K available (14339K kernel code)\n";
        assert_eq!(parse_kernel_log(log), Some(Bytes(2_096_632 * 1024)));
        assert_eq!(parse_kernel_log("Memory: lots available\nMemory: 1K/xK available"), None);
    }

    #[test]
    fn a_block_of_two_nodes_counts_for_the_first() {
        let mut blocks = OnlineBlocks { block_bytes: 0x800_0000, numbers: (0..4).collect() };
        assert_eq!(blocks.take(&[0, 1, 2, 9]), Some(Bytes(3 * 0x800_0000)));
        assert_eq!(blocks.take(&[2, 3]), Some(Bytes(0x800_0000)));
        assert_eq!(blocks.take(&[2, 3]), None);
    }

    #[test]
    fn a_nodes_memtotal_is_behind_its_number() {
        let text = "Node 1 MemTotal:       131886300 kB\nNode 1 MemFree: 1 kB\n";
        assert_eq!(parse_node_meminfo(text), Some(Bytes(131_886_300 * 1024)));
        assert_eq!(parse_node_meminfo("Node 1 MemFree: 1 kB"), None);
    }

    #[test]
    fn memtotal_is_in_kibibytes() {
        assert_eq!(parse_meminfo("MemFree: 1 kB\nMemTotal:       16315380 kB\n"), Some(Bytes(16_315_380 * 1024)));
        assert_eq!(parse_meminfo("MemTotal: 99999999999999999999 kB"), None);
    }
}
