//! Sizes: classes of machines, found by matching hardware against constraints, as metal-api does it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::glob;
use crate::api::null_as_default;
use crate::api::rest::Hardware;

/// The size of a machine that no size, or more than one, matches. No size may be called so.
pub const UNKNOWN: &str = "unknown";

/// A class of machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub constraints: Vec<Constraint>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a constraint counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Kind {
    /// Physical cores; one item a socket.
    Cores,
    /// Bytes; always exactly one item.
    Memory,
    /// Bytes; one item a disk.
    Storage,
    /// Pieces; one item a GPU.
    Gpu,
    /// Never in range, so its size matches nothing.
    Other(String),
    #[default]
    Absent,
}

impl Kind {
    const COUNTED: [Self; 4] = [Self::Cores, Self::Memory, Self::Storage, Self::Gpu];

    pub fn as_str(&self) -> &str {
        match self {
            Self::Cores => "cores",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Gpu => "gpu",
            Self::Other(other) => other,
            Self::Absent => "",
        }
    }
}

impl From<String> for Kind {
    fn from(text: String) -> Self {
        match text.as_str() {
            "cores" => Self::Cores,
            "memory" => Self::Memory,
            "storage" => Self::Storage,
            "gpu" => Self::Gpu,
            "" => Self::Absent,
            _ => Self::Other(text),
        }
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.as_str().to_owned()
    }
}

/// A range, both ends included, for the sum of the items whose text the identifier matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    #[serde(rename = "type", default)]
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max: u64,
    /// A glob; empty means all items.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub identifier: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One thing that is counted: its text for the glob and its value.
struct Item<'h> {
    text: &'h str,
    value: u64,
}

fn items<'h>(hardware: &'h Hardware, kind: &Kind) -> Vec<Item<'h>> {
    match kind {
        Kind::Cores => hardware.cpus.iter().map(|cpu| Item { text: &cpu.model, value: u64::from(cpu.cores) }).collect(),
        Kind::Memory => vec![Item { text: "", value: hardware.memory }],
        Kind::Storage => hardware.disks.iter().map(|disk| Item { text: &disk.name, value: disk.size }).collect(),
        Kind::Gpu => hardware.gpus.iter().map(|gpu| Item { text: &gpu.model, value: 1 }).collect(),
        Kind::Other(_) | Kind::Absent => Vec::new(),
    }
}

impl Constraint {
    /// A bad pattern matches nothing.
    fn covers(&self, item: &Item<'_>) -> bool {
        self.identifier.is_empty() || glob::matches(&self.identifier, item.text).unwrap_or(false)
    }

    /// Why the hardware is not in range.
    fn fault(&self, hardware: &Hardware) -> Option<String> {
        if matches!(self.kind, Kind::Other(_) | Kind::Absent) {
            return Some(format!("constraint type {:?} is unknown and never matches", self.kind.as_str()));
        }
        let sum = items(hardware, &self.kind)
            .iter()
            .filter(|item| self.covers(item))
            .fold(0_u64, |sum, item| sum.saturating_add(item.value));
        (sum < self.min || sum > self.max).then(|| {
            let which = if self.identifier.is_empty() { String::new() } else { format!(" {}", self.identifier) };
            format!("{}{which}: expected {} to {}, found {sum}", self.kind.as_str(), self.min, self.max)
        })
    }
}

/// Why the size does not match the hardware; empty when it does.
pub fn faults(size: &Size, hardware: &Hardware) -> Vec<String> {
    if size.constraints.is_empty() {
        return vec!["has no constraints".to_owned()];
    }
    let mut faults: Vec<String> = size.constraints.iter().filter_map(|constraint| constraint.fault(hardware)).collect();
    for kind in Kind::COUNTED {
        let constraints: Vec<&Constraint> = size.constraints.iter().filter(|c| c.kind == kind).collect();
        for item in items(hardware, &kind) {
            if !constraints.iter().any(|constraint| constraint.covers(&item)) {
                let text = if item.text.is_empty() { String::new() } else { format!(" {}", item.text) };
                faults.push(format!("no constraint covers {}{text}", kind.as_str()));
            }
        }
    }
    faults
}

/// Why no single size fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSize {
    /// With the reasons, one line a size.
    #[error("no size matches{}", .0.iter().map(|reason| format!("; {reason}")).collect::<String>())]
    None(Vec<String>),
    /// Their ids.
    #[error("{} sizes found: {}", .0.len(), .0.join(", "))]
    Several(Vec<String>),
}

