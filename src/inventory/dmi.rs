//! What the firmware says about itself, the board and the machine.
//!
//! Source: `/sys/class/dmi/id/`, which the kernel fills from SMBIOS types 0, 1 and 2; serial numbers and the UUID are
//! readable by root only.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::Reading;
use super::attribute::read_text;
use crate::sys::roots::Roots;

/// Everything from this source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmi {
    pub uuid: Option<Uuid>,
    pub kind: MachineKind,
    pub bios: Option<Bios>,
    pub board: Option<Board>,
    pub product: Option<Product>,
}

/// As metal-stack tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineKind {
    /// The firmware describes a board.
    Server,
    /// It does not (QEMU without `-smbios`), or the board is Vagrant's.
    #[default]
    Virtual,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Bios {
    /// `bios_vendor`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `bios_version`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `bios_date`, month/day/year
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Board {
    /// `board_vendor`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `board_name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `board_version`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `board_serial`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Product {
    /// `sys_vendor`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `product_name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `product_serial`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

pub fn read(roots: &Roots) -> Reading<Dmi> {
    let mut warnings = Vec::new();
    let uuid = machine_uuid(roots).map_err(|error| warnings.push(format!("UUID: {error:#}"))).ok();
    if !folder(roots).is_dir() {
        warnings.push("DMI: no /sys/class/dmi/id, firmware and board are not known".to_owned());
    }
    let text = |name| read_text(&folder(roots).join(name));
    let bios = Bios { vendor: text("bios_vendor"), version: text("bios_version"), date: text("bios_date") };
    let board = Board {
        vendor: text("board_vendor"),
        name: text("board_name"),
        version: text("board_version"),
        serial: text("board_serial"),
    };
    let product = Product { vendor: text("sys_vendor"), name: text("product_name"), serial: text("product_serial") };
    let found = Dmi {
        uuid,
        kind: read_kind(roots, board.vendor.as_deref()),
        bios: (bios != Bios::default()).then_some(bios),
        board: (board != Board::default()).then_some(board),
        product: (product != Product::default()).then_some(product),
    };
    Reading { found, warnings }
}

fn folder(roots: &Roots) -> PathBuf {
    roots.sys.join("class/dmi/id")
}

/// A machine is a virtual one for metal-stack when any of these files is missing. An empty file counts as there: a
/// board without a serial number is still a board.
fn read_kind(roots: &Roots, board_vendor: Option<&str>) -> MachineKind {
    const NEEDED: [&str; 5] = ["board_vendor", "board_name", "board_serial", "product_serial", "bios_version"];
    let is_complete = NEEDED.iter().all(|name| folder(roots).join(name).exists());
    let is_vagrant = board_vendor.is_some_and(|vendor| vendor.to_ascii_lowercase().contains("vagrant"));
    if is_complete && !is_vagrant { MachineKind::Server } else { MachineKind::Virtual }
}

/// The id of this machine, the same that its firmware sends when it boots from the network: `product_uuid`, or, where
/// the kernel has no such file, `product_serial` if that is a UUID.
///
/// # Errors
///
/// When there is none, and when it is one that many machines have (all bits equal): two machines of the same id would
/// be taken for one, and one's allocation would erase the other.
pub fn machine_uuid(roots: &Roots) -> Result<Uuid> {
    let path = folder(roots).join("product_uuid");
    let text = if path.exists() {
        read_text(&path).with_context(|| format!("{} cannot be read (root may) or is empty", path.display()))?
    } else {
        let serial = read_text(&folder(roots).join("product_serial"));
        serial.context("the firmware tells neither a UUID nor a serial number that is one (SMBIOS type 1)")?
    };
    parse_machine_uuid(&text)
}

fn parse_machine_uuid(text: &str) -> Result<Uuid> {
    let uuid = Uuid::try_parse(text).with_context(|| format!("parsing {text:?} as the machine's UUID"))?;
    if uuid.is_nil() || uuid.is_max() {
        bail!("the firmware's UUID is {uuid}, which does not tell this machine from others");
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_in_either_case_and_written_lower_case() {
        let uuid = parse_machine_uuid("4C4C4544-0042-3510-8052-B4C04F4E3332").expect("a UUID");
        assert_eq!(uuid.to_string(), "4c4c4544-0042-3510-8052-b4c04f4e3332");
    }

    #[test]
    fn a_uuid_that_many_machines_have_is_refused_with_the_reason() {
        for text in ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"] {
            let error = parse_machine_uuid(text).expect_err("not an id").to_string();
            assert!(error.contains("does not tell this machine from others"), "{error}");
        }
        let error = parse_machine_uuid("Not Settable").expect_err("not an id").to_string();
        assert!(error.contains("\"Not Settable\""), "{error}");
    }
}
