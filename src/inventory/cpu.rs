//! Processors, one entry a socket.
//!
//! Sources: `/sys/devices/system/cpu/cpuN/topology/` for sockets and cores, `/proc/cpuinfo` for vendor and model. A
//! CPU that is offline has no topology folder and is not counted, as in metal-hammer.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{read_bytes, read_indices, read_number};
use crate::sys::roots::Roots;

/// One socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cpu {
    /// `physical_package_id`; absent on a machine without topology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// `vendor_id` of `/proc/cpuinfo`, e.g. `GenuineIntel`; absent on ARM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `model name` of `/proc/cpuinfo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Physical cores with at least one thread online.
    pub cores: u32,
    /// Logical CPUs that are online.
    pub threads: u32,
}

/// Where one logical CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    socket: u32,
    /// Unique in a socket only together with the die: Intel counts cores from 0 on each die.
    die: u32,
    core: u32,
}

/// One paragraph of `/proc/cpuinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CpuInfo {
    vendor: Option<String>,
    model: Option<String>,
    physical_id: Option<u32>,
    core_id: Option<u32>,
}

pub fn read(roots: &Roots) -> Reading<Vec<Cpu>> {
    let mut warnings = Vec::new();
    let cpuinfo = match read_bytes(&roots.proc.join("cpuinfo")) {
        Some(bytes) => parse_cpuinfo(&String::from_utf8_lossy(&bytes)),
        None => {
            warnings.push("CPU: /proc/cpuinfo cannot be read, vendor and model are not known".to_owned());
            BTreeMap::new()
        }
    };
    let places = read_places(roots);
    let found = if places.is_empty() {
        warnings.push("CPU: no topology in /sys/devices/system/cpu, sockets are those of /proc/cpuinfo".to_owned());
        sockets_of_cpuinfo(&cpuinfo)
    } else {
        sockets_of_topology(&places, &cpuinfo)
    };
    Reading { found, warnings }
}

/// The places of all online CPUs by their number; empty when the kernel has no topology files.
fn read_places(roots: &Roots) -> BTreeMap<u32, Place> {
    let dir = roots.sys.join("devices/system/cpu");
    let place = |cpu: u32| {
        let topology = dir.join(format!("cpu{cpu}/topology"));
        // -1 ("not known") is absent by read_number.
        let id = |name| read_number(&topology.join(name)).and_then(|id| u32::try_from(id).ok());
        Some(Place { socket: id("physical_package_id")?, die: id("die_id").unwrap_or(0), core: id("core_id")? })
    };
    read_indices(&dir, "cpu").into_iter().filter_map(|cpu| Some((cpu, place(cpu)?))).collect()
}

fn parse_cpuinfo(text: &str) -> BTreeMap<u32, CpuInfo> {
    let mut cpus = BTreeMap::new();
    let mut current: Option<u32> = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key == "processor" {
            current = value.parse().ok();
        }
        let Some(number) = current else { continue };
        let info: &mut CpuInfo = cpus.entry(number).or_default();
        match key {
            "vendor_id" => info.vendor = non_empty(value),
            "model name" => info.model = non_empty(value),
            "physical id" => info.physical_id = value.parse().ok(),
            "core id" => info.core_id = value.parse().ok(),
            _ => {}
        }
    }
    cpus
}

fn non_empty(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn sockets_of_topology(places: &BTreeMap<u32, Place>, cpuinfo: &BTreeMap<u32, CpuInfo>) -> Vec<Cpu> {
    let mut sockets: BTreeMap<u32, Cpu> = BTreeMap::new();
    for (number, place) in places {
        let socket =
            sockets.entry(place.socket).or_insert_with(|| Cpu { socket: Some(place.socket), ..Cpu::default() });
        socket.threads += 1;
        name_socket(socket, cpuinfo.get(number));
    }
    for place in places.values().collect::<BTreeSet<_>>() {
        if let Some(socket) = sockets.get_mut(&place.socket) {
            socket.cores += 1;
        }
    }
    sockets.into_values().collect()
}

/// Without topology files: the ids of `/proc/cpuinfo`; without those one socket in which each CPU is a core.
fn sockets_of_cpuinfo(cpuinfo: &BTreeMap<u32, CpuInfo>) -> Vec<Cpu> {
    let mut sockets: BTreeMap<Option<u32>, (Cpu, BTreeSet<u32>)> = BTreeMap::new();
    for (number, info) in cpuinfo {
        let (socket, cores) = sockets.entry(info.physical_id).or_default();
        socket.socket = info.physical_id;
        socket.threads += 1;
        cores.insert(info.core_id.unwrap_or(*number));
        name_socket(socket, Some(info));
    }
    let count = |cores: BTreeSet<u32>| u32::try_from(cores.len()).unwrap_or(u32::MAX);
    sockets.into_values().map(|(socket, cores)| Cpu { cores: count(cores), ..socket }).collect()
}

/// The first CPU of a socket that has a name gives it to the socket.
fn name_socket(socket: &mut Cpu, info: Option<&CpuInfo>) {
    let Some(info) = info else { return };
    socket.vendor = socket.vendor.take().or_else(|| info.vendor.clone());
    socket.model = socket.model.take().or_else(|| info.model.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(ids: &[(u32, u32, u32)]) -> BTreeMap<u32, Place> {
        (0..).zip(ids.iter().map(|&(socket, die, core)| Place { socket, die, core })).collect()
    }

    #[test]
    fn threads_of_a_core_count_once_and_sockets_are_in_order() {
        let cpus =
            sockets_of_topology(&places(&[(1, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 4), (0, 0, 4)]), &BTreeMap::new());
        let counts: Vec<_> = cpus.iter().map(|cpu| (cpu.socket, cpu.cores, cpu.threads)).collect();
        assert_eq!(counts, [(Some(0), 2, 3), (Some(1), 1, 2)]);
    }

    #[test]
    fn cores_of_two_dies_with_the_same_id_are_two_cores() {
        let cpus = sockets_of_topology(&places(&[(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]), &BTreeMap::new());
        assert_eq!((cpus.len(), cpus[0].cores), (1, 4));
    }

    #[test]
    fn without_topology_each_cpu_of_cpuinfo_is_a_core_of_one_socket() {
        let cpuinfo =
            parse_cpuinfo("processor\t: 0\nmodel name\t: Fast: very\n\nprocessor\t: 1\nmodel name\t: Fast: very\n");
        let cpu = Cpu { model: Some("Fast: very".to_owned()), cores: 2, threads: 2, ..Cpu::default() };
        assert_eq!(sockets_of_cpuinfo(&cpuinfo), [cpu]);
    }

    #[test]
    fn without_topology_the_ids_of_cpuinfo_count() {
        let text: String = [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 1)]
            .map(|(n, socket, core)| format!("processor: {n}\nphysical id: {socket}\ncore id: {core}\n\n"))
            .concat();
        let counts: Vec<_> =
            sockets_of_cpuinfo(&parse_cpuinfo(&text)).iter().map(|cpu| (cpu.cores, cpu.threads)).collect();
        assert_eq!(counts, [(1, 2), (2, 2)]);
    }
}
