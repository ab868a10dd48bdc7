//! Which disk it is: model, serial number, world-wide name, and the paths that follow from them.
//!
//! The paths are those that udev's `60-persistent-storage.rules` would link to the disk. The agent has no udev; an
//! installed system has, so that fstab and configuration can be written with them.

use std::path::Path;

use super::super::attribute::{parse_text, read_bytes, read_text};
use super::media::usb_device;
use super::transport::Transport;

/// What is known of one disk's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub model: Option<String>,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub firmware: Option<String>,
    pub stable_paths: Vec<String>,
}

/// `block` is `/sys/block/<name>`, `device_path` the same with its links resolved.
pub(super) fn read_identity(block: &Path, device_path: &Path, transport: Option<Transport>) -> Identity {
    let device = block.join("device");
    let vendor = read_text(&device.join("vendor"));
    // The whole of what SCSI commands cut to 16 and 4 characters.
    let ata = read_ata(&device).filter(|_| vendor.as_deref() == Some("ATA"));
    let ata = ata.unwrap_or_default();
    let model = read_model(&device, transport, vendor.clone());
    let identity = Identity {
        model: ata.model.clone().or(model),
        serial: read_serial(block).or_else(|| ata.serial.clone()),
        wwn: read_wwn(block),
        firmware: ata
            .firmware
            .clone()
            .or_else(|| read_text(&device.join("firmware_rev")))
            .or_else(|| read_text(&device.join("rev"))),
        stable_paths: Vec::new(),
    };
    let stable_paths = match transport {
        Some(Transport::Nvme) => nvme_links(block, &identity),
        Some(Transport::Virtio) => identity.serial.iter().map(|serial| format!("virtio-{serial}")).collect(),
        Some(Transport::Mmc) => mmc_links(&identity),
        Some(Transport::Usb) => usb_links(&device, device_path),
        Some(Transport::Sata | Transport::Sas | Transport::Scsi | Transport::FibreChannel | Transport::Iscsi)
            if vendor.as_deref() == Some("ATA") =>
        {
            ata_links(&identity, &ata)
        }
        Some(Transport::Sata | Transport::Sas | Transport::Scsi | Transport::FibreChannel | Transport::Iscsi) => {
            scsi_links(&device, &identity, vendor.as_deref())
        }
        None => Vec::new(),
    };
    Identity {
        stable_paths: stable_paths.iter().map(|link| format!("/dev/disk/by-id/{}", link_name(link))).collect(),
        ..identity
    }
}

fn read_model(device: &Path, transport: Option<Transport>, vendor: Option<String>) -> Option<String> {
    let model = read_text(&device.join("model"));
    match transport {
        Some(Transport::Mmc) => read_text(&device.join("name")),
        // A PCI vendor id stands in `vendor` there.
        Some(Transport::Nvme | Transport::Virtio) => model,
        _ => match (vendor.filter(|vendor| vendor != "ATA"), model) {
            (Some(vendor), Some(model)) => Some(format!("{vendor} {model}")),
            (_, model) => model,
        },
    }
}

fn read_serial(block: &Path) -> Option<String> {
    read_text(&block.join("device/serial"))
        .or_else(|| parse_vpd_serial(&read_bytes(&block.join("device/vpd_pg80"))?))
        .or_else(|| read_text(&block.join("serial")))
}

/// Unit serial number page: peripheral byte, page code 0x80, length (16 bits, big-endian), text.
///
/// Source: SPC-4, 7.8.15.
fn parse_vpd_serial(page: &[u8]) -> Option<String> {
    parse_text(vpd_body(page, 0x80)?)
}

/// What follows the four bytes of a vital product data page's header, as far as the page's length says.
fn vpd_body(page: &[u8], code: u8) -> Option<&[u8]> {
    let [_, found, high, low, body @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    (*found == code).then(|| body.get(..length).unwrap_or(body))
}

fn read_wwn(block: &Path) -> Option<String> {
    read_wwid(block).filter(|wwid| ["naa.", "eui.", "uuid."].iter().any(|kind| wwid.starts_with(kind)))
}

/// The kernel's choice among the names that the disk has: `naa.5000…`, `eui.…`, `t10.ATA     …`.
fn read_wwid(block: &Path) -> Option<String> {
    read_text(&block.join("wwid")).or_else(|| read_text(&block.join("device/wwid")))
}

/// What an ATA disk says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AtaIdentity {
    model: Option<String>,
    serial: Option<String>,
    firmware: Option<String>,
}

/// The ATA information page holds the disk's IDENTIFY DEVICE; without it, the device identification page names model
/// and serial number in full.
fn read_ata(device: &Path) -> Option<AtaIdentity> {
    read_bytes(&device.join("vpd_pg89"))
        .and_then(|page| parse_ata_information(&page))
        .or_else(|| parse_ata_designator(&read_bytes(&device.join("vpd_pg83"))?))
}

