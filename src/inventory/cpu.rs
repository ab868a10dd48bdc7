//! Processors, one entry a socket.
//!
//! Sources: `/sys/devices/system/cpu/cpuN/{topology,cpufreq}/` for sockets, cores and speeds, `/proc/cpuinfo` for
//! names and flags, `/sys/devices/system/node` for NUMA, `/sys/devices/cpu_{core,atom,lowpower}` for hybrid cores, and
//! SMBIOS type 4 for what these leave open. A CPU that is offline is not counted as core or thread, as in
//! metal-hammer, and a socket of which all are offline is not listed.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::read_bytes;
use super::cpu_facts::{Facts, Place, Processor, Speed};
use super::cpu_list::CpuList;
use super::cpuinfo::CpuInfo;
use crate::sys::roots::Roots;

/// One socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cpu {
    /// `physical_package_id`; absent on a machine without topology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// `vendor_id` of `/proc/cpuinfo`, e.g. `GenuineIntel`; on ARM the manufacturer of SMBIOS type 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `model name` of `/proc/cpuinfo`; on ARM the version of SMBIOS type 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Physical cores with at least one thread online.
    pub cores: u32,
    /// Logical CPUs that are online.
    pub threads: u32,
    /// Logical CPUs that are there, also those that are offline (`nosmt`, switched off by hand). Absent when some are
    /// offline whose socket nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads_present: Option<u32>,
    /// `cpufreq/base_frequency` of the fastest core; without it the current speed at boot of SMBIOS type 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_mhz: Option<u32>,
    /// `cpufreq/cpuinfo_max_freq` of the fastest core; without it the maximum of SMBIOS type 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<u32>,
    /// `microcode` of `/proc/cpuinfo`, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microcode: Option<String>,
    /// Virtualisation and confidential computing: `vmx`, `svm`, `sgx`, `sev_snp`, …
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<&'static str>,
    /// NUMA nodes with an online CPU of this socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa_nodes: Vec<u32>,
    /// The kinds of cores of a hybrid processor; empty where all cores are alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub core_kinds: Vec<CoreKind>,
}

/// One kind of cores of a hybrid processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CoreKind {
    pub kind: CoreKindName,
    pub cores: u32,
    pub threads: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_mhz: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<u32>,
}

/// By the kernel's name of their counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CoreKindName {
    /// `cpu_core`
    Performance,
    /// `cpu_atom`
    Efficiency,
    /// `cpu_lowpower`
    LowPower,
}

