//! The stages side by side: fetch → digest → decompress → write, one pass, bounded memory.
//!
//! Each stage is a thread (fetching by HTTP: a future) and hands chunks of 256 KiB to the next through a queue of
//! fixed depth. A stage that fails closes its queues, and its neighbours end; the reason stays with the one that
//! failed.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinError, JoinHandle};

use super::decompress::Compression;
use super::digest::{Algorithm, Digest};
use super::engine::{Options, client};
use super::error::ImageError;
use super::fetch::{Stop, fetch_file};
use super::http::fetch_image;
use super::oci::Layer;
use super::places::Places;
use super::queue::{Clock, QueueReader, Receiver, Sender, queue};
use super::report::{BusyShares, Counters};
use super::signature::Signed;
use super::source::Source;
use super::stages::{self, Damage};
use crate::causes::with_causes;

/// Chunks between two stages: 4 MiB for the fetched, as networks stutter, and 2 MiB each for what is hashed and what
/// is decompressed.
const FETCHED_CHUNKS: usize = 16;
const HASHED_CHUNKS: usize = 8;
const DECOMPRESSED_CHUNKS: usize = 8;

/// The last stage: where the decompressed bytes of an image go.
pub(super) trait Sink: Send + 'static {
    /// Writes one part of the image to its end. `image` names it in errors.
    fn write(&mut self, image: &str, input: &mut QueueReader) -> Result<(), Stop>;

    /// Every part is written and its digest holds: brings all to the disk and reads it back. Returns how many files
    /// (bytes of a raw image) were compared.
    fn settle(self) -> Result<u64, ImageError>;

    /// Takes back what was written, so that the image can be written anew. `changed` is why; it is the error where
    /// nothing can be taken back.
    fn start_over(&mut self, changed: ImageError) -> Result<(), ImageError>;
}

/// Something that is fetched, checked and written in one go: an image, or a layer of one.
pub(super) struct Part {
    /// The place asked first.
    pub(super) source: Source,
    /// All that may be asked.
    pub(super) places: Arc<Places>,
    /// `None` only where an image may go without, or has a signature.
    pub(super) expected: Option<Digest>,
    pub(super) signature: Option<Signed>,
    /// Which layer of the source this is, if it is one.
    pub(super) layer: Option<Layer>,
}

impl Part {
    /// What is to be computed over the content.
    fn algorithms(&self) -> Vec<Algorithm> {
        let signed = self.signature.as_ref().map(|_| Algorithm::Blake2b);
        self.expected.as_ref().map(Digest::algorithm).into_iter().chain(signed).collect()
    }

    /// Its content is checked, so that it may come from several places.
    fn is_checked(&self) -> bool {
        self.expected.is_some() || self.signature.is_some()
    }

    /// Holds what was found against what it must be.
    fn check(&self, found: &[Digest], bytes: u64, damage: Option<&ImageError>) -> Result<(), ImageError> {
        let damage = || damage.map(|err| with_causes(err));
        let image = || match (&self.layer, self.places.served().as_slice()) {
            (Some(_), _) | (None, []) => self.name(),
            (None, served) => served.join(" and "),
        };
        let of = |algorithm| found.iter().find(|found| found.algorithm() == algorithm);
        if let Some(expected) = &self.expected
            && let Some(found) = of(expected.algorithm())
            && expected != found
        {
            let (expected, found) = (expected.clone(), found.clone());
            return Err(ImageError::Digest { image: image(), expected, found, bytes, damage: damage() });
        }
        if let Some(signed) = &self.signature
            && let Some(found) = of(Algorithm::Blake2b)
            && !signed.holds(found)
        {
            let (file, key) = (signed.file.clone(), signed.key());
            return Err(ImageError::WrongSignature { image: image(), file, key, bytes, damage: damage() });
        }
        Ok(())
    }

    /// For people.
    fn name(&self) -> String {
        match &self.layer {
            Some(layer) => format!("{} of {}", layer.digest, self.source),
            None => self.source.to_string(),
        }
    }
}

/// Times of the stages, over all parts.
#[derive(Default)]
pub(super) struct Clocks {
    fetch: Arc<Clock>,
    digest: Arc<Clock>,
    decompress: Arc<Clock>,
    write: Arc<Clock>,
}

impl Clocks {
    pub(super) fn busy(&self) -> BusyShares {
        BusyShares {
            fetch: self.fetch.busy_share(),
            digest: self.digest.busy_share(),
            decompress: self.decompress.busy_share(),
            write: self.write.busy_share(),
        }
    }
}

/// Brings one part into the sink, which comes back also after a failure (unless its thread died).
pub(super) async fn stream<S: Sink>(
    part: &Part,
    sink: S,
    options: &Options,
    clocks: &Clocks,
    counters: &Arc<Counters>,
) -> (Option<S>, Result<Compression, ImageError>) {
    let bytes_before = Counters::get(&counters.bytes_in);
    let mut stages = Stages::start(part, options, clocks, sink);
    let ends = stages.join(part, options, clocks, counters).await;
    ends.judge(part, Counters::get(&counters.bytes_in).saturating_sub(bytes_before))
}

type Thread<T> = JoinHandle<T>;

/// The stages that run.
struct Stages<S> {
    /// Where fetched bytes go; taken by the fetch.
    fetched: Option<Sender>,
    digest: Thread<Result<Vec<Digest>, Stop>>,
    decompress: Thread<Result<Compression, Stop>>,
    write: Thread<(S, Result<(), Stop>)>,
}

