//! Sizes: classes of machines, found by matching hardware against constraints, as metal-api does it.
//!
//! [`judge`] says which size a machine has, and what kept every other from being it; [`validate`] and [`overlap`] are
//! the checks before a size is stored; [`parse_size`] reads sizes as people write them.

mod document;
mod judge;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::null_as_default;

pub use document::{parse_amount, parse_size};
pub use judge::{Matching, Miss, Verdict, judge, miss};
pub use validate::{SizeFault, notes, overlap, validate};

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

    /// Whether `min` and `max` are bytes.
    pub fn is_in_bytes(&self) -> bool {
        match self {
            Self::Memory | Self::Storage => true,
            Self::Cores | Self::Gpu | Self::Other(_) | Self::Absent => false,
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
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub kind: Kind,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub min: u64,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub max: u64,
    /// A glob; empty means all items.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub identifier: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod samples {
    //! Sizes and machines that the tests of this module share.

    use super::{Constraint, Kind, Size};
    use crate::api::rest::{Cpu, Disk, Gpu, Hardware};

    pub(super) const GIB: u64 = 1 << 30;
    pub(super) const XEON: &str = "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz";
    pub(super) const H100: &str = "GH100 [H100 SXM5 80GB]";

    pub(super) fn constraint(kind: Kind, min: u64, max: u64, identifier: &str) -> Constraint {
        Constraint { kind, min, max, identifier: identifier.to_owned() }
    }

    pub(super) fn cores(min: u64, max: u64, identifier: &str) -> Constraint {
        constraint(Kind::Cores, min, max, identifier)
    }

    pub(super) fn memory(min_gib: u64, max_gib: u64) -> Constraint {
        constraint(Kind::Memory, min_gib * GIB, max_gib * GIB, "")
    }

    pub(super) fn storage(min_gib: u64, max_gib: u64, identifier: &str) -> Constraint {
        constraint(Kind::Storage, min_gib * GIB, max_gib * GIB, identifier)
    }

    pub(super) fn gpu(min: u64, max: u64, identifier: &str) -> Constraint {
        constraint(Kind::Gpu, min, max, identifier)
    }

    pub(super) fn size(id: &str, constraints: Vec<Constraint>) -> Size {
        Size { id: id.to_owned(), constraints, ..Size::default() }
    }

    pub(super) fn cpu(model: &str, cores: u32) -> Cpu {
        Cpu { model: model.to_owned(), cores, threads: cores * 2, ..Cpu::default() }
    }

    pub(super) fn gpus(model: &str, count: usize) -> Vec<Gpu> {
        vec![Gpu { vendor: "NVIDIA Corporation".into(), model: model.to_owned() }; count]
    }

    pub(super) fn disk(name: &str, gib: u64) -> Disk {
        Disk { name: name.to_owned(), size: gib * GIB }
    }

    /// Machine M of the contract.
    pub(super) fn gpu_server() -> Hardware {
        Hardware {
            memory: 1024 * GIB,
            cpus: vec![cpu(XEON, 28), cpu(XEON, 28)],
            disks: vec![disk("/dev/nvme0n1", 3840), disk("/dev/nvme1n1", 3840), disk("/dev/sda", 480)],
            gpus: gpus(H100, 8),
            ..Hardware::default()
        }
    }

    /// Machine S of the contract, with as many cores as needed.
    pub(super) fn small_machine(cores: u32) -> Hardware {
        Hardware { memory: 4 * GIB, cpus: vec![cpu("QEMU Virtual CPU", cores)], ..Hardware::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::storage;
    use super::*;

    #[test]
    fn reads_and_writes_the_shape_of_the_contract() {
        let text = r#"{"id":"g1","constraints":[{"type":"cores","min":56,"max":56},{"type":"storage","identifier":"/dev/sd*"}]}"#;
        let size: Size = serde_json::from_str(text).unwrap();
        assert_eq!(size.constraints[1], storage(0, 0, "/dev/sd*"));
        assert_eq!(
            serde_json::to_value(&size.constraints).unwrap(),
            serde_json::json!([
                {"type": "cores", "min": 56, "max": 56}, {"type": "storage", "identifier": "/dev/sd*"}
            ])
        );
        let nulls = r#"{"id":"a","labels":null,"constraints":[{"type":null,"min":null,"max":1,"identifier":null}]}"#;
        let size: Size = serde_json::from_str(nulls).unwrap();
        assert_eq!(size.constraints, [Constraint { max: 1, ..Constraint::default() }]);
    }

    #[test]
    fn amounts_with_units_are_none_of_the_wires() {
        let error = serde_json::from_str::<Size>(r#"{"constraints":[{"type":"memory","min":"1TiB"}]}"#).unwrap_err();
        assert!(error.to_string().contains("expected u64"), "{error}");
    }
}
