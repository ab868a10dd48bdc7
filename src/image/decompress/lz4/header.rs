//! Headers of LZ4 frames (LZ4 Frame Format Description 1.6.4).

use std::io::ErrorKind;

use twox_hash::XxHash32;

use crate::image::decompress::fault::Fault;
use crate::image::decompress::input::Input;

/// How the blocks of a frame are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Of the decompressed; the compressed are never longer.
    pub(super) max_bytes: usize,
    /// A block may refer to 64 KiB of content before it.
    pub(super) linked: bool,
    /// Behind each there is its checksum.
    pub(super) checked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) blocks: Blocks,
    /// Behind the last block there is a checksum of the content.
    pub(super) checked: bool,
    pub(super) content_bytes: Option<u64>,
}

const WHAT: &str = "an lz4 frame's header";
const VERSION: u8 = 0b0100_0000;

/// Bits of the first byte, which is called FLG.
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;

impl Header {
    /// Reads what is behind the magic number.
    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        let mut bytes = [0; 2 + 8 + 4 + 1];
        let [first, rest @ ..] = &mut bytes;
        input.read_all(std::slice::from_mut(first), WHAT)?;
        let mut length = 2;
        for (flag, more) in [(CONTENT_SIZE, 8), (DICTIONARY, 4)] {
            length += if *first & flag == 0 { 0 } else { more };
        }
        input.read_all(rest.get_mut(..length).unwrap_or_default(), WHAT)?;
        let Some(bytes) = bytes.get(..=length) else { return Err(input.fault(ErrorKind::InvalidData, WHAT.into())) };
        Self::parse(bytes).map_err(|(kind, text)| input.fault(kind, text))
    }

    /// `bytes` end with the header's checksum.
    fn parse(bytes: &[u8]) -> Result<Self, (ErrorKind, String)> {
        let bad = |text: String| (ErrorKind::InvalidData, text);
        let Some(([flags, sizes, rest @ ..], [checksum])) = bytes.split_last_chunk::<1>() else {
            return Err(bad(format!("{WHAT} is short")));
        };
        let described = bytes.get(..bytes.len() - 1).unwrap_or_default();
        let found = XxHash32::oneshot(0, described).to_le_bytes()[1];
        if found != *checksum {
            return Err(bad(format!("checksum of {WHAT} is wrong: expected {checksum:02x}, found {found:02x}")));
        }
        if flags & 0b1100_0000 != VERSION || flags & RESERVED != 0 || sizes & 0b1000_1111 != 0 {
            return Err(bad(format!("{WHAT} is of another version: {flags:02x} {sizes:02x}")));
        }
        if flags & DICTIONARY != 0 {
            let text = "lz4 frame needs a dictionary, which is not supported: compress without one".to_owned();
            return Err((ErrorKind::Unsupported, text));
        }
        let max_bytes = match sizes >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            other => return Err(bad(format!("{WHAT} has no size of blocks: {other}"))),
        };
        Ok(Self {
            blocks: Blocks { max_bytes, linked: flags & INDEPENDENT == 0, checked: flags & BLOCK_CHECKSUM != 0 },
            checked: flags & CONTENT_CHECKSUM != 0,
            content_bytes: rest
                .first_chunk()
                .filter(|_| flags & CONTENT_SIZE != 0)
                .map(|size| u64::from_le_bytes(*size)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Header, String> {
        let checksum = XxHash32::oneshot(0, bytes).to_le_bytes()[1];
        Header::parse(&[bytes, &[checksum]].concat()).map_err(|(_, text)| text)
    }

    #[test]
    fn flags_say_what_follows() {
        let blocks = Blocks { max_bytes: 4 << 20, linked: false, checked: false };
        let header = Header { blocks, checked: true, content_bytes: None };
        assert_eq!(parsed(&[0x64, 0x70]), Ok(header));
        let blocks = Blocks { max_bytes: 64 << 10, linked: true, checked: true };
        let header = Header { blocks, checked: false, content_bytes: Some(0x0102) };
        assert_eq!(parsed(&[0x58, 0x40, 2, 1, 0, 0, 0, 0, 0, 0]), Ok(header));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (bytes, reason) in [
            (&[0x24, 0x70][..], "another version"),
            (&[0x66, 0x70], "another version"),
            (&[0x64, 0x71], "another version"),
            (&[0x64, 0x30], "no size of blocks: 3"),
            (&[0x65, 0x70, 1, 2, 3, 4], "dictionary"),
        ] {
            let refusal = parsed(bytes).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert!(Header::parse(&[0x64, 0x70, 0]).unwrap_err().1.contains("checksum"));
    }
}
