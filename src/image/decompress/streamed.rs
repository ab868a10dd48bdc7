//! Formats with one decoder for the whole stream, on one core.

use std::io::{self, Read};

use super::fault::Fault;
use super::input::Input;
use super::line::Line;
use super::output::Broken;
use crate::image::memory::MemoryLimit;

/// Members of gzip, one behind the other.
pub(super) fn read_gzip(input: &mut Input<'_>, line: &mut Line<'_>) -> Result<(), Fault> {
    let streamed = line.stream(&mut flate2::bufread::MultiGzDecoder::new(input.by_ref()));
    streamed.map_err(|broken| Fault::after(broken, input.offset()))
}

/// Streams of xz, one behind the other.
pub(super) fn read_xz(input: &mut Input<'_>, line: &mut Line<'_>, limit: MemoryLimit) -> Result<(), Fault> {
    let stream = liblzma::stream::Stream::new_stream_decoder(limit.decoder_bytes(), liblzma::stream::CONCATENATED);
    let streamed = match stream {
        Ok(stream) => {
            let decoder = liblzma::bufread::XzDecoder::new_stream(input.by_ref(), stream);
            line.stream(&mut Told { decoder, limit })
        }
        Err(error) => Err(Broken::Reading(error.into())),
    };
    streamed.map_err(|broken| Fault::after(broken, input.offset()))
}

/// What is not compressed.
pub(super) fn read_plain(input: &mut Input<'_>, line: &mut Line<'_>) -> Result<(), Fault> {
    let streamed = line.stream(input);
    streamed.map_err(|broken| Fault::after(broken, input.offset()))
}

/// Says in words of the operator's that a decoder needs more memory than it may take.
pub(super) struct Told<R> {
    pub(super) decoder: R,
    pub(super) limit: MemoryLimit,
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
