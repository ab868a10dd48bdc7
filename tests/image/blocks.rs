//! Archives block by block, for what no tool would write.

pub const BLOCK: usize = 512;
/// The end mark.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// An ustar header; `size` above what octal digits hold is written in base 256, as GNU tar does.
pub fn header(name: &str, typeflag: u8, size: u64) -> [u8; BLOCK] {
    header_with(name, typeflag, size, |_| {})
}

/// As [`header`], changed before its checksum is taken.
pub fn header_with(name: &str, typeflag: u8, size: u64, change: impl Fn(&mut [u8; BLOCK])) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000755\0");
    block[124..136].copy_from_slice(&number(size));
    block[136..148].copy_from_slice(b"14000000000\0");
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn number(size: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if size < 1 << 33 {
        field.copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
    }
    field
}

/// Content with the zeros behind it.
pub fn padded(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(content.len().next_multiple_of(BLOCK), 0);
    content
}

/// A header of another header's type, with its body.
pub fn extension(typeflag: u8, body: &[u8]) -> Vec<u8> {
    [&header("extension", typeflag, body.len() as u64)[..], &padded(body)].concat()
}

/// One record of a pax header.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..).find(|length: &usize| length.to_string().len() + body.len() == *length).unwrap();
    [length.to_string().as_bytes(), &body].concat()
}

/// A pax header with these records.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    extension(b'x', &records)
}
