//! The stage between hashing and writing.

use std::io::{Cursor, Read};

use bytes::Bytes;

use super::fault::Fault;
use super::{Compression, HEAD_BYTES, run};
use crate::image::error::ImageError;
use crate::image::fetch::Stop;
use crate::image::memory::MemoryLimit;
use crate::image::queue::{QueueReader, Sender};

/// Decompresses whatever it is.
///
/// The stage counts as busy whenever it does not wait for one of its neighbours, also while its thread waits for
/// those that it started: its share tells whether decompressing is what holds an image up, on however many cores.
pub(in crate::image) fn decompress(
    image: &str,
    limit: MemoryLimit,
    input: &mut QueueReader,
    output: Sender,
) -> Result<Compression, Stop> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(|_| Stop::Gone)?;
    let compression = Compression::detect(&head);
    if compression == Compression::None {
        pass_on(head, input, output)?;
        return Ok(compression);
    }
    let mut whole = Cursor::new(head).chain(input);
    run(compression, &mut whole, limit, &mut |chunk| output.send(chunk)).map_err(|fault| match fault {
        Fault::Gone => Stop::Gone,
        Fault::Bad { offset, source } => Stop::Failed(ImageError::Decompress {
            image: image.to_owned(),
            format: compression.as_str(),
            offset,
            source,
        }),
    })?;
    output.end()?;
    Ok(compression)
}

/// What is not compressed goes through without a copy.
fn pass_on(head: Vec<u8>, input: &mut QueueReader, output: Sender) -> Result<(), Stop> {
    output.send(Bytes::from(head))?;
    while let Some(chunk) = input.next_chunk()? {
        output.send(chunk)?;
    }
    Ok(output.end()?)
}
