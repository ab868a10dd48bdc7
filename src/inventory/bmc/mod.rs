//! The machine's baseboard management controller: what it is, where it is reached, and what it knows of the machine.
//!
//! Source: the kernel's IPMI device (`/dev/ipmi0`), by commands of the IPMI specification v2.0, rev. 1.1, whose
//! sections are named at the readers. Where no device is (a captured machine), what `/sys` keeps of the first answer:
//! `/sys/bus/platform/devices/ipmi_bmc.<n>/`. Nothing is changed in the BMC.

pub mod fru;
mod fru_store;
pub mod ipmi;
mod lan;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::lan::{AddressSource, Lan};

use self::fru::Fru;
use self::ipmi::{Answer, Command, Device, IpmiError, first};
use super::Reading;
use super::attribute::{read_hex, read_names, read_text};
use crate::sys::roots::Roots;

/// A BMC that is there. What it did not say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Bmc {
    /// `2.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipmi_version: Option<String>,
    /// Major and minor number as `ipmitool` writes them, `1.74`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// IANA's private enterprise number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer_id: Option<u32>,
    /// The company of that number, if it is one of those that make servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// The manufacturer's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<u16>,
    /// Its link to the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan: Option<Lan>,
    /// What the machine is, in the words of its maker: FRU 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fru: Option<Fru>,
}

/// The BMC, `None` when there is none. After `limit` nothing more is asked.
pub fn read(roots: &Roots, limit: Duration) -> Reading<Option<Bmc>> {
    let mut warnings = Vec::new();
    // A device in a captured tree would be this machine's.
    let device = ipmi::device_path(roots).filter(|_| roots.is_live());
    let found = match device.map(|path| Device::open(&path, limit)) {
        None => read_sysfs(roots),
        Some(Ok(mut device)) => Some(ask_all(&mut device, &mut warnings)),
        Some(Err(error)) => {
            warnings.push(format!("BMC: opening /dev/ipmi0: {error}"));
            Some(read_sysfs(roots).unwrap_or_default())
        }
    };
    Reading { found, warnings }
}

/// The kernel's copy of the answer to Get Device ID (`drivers/char/ipmi/ipmi_msghandler.c`).
fn read_sysfs(roots: &Roots) -> Option<Bmc> {
    let devices = roots.sys.join("bus/platform/devices");
    let name = read_names(&devices)?.into_iter().find(|name| name.starts_with("ipmi_bmc."))?;
    let device = devices.join(name);
    let manufacturer_id = read_hex(&device.join("manufacturer_id")).and_then(|id| u32::try_from(id).ok());
    Some(Bmc {
        ipmi_version: read_text(&device.join("ipmi_version")),
        firmware: read_text(&device.join("firmware_revision")).map(|text| two_digits_of_minor(&text)),
        manufacturer_id,
        manufacturer: manufacturer_id.and_then(company),
        product_id: read_hex(&device.join("product_id")).and_then(|id| u16::try_from(id).ok()),
        lan: None,
        fru: None,
    })
}

/// The kernel writes the minor number, two digits of BCD, without the leading zero.
fn two_digits_of_minor(firmware: &str) -> String {
    match firmware.split_once('.') {
        Some((major, minor)) => format!("{major}.{minor:0>2}"),
        None => firmware.to_owned(),
    }
}

/// Everything that is wanted of a BMC, until it falls silent.
pub fn ask_all(bmc: &mut impl Answer, warnings: &mut Vec<String>) -> Bmc {
    let mut found = Bmc::default();
    if let Err(error) = ask_in_turn(bmc, &mut found, warnings) {
        let cause = anyhow::Error::from(error);
        warnings.push(format!("BMC: {cause:#}; nothing more was asked"));
    }
    found
}

/// An error is silence; what was found until then is in `found`.
fn ask_in_turn(bmc: &mut impl Answer, found: &mut Bmc, warnings: &mut Vec<String>) -> Result<(), IpmiError> {
    if let Some(id) = told(ask_device_id(bmc), warnings)? {
        *found = id;
    }
    found.lan = lan::ask(bmc)?;
    if found.lan.as_ref().is_none_or(|lan| lan.address.is_none()) {
        warnings.push("BMC: no LAN channel of it has an address".to_owned());
    }
    let mut fru = Fru::default();
    let end = fru_store::ask(bmc, &mut fru, warnings);
    found.fru = (fru != Fru::default()).then_some(fru);
    end
}

/// A refusal is a warning and no answer; silence stays an error.
fn told<T>(answer: Result<T, IpmiError>, warnings: &mut Vec<String>) -> Result<Option<T>, IpmiError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_silence() => Err(error),
        Err(error) => {
            warnings.push(format!("BMC: {error}"));
            Ok(None)
        }
    }
}

const GET_DEVICE_ID: Command = Command::new(0x06, 0x01);

/// Section 20.1.
fn ask_device_id(bmc: &mut impl Answer) -> Result<Bmc, IpmiError> {
    let answer = bmc.ask(GET_DEVICE_ID, &[])?;
    Ok(parse_device_id(first(GET_DEVICE_ID, &answer)?))
}

fn parse_device_id(answer: [u8; 11]) -> Bmc {
    let [_, _, major, minor, ipmi, _, m0, m1, m2, p0, p1] = answer;
    // 20 bits, the rest is reserved.
    let manufacturer_id = u32::from_le_bytes([m0, m1, m2, 0]) & 0x000f_ffff;
    Bmc {
        // BCD, the digits in reverse: 0x51 is 1.5.
        ipmi_version: Some(format!("{}.{}", ipmi & 0x0f, ipmi >> 4)),
        // Bit 7 of the major number: it is being updated or starting.
        firmware: Some(format!("{}.{minor:02x}", major & 0x7f)),
        manufacturer_id: (manufacturer_id != 0).then_some(manufacturer_id),
        manufacturer: company(manufacturer_id),
        product_id: Some(u16::from_le_bytes([p0, p1])),
        lan: None,
        fru: None,
    }
}

/// IANA's registry of private enterprise numbers, those who sell servers or the firmware of BMCs.
fn company(enterprise_number: u32) -> Option<String> {
    const COMPANIES: [(u32, &str); 14] = [
        (2, "IBM"),
        (11, "Hewlett-Packard"),
        (42, "Oracle"),
        (343, "Intel"),
        (674, "Dell"),
        (2011, "Huawei"),
        (5703, "NVIDIA"),
        (7244, "Quanta"),
        (10368, "Fujitsu"),
        (10876, "Supermicro"),
        (15370, "Giga-Byte"),
        (19046, "Lenovo"),
        (20974, "American Megatrends"),
        (47196, "Hewlett Packard Enterprise"),
    ];
    COMPANIES.iter().find(|(number, _)| *number == enterprise_number).map(|(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests;
