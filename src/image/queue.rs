//! Bounded queues between the stages. A stage's memory is its queue; time spent waiting for one is not work.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::tar::Pieces;

/// Bytes in one piece. Pieces may be shorter, never longer.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Time a stage ran and time it waited for its neighbours, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ran: AtomicU64,
    waited: AtomicU64,
}

impl Clock {
    fn add(counter: &AtomicU64, since: Instant) {
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counter.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn ran_since(&self, start: Instant) {
        Self::add(&self.ran, start);
    }

    /// Share of its running time that the stage worked, 0 to 1.
    pub(super) fn busy_share(&self) -> f64 {
        let ran = Duration::from_nanos(self.ran.load(Ordering::Relaxed)).as_secs_f64();
        let waited = Duration::from_nanos(self.waited.load(Ordering::Relaxed)).as_secs_f64();
        if ran > 0.0 { ((ran - waited) / ran).clamp(0.0, 1.0) } else { 0.0 }
    }
}

enum Message {
    Chunk(Bytes),
    /// The stream is complete. A queue that closes without it was cut off.
    End,
}

/// The other end went away: it failed, or the work was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

pub(super) struct Sender {
    queue: mpsc::Sender<Message>,
    clock: Arc<Clock>,
}

pub(super) struct Receiver {
    queue: mpsc::Receiver<Message>,
    clock: Arc<Clock>,
}

/// A queue of `depth` chunks; each end books its waiting on its stage's clock.
pub(super) fn queue(depth: usize, from: &Arc<Clock>, to: &Arc<Clock>) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(depth);
    (Sender { queue: sender, clock: Arc::clone(from) }, Receiver { queue: receiver, clock: Arc::clone(to) })
}

impl Sender {
    pub(super) fn send(&self, chunk: Bytes) -> Result<(), Gone> {
        let start = Instant::now();
        let sent = self.queue.blocking_send(Message::Chunk(chunk)).map_err(|_| Gone);
        Clock::add(&self.clock.waited, start);
        sent
    }

    pub(super) async fn send_async(&self, chunk: Bytes) -> Result<(), Gone> {
        let start = Instant::now();
        let sent = self.queue.send(Message::Chunk(chunk)).await.map_err(|_| Gone);
        Clock::add(&self.clock.waited, start);
        sent
    }

    /// Ends when nobody will receive any more.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let queue = self.queue.clone();
        async move { queue.closed().await }
    }

    /// Says that the stream is complete.
    pub(super) fn end(self) -> Result<(), Gone> {
        self.queue.blocking_send(Message::End).map_err(|_| Gone)
    }

    pub(super) async fn end_async(self) -> Result<(), Gone> {
        self.queue.send(Message::End).await.map_err(|_| Gone)
    }
}

impl Receiver {
    /// The next chunk, `None` at the end of a complete stream.
    pub(super) fn receive(&mut self) -> Result<Option<Bytes>, Gone> {
        let start = Instant::now();
        let message = self.queue.blocking_recv();
        Clock::add(&self.clock.waited, start);
        match message {
            Some(Message::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Message::End) => Ok(None),
            None => Err(Gone),
        }
    }
}

/// A queue as a reader. A stream that was cut off is an error that [`is_gone`] knows, never an end of file.
pub(super) struct QueueReader {
    queue: Receiver,
    chunk: Bytes,
    ended: bool,
}

impl QueueReader {
    pub(super) fn new(queue: Receiver) -> Self {
        Self { queue, chunk: Bytes::new(), ended: false }
    }

    /// What is left of the present chunk, or the next one. `None` at the end.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Bytes>, Gone> {
        self.fill_buf().map_err(|_| Gone)?;
        let chunk = std::mem::take(&mut self.chunk);
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// What is left of the present chunk or the next one, at most `most` bytes of it, without a copy. Empty at the end.
    pub(super) fn piece(&mut self, most: usize) -> io::Result<Bytes> {
        let count = self.fill_buf()?.len().min(most);
        Ok(self.chunk.split_to(count))
    }
}

impl BufRead for QueueReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            match self.queue.receive() {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => self.ended = true,
                Err(Gone) => return Err(io::Error::other(UpstreamGone)),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        let _ = self.chunk.split_to(count.min(self.chunk.len()));
    }
}

impl Pieces for &mut QueueReader {
    fn piece(&mut self, most: usize) -> io::Result<Bytes> {
        QueueReader::piece(self, most)
    }
}

impl Read for QueueReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the stage before ended early")]
struct UpstreamGone;

/// True for the error of a queue that was cut off, also below other errors.
pub(super) fn is_gone(err: &io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = err.get_ref().map(|inner| inner as _);
    while let Some(inner) = next {
        if inner.is::<UpstreamGone>() {
            return true;
        }
        next = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(nested) => Some(nested as _),
            None => inner.source(),
        };
    }
    false
}

/// Buffers that come back when the last reader of a chunk is done, so that streaming does not allocate.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A buffer of one chunk, with old bytes in it.
    pub(super) fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().ok().and_then(|mut spares| spares.pop());
        spare.unwrap_or_else(|| vec![0; CHUNK_BYTES])
    }

    /// The first `filled` bytes of a buffer from [`Pool::take`], to be sent on.
    pub(super) fn share(&self, bytes: Vec<u8>, filled: usize) -> Bytes {
        let mut chunk = Bytes::from_owner(Pooled { bytes, pool: self.clone() });
        chunk.truncate(filled);
        chunk
    }
}

struct Pooled {
    bytes: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Ok(mut spares) = self.pool.0.lock() {
            spares.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sender, Receiver) {
        let clock = Arc::new(Clock::default());
        queue(4, &clock, &clock)
    }

    #[test]
    fn a_complete_stream_ends() {
        let (sender, receiver) = pair();
        sender.send(Bytes::from_static(b"ab")).unwrap();
        sender.send(Bytes::from_static(b"cd")).unwrap();
        sender.end().unwrap();
        let mut reader = QueueReader::new(receiver);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
    }

    #[test]
    fn a_stream_cut_off_is_an_error_and_not_an_end() {
        let (sender, receiver) = pair();
        sender.send(Bytes::from_static(b"ab")).unwrap();
        drop(sender);
        let err = QueueReader::new(receiver).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(is_gone(&err));
        assert!(is_gone(&io::Error::new(io::ErrorKind::InvalidData, err)));
        assert!(!is_gone(&io::Error::other("else")));
    }

    #[test]
    fn buffers_come_back() {
        let pool = Pool::default();
        let chunk = pool.share(pool.take(), 7);
        assert_eq!((chunk.len(), pool.0.lock().unwrap().len()), (7, 0));
        drop(chunk);
        assert_eq!(pool.0.lock().unwrap().len(), 1);
        assert_eq!(pool.take().len(), CHUNK_BYTES);
    }
}