/// SAT-4, 12.4.2: IDENTIFY DEVICE data from byte 60 of the page. Its texts have the two bytes of each word swapped
/// (ACS-4, 7.13.7: serial number from word 10, firmware from 23, model from 27).
fn parse_ata_information(page: &[u8]) -> Option<AtaIdentity> {
    let identify = vpd_body(page, 0x89)?.get(56..56 + 512)?;
    let words = |first: usize, count: usize| {
        let bytes = identify.get(first * 2..(first + count) * 2)?;
        let swapped: Vec<u8> = bytes.chunks_exact(2).flat_map(|word| [word[1], word[0]]).collect();
        parse_text(&swapped)
    };
    Some(AtaIdentity { serial: words(10, 10), firmware: words(23, 4), model: words(27, 20) })
}

/// SAT-4, 12.4.3: the designator of the T10 vendor `ATA`: model in 40, serial number in 20 characters.
fn parse_ata_designator(page: &[u8]) -> Option<AtaIdentity> {
    let text = designators(vpd_body(page, 0x83)?)
        .find_map(|(kind, text)| (kind == Designator::T10Vendor).then(|| text.strip_prefix(b"ATA     "))?)?;
    Some(AtaIdentity { model: parse_text(text.get(..40)?), serial: parse_text(text.get(40..)?), firmware: None })
}

/// `DESIGNATOR TYPE` of SPC-4, 7.8.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Designator {
    VendorSpecific,
    T10Vendor,
    Other,
}

/// The designators of the disk itself (not of its ports) in a device identification page.
fn designators(mut body: &[u8]) -> impl Iterator<Item = (Designator, &[u8])> {
    std::iter::from_fn(move || {
        let [_, kind, _, length, rest @ ..] = body else { return None };
        let designator = rest.get(..usize::from(*length))?;
        body = rest.get(usize::from(*length)..).unwrap_or_default();
        // Association in bits 4 and 5: 0 is the logical unit.
        let kind = match kind & 0x3f {
            0x0 => Designator::VendorSpecific,
            0x1 => Designator::T10Vendor,
            _ => Designator::Other,
        };
        Some((kind, designator))
    })
}

fn nvme_links(block: &Path, identity: &Identity) -> Vec<String> {
    let name = read_wwid(block).map(|wwid| format!("nvme-{wwid}"));
    let namespace = read_text(&block.join("nsid"));
    let long = match (&identity.model, &identity.serial, namespace) {
        // Without the number (older kernels) two namespaces would have one name.
        (Some(model), Some(serial), Some(namespace)) => {
            Some(format!("nvme-{}", replace_unsafe(&format!("{model}_{serial}_{namespace}"))))
        }
        _ => None,
    };
    name.into_iter().chain(long).collect()
}

fn mmc_links(identity: &Identity) -> Vec<String> {
    let (Some(name), Some(serial)) = (&identity.model, &identity.serial) else { return Vec::new() };
    vec![format!("mmc-{name}_{serial}")]
}

/// Only with the full texts of IDENTIFY DEVICE: a cut model makes another name.
fn ata_links(identity: &Identity, ata: &AtaIdentity) -> Vec<String> {
    let ata = match (&ata.model, &ata.serial) {
        (Some(model), Some(serial)) => Some(format!("ata-{}_{}", one_underscore(model), one_underscore(serial))),
        _ => None,
    };
    ata.into_iter().chain(wwn_link(identity)).collect()
}

/// As udev's `scsi_id` names disks: the type of the designator, then its text or hexadecimal digits.
fn scsi_links(device: &Path, identity: &Identity, vendor: Option<&str>) -> Vec<String> {
    let by_wwn = identity.wwn.as_deref().and_then(|wwn| {
        let (kind, digits) = wwn.split_once('.')?;
        match kind {
            "naa" => Some(format!("3{digits}")),
            "eui" => Some(format!("2{digits}")),
            _ => None,
        }
    });
    let model = read_text(&device.join("model")).unwrap_or_default();
    // Eight and sixteen characters wide, as they stand in the answer to INQUIRY.
    let name = || format!("{:<8}{model:<16}", vendor.unwrap_or_default());
    let by_designator = || {
        let page = read_bytes(&device.join("vpd_pg83"))?;
        let found = |wanted: Designator| {
            designators(vpd_body(&page, 0x83)?).find(|(kind, _)| *kind == wanted).and_then(|(_, text)| parse_text(text))
        };
        found(Designator::T10Vendor)
            .map(|text| format!("1{text}"))
            .or_else(|| found(Designator::VendorSpecific).map(|text| format!("0{}{text}", name())))
    };
    let by_serial = || identity.serial.as_ref().map(|serial| format!("S{}{serial}", name()));
    let name = by_wwn.or_else(by_designator).or_else(by_serial);
    name.map(|name| format!("scsi-{}", one_underscore(&name))).into_iter().chain(wwn_link(identity)).collect()
}

