//! What maker and part a machine is, as its BMC keeps it.
//!
//! Source: Platform Management FRU Information Storage Definition v1.0, rev. 1.3. Sections in brackets.

use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

use super::super::attribute;
use super::super::placeholder::meaningful;

/// The fields of FRU 0, the machine itself. Empty ones are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fru {
    /// Chassis info area [10].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_part_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_serial: Option<String>,
    /// Board info area [11].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_manufacturer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_product: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_part_number: Option<String>,
    /// Product info area [12].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_manufacturer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_part_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_asset_tag: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    Header,
    Chassis,
    Board,
    Product,
}

impl Area {
    fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Chassis => "chassis",
            Self::Board => "board",
            Self::Product => "product",
        }
    }

    /// Bytes before the first field: version, length, and type or language; the board's date too.
    fn fixed_bytes(self) -> usize {
        match self {
            Self::Header | Self::Chassis | Self::Product => 3,
            Self::Board => 6,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FruError {
    #[error("the FRU's {} area ends after {found} bytes of {expected}", area.name())]
    Short { area: Area, expected: usize, found: usize },
    #[error("the bytes of the FRU's {} area add up to {sum:#04x}, not to 0, so it is not read", area.name())]
    Checksum { area: Area, sum: u8 },
    #[error("the FRU's {} area has format version {found}, not 1", area.name())]
    Version { area: Area, found: u8 },
}

pub const HEADER_BYTES: u16 = 8;
/// Offsets and lengths are counted in these.
const UNIT_BYTES: u16 = 8;

/// The areas that a header [8] tells of, with their offsets in bytes.
pub fn parse_header(header: &[u8]) -> Result<Vec<(Area, u16)>, FruError> {
    let header = checked(Area::Header, header, usize::from(HEADER_BYTES))?;
    let at = |area: Area, index: usize| {
        let offset = u16::from(header.get(index).copied().unwrap_or(0)) * UNIT_BYTES;
        (offset > 0).then_some((area, offset))
    };
    Ok([at(Area::Chassis, 2), at(Area::Board, 3), at(Area::Product, 4)].into_iter().flatten().collect())
}

/// Length of an area in bytes, by its first two; 0 of a shorter one.
pub fn area_length(start: &[u8]) -> u16 {
    start.get(1).map_or(0, |units| u16::from(*units) * UNIT_BYTES)
}

impl Fru {
    /// Takes over what a whole area says.
    pub fn parse_area(&mut self, area: Area, bytes: &[u8]) -> Result<(), FruError> {
        let length = usize::from(area_length(bytes));
        let bytes = checked(area, bytes, length.max(area.fixed_bytes() + 1))?;
        // The last byte is the checksum.
        let fields = bytes.get(area.fixed_bytes()..bytes.len() - 1).unwrap_or_default();
        let is_english = area == Area::Chassis || matches!(bytes.get(2), Some(0 | 25));
        let mut fields = parse_fields(fields, is_english).into_iter();
        let mut next = || fields.next().flatten();
        match area {
            Area::Header => {}
            Area::Chassis => {
                self.chassis_part_number = next();
                self.chassis_serial = next();
            }
            Area::Board => {
                self.board_manufacturer = next();
                self.board_product = next();
                self.board_serial = next();
                self.board_part_number = next();
            }
            Area::Product => {
                self.product_manufacturer = next();
                self.product_name = next();
                self.product_part_number = next();
                self.product_version = next();
                self.product_serial = next();
                self.product_asset_tag = next();
            }
        }
        Ok(())
    }
}

/// The area's bytes without what lies behind it, when version and checksum are right.
fn checked(area: Area, bytes: &[u8], length: usize) -> Result<&[u8], FruError> {
    let bytes = bytes.get(..length).ok_or(FruError::Short { area, expected: length, found: bytes.len() })?;
    // The upper four bits are reserved.
    match bytes.first().map(|version| version & 0x0f) {
        Some(1) => {}
        version => return Err(FruError::Version { area, found: version.unwrap_or(0) }),
    }
    match bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(bytes),
        sum => Err(FruError::Checksum { area, sum }),
    }
}

/// Fields up to the end mark 0xc1, each after its type and length byte [13]; an empty one is `None`.
fn parse_fields(mut bytes: &[u8], is_english: bool) -> Vec<Option<String>> {
    const END: u8 = 0xc1;
    let mut fields = Vec::new();
    while let Some((&type_length, rest)) = bytes.split_first() {
        if type_length == END {
            break;
        }
        let length = usize::from(type_length & 0x3f);
        let Some((field, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let text = match type_length >> 6 {
            0 => field.iter().map(|byte| format!("{byte:02x}")).collect(),
            1 => parse_bcd_plus(field),
            2 => parse_six_bits(field),
            _ => parse_text(field, is_english),
        };
        fields.push(attribute::parse_text(text.as_bytes()).and_then(meaningful));
    }
    fields
}

/// Two characters a byte, the upper half first.
fn parse_bcd_plus(bytes: &[u8]) -> String {
    let character = |nibble: u8| match nibble {
        0..=9 => char::from(b'0' + nibble),
        0xa => ' ',
        0xb => '-',
        0xc => '.',
        _ => '\u{fffd}',
    };
    bytes.iter().flat_map(|byte| [character(byte >> 4), character(byte & 0x0f)]).collect()
}

/// Four characters in three bytes, the lowest bits first; 0 is a space.
fn parse_six_bits(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().rev().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        // One byte has room for one character, two bytes for two.
        let count = if group.len() == 3 { 4 } else { group.len() };
        text.extend((0..count).map(|n| char::from(b' ' + u8::try_from(bits >> (6 * n) & 0x3f).unwrap_or(0))));
    }
    text
}

/// Latin-1. In an area in another language two bytes a character, the lower one first; many makers write ASCII there
/// all the same.
fn parse_text(bytes: &[u8], is_english: bool) -> String {
    let is_ascii = bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if is_english || is_ascii || bytes.len() % 2 == 1 {
        return bytes.iter().map(|byte| char::from(*byte)).collect();
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An area of these fields, padded to full units and with a good checksum.
    fn area(fixed: &[u8], fields: &[&[u8]]) -> Vec<u8> {
        let mut bytes = fixed.to_vec();
        bytes.extend(fields.concat());
        bytes.push(0xc1);
        bytes.resize((bytes.len() + 1).next_multiple_of(8) - 1, 0);
        bytes[1] = u8::try_from((bytes.len() + 1) / 8).expect("a short area");
        bytes.push(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte)));
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        [&[0xc0 | u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
    }

    #[test]
    fn each_coding_of_a_field_is_read() {
        // The specification's own example of 6-bit ASCII [13.3]: "IPMI" is 29 dc a6.
        assert_eq!(parse_six_bits(&[0x29, 0xdc, 0xa6]), "IPMI");
        assert_eq!(parse_bcd_plus(&[0x12, 0xb3, 0x4c, 0xa5]), "12-34. 5");
        assert_eq!(parse_text(&[0xb5, b'S'], true), "µS");
        assert_eq!(parse_text(&[0x42, 0x04, 0x35, 0x04], false), "те");
        assert_eq!(parse_text(b"Acme", false), "Acme");
        let fields = parse_fields(&[0x02, 0xab, 0x01, 0xc0, 0x83, 0x29, 0xdc, 0xa6, 0xc1, 0xc3, b'n'], true);
        assert_eq!(fields, [Some("ab01".to_owned()), None, Some("IPMI".to_owned())]);
    }

    #[test]
    fn the_areas_of_a_machine_are_read() {
        let mut fru = Fru::default();
        let chassis = area(&[1, 0, 0x17], &[&text("CSE-829"), &text("C8290")]);
        let board = area(
            &[1, 0, 25, 0x80, 0x5b, 0xb5],
            &[&text("Supermicro"), &text("X11DPU"), &text("OM181S0"), &text("X11DPU-P  "), &[0xc0]],
        );
        let product = area(
            &[1, 0, 0],
            &[&text("Supermicro"), &text("SYS"), &text("SYS-6029"), &text("01"), &text("A261"), &text("   ")],
        );
        fru.parse_area(Area::Chassis, &chassis).expect("chassis");
        fru.parse_area(Area::Board, &board).expect("board");
        fru.parse_area(Area::Product, &product).expect("product");
        let is = |text: &str| Some(text.to_owned());
        let expected = Fru {
            chassis_part_number: is("CSE-829"),
            chassis_serial: is("C8290"),
            board_manufacturer: is("Supermicro"),
            board_product: is("X11DPU"),
            board_serial: is("OM181S0"),
            board_part_number: is("X11DPU-P"),
            product_manufacturer: is("Supermicro"),
            product_name: is("SYS"),
            product_part_number: is("SYS-6029"),
            product_version: is("01"),
            product_serial: is("A261"),
            product_asset_tag: None,
        };
        assert_eq!(fru, expected);
    }

    #[test]
    fn a_header_tells_where_the_areas_are() {
        let header = [1, 0, 1, 5, 0x0c, 0, 0, 0xed];
        assert_eq!(
            parse_header(&header).expect("a header"),
            [(Area::Chassis, 8), (Area::Board, 40), (Area::Product, 96)]
        );
        let empty = [1, 0, 0, 0, 0, 0, 0, 0xff];
        assert_eq!(parse_header(&empty), Ok(Vec::new()));
    }

    #[test]
    fn what_does_not_add_up_is_refused_with_its_numbers() {
        let mut board = area(&[1, 0, 25, 0, 0, 0], &[&text("Acme")]);
        board[7] ^= 0x10;
        let mut fru = Fru::default();
        let error = fru.parse_area(Area::Board, &board).expect_err("a changed byte");
        assert!(matches!(error, FruError::Checksum { area: Area::Board, sum: 0x10 | 0xf0 }), "{error}");
        assert_eq!(fru, Fru::default());
        assert_eq!(parse_header(&[0xff; 8]), Err(FruError::Version { area: Area::Header, found: 0x0f }));
        assert_eq!(parse_header(&[1, 0, 0]), Err(FruError::Short { area: Area::Header, expected: 8, found: 3 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), english: bool) {
            let mut fru = Fru::default();
            for area in [Area::Chassis, Area::Board, Area::Product] {
                let _ = fru.parse_area(area, &bytes);
            }
            let _ = parse_header(&bytes);
            parse_fields(&bytes, english);
        }

        /// Such as nobody takes for a text that was left unfilled.
        #[test]
        fn any_texts_come_back(texts in proptest::collection::vec("Q[!-~]{1,40}7", 6)) {
            let fields: Vec<Vec<u8>> = texts.iter().map(|field| text(field)).collect();
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            let mut fru = Fru::default();
            fru.parse_area(Area::Product, &area(&[1, 0, 25], &fields)).expect("a good area");
            let found = [fru.product_manufacturer, fru.product_name, fru.product_part_number, fru.product_version,
                fru.product_serial, fru.product_asset_tag];
            prop_assert!(found.iter().flatten().eq(&texts));
        }
    }
}
