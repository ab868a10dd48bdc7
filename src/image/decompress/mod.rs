//! Decompression, told by content and never by name.

mod lz4;

use std::io::{self, BufRead, Read};

use super::memory::MemoryLimit;

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
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

impl Compression {
    /// Tells by the first bytes; fewer than 4 are never compressed.
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [a, b, c, d, rest @ ..] if is_skippable([*a, *b, *c, *d]) => Self::behind_skippable(rest),
            _ if head.starts_with(&LZ4_MAGIC) => Self::Lz4,
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

    /// A reader of the decompressed stream. All frames or members of `input` are read; bytes behind the last that
    /// are none are an error, and so is an end inside one, and a window that takes more memory than `limit` allows.
    pub(super) fn decoder<'a>(
        self,
        input: impl BufRead + Send + 'a,
        limit: MemoryLimit,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Lz4 => Box::new(lz4::Lz4Reader::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(limit.zstd_window_log())?;
                Box::new(Told { decoder, limit })
            }
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(limit.decoder_bytes(), liblzma::stream::CONCATENATED)?;
                Box::new(Told { decoder: liblzma::bufread::XzDecoder::new_stream(input, stream), limit })
            }
            Self::None => Box::new(input),
        })
    }
}

/// Says in words of the operator's that a decoder needs more memory than it may take.
struct Told<R> {
    decoder: R,
    limit: MemoryLimit,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| match is_too_much_memory(&error) {
            true => io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!(
                    "its window needs more memory than {}, which is the limit for the whole agent. Compress it with a \
                     smaller one (zstd up to -19 without --long, xz up to -7), or allow more by drophammer.memory=MIB",
                    self.limit
                ),
            ),
            false => error,
        })
    }
}

/// zstd: `ZSTD_error_frameParameter_windowTooLarge` (lib/common/error_private.c); xz: `LZMA_MEMLIMIT_ERROR`.
fn is_too_much_memory(error: &io::Error) -> bool {
    let Some(cause) = error.get_ref() else { return false };
    matches!(cause.downcast_ref(), Some(liblzma::stream::Error::MemLimit))
        || cause.to_string() == "Frame requires too much memory for decoding"
}

/// 0x184D2A50 to 0x184D2A5F: frames that hold no content (zstd and lz4 frame formats).
fn is_skippable(magic: [u8; 4]) -> bool {
    u32::from_le_bytes(magic) & 0xFFFF_FFF0 == 0x184D_2A50
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn an_end_inside_a_stream_is_an_error() {
        let zstd = zstd::encode_all(&b"some text that is compressed"[..], 3).unwrap();
        let cut = &zstd[..zstd.len() - 3];
        let read = Compression::Zstd.decoder(cut, MemoryLimit::default()).unwrap().read_to_end(&mut Vec::new());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn several_zstd_frames_are_one_stream() {
        let frame = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
        let skippable = [0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        let input = [frame(b"one "), skippable.to_vec(), frame(b"two")].concat();
        let mut text = String::new();
        Compression::Zstd.decoder(&input[..], MemoryLimit::default()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn bytes_behind_the_last_frame_are_an_error() {
        for (compression, mut input) in [
            (Compression::Zstd, zstd::encode_all(&b"x"[..], 3).unwrap()),
            (Compression::Lz4, {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                io::Write::write_all(&mut encoder, b"x").unwrap();
                encoder.finish().unwrap()
            }),
        ] {
            input.extend_from_slice(b"garbage behind it");
            let read = compression.decoder(&input[..], MemoryLimit::default()).unwrap().read_to_end(&mut Vec::new());
            assert!(read.is_err(), "{compression:?}");
        }
    }
}
