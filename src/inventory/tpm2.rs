//! The one command of TPM 2.0 that the inventory needs, as bytes: TPM2_GetCapability for fixed properties.
//!
//! Format: TCG TPM 2.0 Library, part 2 sections 6.13, 10.8 and 10.10, part 3 section 30.2; all numbers are big-endian.

use thiserror::Error;

const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_CC_GET_CAPABILITY: u32 = 0x017a;
const TPM_CAP_TPM_PROPERTIES: u32 = 6;
const TPM_PT_MANUFACTURER: u32 = 0x105;
const TPM_PT_FIRMWARE_VERSION_1: u32 = 0x10b;

/// The longest answer that the kernel passes on (TPM_BUFSIZE).
pub const LONGEST_RESPONSE: usize = 4096;

/// What the TPM says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Four letters that TCG gave to the maker, e.g. `IFX`, `STM`, `NTC`, `INTC`, `AMD`.
    pub manufacturer: Option<String>,
    /// The first two numbers of the firmware's version; what follows is up to the maker.
    pub firmware_version: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TpmError {
    #[error("the answer has {found} bytes, its header says {said}")]
    Length { found: usize, said: u32 },
    #[error("the TPM refused with code {0:#x}")]
    Refused(u32),
    #[error("the answer is none to the question for properties")]
    OtherAnswer,
}

/// Asks for all fixed properties from the manufacturer to the firmware's version.
pub fn properties_command() -> Vec<u8> {
    const LENGTH: u32 = 22;
    let count = TPM_PT_FIRMWARE_VERSION_1 - TPM_PT_MANUFACTURER + 1;
    let mut command = TPM_ST_NO_SESSIONS.to_be_bytes().to_vec();
    for number in [LENGTH, TPM_CC_GET_CAPABILITY, TPM_CAP_TPM_PROPERTIES, TPM_PT_MANUFACTURER, count] {
        command.extend(number.to_be_bytes());
    }
    command
}

/// # Errors
///
/// When the TPM refused, and when this is no answer to [`properties_command`].
pub fn parse_properties(response: &[u8]) -> Result<Properties, TpmError> {
    let mut bytes = Reader(response);
    let (_tag, said, code) = bytes.header().ok_or(TpmError::OtherAnswer)?;
    if usize::try_from(said) != Ok(response.len()) {
        return Err(TpmError::Length { found: response.len(), said });
    }
    if code != 0 {
        return Err(TpmError::Refused(code));
    }
    let _more_data = bytes.byte().ok_or(TpmError::OtherAnswer)?;
    if bytes.dword() != Some(TPM_CAP_TPM_PROPERTIES) {
        return Err(TpmError::OtherAnswer);
    }
    let count = bytes.dword().ok_or(TpmError::OtherAnswer)?;
    let mut properties = Properties::default();
    for _ in 0..count {
        let (Some(property), Some(value)) = (bytes.dword(), bytes.dword()) else { return Err(TpmError::OtherAnswer) };
        match property {
            TPM_PT_MANUFACTURER => properties.manufacturer = parse_manufacturer(value),
            TPM_PT_FIRMWARE_VERSION_1 => {
                properties.firmware_version = Some(format!("{}.{}", value >> 16, value & 0xffff));
            }
            _ => {}
        }
    }
    Ok(properties)
}

/// Up to four letters, filled up with spaces or zeros.
pub fn parse_manufacturer(value: u32) -> Option<String> {
    let text = String::from_utf8(value.to_be_bytes().to_vec()).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn dword(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn header(&mut self) -> Option<(u16, u32, u32)> {
        Some((self.take().map(u16::from_be_bytes)?, self.dword()?, self.dword()?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a TPM of Infineon answers: seven properties, 0x105 to 0x10b.
    pub fn infineon() -> Vec<u8> {
        hex::decode(
            "80010000004b00000000 01 00000006 00000007 00000105 49465800 00000106 534c4239 00000107 36373000 \
             00000108 00000000 00000109 00000000 0000010a 00000000 0000010b 00070055"
                .replace(' ', ""),
        )
        .expect("hex")
    }

    #[test]
    fn the_command_is_as_the_specification_says() {
        assert_eq!(hex::encode(properties_command()), "8001000000160000017a000000060000010500000007");
    }

    #[test]
    fn manufacturer_and_firmware_are_read() {
        let expected = Properties { manufacturer: Some("IFX".to_owned()), firmware_version: Some("7.85".to_owned()) };
        assert_eq!(parse_properties(&infineon()), Ok(expected));
        assert_eq!(parse_manufacturer(0x414d_4400).as_deref(), Some("AMD"));
        assert_eq!(
            (parse_manufacturer(0), parse_manufacturer(0xffff_ffff), parse_manufacturer(0x4100_4100)),
            (None, None, None)
        );
    }

    #[test]
    fn a_refusal_and_broken_answers_are_told_apart() {
        assert_eq!(parse_properties(&hex::decode("80010000000a00000101").expect("hex")), Err(TpmError::Refused(0x101)));
        assert_eq!(parse_properties(&[0x80]), Err(TpmError::OtherAnswer));
        let whole = infineon();
        for length in 0..whole.len() {
            let mut part = whole.get(..length).expect("a part").to_vec();
            assert!(parse_properties(&part).is_err(), "{length}");
            // With the length of its header set right, too.
            if let Some(said) = part.get_mut(2..6) {
                said.copy_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
                assert!(parse_properties(&part).is_err(), "{length}");
            }
        }
    }
}