/// The one size that the hardware matches.
pub fn find<'s>(sizes: &'s [Size], hardware: &Hardware) -> Result<&'s Size, NoSize> {
    let mut matching = Vec::new();
    let mut reasons = Vec::new();
    for size in sizes {
        let faults = faults(size, hardware);
        if faults.is_empty() {
            matching.push(size);
        } else {
            reasons.push(format!("{}: {}", size.id, faults.join(", ")));
        }
    }
    match matching.as_slice() {
        [only] => Ok(only),
        [] => Err(NoSize::None(reasons)),
        several => Err(NoSize::Several(several.iter().map(|size| size.id.clone()).collect())),
    }
}

/// What is wrong with a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeFault {
    /// Of the request: 400.
    #[error("{0}")]
    Id(String),
    /// Of the content: 422.
    #[error("{0}")]
    Constraint(String),
    /// Of the collection: 400.
    #[error("size {0:?} overlaps with {1:?}")]
    Overlap(String, String),
}

/// Everything wrong with a size by itself.
pub fn validate(size: &Size) -> Vec<SizeFault> {
    let mut faults = Vec::new();
    if size.id.is_empty() || size.id == UNKNOWN {
        faults.push(SizeFault::Id(format!("id: expected a name other than {UNKNOWN:?}, found {:?}", size.id)));
    }
    let mut fault = |text: String| faults.push(SizeFault::Constraint(text));
    for (index, constraint) in size.constraints.iter().enumerate() {
        let at = format!("constraints[{index}] ({})", constraint.kind.as_str());
        if constraint.max < constraint.min {
            fault(format!("{at}: max {} is less than min {}", constraint.max, constraint.min));
        }
        if glob::check(&constraint.identifier).is_err() {
            fault(format!("{at}: identifier {:?} is no valid pattern", constraint.identifier));
        }
        match constraint.kind {
            Kind::Gpu if constraint.identifier.is_empty() => fault(format!("{at}: identifier is missing")),
            Kind::Memory if !constraint.identifier.is_empty() => {
                fault(format!("{at}: memory takes no identifier, found {:?}", constraint.identifier));
            }
            Kind::Other(_) | Kind::Absent => {
                fault(format!("{at}: type: expected cores, memory, storage or gpu"));
            }
            Kind::Cores | Kind::Memory | Kind::Storage | Kind::Gpu => {}
        }
    }
    for kind in [Kind::Memory, Kind::Cores] {
        let count = size.constraints.iter().filter(|c| c.kind == kind).count();
        if count > 1 {
            fault(format!("constraints: expected at most one of type {}, found {count}", kind.as_str()));
        }
    }
    faults
}

/// The first size that `size` overlaps with, itself excepted.
pub fn overlap(size: &Size, others: &[Size]) -> Option<SizeFault> {
    others
        .iter()
        .find(|other| other.id != size.id && overlaps(size, other))
        .map(|other| SizeFault::Overlap(size.id.clone(), other.id.clone()))
}

