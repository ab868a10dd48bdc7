//! The id of this machine.
//!
//! It is the UUID of the firmware, which the firmware also sends when it boots from the network. Where that is none
//! (not set, or a sample that whole series of boards have), an id is made of what is the machine's own:
//!
//! ```text
//! UUID version 5 (RFC 9562: SHA-1), namespace 6d7f3f52-5d0c-4c0b-9d0f-1f8e5d1c7a64, name
//!     board-serial=<serial number of the board> mac=<MAC>     or, without a serial number,     mac=<MAC>
//! ```
//!
//! The MAC is the smallest of the permanent Ethernet addresses, lower case with colons: which network card is found
//! first, its name and its PCI address change with kernels and with added cards, the set of addresses does not. USB
//! cards (BMCs show one that comes and goes) and virtual functions do not count. The serial number alone makes no id:
//! some makers print one on a whole series, and a card that is found late would change the id.
//!
//! `uuidgen --sha1 --namespace 6d7f3f52-5d0c-4c0b-9d0f-1f8e5d1c7a64 --name 'mac=…'` gives the same.

use anyhow::{Context, Result, bail};
use ring::digest;
use uuid::{Builder, Uuid, uuid};

use super::attribute::read_device_path;
use super::placeholder::meaningful;
use super::{Reading, dmi, nic, smbios};
use crate::api::machine_id::is_of_one_machine;
use crate::sys::roots::Roots;

/// Namespace of the ids that are made; never to be changed, or machines change their ids.
const NAMESPACE: Uuid = uuid!("6d7f3f52-5d0c-4c0b-9d0f-1f8e5d1c7a64");

/// Who the machine is, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineId {
    pub uuid: Uuid,
    /// A sentence for people where the id is not the firmware's: why not, and what it is made of.
    pub made_because: Option<String>,
}

/// What the firmware says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Uuid(Uuid),
    /// Nothing of use, with the reason.
    Nothing(String),
}

/// [`read_machine_id`] for the inventory.
pub fn read(roots: &Roots) -> Reading<Option<Uuid>> {
    match read_machine_id(roots) {
        Ok(MachineId { uuid, made_because }) => {
            let warnings = made_because.map(|sentence| format!("UUID: {sentence}")).into_iter().collect();
            Reading { found: Some(uuid), warnings }
        }
        Err(error) => Reading { found: None, warnings: vec![format!("UUID: {error:#}")] },
    }
}

/// The id of this machine: `product_uuid`, or, where the kernel has no such file, `product_serial` if that is a UUID,
/// or else one that is made of board serial number and MAC.
///
/// # Errors
///
/// When a source is there and cannot be read (not root): the id would differ from root's. And when there is nothing
/// that tells this machine from others.
pub fn read_machine_id(roots: &Roots) -> Result<MachineId> {
    let refused = match read_told(roots)? {
        Told::Uuid(uuid) => return Ok(MachineId { uuid, made_because: None }),
        Told::Nothing(refused) => refused,
    };
    let board_serial = read_board_serial(roots).with_context(|| refused.clone())?;
    let Some(mac) = read_first_mac(roots) else {
        bail!("{refused}; and there is no network card with a permanent address to make an id of");
    };
    let uuid = derive(board_serial.as_deref(), &mac);
    let of = match board_serial {
        Some(serial) => format!("board serial number {serial} and MAC {mac}"),
        None => format!("MAC {mac}, as the board has no serial number"),
    };
    Ok(MachineId { uuid, made_because: Some(format!("{refused}; this machine's id {uuid} is made of {of}")) })
}

fn read_told(roots: &Roots) -> Result<Told> {
    if let Some(text) = dmi::read_file(roots, "product_uuid")? {
        return Ok(parse_told(&text));
    }
    // The kernel has no such file for a UUID that is all zeros or all ones. Captured trees may have the tables only.
    if let Some(uuid) = smbios::read(roots).found.and_then(|smbios| smbios.system_uuid()) {
        return Ok(parse_told(&uuid.to_string()));
    }
    let serial = dmi::read_file(roots, "product_serial")?.unwrap_or_default();
    Ok(match Uuid::try_parse(&serial) {
        Ok(_) => parse_told(&serial),
        Err(_) => Told::Nothing("the firmware tells neither a UUID nor a serial number that is one".to_owned()),
    })
}