/// As udev's `usb_id` names mass storage: SCSI vendor and model, the serial number of the USB device, target and unit.
fn usb_links(device: &Path, device_path: &Path) -> Vec<String> {
    let serial = usb_device(device_path).and_then(|usb| read_text(&usb.join("serial")));
    let text = |file: &str| read_text(&device.join(file)).map(|text| one_underscore(&text));
    let address = device_path.ancestors().nth(2).and_then(|path| path.file_name()).and_then(|name| name.to_str());
    let mut address = address.unwrap_or_default().split(':').skip(2);
    match (text("vendor"), text("model"), serial, address.next(), address.next()) {
        (Some(vendor), Some(model), Some(serial), Some(target), Some(unit)) => {
            vec![format!("usb-{vendor}_{model}_{}-{target}:{unit}", one_underscore(&serial))]
        }
        _ => Vec::new(),
    }
}

fn wwn_link(identity: &Identity) -> Option<String> {
    identity.wwn.as_deref()?.strip_prefix("naa.").map(|digits| format!("wwn-0x{digits}"))
}

/// udev's `util_replace_whitespace`: each run of white space is one underscore.
fn one_underscore(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join("_")
}

/// udev's `string_escape=replace`: each character that may not stand in a link's name is an underscore.
fn replace_unsafe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) { c } else { '_' }).collect()
}

fn link_name(link: &str) -> String {
    replace_unsafe(&one_underscore(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_of_the_product_data_ends_where_its_length_says() {
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\x08  ABC123junk").as_deref(), Some("ABC123"));
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\xff ABC").as_deref(), Some("ABC"));
        assert_eq!(parse_vpd_serial(b"\x00\x83\x00\x03ABC"), None);
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00"), None);
        assert_eq!(parse_vpd_serial(b"\x00\x80\x00\x02  "), None);
    }

    /// A page as libata makes it: the words' bytes swapped.
    fn ata_information(serial: &str, firmware: &str, model: &str) -> Vec<u8> {
        let mut identify = vec![0_u8; 512];
        for (word, count, text) in [(10, 10, serial), (23, 4, firmware), (27, 20, model)] {
            let text = format!("{text:<width$}", width = count * 2);
            for (index, pair) in text.as_bytes().chunks(2).enumerate() {
                identify[(word + index) * 2] = pair[1];
                identify[(word + index) * 2 + 1] = pair[0];
            }
        }
        let mut page = vec![0, 0x89, 2, 0x38];
        page.extend([0; 56]);
        page.extend(identify);
        page
    }

    #[test]
    fn an_ata_disks_own_words_are_read_in_full() {
        let page = ata_information("S6PTNX0T123456", "JXTC504Q", "SAMSUNG MZ7L3480HCHQ-00A07");
        let expected = AtaIdentity {
            model: Some("SAMSUNG MZ7L3480HCHQ-00A07".to_owned()),
            serial: Some("S6PTNX0T123456".to_owned()),
            firmware: Some("JXTC504Q".to_owned()),
        };
        assert_eq!(parse_ata_information(&page), Some(expected));
        assert_eq!(parse_ata_information(&page[..300]), None);
    }

    #[test]
    fn the_designator_of_an_ata_disk_has_model_and_serial() {
        let mut page = vec![0, 0x83, 0, 0];
        // A world-wide name of the port, and of the disk, go before it.
        page.extend([0x61, 0x93, 0, 8, 0x50, 0, 0, 0, 0, 0, 0, 1]);
        page.extend([0x01, 0x03, 0, 8, 0x50, 0, 0, 0, 0, 0, 0, 2]);
        let text = format!("ATA     {:<40}{:>20}", "ACME SSD 480GB", "SATA0002");
        page.extend([0x02, 0x01, 0, 68]);
        page.extend(text.as_bytes());
        page[3] = u8::try_from(page.len() - 4).expect("short");
        let ata = parse_ata_designator(&page).expect("a designator");
        assert_eq!((ata.model.as_deref(), ata.serial.as_deref()), (Some("ACME SSD 480GB"), Some("SATA0002")));
        for end in 0..page.len() {
            let _ = parse_ata_designator(&page[..end]);
        }
    }

    #[test]
    fn links_are_named_as_udev_names_them() {
        assert_eq!(link_name("ata-Samsung  SSD 870_S/N 1"), "ata-Samsung_SSD_870_S_N_1");
        let identity = Identity { wwn: Some("naa.6001405abc".to_owned()), ..Identity::default() };
        assert_eq!(wwn_link(&identity).as_deref(), Some("wwn-0x6001405abc"));
    }
}