fn overlaps(one: &Size, other: &Size) -> bool {
    let kinds = |size: &Size| {
        let mut kinds: Vec<Kind> = size.constraints.iter().map(|c| c.kind.clone()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    if one.constraints.is_empty() || other.constraints.is_empty() || kinds(one) != kinds(other) {
        return false;
    }
    one.constraints.iter().all(|a| {
        other
            .constraints
            .iter()
            .filter(|b| b.kind == a.kind)
            .all(|b| a.identifier == b.identifier && a.min <= b.max && b.min <= a.max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::{Cpu, Disk, Gpu};

    const GIB: u64 = 1 << 30;
    const XEON: &str = "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz";
    const H100: &str = "GH100 [H100 SXM5 80GB]";

    fn constraint(kind: Kind, min: u64, max: u64, identifier: &str) -> Constraint {
        Constraint { kind, min, max, identifier: identifier.to_owned() }
    }

    fn cores(min: u64, max: u64, identifier: &str) -> Constraint {
        constraint(Kind::Cores, min, max, identifier)
    }

    fn memory(min_gib: u64, max_gib: u64) -> Constraint {
        constraint(Kind::Memory, min_gib * GIB, max_gib * GIB, "")
    }

    fn storage(min_gib: u64, max_gib: u64, identifier: &str) -> Constraint {
        constraint(Kind::Storage, min_gib * GIB, max_gib * GIB, identifier)
    }

    fn gpu(min: u64, max: u64, identifier: &str) -> Constraint {
        constraint(Kind::Gpu, min, max, identifier)
    }

    fn size(id: &str, constraints: Vec<Constraint>) -> Size {
        Size { id: id.to_owned(), constraints, ..Size::default() }
    }

    fn cpu(model: &str, cores: u32) -> Cpu {
        Cpu { model: model.to_owned(), cores, threads: cores * 2, ..Cpu::default() }
    }

    fn gpus(model: &str, count: usize) -> Vec<Gpu> {
        vec![Gpu { vendor: "NVIDIA Corporation".into(), model: model.to_owned() }; count]
    }

    fn disk(name: &str, gib: u64) -> Disk {
        Disk { name: name.to_owned(), size: gib * GIB }
    }

    /// Machine M of the contract.
    fn gpu_server() -> Hardware {
        Hardware {
            memory: 1024 * GIB,
            cpus: vec![cpu(XEON, 28), cpu(XEON, 28)],
            disks: vec![disk("/dev/nvme0n1", 3840), disk("/dev/nvme1n1", 3840), disk("/dev/sda", 480)],
            gpus: gpus(H100, 8),
            ..Hardware::default()
        }
    }

    fn matches(constraints: Vec<Constraint>, hardware: &Hardware) -> bool {
        faults(&size("x", constraints), hardware).is_empty()
    }

    #[test]
    fn worked_cases_of_the_gpu_server() {
        let nvme_and_sd = || vec![storage(7000, 9000, "/dev/nvme*"), storage(400, 500, "/dev/sd*")];
        let all = || vec![storage(8000, 9000, "")];
        let cases: Vec<(&str, Vec<Constraint>, Vec<Constraint>, bool)> = vec![
            ("A", nvme_and_sd(), vec![gpu(8, 8, "H100*")], false),
            ("B", nvme_and_sd(), vec![gpu(8, 8, "GH100*")], true),
            ("C", vec![storage(7000, 9000, "/dev/nvme*")], vec![gpu(8, 8, "GH100*")], false),
            ("D", all(), vec![gpu(8, 8, "GH100*")], true),
            ("E", vec![storage(0, 9000, "*")], vec![gpu(8, 8, "GH100*")], false),
            ("F", vec![storage(8000, 9000, "/dev/*")], vec![gpu(8, 8, "GH100*")], true),
            ("G", all(), vec![], false),
            ("I", all(), vec![gpu(8, 8, "GH100*"), gpu(0, 0, "GA100*")], true),
            (
                "J",
                vec![
                    storage(3000, 4000, "/dev/nvme0n1"),
                    storage(7000, 9000, "/dev/nvme*"),
                    storage(400, 500, "/dev/sd*"),
                ],
                vec![gpu(8, 8, "GH100*")],
                true,
            ),
            ("K", all(), vec![gpu(4, 8, "GH100*")], true),
        ];
        for (name, storage, gpu, expected) in cases {
            let constraints = [vec![cores(56, 56, ""), memory(1000, 1100)], storage, gpu].concat();
            assert_eq!(matches(constraints, &gpu_server()), expected, "case {name}");
        }
    }

    #[test]
    fn worked_cases_with_other_cores_memory_and_gpus() {
        let rest = || vec![storage(8000, 9000, ""), gpu(8, 8, "GH100*")];
        let with = |first: Vec<Constraint>| [first, rest()].concat();
        assert!(!matches(with(vec![cores(56, 56, "")]), &gpu_server()), "case H");
        let mut more_cores = gpu_server();
        more_cores.cpus = vec![cpu(XEON, 32), cpu(XEON, 32)];
        assert!(!matches(with(vec![cores(56, 56, ""), memory(1000, 1100)]), &more_cores), "case L");
        assert!(!matches(with(vec![cores(56, 56, "Intel Xeon*"), memory(1000, 1100)]), &gpu_server()), "case M");
        assert!(matches(with(vec![cores(56, 56, "Intel(R) Xeon(R)*"), memory(1000, 1100)]), &gpu_server()), "case N");
        let mut mixed = gpu_server();
        mixed.gpus = [gpus(H100, 4), gpus("AD102GL [L40S]", 1)].concat();
        let constraints = vec![cores(56, 56, ""), memory(1000, 1100), storage(8000, 9000, ""), gpu(4, 4, "GH100*")];
        assert!(!matches(constraints, &mixed), "case R");
    }

    #[test]
    fn worked_cases_of_the_small_machine() {
        let small = Hardware { memory: 4 * GIB, cpus: vec![cpu("QEMU Virtual CPU", 2)], ..Hardware::default() };
        let with =
            |storage: Option<Constraint>| [vec![cores(1, 4, ""), memory(0, 8)], storage.into_iter().collect()].concat();
        assert!(matches(with(None), &small), "case O");
        assert!(matches(with(Some(storage(0, 1, ""))), &small), "case P");
        assert!(!matches(with(Some(storage(1, 1, ""))), &small), "case Q");
    }

    #[test]
    fn worked_cases_over_all_sizes() {
        let sizes =
            [size("X", vec![cores(1, 4, ""), memory(0, 8)]), size("Y", vec![cores(4, 8, "QEMU*"), memory(0, 8)])];
        let machine =
            |cores| Hardware { memory: 4 * GIB, cpus: vec![cpu("QEMU Virtual CPU", cores)], ..Hardware::default() };
        assert_eq!(overlap(&sizes[1], &sizes), None, "the overlap check lets this pair in");
        let several = find(&sizes, &machine(4)).unwrap_err();
        assert_eq!(several, NoSize::Several(vec!["X".into(), "Y".into()]), "case T");
        assert_eq!(several.to_string(), "2 sizes found: X, Y");
        assert_eq!(find(&sizes, &machine(5)).unwrap().id, "Y", "case U");
        assert!(matches!(find(&sizes, &machine(16)), Err(NoSize::None(_))), "case V");
        let empty = [size("empty", vec![])];
        assert_eq!(find(&empty, &machine(1)).unwrap_err().to_string(), "no size matches; empty: has no constraints");
    }

    #[test]
    fn says_what_was_expected_and_found() {
        let faults = faults(&size("x", vec![cores(1, 4, ""), memory(0, 8)]), &gpu_server());
        assert!(faults.contains(&"cores: expected 1 to 4, found 56".to_owned()), "{faults:?}");
        assert!(faults.contains(&"no constraint covers storage /dev/sda".to_owned()), "{faults:?}");
        assert!(faults.contains(&format!("no constraint covers gpu {H100}")), "{faults:?}");
    }

    #[test]
    fn validation_finds_every_fault() {
        let bad = size(
            "unknown",
            vec![
                cores(4, 2, ""),
                cores(1, 1, "a["),
                constraint(Kind::Memory, 0, 1, "x"),
                gpu(1, 1, ""),
                constraint(Kind::Other("nvram".into()), 0, 1, ""),
            ],
        );
        let faults: Vec<String> = validate(&bad).iter().map(ToString::to_string).collect();
        for expected in [
            "id: expected a name other than \"unknown\"",
            "constraints[0] (cores): max 2 is less than min 4",
            "identifier \"a[\" is no valid pattern",
            "memory takes no identifier",
            "constraints[3] (gpu): identifier is missing",
            "constraints[4] (nvram): type: expected",
            "at most one of type cores, found 2",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
        assert_eq!(faults.len(), 7, "{faults:?}");
        assert_eq!(validate(&size("ok", vec![cores(1, 1, ""), memory(0, 1), gpu(1, 1, "*")])), []);
    }

    #[test]
    fn overlap_needs_the_same_types_identifiers_and_ranges() {
        let a = size("a", vec![cores(1, 4, ""), memory(0, 8)]);
        let b = size("b", vec![cores(4, 8, ""), memory(8, 9)]);
        assert_eq!(overlap(&a, &[b]).unwrap().to_string(), "size \"a\" overlaps with \"b\"");
        let apart = size("b", vec![cores(5, 8, ""), memory(0, 8)]);
        let more_types = size("b", vec![cores(1, 4, ""), memory(0, 8), storage(0, 1, "")]);
        assert_eq!(overlap(&a, &[apart, more_types, a.clone(), size("none", vec![])]), None);
    }

    #[test]
    fn reads_the_shape_of_the_contract() {
        let text = r#"{"id":"g1","constraints":[{"type":"cores","min":56,"max":56},{"type":"storage","identifier":"/dev/sd*"}]}"#;
        let size: Size = serde_json::from_str(text).unwrap();
        assert_eq!(size.constraints[1], storage(0, 0, "/dev/sd*"));
        assert_eq!(
            serde_json::to_value(&size.constraints).unwrap(),
            serde_json::json!([
                {"type": "cores", "min": 56, "max": 56}, {"type": "storage", "identifier": "/dev/sd*"}
            ])
        );
    }
}
