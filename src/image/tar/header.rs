//! One 512-byte header.
//!
//! Source: POSIX.1 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and "Extensions".

use super::{BLOCK_BYTES, Block, Segment};

/// Which family wrote a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V7,
    Ustar,
    Gnu,
}

/// A header with a right checksum.
pub(super) struct Header<'a> {
    block: &'a Block,
    pub(super) family: Family,
}

/// Which field of a header is no number, or that the whole is no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadField(pub(super) &'static str);

impl<'a> Header<'a> {
    /// `None` if the checksum does not hold.
    pub(super) fn parse(block: &'a Block) -> Option<Self> {
        let stored = number(&block[148..156])?;
        let (unsigned, signed) = checksums(block);
        if stored != unsigned && stored != signed {
            return None;
        }
        let family = match &block[257..265] {
            b"ustar  \0" => Family::Gnu,
            magic if magic.starts_with(b"ustar") => Family::Ustar,
            _ => Family::V7,
        };
        Some(Self { block, family })
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.family {
            // star uses the end of the prefix for two times
            Family::Ustar if &self.block[508..512] == b"tar\0" => text(&self.block[345..476]),
            Family::Ustar => text(&self.block[345..500]),
            Family::V7 | Family::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, BadField> {
        // old tars store the file type above the permissions
        Ok(u32::try_from(self.field(100..108, "mode")? & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<i64, BadField> {
        self.field(108..116, "owner")
    }

    pub(super) fn gid(&self) -> Result<i64, BadField> {
        self.field(116..124, "group")
    }

    pub(super) fn size(&self) -> Result<u64, BadField> {
        u64::try_from(self.field(124..136, "size")?).map_err(|_| BadField("size"))
    }

    pub(super) fn modified(&self) -> Result<i64, BadField> {
        self.field(136..148, "time")
    }

    pub(super) fn device(&self) -> Result<(u32, u32), BadField> {
        let half = |range, name| u32::try_from(self.field(range, name)?).map_err(|_| BadField(name));
        Ok((half(329..337, "major device number")?, half(337..345, "minor device number")?))
    }

    /// The four pieces in an old GNU sparse header, and whether blocks with more follow.
    pub(super) fn sparse(&self) -> Result<(Vec<Segment>, bool), BadField> {
        Ok((segments(&self.block[386..482])?, self.block[482] != 0))
    }

    /// Length of an old GNU sparse file, holes included.
    pub(super) fn sparse_size(&self) -> Result<u64, BadField> {
        u64::try_from(self.field(483..495, "real size")?).map_err(|_| BadField("real size"))
    }

    fn field(&self, range: std::ops::Range<usize>, name: &'static str) -> Result<i64, BadField> {
        self.block.get(range).and_then(number).ok_or(BadField(name))
    }
}

/// The 21 pieces of a block that continues an old GNU sparse header, and whether another follows.
pub(super) fn sparse_extension(block: &Block) -> Result<(Vec<Segment>, bool), BadField> {
    Ok((segments(&block[..504])?, block[504] != 0))
}

fn segments(fields: &[u8]) -> Result<Vec<Segment>, BadField> {
    let bad = BadField("sparse map");
    let mut segments = Vec::new();
    for field in fields.chunks_exact(24).take_while(|field| field[0] != 0) {
        let value = |bytes| number(bytes).and_then(|value| u64::try_from(value).ok());
        match (value(&field[..12]), value(&field[12..])) {
            (Some(offset), Some(bytes)) => segments.push(Segment { offset, bytes }),
            _ => return Err(bad),
        }
    }
    Ok(segments)
}

/// Octal digits between blanks, or base 256 when the first bit is set. An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let digits = field.get(..end)?.trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Big-endian two's complement behind a marker bit: 0x80 starts a positive number, 0xff a negative one.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // the marker shifted out, the sign behind it shifted back in
    let start = i128::from((first << 1).cast_signed() >> 1);
    let value = rest.iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)))?;
    i64::try_from(value).ok()
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field.get(..end).unwrap_or_default()
}

/// Sum over the block with blanks for the checksum; some old tars added signed bytes.
fn checksums(block: &Block) -> (i64, i64) {
    let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || (0..BLOCK_BYTES).zip(block).map(|(at, byte)| blank(at, *byte));
    (bytes().map(i64::from).sum(), bytes().map(|byte| i64::from(byte.cast_signed())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"77777777777"), Some(0o77_777_777_777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_block_with_a_wrong_checksum_is_no_header() {
        assert!(Header::parse(&[0; 512]).is_none());
        assert!(Header::parse(&[b'7'; 512]).is_none());
    }
}
