//! What the firmware says about itself, the board, the chassis and the machine.
//!
//! Sources: SMBIOS types 0 to 3 ([`smbios`]); where the tables cannot be had, the same strings in
//! `/sys/class/dmi/id/`, of which serial numbers are readable by root only. Placeholders of board makers are absent.

use std::path::PathBuf;

use anyhow::{Context, Result};
use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{parse_text, read_bytes, read_number, read_text};
use super::placeholder::meaningful;
use super::smbios::{self, Smbios, kind};
use crate::sys::roots::Roots;

/// Everything from this source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmi {
    pub kind: MachineKind,
    pub bios: Option<Bios>,
    pub board: Option<Board>,
    pub product: Option<Product>,
    pub chassis: Option<Chassis>,
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

/// SMBIOS type 0.
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

/// SMBIOS type 2, the first: a machine of several boards has several.
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
    /// `board_asset_tag`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset_tag: Option<String>,
}

/// SMBIOS type 1: the machine as it is sold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Product {
    /// `sys_vendor`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `product_name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `product_version`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `product_serial`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `product_sku`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
    /// `product_family`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

/// SMBIOS type 3, the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Chassis {
    /// `chassis_vendor`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `chassis_type` in words, e.g. `rack mount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// `chassis_version`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `chassis_serial`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `chassis_asset_tag`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset_tag: Option<String>,
}

pub fn read(roots: &Roots) -> Reading<Dmi> {
    let Reading { found: smbios, mut warnings } = smbios::read(roots);
    if !folder(roots).is_dir() {
        let what = if smbios.is_some() { "server or virtual machine is a guess" } else { "the board is not known" };
        warnings.push(format!("DMI: no /sys/class/dmi/id, {what}"));
    }
    let strings = Strings { roots, smbios: smbios.as_ref() };
    Reading { found: strings.dmi(), warnings }
}

/// The text of a file of `/sys/class/dmi/id` as it is, placeholder or not; `None` when the kernel has no such file.
///
/// # Errors
///
/// When it is there and cannot be read: the UUID and serial numbers are for root.
pub(super) fn read_file(roots: &Roots, name: &str) -> Result<Option<String>> {
    let path = folder(roots).join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bytes(&path).with_context(|| format!("/sys/class/dmi/id/{name} cannot be read (root may)"))?;
    Ok(Some(parse_text(&bytes).unwrap_or_default()))
}

fn folder(roots: &Roots) -> PathBuf {
    roots.sys.join("class/dmi/id")
}

/// The strings of both sources.
struct Strings<'a> {
    roots: &'a Roots,
    smbios: Option<&'a Smbios>,
}

impl Strings<'_> {
    fn dmi(&self) -> Dmi {
        // Offsets are those of DSP0134 sections 7.1 to 7.4.
        let bios = Bios {
            vendor: self.text(kind::BIOS, 0x04, "bios_vendor"),
            version: self.text(kind::BIOS, 0x05, "bios_version"),
            date: self.text(kind::BIOS, 0x08, "bios_date"),
        };
        let product = Product {
            vendor: self.text(kind::SYSTEM, 0x04, "sys_vendor"),
            name: self.text(kind::SYSTEM, 0x05, "product_name"),
            version: self.text(kind::SYSTEM, 0x06, "product_version"),
            serial: self.text(kind::SYSTEM, 0x07, "product_serial"),
            sku: self.text(kind::SYSTEM, 0x19, "product_sku"),
            family: self.text(kind::SYSTEM, 0x1a, "product_family"),
        };
        let board = Board {
            vendor: self.text(kind::BOARD, 0x04, "board_vendor"),
            name: self.text(kind::BOARD, 0x05, "board_name"),
            version: self.text(kind::BOARD, 0x06, "board_version"),
            serial: self.text(kind::BOARD, 0x07, "board_serial"),
            asset_tag: self.text(kind::BOARD, 0x08, "board_asset_tag"),
        };
        let chassis = Chassis {
            vendor: self.text(kind::CHASSIS, 0x04, "chassis_vendor"),
            kind: self.chassis_number().and_then(chassis_kind),
            version: self.text(kind::CHASSIS, 0x06, "chassis_version"),
            serial: self.text(kind::CHASSIS, 0x07, "chassis_serial"),
            asset_tag: self.text(kind::CHASSIS, 0x08, "chassis_asset_tag"),
        };
        Dmi {
            kind: self.machine_kind(),
            bios: (bios != Bios::default()).then_some(bios),
            board: (board != Board::default()).then_some(board),
            product: (product != Product::default()).then_some(product),
            chassis: (chassis != Chassis::default()).then_some(chassis),
        }
    }

    fn text(&self, kind: u8, offset: usize, file: &str) -> Option<String> {
        let in_tables = || self.smbios?.first(kind)?.text(offset);
        in_tables().or_else(|| read_text(&folder(self.roots).join(file)).and_then(meaningful))
    }

    fn chassis_number(&self) -> Option<u64> {
        let in_tables = || self.smbios?.first(kind::CHASSIS)?.byte(0x05);
        in_tables().map(u64::from).or_else(|| read_number(&folder(self.roots).join("chassis_type")))
    }

    /// A machine is a virtual one for metal-stack when any of these files is missing. An empty file or one with a
    /// placeholder counts as there: a board without a serial number is still a board.
    fn machine_kind(&self) -> MachineKind {
        const NEEDED: [&str; 5] = ["board_vendor", "board_name", "board_serial", "product_serial", "bios_version"];
        let folder = folder(self.roots);
        let is_complete = NEEDED.iter().all(|name| folder.join(name).exists());
        let vendor = read_text(&folder.join("board_vendor"));
        let is_vagrant = vendor.is_some_and(|vendor| vendor.to_ascii_lowercase().contains("vagrant"));
        if is_complete && !is_vagrant { MachineKind::Server } else { MachineKind::Virtual }
    }
}