/// As the kernel shows it; a captured tree may have the tables only.
fn read_board_serial(roots: &Roots) -> Result<Option<String>> {
    if let Some(text) = dmi::read_file(roots, "board_serial")? {
        return Ok(meaningful(text));
    }
    let smbios = smbios::read(roots).found;
    Ok(smbios.and_then(|smbios| smbios.first(smbios::kind::BOARD)?.text(0x07)))
}

fn parse_told(text: &str) -> Told {
    match Uuid::try_parse(text) {
        Ok(uuid) if is_of_one_machine(uuid) => Told::Uuid(uuid),
        Ok(uuid) => {
            Told::Nothing(format!("the firmware's UUID is {uuid}, which does not tell this machine from others"))
        }
        Err(_) if text.is_empty() => Told::Nothing("the firmware's UUID is empty".to_owned()),
        Err(_) => Told::Nothing(format!("the firmware's UUID is {text:?}, which is no UUID")),
    }
}

/// See the module's description.
fn derive(board_serial: Option<&str>, mac: &str) -> Uuid {
    let name = match board_serial {
        Some(serial) => format!("board-serial={serial} mac={mac}"),
        None => format!("mac={mac}"),
    };
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(NAMESPACE.as_bytes());
    sha1.update(name.as_bytes());
    let digest = sha1.finish();
    let bytes: [u8; 16] = digest.as_ref().first_chunk().copied().expect("SHA-1 has 20 bytes");
    Builder::from_sha1_bytes(bytes).into_uuid()
}

/// The smallest permanent Ethernet address of the cards that stay in the machine.
fn read_first_mac(roots: &Roots) -> Option<String> {
    let links = nic::read(roots).found;
    let stays = |name: &str| {
        let device = roots.sys.join("class/net").join(name).join("device");
        let is_usb = read_device_path(&device)
            .is_some_and(|path| path.iter().filter_map(|part| part.to_str()).any(|part| part.starts_with("usb")));
        !is_usb && !device.join("physfn").exists()
    };
    let macs =
        links.into_iter().filter(|link| link.physical && stays(&link.name)).filter_map(|link| link.permanent_mac);
    macs.filter(|mac| is_station_address(mac)).min()
}

/// Six bytes, not a group's, and not all zeros.
fn is_station_address(mac: &str) -> bool {
    const LENGTH: usize = "00:00:00:00:00:00".len();
    let first = mac.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    mac.len() == LENGTH && first.is_some_and(|byte| byte & 1 == 0) && mac.bytes().any(|b| !matches!(b, b'0' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_in_either_case_and_written_lower_case() {
        let Told::Uuid(uuid) = parse_told("4C4C4544-0042-3510-8052-B4C04F4E3332") else { panic!("not a UUID") };
        assert_eq!(uuid.to_string(), "4c4c4544-0042-3510-8052-b4c04f4e3332");
    }

    #[test]
    fn a_uuid_that_many_machines_have_is_refused_with_the_reason() {
        let reason = |text| match parse_told(text) {
            Told::Nothing(reason) => reason,
            Told::Uuid(uuid) => panic!("{uuid}"),
        };
        for text in ["FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "03000200-0400-0500-0006-000700080009"] {
            assert!(reason(text).contains("does not tell this machine from others"), "{}", reason(text));
        }
        assert!(reason("Not Settable").contains("\"Not Settable\""));
        assert!(reason("").contains("is empty"));
    }

    /// Reference: `uuidgen --sha1 --namespace 6d7f3f52-5d0c-4c0b-9d0f-1f8e5d1c7a64 --name …`
    #[test]
    fn an_id_that_is_made_never_changes() {
        let mac = "02:00:00:00:00:01";
        assert_eq!(derive(Some("B000042"), mac).to_string(), "12e2c11f-232b-5161-be7b-956381d7dedd");
        assert_eq!(derive(None, mac).to_string(), "86cb3f4d-fff9-54bd-92f7-3d30f955f34e");
    }

    #[test]
    fn only_the_address_of_one_station_counts() {
        assert!(is_station_address("52:54:00:12:34:56"));
        for mac in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e", "80:00:00:00:00:00:00:01", "", "zz"]
        {
            assert!(!is_station_address(mac), "{mac}");
        }
    }
}
