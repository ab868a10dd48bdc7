//! A server that is as big as they get: 2 sockets × 64 cores × 2 threads, 2 TiB, 24 disks, 8 GPUs, 16 NICs.

use std::fmt::Write;

/// How many of what there are many of.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub cores_of_socket: u32,
    pub disks: u32,
}

impl Size {
    pub const BIG: Self = Self { cores_of_socket: 64, disks: 24 };
    /// To see what ten times as much costs.
    pub const TEN_TIMES: Self = Self { cores_of_socket: 640, disks: 240 };
}

/// The description of the machine, in the words of the fixtures.
pub fn describe(size: Size) -> String {
    let mut lines = String::new();
    write_board(&mut lines).expect("a string takes all");
    write_cpus(&mut lines, size.cores_of_socket).expect("a string takes all");
    write_disks(&mut lines, size.disks).expect("a string takes all");
    write_pci(&mut lines).expect("a string takes all");
    lines
}

fn write_board(lines: &mut String) -> std::fmt::Result {
    let id = [
        ("sys_vendor", "Acme"),
        ("product_name", "Big"),
        ("product_serial", "B1G0001"),
        ("product_uuid", "5b3c6f2a-0001-4d5e-8f00-0000000000b1"),
        ("board_vendor", "Acme"),
        ("board_name", "B2"),
        ("board_serial", "B2S0001"),
        ("bios_vendor", "Acme"),
        ("bios_version", "1.0"),
        ("bios_date", "01/02/2026"),
    ];
    for (name, value) in id {
        writeln!(lines, "sys/class/dmi/id/{name}: {value}")?;
    }
    writeln!(lines, "sys/firmware/efi/fw_platform_size: 64")?;
    // 1024 blocks of 2 GiB.
    writeln!(lines, "@memory blocks=1024 bytes=80000000")
}

/// Beside what every fixture has, what other programs look at: `lscpu` wants masks and lists.
fn write_cpus(lines: &mut String, cores: u32) -> std::fmt::Result {
    writeln!(lines, "@cpus sockets=2 cores={cores} threads=2 model=Acme Fast 9000 64-Core Processor")?;
    let all = 4 * cores;
    for list in ["online", "possible", "present"] {
        writeln!(lines, "sys/devices/system/cpu/{list}: 0-{}", all - 1)?;
    }
    writeln!(lines, "sys/devices/system/cpu/kernel_max: 8191")?;
    for cpu in 0..all {
        let dir = format!("sys/devices/system/cpu/cpu{cpu}");
        let (sibling, socket) = ((cpu + 2 * cores) % all, cpu / cores % 2);
        writeln!(lines, "{dir}/topology/thread_siblings: {}", mask(all, |n| n == cpu || n == sibling))?;
        writeln!(lines, "{dir}/topology/core_siblings: {}", mask(all, |n| n / cores % 2 == socket))?;
        writeln!(lines, "{dir}/topology/thread_siblings_list: {},{}", cpu.min(sibling), cpu.max(sibling))?;
        writeln!(lines, "{dir}/cpufreq/base_frequency: 2450000")?;
        writeln!(lines, "{dir}/cpufreq/cpuinfo_max_freq: 3700000")?;
        writeln!(lines, "{dir}/cpufreq/cpuinfo_min_freq: 1500000")?;
        writeln!(lines, "{dir}/microcode/version: 0xa0011d5")?;
        writeln!(lines, "{dir}/node{socket} -> ../../node/node{socket}")?;
    }
    for node in 0..2 {
        let dir = format!("sys/devices/system/node/node{node}");
        let (first, second) = (node * cores, (node + 2) * cores);
        writeln!(lines, "{dir}/cpulist: {first}-{},{second}-{}", first + cores - 1, second + cores - 1)?;
        writeln!(lines, "{dir}/cpumap: {}", mask(all, |n| n / cores % 2 == node))?;
        writeln!(lines, "{dir}/meminfo: Node {node} MemTotal:       1056730120 kB")?;
    }
    writeln!(lines, "sys/devices/system/node/online: 0-1")
}

/// A CPU mask as the kernel writes it: words of 32 bits, the highest first.
fn mask(count: u32, is_set: impl Fn(u32) -> bool) -> String {
    let word = |word: u32| (0..32).filter(|bit| is_set(word * 32 + bit)).fold(0_u32, |bits, bit| bits | 1 << bit);
    let words: Vec<String> = (0..count.div_ceil(32)).rev().map(|n| format!("{:08x}", word(n))).collect();
    words.join(",")
}

