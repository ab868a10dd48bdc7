//! Decompression, told by content and never by name.
//!
//! [`stage`] is a stage of the engine. It reads the stream as [`input`], cuts what stands for itself (independent
//! blocks of [`lz4`], whole [`zstd_frames`]) into pieces, and puts them on a [`line`]: threads decompress them side by
//! side, and the [`output`] goes on in [`ordered`] sequence. Pieces live in buffers of a [`budget`] that does not grow
//! with the number of cores. What does not stand for itself is [`streamed`] on one core.

mod budget;
mod fault;
mod input;
mod line;
mod lz4;
mod ordered;
mod output;
mod stage;
mod streamed;
mod zstd_frames;
mod zstd_header;

use std::io::{self, BufRead, Cursor, Read, Write};

use self::fault::Fault;
use self::input::Input;
use self::line::Line;
use self::output::Emit;
pub(super) use self::stage::decompress;
use super::memory::{DecoderMemory, MemoryLimit};
use super::queue::Gone;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Lz4,
    Zstd,
    Gzip,
    Xz,
    None,
}

const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
const LZ4_LEGACY_MAGIC: [u8; 4] = 0x184C_2102_u32.to_le_bytes();
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

impl Compression {
    /// Tells by the first bytes; fewer than 4 are never compressed.
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [a, b, c, d, rest @ ..] if is_skippable([*a, *b, *c, *d]) => Self::behind_skippable(rest),
            _ if head.starts_with(&LZ4_MAGIC) || head.starts_with(&LZ4_LEGACY_MAGIC) => Self::Lz4,
            _ if head.starts_with(&ZSTD_MAGIC) => Self::Zstd,
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// Skippable frames belong to lz4 and zstd alike; what follows decides. One that is longer than our head is
    /// taken for zstd's, whose tools are the ones that write them.
    fn behind_skippable(rest: &[u8]) -> Self {
        let next = rest.split_first_chunk::<4>().and_then(|(length, body)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            body.get(length..)
        });
        match next {
            Some(next) if next.len() >= 4 => Self::detect(next),
            _ => Self::Zstd,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::None => "none",
        }
    }
}

/// Bytes looked at to tell the compression.
const HEAD_BYTES: u64 = 512;