pub fn read(roots: &Roots) -> Reading<Vec<Cpu>> {
    let mut warnings = Vec::new();
    let cpuinfo = read_bytes(&roots.proc.join("cpuinfo")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if cpuinfo.is_none() {
        warnings.push("CPU: /proc/cpuinfo cannot be read, vendor and model are not known".to_owned());
    }
    let facts = Facts::read(roots, cpuinfo.as_deref().unwrap_or_default(), &mut warnings);
    Reading { found: sockets(&facts), warnings }
}

/// The online CPUs of one socket.
type Members = BTreeMap<u32, Place>;

fn sockets(facts: &Facts<'_>) -> Vec<Cpu> {
    let mut members: BTreeMap<Option<u32>, Members> = BTreeMap::new();
    for (&cpu, &place) in &facts.places {
        members.entry(place.socket).or_default().insert(cpu, place);
    }
    let nodes_of_sockets = nodes_of_sockets(facts);
    let offline = offline_of_sockets(facts, &nodes_of_sockets);
    let count = members.len();
    let socket = |(position, (socket, members)): (usize, (Option<u32>, Members))| {
        let mut cpu = named_socket(facts, &members);
        complete_socket(&mut cpu, processor_of(&facts.processors, position, count));
        cpu.socket = socket;
        cpu.threads_present = offline.as_ref().map(|offline| cpu.threads + offline.get(&socket).copied().unwrap_or(0));
        cpu.numa_nodes = nodes_of_sockets.get(&socket).into_iter().flatten().copied().collect();
        cpu
    };
    members.into_iter().enumerate().map(socket).collect()
}

/// What its CPUs tell about a socket. The first of them that has a name gives it to the socket.
fn named_socket(facts: &Facts<'_>, members: &Members) -> Cpu {
    let infos = || members.keys().filter_map(|cpu| facts.cpuinfo.get(cpu));
    let Speed { base_mhz, max_mhz } = fastest(facts, members.keys());
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Cpu {
        vendor: owned(infos().find_map(|info| info.vendor)),
        model: owned(infos().find_map(|info| info.model)),
        microcode: owned(infos().find_map(|info| info.microcode)),
        flags: infos().next().map(CpuInfo::flags).unwrap_or_default(),
        cores: count_cores(members.values()),
        threads: u32::try_from(members.len()).unwrap_or(u32::MAX),
        base_mhz,
        max_mhz,
        core_kinds: facts.kinds.iter().filter_map(|(kind, cpus)| core_kind(facts, members, *kind, cpus)).collect(),
        ..Cpu::default()
    }
}

/// `None` when the socket has no such cores.
fn core_kind(facts: &Facts<'_>, members: &Members, kind: CoreKindName, cpus: &CpuList) -> Option<CoreKind> {
    let of_kind: Members =
        members.iter().filter(|(cpu, _)| cpus.contains(**cpu)).map(|(cpu, place)| (*cpu, *place)).collect();
    let Speed { base_mhz, max_mhz } = fastest(facts, of_kind.keys());
    let threads = u32::try_from(of_kind.len()).unwrap_or(u32::MAX);
    (threads > 0).then(|| CoreKind { kind, cores: count_cores(of_kind.values()), threads, base_mhz, max_mhz })
}

fn fastest<'c>(facts: &Facts<'_>, cpus: impl Iterator<Item = &'c u32>) -> Speed {
    cpus.filter_map(|cpu| facts.speeds.get(cpu)).fold(Speed::default(), |speed, other| speed.max(*other))
}

fn count_cores<'p>(places: impl Iterator<Item = &'p Place>) -> u32 {
    u32::try_from(places.collect::<BTreeSet<_>>().len()).unwrap_or(u32::MAX)
}

fn nodes_of_sockets(facts: &Facts<'_>) -> BTreeMap<Option<u32>, BTreeSet<u32>> {
    let mut nodes: BTreeMap<Option<u32>, BTreeSet<u32>> = BTreeMap::new();
    for (node, cpus) in &facts.nodes {
        for place in cpus.ranges().iter().flat_map(|range| facts.places.range(range.clone())).map(|(_, place)| place) {
            nodes.entry(place.socket).or_default().insert(*node);
        }
    }
    nodes
}

/// How many CPUs of each socket are offline. They have no topology, so their socket is the one whose online CPUs are
/// in their node, or the only one. `None` when that does not tell it for one of them.
fn offline_of_sockets(
    facts: &Facts<'_>,
    nodes_of_sockets: &BTreeMap<Option<u32>, BTreeSet<u32>>,
) -> Option<BTreeMap<Option<u32>, u32>> {
    // A node belongs to a socket when it has CPUs of this one only.
    let mut socket_of_node: BTreeMap<u32, Option<Option<u32>>> = BTreeMap::new();
    for (socket, nodes) in nodes_of_sockets {
        for node in nodes {
            socket_of_node.entry(*node).and_modify(|owner| *owner = None).or_insert(Some(*socket));
        }
    }
    let sockets: BTreeSet<Option<u32>> = facts.places.values().map(|place| place.socket).collect();
    let only = sockets.first().copied().filter(|_| sockets.len() == 1 && facts.processors.len() <= 1);
    let mut counts = BTreeMap::new();
    for offline in &facts.offline {
        let by_node = || socket_of_node.get(&offline.node?).copied().flatten();
        *counts.entry(only.or_else(by_node)?).or_insert(0) += 1;
    }
    Some(counts)
}

