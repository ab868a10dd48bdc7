//! The first stage: bytes of the source into the queue.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::ImageError;
use super::queue::{CHUNK_BYTES, Gone, Pool, Sender};
use super::report::Counters;

/// Why a stage ended before its time.
pub(super) enum Stop {
    /// A neighbour ended; the reason is with it.
    Gone,
    Failed(ImageError),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<ImageError> for Stop {
    fn from(err: ImageError) -> Self {
        Self::Failed(err)
    }
}

/// Collects what a network gives in odd pieces into whole chunks, so that a queue's depth bounds its bytes.
pub(super) struct Chunker<'a> {
    sender: Sender,
    counters: &'a Counters,
    pool: Pool,
    buffer: Vec<u8>,
    filled: usize,
}

impl<'a> Chunker<'a> {
    pub(super) fn new(sender: Sender, counters: &'a Counters) -> Self {
        let pool = Pool::default();
        Self { sender, counters, buffer: pool.take(), pool, filled: 0 }
    }

    pub(super) async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        Counters::add(&self.counters.bytes_in, bytes.len() as u64);
        while !bytes.is_empty() {
            let Some(room) = self.buffer.get_mut(self.filled..) else { break };
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.buffer.len() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn end(mut self) -> Result<(), Gone> {
        if self.filled > 0 {
            self.flush().await?;
        }
        self.sender.end_async().await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let full = std::mem::replace(&mut self.buffer, self.pool.take());
        let chunk = self.pool.share(full, self.filled);
        self.filled = 0;
        self.sender.send_async(chunk).await
    }
}

/// Reads a file to its end. Blocks.
pub(super) fn fetch_file(path: &Path, counters: &Counters, sender: Sender) -> Result<(), Stop> {
    let failed = |offset, source| ImageError::ReadFile { path: path.to_owned(), offset, source };
    let mut file = File::open(path).map_err(|err| failed(0, err))?;
    let metadata = file.metadata().map_err(|err| failed(0, err))?;
    // a pipe or a device has no length to promise
    let total = metadata.is_file().then_some(metadata.len());
    counters.set_total(total);
    send_all(&mut file, path, 0, total, counters, &sender)?;
    Ok(sender.end()?)
}

/// Sends what a reader gives of the file at `path`, from byte `start` on; fewer than `promised` are an error. Blocks.
pub(super) fn send_all(
    input: &mut impl Read,
    path: &Path,
    start: u64,
    promised: Option<u64>,
    counters: &Counters,
    sender: &Sender,
) -> Result<(), Stop> {
    let pool = Pool::default();
    let mut done: u64 = 0;
    loop {
        let mut buffer = pool.take();
        let count = match input.read(&mut buffer) {
            Ok(count) => count,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(ImageError::ReadFile { path: path.to_owned(), offset: start + done, source }.into());
            }
        };
        debug_assert!(count <= CHUNK_BYTES);
        if count == 0 {
            break;
        }
        done += count as u64;
        Counters::add(&counters.bytes_in, count as u64);
        sender.send(pool.share(buffer, count))?;
    }
    match promised {
        Some(expected) if done < expected => {
            Err(ImageError::Short { image: path.display().to_string(), expected, found: done }.into())
        }
        Some(_) | None => Ok(()),
    }
}