/// Decompresses all of `input`, whatever its format, into `output`; what is not compressed is copied. All frames or
/// members are read; bytes behind the last that are none are an error, and so is an end inside one, and a window that
/// takes more memory than `limit` allows. After an error `output` has a part of the content.
///
/// # Errors
/// Those of `input` and `output`; `InvalidData`, `InvalidInput` or `Other` for damage, `UnexpectedEof` for a stream
/// that was cut off, `OutOfMemory` for the limit, `Unsupported` for a dictionary.
pub fn decompress_to(input: &mut dyn BufRead, limit: MemoryLimit, output: &mut dyn Write) -> io::Result<Compression> {
    let mut head = Vec::new();
    input.take(HEAD_BYTES).read_to_end(&mut head)?;
    let compression = Compression::detect(&head);
    let mut whole = Cursor::new(head).chain(input);
    let mut written = Ok(());
    let ran = run(compression, &mut whole, limit, &mut |chunk| {
        written = output.write_all(&chunk);
        written.as_ref().map_err(|_| Gone).copied()
    });
    written?;
    match ran {
        Ok(()) => Ok(compression),
        Err(Fault::Bad { source, .. }) => Err(source),
        Err(Fault::Gone) => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn run(compression: Compression, input: &mut dyn BufRead, limit: MemoryLimit, emit: Emit<'_>) -> Result<(), Fault> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    run_on(limit.decoder_memory(cores), compression, input, limit, emit)
}

fn run_on(
    memory: DecoderMemory,
    compression: Compression,
    input: &mut dyn BufRead,
    limit: MemoryLimit,
    emit: Emit<'_>,
) -> Result<(), Fault> {
    let (mut input, mut line) = (Input::new(input), Line::new(memory, emit));
    let read = match compression {
        Compression::Lz4 => lz4::read(&mut input, &mut line),
        Compression::Zstd => zstd_frames::read(&mut input, &mut line, limit),
        Compression::Gzip => streamed::read_gzip(&mut input, &mut line),
        Compression::Xz => streamed::read_xz(&mut input, &mut line, limit),
        Compression::None => streamed::read_plain(&mut input, &mut line),
    };
    if !matches!(read, Err(Fault::Gone)) {
        // what was read before a fault comes before it, and so does a fault in that
        line.settle()?;
    }
    read
}

/// 0x184D2A50 to 0x184D2A5F: frames that hold no content (zstd and lz4 frame formats).
fn is_skippable(magic: [u8; 4]) -> bool {
    u32::from_le_bytes(magic) & 0xFFFF_FFF0 == 0x184D_2A50
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, or the error and its place, with the default memory.
    pub(super) fn decompressed_on(
        cores: usize,
        compression: Compression,
        input: &[u8],
    ) -> Result<Vec<u8>, (u64, io::Error)> {
        let mut output = Vec::new();
        let limit = MemoryLimit::default();
        let ran = run_on(limit.decoder_memory(cores), compression, &mut &input[..], limit, &mut |chunk| {
            output.extend_from_slice(&chunk);
            Ok(())
        });
        match ran {
            Ok(()) => Ok(output),
            Err(Fault::Bad { offset, source }) => Err((offset, source)),
            Err(Fault::Gone) => panic!("nobody is gone"),
        }
    }

    #[test]
    fn formats_are_told_by_content() {
        assert_eq!(Compression::detect(&LZ4_MAGIC), Compression::Lz4);
        assert_eq!(Compression::detect(&ZSTD_MAGIC), Compression::Zstd);
        assert_eq!(Compression::detect(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(Compression::detect(b"\xfd7zXZ\0\0"), Compression::Xz);
        for other in [&b""[..], b"<html>", b"\x1f\x8b", b"PK\x03\x04"] {
            assert_eq!(Compression::detect(other), Compression::None, "{other:?}");
        }
    }

    #[test]
    fn what_follows_a_skippable_frame_decides() {
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        assert_eq!(Compression::detect(&[&skippable[..], &LZ4_MAGIC].concat()), Compression::Lz4);
        assert_eq!(Compression::detect(&[&skippable[..], &ZSTD_MAGIC].concat()), Compression::Zstd);
        assert_eq!(Compression::detect(&skippable), Compression::Zstd);
    }

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decompress_to(&mut &input[..], MemoryLimit::default(), &mut output)?;
        Ok(output)
    }

    #[test]
    fn an_end_inside_a_stream_is_an_error() {
        let zstd = zstd::encode_all(&b"some text that is compressed"[..], 3).unwrap();
        assert_eq!(read(&zstd[..zstd.len() - 3]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn bytes_behind_the_last_frame_are_an_error() {
        let lz4 = {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(b"x").unwrap();
            encoder.finish().unwrap()
        };
        for mut input in [zstd::encode_all(&b"x"[..], 3).unwrap(), lz4] {
            assert_eq!(read(&input).unwrap(), b"x");
            input.extend_from_slice(b"garbage behind it");
            assert_eq!(read(&input).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn what_is_not_compressed_is_copied() {
        for content in [&b""[..], b"abc", &[7; 100_000]] {
            assert_eq!(read(content).unwrap(), content);
        }
    }

    #[test]
    fn nobody_decompresses_for_one_who_is_gone() {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(&[1; 5 << 20]).unwrap();
        let input = encoder.finish().unwrap();
        let mut chunks = 0;
        let ran = run(Compression::Lz4, &mut &input[..], MemoryLimit::default(), &mut |_| {
            chunks += 1;
            Err(Gone)
        });
        assert!(matches!(ran, Err(Fault::Gone)));
        assert_eq!(chunks, 1);
    }
}
