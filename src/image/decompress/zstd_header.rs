//! Headers of zstd frames and blocks (RFC 8878, sections 3.1.1.1 and 3.1.1.2).

/// A frame's header is never longer, magic number included.
pub(super) const HEADER_MAX_BYTES: usize = 18;
pub(super) const MAGIC_BYTES: usize = 4;
pub(super) const BLOCK_HEADER_BYTES: usize = 3;
pub(super) const CHECKSUM_BYTES: usize = 4;

const BLOCK_MAX_BYTES: u64 = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// So much content before it a block may refer to.
    pub(super) window_bytes: u64,
    pub(super) content_bytes: Option<u64>,
    pub(super) needs_dictionary: bool,
    /// A checksum follows the last block.
    pub(super) checked: bool,
}

/// What the byte behind the magic number says.
struct Descriptor(u8);

impl Descriptor {
    fn is_single_segment(&self) -> bool {
        self.0 & 0b0010_0000 != 0
    }

    fn window_bytes(&self) -> usize {
        usize::from(!self.is_single_segment())
    }

    fn dictionary_bytes(&self) -> usize {
        [0, 1, 2, 4][usize::from(self.0 & 0b11)]
    }

    fn content_bytes(&self) -> usize {
        match self.0 >> 6 {
            0 => usize::from(self.is_single_segment()),
            power => 1 << power,
        }
    }
}

impl FrameHeader {
    /// Length of the header, magic number included, by the byte behind the magic number.
    pub(super) fn length(descriptor: u8) -> usize {
        let descriptor = Descriptor(descriptor);
        MAGIC_BYTES + 1 + descriptor.window_bytes() + descriptor.dictionary_bytes() + descriptor.content_bytes()
    }

    /// Parses a whole header, magic number included. `None` if it is short, or has bits that the format reserves.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (descriptor, rest) = bytes.get(MAGIC_BYTES..)?.split_first()?;
        let descriptor = Descriptor(*descriptor);
        if descriptor.0 & 0b1000 != 0 {
            return None;
        }
        let (window, rest) = rest.split_at_checked(descriptor.window_bytes())?;
        let (dictionary, rest) = rest.split_at_checked(descriptor.dictionary_bytes())?;
        let content = rest.get(..descriptor.content_bytes())?;
        let content_bytes = match content.len() {
            0 => None,
            2 => Some(little_endian(content) + 256),
            _ => Some(little_endian(content)),
        };
        Some(Self {
            window_bytes: match window {
                [byte] => window_bytes(*byte),
                _ => content_bytes?,
            },
            content_bytes,
            needs_dictionary: little_endian(dictionary) != 0,
            checked: descriptor.0 & 0b100 != 0,
        })
    }

    /// The most content of one block.
    pub(super) fn block_bytes(&self) -> u64 {
        self.window_bytes.min(BLOCK_MAX_BYTES)
    }
}

fn window_bytes(descriptor: u8) -> u64 {
    let base = 1_u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 0b111)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) is_last: bool,
    /// In the frame.
    pub(super) bytes: u64,
    /// `None` if only decompressing tells.
    pub(super) content_bytes: Option<u64>,
}

impl BlockHeader {
    /// `None` for a type of blocks that the format reserves.
    pub(super) fn parse(bytes: [u8; BLOCK_HEADER_BYTES]) -> Option<Self> {
        let word = little_endian(&bytes);
        let (is_last, size) = (word & 1 != 0, word >> 3);
        let (bytes, content_bytes) = match word >> 1 & 0b11 {
            0 => (size, Some(size)),
            // one byte again and again
            1 => (1, Some(size)),
            2 => (size, None),
            _ => return None,
        };
        Some(Self { is_last, bytes, content_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<FrameHeader> {
        let header = [&[0x28, 0xb5, 0x2f, 0xfd], bytes].concat();
        assert_eq!(FrameHeader::length(bytes[0]), header.len(), "{bytes:x?}");
        FrameHeader::parse(&header)
    }

    #[test]
    fn fields_are_where_the_descriptor_says() {
        let header = FrameHeader { window_bytes: 2 << 20, content_bytes: None, needs_dictionary: false, checked: true };
        assert_eq!(parsed(&[0x04, 0x58]), Some(header));
        let header =
            FrameHeader { window_bytes: 0x1ff, content_bytes: Some(0x1ff), needs_dictionary: true, checked: false };
        assert_eq!(parsed(&[0x61, 7, 0xff, 0]), Some(header));
        let header =
            FrameHeader { window_bytes: 1536, content_bytes: Some(9), needs_dictionary: false, checked: false };
        assert_eq!(parsed(&[0xc2, 4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]), Some(header));
        assert_eq!(parsed(&[0x08, 0x58]), None);
        assert_eq!(FrameHeader::length(0xff), HEADER_MAX_BYTES - 1);
        assert_eq!(FrameHeader::length(0xdf), HEADER_MAX_BYTES);
    }

    #[test]
    fn blocks_tell_their_length() {
        let header = |word: u32| BlockHeader::parse(word.to_le_bytes()[..3].try_into().unwrap());
        assert_eq!(header(5 << 3), Some(BlockHeader { is_last: false, bytes: 5, content_bytes: Some(5) }));
        assert_eq!(header(5 << 3 | 0b011), Some(BlockHeader { is_last: true, bytes: 1, content_bytes: Some(5) }));
        assert_eq!(header(5 << 3 | 0b100), Some(BlockHeader { is_last: false, bytes: 5, content_bytes: None }));
        assert_eq!(header(5 << 3 | 0b110), None);
    }
}