/// How the stages ended.
struct Ends<S> {
    fetch: Result<(), Stop>,
    digest: Result<Result<Vec<Digest>, Stop>, JoinError>,
    decompress: Result<Result<Compression, Stop>, JoinError>,
    write: Result<(S, Result<(), Stop>), JoinError>,
}

impl<S: Sink> Stages<S> {
    fn start(part: &Part, options: &Options, clocks: &Clocks, mut sink: S) -> Self {
        let damage = Arc::new(Damage::default());
        let (fetched, to_hash) = queue(FETCHED_CHUNKS, &clocks.fetch, &clocks.digest);
        let (hashed, to_decompress) = queue(HASHED_CHUNKS, &clocks.digest, &clocks.decompress);
        let (decompressed, to_write) = queue(DECOMPRESSED_CHUNKS, &clocks.decompress, &clocks.write);
        let algorithms = part.algorithms();
        let (image, memory) = (part.name(), options.memory);
        let found = Arc::clone(&damage);
        let digest = stage(&clocks.digest, move || stages::hash(to_hash, hashed, &algorithms, &found));
        let (found, name) = (Arc::clone(&damage), image.clone());
        let decompress = stage(&clocks.decompress, move || {
            with_reader(to_decompress, &found, |input| stages::decompress(&name, memory, input, decompressed))
        });
        let write = stage(&clocks.write, move || {
            let written = with_reader(to_write, &damage, |input| sink.write(&image, input));
            (sink, written)
        });
        Self { fetched: Some(fetched), digest, decompress, write }
    }

    /// Fetches, and waits until all have ended.
    async fn join(&mut self, part: &Part, options: &Options, clocks: &Clocks, counters: &Arc<Counters>) -> Ends<S> {
        let fetched = self.fetched.take();
        let fetch = async {
            let start = Instant::now();
            let result = match fetched {
                Some(sender) => fetch(part, options, counters, sender).await,
                None => Err(Stop::Gone),
            };
            clocks.fetch.ran_since(start);
            result
        };
        let (fetch, digest, decompress, write) =
            tokio::join!(fetch, &mut self.digest, &mut self.decompress, &mut self.write);
        Ends { fetch, digest, decompress, write }
    }
}

impl<S> Ends<S> {
    /// The one reason, if anything failed. A wrong digest or signature explains damage further on and comes before it;
    /// a stage that only lost its neighbour has no reason of its own.
    fn judge(self, part: &Part, bytes: u64) -> (Option<S>, Result<Compression, ImageError>) {
        let died = |stage| ImageError::StageDied { stage };
        let Ok((sink, written)) = self.write else { return (None, Err(died("write"))) };
        let judged = match (self.digest, self.decompress) {
            (Err(_), _) => Err(died("digest")),
            (_, Err(_)) => Err(died("decompress")),
            (Ok(digest), Ok(decompress)) => judge(part, bytes, self.fetch, digest, decompress, written),
        };
        (Some(sink), judged)
    }
}

fn judge(
    part: &Part,
    bytes: u64,
    fetch: Result<(), Stop>,
    digest: Result<Vec<Digest>, Stop>,
    decompress: Result<Compression, Stop>,
    written: Result<(), Stop>,
) -> Result<Compression, ImageError> {
    let failure = match (&decompress, &written) {
        (Err(Stop::Failed(err)), _) | (_, Err(Stop::Failed(err))) => Some(err),
        _ => None,
    };
    if let Ok(found) = &digest {
        part.check(found, bytes, failure)?;
    }
    match (decompress, written, fetch, digest) {
        (Err(Stop::Failed(err)), ..) | (_, Err(Stop::Failed(err)), ..) | (_, _, Err(Stop::Failed(err)), _) => Err(err),
        (Ok(compression), Ok(()), Ok(()), Ok(_)) => Ok(compression),
        _ => Err(ImageError::StageDied { stage: "image" }),
    }
}

/// A stage on a thread of its own.
fn stage<T: Send + 'static>(clock: &Arc<Clock>, work: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
    let clock = Arc::clone(clock);
    tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let result = work();
        clock.ran_since(start);
        result
    })
}

/// The reader is dropped, and with it the queue closed, only after damage is noted.
fn with_reader<T>(
    queue: Receiver,
    damage: &Damage,
    work: impl FnOnce(&mut QueueReader) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let mut reader = QueueReader::new(queue);
    let result = work(&mut reader);
    damage.note(&result);
    result
}

async fn fetch(part: &Part, options: &Options, counters: &Arc<Counters>, sender: Sender) -> Result<(), Stop> {
    match (&part.source, &part.layer) {
        (_, Some(layer)) => layer.fetch(counters, sender).await,
        (Source::Oci(_), None) => Err(Stop::Failed(ImageError::StageDied { stage: "fetch" })),
        (source @ Source::Url(_), None) => {
            let client = client(source, options)?;
            fetch_image(client, &part.places, part.is_checked(), options.retry, counters, sender).await
        }
        (Source::File(path), None) => {
            let (path, counters) = (path.clone(), Arc::clone(counters));
            let fetched = tokio::task::spawn_blocking(move || fetch_file(&path, &counters, sender));
            fetched.await.unwrap_or(Err(Stop::Failed(ImageError::StageDied { stage: "fetch" })))
        }
    }
}
