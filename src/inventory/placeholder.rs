//! Texts that stand where a vendor should have put a value: absent values, wherever they are read.
//!
//! Board makers ship firmware with the sample texts of their BIOS vendor. As a serial number such a text makes
//! thousands of machines one; as a model it makes different machines one size.

/// Letters and digits of texts that say nothing, in lower case: `N/A`, `[Empty]` and `To Be Filled By O.E.M.` are
/// `na`, `empty` and `tobefilledbyoem`. Where each comes from stands above its group.
#[rustfmt::skip]
const MEANINGLESS: &[&str] = &[
    // AMI, Insyde and Phoenix: sample texts of their SMBIOS modules; systemd's hwdb (20-dmi-id) drops the same.
    "defaultstring", "default", "defaultvalue", "fillbyoem", "filledbyoem", "oem", "odm", "tbd", "tba", "tbdbyodm",
    "tobedefinedbyoem", "eval", "oemstring", "pleasefill",
    // ASUS, MSI, Gigabyte, Supermicro: the name of the field as its value.
    "systemmanufacturer", "systemproductname", "systemname", "systemversion", "systemserialnumber", "systemfamily",
    "systemskunumber", "sku", "skunumber", "family", "productname", "productversion", "productserialnumber",
    "baseboardmanufacturer", "baseboardproductname", "baseboardversion", "baseboardserialnumber", "baseboardassettag",
    "boardserialnumber", "boardversion", "boardassettag", "boardmanufacturer", "boardproductname", "chassismanufacture",
    "chassismanufacturer", "chassisversion", "chassisserialnumber", "chassisassettag", "serial", "serialnumber",
    "serialno", "sn", "assettag", "assettracking", "partnumber", "vendor", "version",
    // "Nothing", in the words of Dell, HPE, Lenovo, dmidecode and others.
    "na", "nil", "null", "none", "no", "empty", "blank", "invalid", "unknown", "unknow", "unknownmanufacturer",
    "undefined", "undefine", "uninitialized", "unspecified", "notspecified", "notavailable", "notapplicable",
    "notpresent", "notprovided", "notsettable", "notset", "notdefined", "notused", "notinstalled", "noassettag",
    "noassetinformation", "noserialnumber", "badindex", "outofspec",
    // Empty memory slots (AMI, Supermicro, Dell).
    "nodimm", "nomoduleinstalled", "nomodule", "dimmempty",
    // Rows of keys that are no row of figures.
    "123456789000", "9876543210", "987654321", "abcdefghijklm", "1234567890abcdef",
];

/// What the fields of an empty memory slot are named after, with a slot's number before or behind
/// (`A1_Manufacturer0`, `SerNum01`, `Array1_PartNumber0`, `Dimm0_AssetTag`).
#[rustfmt::skip]
const SLOT_FIELDS: &[&str] = &[
    "manufacturer", "sernum", "serialnum", "serialnumber", "assettagnum", "assettag", "partnum", "partnumber",
    "modulepartnumber", "moduleserialnumber", "modulemanufacturer", "oemdefine",
];

/// Texts that begin so go on with a sentence.
const MEANINGLESS_BEGINNINGS: &[&str] = &["tobefilledby", "tobesetby", "tobeset", "type1product", "type2board"];

/// The text, unless it says nothing.
pub fn meaningful(text: String) -> Option<String> {
    (!is_placeholder(&text)).then_some(text)
}

/// Whether a text of the firmware stands for "no value".
pub fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    let letters: String = text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    // `x.x`, `xx-xxxx`
    letters.chars().all(|c| c == 'x')
        || MEANINGLESS.contains(&letters.as_str())
        || MEANINGLESS_BEGINNINGS.iter().any(|beginning| letters.starts_with(beginning))
        || is_slot_field(&letters)
        || is_one_character(text)
        || is_counting(text)
}

fn is_slot_field(letters: &str) -> bool {
    let letters = letters.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_slot_name = |name: &str| {
        let word = name.trim_end_matches(|c: char| c.is_ascii_digit());
        name.is_empty() || matches!(word, "a" | "b" | "c" | "d" | "array" | "dimm" | "channel" | "slot")
    };
    SLOT_FIELDS.iter().filter_map(|field| letters.strip_suffix(field)).any(is_slot_name)
}

/// `0000`, `0x00000000`, `00000000-0000-…`, `xxxx`, `FFFFFFFF`. A short `1` is a version, but no `0` is a value.
fn is_one_character(text: &str) -> bool {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let mut characters = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase());
    let Some(first) = characters.next() else { return true };
    let mut count = 1;
    for character in characters {
        if character != first {
            return false;
        }
        count += 1;
    }
    match first {
        '0' | 'x' => true,
        'f' => count >= 4,
        _ => count >= 6,
    }
}

/// `0123456789`, `1234567`, `01234567890123456789AB`, also behind a few letters: `MB-1234567890`, `BSN12345678901234567`.
fn is_counting(text: &str) -> bool {
    let figures = text.trim_start_matches(|c: char| c.is_ascii_alphabetic() || matches!(c, '-' | '_' | ' '));
    let shortest = if figures.len() == text.len() { 7 } else { 9 };
    if figures.len() < shortest || !figures.starts_with(['0', '1']) {
        return false;
    }
    let follows = |(figure, next): (u8, u8)| match figure {
        b'9' => matches!(next, b'0' | b'a'),
        _ => figure.is_ascii_alphanumeric() && figure + 1 == next,
    };
    let figures = figures.to_ascii_lowercase();
    figures.bytes().zip(figures.bytes().skip(1)).all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn what_real_boards_say_instead_of_a_value_is_absent() {
        for text in [
            "To Be Filled By O.E.M.", "to be filled by O.E.M", "TO BE FILLED BY OEM", "Default string",
            "Default_String", "System Serial Number", "System Product Name", "Not Specified", "None", "N/A", "n.a.",
            "NULL", "[Empty]", "<BAD INDEX>", "0123456789", "0123456789AB", "123456789", "1234567",
            "01234567890123456789AB", "MB-1234567890", "BSN12345678901234567", "Asset-1234567890", "0", "00000000",
            "0x00000000", "00000000-0000-0000-0000-000000000000", "xxxx", "XXXXXXXX", "FFFFFFFF", "x.x", "111111111",
            ".", "..", "-----", "", "  ", "?", "NO DIMM", "A1_Manufacturer0", "A1_SerNum0", "SerNum00",
            "Array1_PartNumber0", "AssetTagNum3", "Dimm0_SerNum", "ModulePartNumber00", "OEM_Define2",
            "Type2 - Board Serial Number", "Chassis Serial Number", "No Asset Information", "Unknow", "O.E.M.",
        ] {
            assert!(is_placeholder(text), "{text:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_tells_something_is_kept() {
        for text in [
            "1", "1.0", "0.0.0", "A1", "2.1.V1", "1.16.2-debian-1.16.2-1", "S000042", "0A", "X11DPT-B", "DIMM_A1",
            "Standard PC (i440FX + PIIX, 1996)", "QEMU", "Acme", "01115021", "HMT351R7CFR8C-PB", "123", "12345",
            "1234568", "6V5Y9AV", "Samsung", "80CE000080CE", "PowerEdge R760", "Ñ", "Manufacturer of good boards",
            "FFF", "11111", "Micron Technology", "Super Server", "0123ABC", "SYS-621C-TN12R", "100000000001",
        ] {
            assert!(!is_placeholder(text), "{text:?}");
        }
    }
}