/// The description of the socket at `position` of `count`: by order when there are as many, else when all are alike.
fn processor_of(processors: &[Processor], position: usize, count: usize) -> Option<&Processor> {
    if processors.len() == count {
        return processors.get(position);
    }
    let first = processors.first()?;
    processors.iter().all(|processor| processor == first).then_some(first)
}

fn complete_socket(cpu: &mut Cpu, processor: Option<&Processor>) {
    let Some(processor) = processor else { return };
    cpu.vendor = cpu.vendor.take().or_else(|| processor.vendor.clone());
    cpu.model = cpu.model.take().or_else(|| processor.model.clone());
    cpu.base_mhz = cpu.base_mhz.or(processor.speed.base_mhz);
    cpu.max_mhz = cpu.max_mhz.or(processor.speed.max_mhz);
}

#[cfg(test)]
mod tests {
    use super::super::cpu_facts::{Offline, parse_processors, places_of_cpuinfo};
    use super::super::cpuinfo::parse_cpuinfo;
    use super::super::smbios::tests::structure;
    use super::super::smbios::{Smbios, kind};
    use super::*;

    fn facts(ids: &[(u32, u32, u32)]) -> Facts<'static> {
        let places = ids.iter().map(|&(socket, die, core)| Place { socket: Some(socket), die, core });
        Facts { places: (0..).zip(places).collect(), ..Facts::default() }
    }

    fn counts(facts: &Facts<'_>) -> Vec<(Option<u32>, u32, u32)> {
        sockets(facts).iter().map(|cpu| (cpu.socket, cpu.cores, cpu.threads)).collect()
    }

    #[test]
    fn threads_of_a_core_count_once_and_sockets_are_in_order() {
        let facts = facts(&[(1, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 4), (0, 0, 4)]);
        assert_eq!(counts(&facts), [(Some(0), 2, 3), (Some(1), 1, 2)]);
    }

    #[test]
    fn cores_of_two_dies_with_the_same_id_are_two_cores() {
        assert_eq!(counts(&facts(&[(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)])), [(Some(0), 4, 4)]);
    }

    #[test]
    fn without_topology_each_cpu_of_cpuinfo_is_a_core_of_one_socket() {
        let cpuinfo = parse_cpuinfo("processor\t: 0\nmodel name\t: Fast\n\nprocessor\t: 1\nmodel name\t: Fast\n");
        let facts = Facts { places: places_of_cpuinfo(&cpuinfo), cpuinfo, ..Facts::default() };
        let model = Some("Fast".to_owned());
        assert_eq!(sockets(&facts), [Cpu { model, cores: 2, threads: 2, threads_present: Some(2), ..Cpu::default() }]);
    }

    #[test]
    fn without_topology_the_ids_of_cpuinfo_count() {
        let text: String = [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 1)]
            .map(|(n, socket, core)| format!("processor: {n}\nphysical id: {socket}\ncore id: {core}\n\n"))
            .concat();
        let facts = Facts { places: places_of_cpuinfo(&parse_cpuinfo(&text)), ..Facts::default() };
        assert_eq!(counts(&facts), [(Some(0), 1, 2), (Some(1), 2, 2)]);
    }

    #[test]
    fn offline_cpus_are_present_on_the_socket_of_their_node() {
        let nodes = vec![(0, CpuList::parse("0-1").expect("a list")), (1, CpuList::parse("2").expect("a list"))];
        let offline = |node| vec![Offline { cpu: 3, node: Some(1) }, Offline { cpu: 4, node }];
        let present = |facts: &Facts<'_>| sockets(facts).iter().map(|cpu| cpu.threads_present).collect::<Vec<_>>();
        let two_sockets = facts(&[(0, 0, 0), (0, 0, 1), (1, 0, 0)]);
        let known = Facts { nodes: nodes.clone(), offline: offline(Some(1)), ..two_sockets };
        assert_eq!(present(&known), [Some(2), Some(3)]);
        let unknown = Facts { offline: offline(None), ..known };
        assert_eq!(present(&unknown), [None, None]);
        // One node over two sockets says nothing.
        let shared =
            Facts { nodes: vec![(1, CpuList::parse("0-2").expect("a list"))], offline: offline(Some(1)), ..unknown };
        assert_eq!(present(&shared), [None, None]);
        let one_socket = Facts { offline: offline(None), ..facts(&[(7, 0, 0)]) };
        assert_eq!(present(&one_socket), [Some(3)]);
        let other_socket_is_offline = Facts { processors: vec![Processor::default(); 2], ..one_socket };
        assert_eq!(present(&other_socket_is_offline), [None]);
    }

    #[test]
    fn nodes_and_kinds_of_cores_go_to_the_sockets_that_have_them() {
        let list = |text| CpuList::parse(text).expect("a list");
        let fast = Speed { base_mhz: Some(2200), max_mhz: Some(5200) };
        let slow = Speed { base_mhz: Some(1600), max_mhz: None };
        let facts = Facts {
            nodes: vec![(0, list("0-2")), (1, list("3-4294967295")), (2, CpuList::default())],
            kinds: vec![(CoreKindName::Performance, list("0-1")), (CoreKindName::Efficiency, list("2"))],
            speeds: BTreeMap::from([(0, fast), (1, fast), (2, slow)]),
            ..facts(&[(0, 0, 0), (0, 0, 0), (0, 0, 8), (1, 0, 0)])
        };
        let cpus = sockets(&facts);
        let kind = |kind, cores, threads, speed: Speed| CoreKind {
            kind,
            cores,
            threads,
            base_mhz: speed.base_mhz,
            max_mhz: speed.max_mhz,
        };
        let kinds = [kind(CoreKindName::Performance, 1, 2, fast), kind(CoreKindName::Efficiency, 1, 1, slow)];
        assert_eq!((cpus[0].core_kinds.as_slice(), cpus[1].core_kinds.as_slice()), (kinds.as_slice(), [].as_slice()));
        assert_eq!((&cpus[0].numa_nodes, &cpus[1].numa_nodes), (&vec![0], &vec![1]));
        assert_eq!((cpus[0].base_mhz, cpus[0].max_mhz, cpus[1].max_mhz), (Some(2200), Some(5200), None));
    }

    #[test]
    fn smbios_completes_by_order_or_when_all_are_alike() {
        let processor = |populated: u8, max: u8| {
            let mut fields = vec![0; 0x1a - 4];
            fields.splice(0..4, [0, 3, 0, 1]);
            fields.splice(0x0c..0x15, [2, 0, 0, 0, max, 0x0f, 0xd0, 0x07, populated]);
            structure(kind::PROCESSOR, 1, &fields, &["Acme", "Acme One"])
        };
        let parse = |table: &[Vec<u8>]| parse_processors(&Smbios::parse(&[], table.concat()));
        let max = |processors: Vec<Processor>| {
            let facts = Facts { processors, ..facts(&[(0, 0, 0), (3, 0, 0)]) };
            sockets(&facts).iter().map(|cpu| cpu.max_mhz).collect::<Vec<_>>()
        };
        let two = parse(&[processor(0x41, 0xa0), processor(0x41, 0xa1)]);
        assert_eq!(two[0].model.as_deref(), Some("Acme One"));
        assert_eq!((two[0].vendor.as_deref(), two[0].speed.base_mhz), (Some("Acme"), Some(2000)));
        assert_eq!(max(two), [Some(4000), Some(4001)]);
        assert_eq!(max(parse(&[processor(0x41, 0xa0), processor(0, 0)])), [Some(4000), Some(4000)]);
        let three = [processor(0x41, 0xa0), processor(0x41, 0xa0), processor(0x41, 0xa1)];
        assert_eq!(max(parse(&three)), [None, None]);
    }
}