/// DSP0134 table 17; the top bit says that there is a lock.
fn chassis_kind(number: u64) -> Option<&'static str> {
    Some(match number & 0x7f {
        0x03 => "desktop",
        0x04 => "low profile desktop",
        0x05 => "pizza box",
        0x06 => "mini tower",
        0x07 => "tower",
        0x08 => "portable",
        0x09 => "laptop",
        0x0a => "notebook",
        0x0b => "hand held",
        0x0c => "docking station",
        0x0d => "all in one",
        0x0e => "sub notebook",
        0x0f => "space-saving",
        0x10 => "lunch box",
        0x11 => "main server",
        0x12 => "expansion",
        0x13 => "sub chassis",
        0x14 => "bus expansion",
        0x15 => "peripheral",
        0x16 => "RAID",
        0x17 => "rack mount",
        0x18 => "sealed-case PC",
        0x19 => "multi-system",
        0x1a => "CompactPCI",
        0x1b => "AdvancedTCA",
        0x1c => "blade",
        0x1d => "blade enclosure",
        0x1e => "tablet",
        0x1f => "convertible",
        0x20 => "detachable",
        0x21 => "IoT gateway",
        0x22 => "embedded PC",
        0x23 => "mini PC",
        0x24 => "stick PC",
        // 1 is "other", 2 "unknown".
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::smbios::tests::structure;
    use super::*;

    #[test]
    fn a_chassis_with_a_lock_is_the_same_chassis() {
        assert_eq!((chassis_kind(0x17), chassis_kind(0x97)), (Some("rack mount"), Some("rack mount")));
        assert_eq!((chassis_kind(2), chassis_kind(u64::MAX)), (None, None));
    }

    #[test]
    fn the_tables_come_first_and_a_placeholder_in_them_leaves_the_word_to_the_files() {
        let root = tempfile::tempdir().expect("temporary folder");
        let roots = Roots::under(root.path());
        std::fs::create_dir_all(folder(&roots)).expect("making a folder");
        for (name, value) in [("sys_vendor", "Old Name"), ("product_serial", "S1"), ("product_sku", "Default string")] {
            std::fs::write(folder(&roots).join(name), value).expect("writing a file");
        }
        let table = structure(kind::SYSTEM, 1, &[1, 2, 0, 3], &["Acme", "Anvil", "To Be Filled By O.E.M."]);
        let smbios = Smbios::parse(&[], table);
        let product = Strings { roots: &roots, smbios: Some(&smbios) }.dmi().product.expect("a product");
        assert_eq!((product.vendor.as_deref(), product.name.as_deref()), (Some("Acme"), Some("Anvil")));
        assert_eq!((product.serial.as_deref(), product.sku, product.version), (Some("S1"), None, None));
    }
}
