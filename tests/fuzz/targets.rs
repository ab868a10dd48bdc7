//! What is fuzzed: each takes any bytes, and panics if what came of them can't be true.
//!
//! They are driven by `tests/fuzz/main.rs` with inputs of a fixed seed, and by `libfuzzer/` with those that libFuzzer finds.

use std::io::{self, Read, Write};

use drophammer::anvil::bundle::manifest::parse_manifest;
use drophammer::image::tar::Reader;
use drophammer::image::{MemoryLimit, OciDocument, decompress_to, parse_oci_manifest};

/// Content beyond this is not looked at: a few bytes can stand for a lot.
const CONTENT_MAX_BYTES: usize = 4 << 20;

pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 5] = [
    ("tar_reader", tar_reader),
    ("lz4_frames", lz4_frames),
    ("zstd_frames", zstd_frames),
    ("oci_manifest", oci_manifest),
    ("bundle_manifest", bundle_manifest),
];

/// Reads all entries and their contents. What is damaged behind a checksum is read too: the checksums are made right.
pub fn tar_reader(bytes: &[u8]) {
    read_archive(bytes);
    read_archive(&with_tar_checksums(bytes));
}

fn read_archive(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (mut entries, mut content_bytes) = (0, 0);
    while let Ok(Some(entry)) = reader.next_entry() {
        entries += 1;
        assert!(!entry.path.is_empty());
        assert!(entry.mode <= 0o7777);
        assert!(entry.modified.nanos < 1_000_000_000);
        let mut found: u64 = 0;
        while let Ok(piece) = reader.content() {
            if piece.is_empty() {
                break;
            }
            let count = piece.len();
            found += count as u64;
            reader.consume(count);
        }
        match &entry.segments {
            Some(segments) => {
                assert!(segments.iter().all(|segment| segment.offset + segment.bytes <= entry.size));
                assert!(segments.windows(2).all(|pair| pair[0].offset + pair[0].bytes <= pair[1].offset));
            }
            None => assert!(found <= entry.size || entry.size == 0),
        }
        content_bytes += found;
    }
    assert!(entries <= bytes.len() / 512, "{entries} entries of {} bytes", bytes.len());
    assert!(content_bytes <= bytes.len() as u64);
    assert!(reader.offset() <= bytes.len() as u64);
}

/// A header's checksum is the sum of its bytes with its own field blank, in octal (POSIX, pax, ustar format).
fn with_tar_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Content that the frames have for us is what `lz4_flex` finds in them.
pub fn lz4_frames(bytes: &[u8]) {
    let fixed = with_lz4_checksum(bytes);
    for bytes in [bytes, &fixed] {
        let Some(content) = decompressed(&[0x04, 0x22, 0x4d, 0x18], bytes) else { continue };
        // it knows one frame, and no skippable ones
        let mut frame = lz4_flex::frame::FrameDecoder::new(bytes);
        let mut expected = Vec::new();
        if frame.by_ref().take(CONTENT_MAX_BYTES as u64).read_to_end(&mut expected).is_ok() {
            assert!(content.starts_with(&expected), "{} bytes, and not those expected", content.len());
        }
    }
}

/// The byte behind a header's fields, for the first frame.
fn with_lz4_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(flags) = bytes.get(4) else { return bytes };
    let end = 6 + usize::from(flags >> 3 & 1) * 8 + usize::from(flags & 1) * 4;
    if end < bytes.len() {
        bytes[end] = twox_hash::XxHash32::oneshot(0, &bytes[4..end]).to_le_bytes()[1];
    }
    bytes
}

/// Content that the frames have for us is what zstd's own decoder finds in them, and what it takes we take.
pub fn zstd_frames(bytes: &[u8]) {
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let content = decompressed(&magic, bytes);
    if !bytes.starts_with(&magic) {
        return;
    }
    let mut expected = Vec::new();
    let mut decoder = zstd::Decoder::with_buffer(bytes).expect("a decoder");
    decoder.window_log_max(24).expect("a window of 16 MiB");
    let read = decoder.take(CONTENT_MAX_BYTES as u64 + 1).read_to_end(&mut expected);
    match (content, read) {
        (Some(content), Ok(_)) => {
            assert!(
                content.get(..CONTENT_MAX_BYTES).unwrap_or(&content)
                    == expected.get(..CONTENT_MAX_BYTES).unwrap_or(&expected)
            );
        }
        (Some(_), Err(err)) => panic!("zstd says: {err}"),
        (None, Ok(bytes)) if bytes <= CONTENT_MAX_BYTES => panic!("zstd finds {bytes} bytes in it"),
        (None, Ok(_) | Err(_)) => {}
    }
}

/// All content, or as much as is looked at. `None` for an error.
fn decompressed(magic: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut content = Content(Vec::new());
    let read = decompress_to(&mut &bytes[..], MemoryLimit::default(), &mut content);
    let is_whole = read.is_ok() || content.0.len() > CONTENT_MAX_BYTES;
    (is_whole && bytes.starts_with(magic)).then_some(content.0)
}

struct Content(Vec<u8>);

impl Write for Content {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() > CONTENT_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is read says the same when it is read again.
pub fn oci_manifest(bytes: &[u8]) {
    let Ok(document) = parse_oci_manifest(bytes) else { return };
    assert_eq!(format!("{document:?}"), format!("{:?}", parse_oci_manifest(bytes).expect("as before")));
    if let OciDocument::Index(entries) = &document {
        assert!(entries.len() <= bytes.len());
    }
}

/// Whatever is accepted unpacks below its directory, and names each file once.
pub fn bundle_manifest(bytes: &[u8]) {
    let Ok(manifest) = parse_manifest(bytes) else { return };
    let mut paths = std::collections::BTreeSet::new();
    for member in &manifest.files {
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
        assert!(member.path.split('/').all(is_plain), "{:?}", member.path);
        assert!(paths.insert(&member.path), "{:?} stands in it twice", member.path);
    }
    assert!(manifest.images.iter().all(|image| paths.contains(&image.file)));
}