/// One third NVMe, the rest SAS disks behind one controller; each with two partitions.
fn write_disks(lines: &mut String, count: u32) -> std::fmt::Result {
    for disk in 0..count {
        let (name, device, prefix) = if disk % 3 == 0 {
            let n = disk / 3;
            let controller = format!("pci0000:40/0000:40:01.{}/0000:{:02x}:00.0/nvme/nvme{n}", n % 8, 0x41 + n % 16);
            (format!("nvme{n}n1"), format!("{controller}/nvme{n}n1"), "p")
        } else {
            let n = disk - disk / 3 - 1;
            let name = format!("sd{}", letters(n));
            let port = format!("host0/port-0:{n}/end_device-0:{n}/target0:0:{n}/0:0:{n}:0/block/{name}");
            (name, format!("pci0000:20/0000:20:01.0/0000:21:00.0/{port}"), "")
        };
        writeln!(lines, "@block {device} 15002931888")?;
        let block = format!("sys/devices/{device}");
        if prefix == "p" {
            writeln!(lines, "{block}/device/model: Acme NVMe 7.68TB")?;
            writeln!(lines, "{block}/device/serial: NV{disk:06}")?;
            writeln!(lines, "{block}/device/firmware_rev: 1.2.3")?;
            writeln!(lines, "{block}/wwid: eui.36344730{disk:08x}")?;
        } else {
            writeln!(lines, "{block}/device/vendor: ACME")?;
            writeln!(lines, "{block}/device/model: SAS 7.68TB")?;
            writeln!(lines, "{block}/device/rev: 0001")?;
            writeln!(lines, "{block}/device/wwid: naa.5000c500{disk:08x}")?;
            writeln!(lines, "{block}/device/vpd_pg80: \\x00\\x80\\x00\\x08SA{disk:06}")?;
        }
        let minor = disk * 4;
        writeln!(lines, "{block}/dev: 259:{minor}")?;
        writeln!(lines, "sys/dev/block/259:{minor} -> ../../devices/{device}")?;
        for partition in 1..=2 {
            let (part, minor) = (format!("{name}{prefix}{partition}"), minor + partition);
            writeln!(lines, "{block}/{part}/partition: {partition}")?;
            writeln!(lines, "{block}/{part}/start: {}", 2048 * partition)?;
            writeln!(lines, "{block}/{part}/size: 2048")?;
            writeln!(lines, "{block}/{part}/dev: 259:{minor}")?;
            writeln!(lines, "sys/dev/block/259:{minor} -> ../../devices/{device}/{part}")?;
        }
    }
    Ok(())
}

/// `a`, …, `z`, `aa`, …
fn letters(n: u32) -> String {
    let last = char::from(b'a' + u8::try_from(n % 26).expect("a letter"));
    if n < 26 { last.to_string() } else { format!("{}{last}", letters(n / 26 - 1)) }
}

/// 8 GPUs, 4 NVSwitches, 16 NICs, and a hundred functions that nobody asks for.
fn write_pci(lines: &mut String) -> std::fmt::Result {
    for gpu in 0..8 {
        writeln!(lines, "@pci 0000:{:02x}:00.0 10de:2330 030200", 0x80 + gpu)?;
    }
    for switch in 0..4 {
        writeln!(lines, "@pci 0000:{:02x}:00.0 10de:22a3 068000", 0x90 + switch)?;
    }
    for nic in 0..16 {
        let (bus, function) = (0xa0 + nic / 2, nic % 2);
        writeln!(lines, "@pci 0000:{bus:02x}:00.{function} 15b3:1021 020000")?;
        let device = format!("pci0000:a0/0000:a0:01.{}/0000:{bus:02x}:00.{function}", nic % 8);
        writeln!(lines, "@net {} eth{nic} {device} mlx5_core 02:00:00:00:00:{nic:02x}", nic + 2)?;
    }
    for function in 0..100 {
        writeln!(lines, "@pci 0000:f{:x}:{:02x}.{} 8086:3450 088000", function / 64, function / 8 % 8, function % 8)?;
    }
    Ok(())
}
