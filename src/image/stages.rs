//! The stages between fetching and writing: hashing and decompressing, each on a thread of its own.

use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::decompress::Compression;
use super::digest::{Algorithm, Digest, Hasher};
use super::error::ImageError;
use super::fetch::Stop;
use super::memory::MemoryLimit;
use super::queue::{Gone, Pool, QueueReader, Receiver, Sender, is_gone};

/// Bytes looked at to tell the compression.
const HEAD_BYTES: u64 = 512;

/// Set by a stage that found the content damaged, before it ends.
///
/// Then hashing goes on to the end although nobody unpacks any more: a wrong digest tells an image that was damaged
/// on its way from one that was made badly.
#[derive(Default)]
pub(super) struct Damage(AtomicBool);

impl Damage {
    pub(super) fn note<T>(&self, result: &Result<T, Stop>) {
        if let Err(Stop::Failed(err)) = result
            && err.is_damage()
        {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn was_found(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Passes chunks on and hashes them, with each of the algorithms.
pub(super) fn hash(
    mut input: Receiver,
    output: Sender,
    algorithms: &[Algorithm],
    damage: &Damage,
) -> Result<Vec<Digest>, Stop> {
    let mut hashers: Vec<Hasher> = algorithms.iter().copied().map(Hasher::new).collect();
    let mut output = Some(output);
    while let Some(chunk) = input.receive()? {
        hashers.iter_mut().for_each(|hasher| hasher.update(&chunk));
        if let Some(Err(Gone)) = output.as_ref().map(|output| output.send(chunk)) {
            if hashers.is_empty() || !damage.was_found() {
                return Err(Stop::Gone);
            }
            output = None;
        }
    }
    if let Some(output) = output {
        // a stage that failed meanwhile tells so itself
        let _ = output.end();
    }
    Ok(hashers.into_iter().map(Hasher::finish).collect())
}

/// Decompresses whatever it is.
pub(super) fn decompress(
    image: &str,
    limit: MemoryLimit,
    input: &mut QueueReader,
    output: Sender,
) -> Result<Compression, Stop> {
    let position = input.position();
    let mut head = Vec::new();
    input.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(|_| Stop::Gone)?;
    let compression = Compression::detect(&head);
    let failed = |source: io::Error| match is_gone(&source) {
        true => Stop::Gone,
        false => Stop::Failed(ImageError::Decompress {
            image: image.to_owned(),
            format: compression.as_str(),
            offset: position.load(Ordering::Relaxed),
            source,
        }),
    };
    if compression == Compression::None {
        pass_on(head, input, output)?;
        return Ok(compression);
    }
    let mut decoder = compression.decoder(Cursor::new(head).chain(input), limit).map_err(failed)?;
    let pool = Pool::default();
    loop {
        let mut buffer = pool.take();
        let filled = fill(&mut decoder, &mut buffer).map_err(failed)?;
        if filled == 0 {
            output.end()?;
            return Ok(compression);
        }
        output.send(pool.share(buffer, filled))?;
    }
}

/// What is not compressed goes through without a copy.
fn pass_on(head: Vec<u8>, input: &mut QueueReader, output: Sender) -> Result<(), Stop> {
    output.send(Bytes::from(head))?;
    while let Some(chunk) = input.next_chunk()? {
        output.send(chunk)?;
    }
    Ok(output.end()?)
}

/// As much as there is, up to a whole buffer.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}
