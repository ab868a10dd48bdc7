//! What is known of each logical CPU, before it is told by socket.

use std::collections::BTreeMap;
use std::path::Path;

use super::attribute::{read_indices, read_number, read_text};
use super::cpu::CoreKindName;
use super::cpu_list::CpuList;
use super::cpuinfo::{CpuInfo, parse_cpuinfo};
use super::smbios::{self, Smbios, Structure, kind};
use crate::sys::roots::Roots;

/// Where one logical CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// `None` on a machine that has no sockets to tell of.
    pub socket: Option<u32>,
    /// Unique in a socket only together with the die: Intel counts cores from 0 on each die.
    pub die: u32,
    pub core: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Speed {
    pub base_mhz: Option<u32>,
    pub max_mhz: Option<u32>,
}

impl Speed {
    /// The faster of each; `None` is slower than anything.
    pub fn max(self, other: Self) -> Self {
        Self { base_mhz: self.base_mhz.max(other.base_mhz), max_mhz: self.max_mhz.max(other.max_mhz) }
    }
}

/// A CPU that is there and offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offline {
    pub cpu: u32,
    pub node: Option<u32>,
}

/// Everything that was read, by the number of the CPU.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub places: BTreeMap<u32, Place>,
    pub cpuinfo: BTreeMap<u32, CpuInfo<'a>>,
    pub speeds: BTreeMap<u32, Speed>,
    pub nodes: Vec<(u32, CpuList)>,
    pub kinds: Vec<(CoreKindName, CpuList)>,
    pub offline: Vec<Offline>,
    pub processors: Vec<Processor>,
}

/// A populated socket as SMBIOS type 4 describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processor {
    pub vendor: Option<String>,
    pub model: Option<String>,
    pub speed: Speed,
}

impl<'a> Facts<'a> {
    /// `cpuinfo` is the text of `/proc/cpuinfo`.
    pub fn read(roots: &Roots, cpuinfo: &'a str, warnings: &mut Vec<String>) -> Self {
        let cpuinfo = parse_cpuinfo(cpuinfo);
        let dir = roots.sys.join("devices/system/cpu");
        let numbers = read_indices(&dir, "cpu");
        let mut places = read_places(&dir, &numbers);
        if places.is_empty() {
            warnings.push("CPU: no topology in /sys/devices/system/cpu, sockets are those of /proc/cpuinfo".to_owned());
            places = places_of_cpuinfo(&cpuinfo);
        }
        let offline = read_offline(&dir, &numbers, &places);
        if !offline.is_empty() {
            let list: CpuList = offline.iter().map(|offline| offline.cpu).collect();
            let (count, all) = (offline.len(), offline.len() + places.len());
            warnings.push(format!("CPU: {count} of {all} CPUs are offline and not counted: {list}"));
        }
        Self {
            speeds: places.keys().map(|cpu| (*cpu, read_speed(&dir.join(format!("cpu{cpu}/cpufreq"))))).collect(),
            nodes: read_nodes(roots),
            kinds: read_kinds(roots),
            processors: smbios::read(roots).found.map(|smbios| parse_processors(&smbios)).unwrap_or_default(),
            places,
            cpuinfo,
            offline,
        }
    }
}

fn read_list(path: &Path) -> Option<CpuList> {
    CpuList::parse(&read_text(path)?)
}

/// The places of all online CPUs; empty when the kernel has no topology files.
fn read_places(dir: &Path, numbers: &[u32]) -> BTreeMap<u32, Place> {
    // Kernels differ in whether a CPU keeps its topology when it goes offline.
    let online = read_list(&dir.join("online"));
    let is_online = |cpu: &u32| online.as_ref().is_none_or(|online| online.contains(*cpu));
    let place = |cpu: u32| {
        let topology = dir.join(format!("cpu{cpu}/topology"));
        // -1 ("not known") is absent by read_number.
        let id = |name| read_number(&topology.join(name)).and_then(|id| u32::try_from(id).ok());
        let socket = Some(id("physical_package_id")?);
        Some(Place { socket, die: id("die_id").unwrap_or(0), core: id("core_id")? })
    };
    numbers.iter().filter(|cpu| is_online(cpu)).filter_map(|&cpu| Some((cpu, place(cpu)?))).collect()
}

/// Without topology files: the ids of `/proc/cpuinfo`; without those one socket in which each CPU is a core.
pub(super) fn places_of_cpuinfo(cpuinfo: &BTreeMap<u32, CpuInfo<'_>>) -> BTreeMap<u32, Place> {
    let place = |(&cpu, info): (&u32, &CpuInfo<'_>)| {
        (cpu, Place { socket: info.physical_id, die: 0, core: info.core_id.unwrap_or(cpu) })
    };
    cpuinfo.iter().map(place).collect()
}

/// The CPUs that are present (on a kernel without that list: that have a folder) and have no place.
fn read_offline(dir: &Path, numbers: &[u32], places: &BTreeMap<u32, Place>) -> Vec<Offline> {
    let present = read_list(&dir.join("present"));
    let is_present = |cpu: &u32| present.as_ref().is_none_or(|present| present.contains(*cpu));
    let node = |cpu: u32| read_indices(&dir.join(format!("cpu{cpu}")), "node").first().copied();
    let offline = numbers.iter().filter(|cpu| is_present(cpu) && !places.contains_key(cpu));
    offline.map(|&cpu| Offline { cpu, node: node(cpu) }).collect()
}

/// The files are in kHz.
fn read_speed(cpufreq: &Path) -> Speed {
    let mhz = |name: &str| {
        let khz = read_number(&cpufreq.join(name)).filter(|khz| *khz > 0)?;
        u32::try_from(khz / 1000).ok()
    };
    Speed { base_mhz: mhz("base_frequency"), max_mhz: mhz("cpuinfo_max_freq") }
}

fn read_nodes(roots: &Roots) -> Vec<(u32, CpuList)> {
    let dir = roots.sys.join("devices/system/node");
    let cpus = |node: u32| read_list(&dir.join(format!("node{node}/cpulist")));
    read_indices(&dir, "node").into_iter().filter_map(|node| Some((node, cpus(node)?))).collect()
}

fn read_kinds(roots: &Roots) -> Vec<(CoreKindName, CpuList)> {
    let kinds = [
        (CoreKindName::Performance, "cpu_core"),
        (CoreKindName::Efficiency, "cpu_atom"),
        (CoreKindName::LowPower, "cpu_lowpower"),
    ];
    let cpus = |name: &str| read_list(&roots.sys.join("devices").join(name).join("cpus"));
    kinds.into_iter().filter_map(|(kind, name)| Some((kind, cpus(name)?))).collect()
}

/// DSP0134 section 7.5.
pub(super) fn parse_processors(smbios: &Smbios) -> Vec<Processor> {
    const CENTRAL_PROCESSOR: u8 = 3;
    const POPULATED: u8 = 1 << 6;
    let is_populated = |processor: &Structure<'_>| {
        processor.byte(0x05) == Some(CENTRAL_PROCESSOR)
            && processor.byte(0x18).is_some_and(|status| status & POPULATED != 0)
    };
    let mhz = |speed: Option<u16>| speed.filter(|speed| *speed > 0).map(u32::from);
    let parse = |processor: Structure<'_>| Processor {
        vendor: processor.text(0x07),
        model: processor.text(0x10),
        speed: Speed { base_mhz: mhz(processor.word(0x16)), max_mhz: mhz(processor.word(0x14)) },
    };
    smbios.all(kind::PROCESSOR).filter(is_populated).map(parse).collect()
}
