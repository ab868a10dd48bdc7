//! The stages side by side: fetch → digest → decompress → write, one pass, bounded memory.
//!
//! Each stage is a thread (fetching by HTTP: a future) and hands chunks of 256 KiB to the next through a queue of
//! fixed depth. A stage that fails closes its queues, and its neighbours end; the reason stays with the one that
//! failed. Success is told only when the digest holds, everything is on the disk, and a sample has been read back.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use reqwest::Client;
use tokio::task::JoinError;

use super::decompress::Compression;
use super::digest::{Algorithm, Digest};
use super::error::ImageError;
use super::fetch::{Stop, fetch_file};
use super::http::{fetch_text, fetch_url};
use super::memory::MemoryLimit;
use super::queue::{Clock, QueueReader, Receiver, Sender, queue};
use super::raw;
use super::report::{BusyShares, Counters, Meter, Observer, Report, Step, read_peak_rss};
use super::retry::Retry;
use super::sidecar::{SUFFIXES, parse_sidecar};
use super::source::Source;
use super::stages::{self, Damage};
use super::unpack::{Unpacked, unpack as unpack_archive};
use crate::causes::with_causes;

/// Chunks between two stages: 4 MiB for the fetched, as networks stutter, and 2 MiB each for what is hashed and what
/// is decompressed.
const FETCHED_CHUNKS: usize = 16;
const HASHED_CHUNKS: usize = 8;
const DECOMPRESSED_CHUNKS: usize = 16;
/// No checksum file is longer; one for a whole directory may come near.
const SIDECAR_MAX_BYTES: usize = 64 << 10;

/// What an image is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestRule {
    /// The digest is known.
    Given(Digest),
    /// The digest is in a file beside the image; without one the image is refused.
    Sidecar,
    /// As [`DigestRule::Sidecar`], but an image without digest is taken with a warning.
    AllowMissing,
}

/// How much of an unpacked archive is read back from the disk. Of a raw image it is always all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    /// Some files, or a part of a large one.
    #[default]
    Sample,
    /// All files.
    Full,
}

/// How an image is installed.
#[derive(Clone, Debug)]
pub struct Options {
    pub digest: DigestRule,
    /// For `http` and `https`; it decides on TLS, name resolution, proxies and redirects.
    pub http: Option<Client>,
    /// Not root: owners are not kept, devices are left out.
    pub user_mode: bool,
    pub memory: MemoryLimit,
    pub retry: Retry,
    pub verify: Verify,
    /// A raw image: its table, last partition and file system are made as large as the disk.
    pub grow: bool,
}

impl Options {
    pub fn new(digest: DigestRule) -> Self {
        Self {
            digest,
            http: None,
            user_mode: !nix::unistd::geteuid().is_root(),
            memory: MemoryLimit::default(),
            retry: Retry::default(),
            verify: Verify::default(),
            grow: false,
        }
    }
}

/// Unpacks the archive at `source` below `target`, which must exist.
///
/// Files that are in the way are replaced, other files stay. On any error `target` holds a part of the image, and
/// the caller must see to it that nobody uses it. Dropping the future stops the work soon, not at once: the threads
/// notice at their next chunk. Needs a tokio runtime with time and IO enabled.
pub async fn unpack(
    source: &Source,
    target: &Path,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
) -> Result<Report, ImageError> {
    let (image, target, user_mode) = (source.to_string(), target.to_owned(), options.user_mode);
    let sink = move |input: &mut QueueReader, counters: &Arc<Counters>| {
        unpack_archive(&image, input, &target, user_mode, counters)
    };
    run(source, options, observer, sink, Unpacked::finish).await
}

/// Writes the raw disk image at `source` to `target`, an existing block device that is not in use, or an existing
/// file. The first MiB is written last: after any error but one of growing the disk does not boot. Else as [`unpack`].
pub async fn write_raw(
    source: &Source,
    target: &Path,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
) -> Result<Report, ImageError> {
    let (target, grow) = (target.to_owned(), options.grow);
    let sink = move |input: &mut QueueReader, counters: &Arc<Counters>| raw::write(input, &target, grow, counters);
    run(source, options, observer, sink, raw::Written::finish).await
}

async fn run<S: Send + 'static>(
    source: &Source,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
    sink: impl FnOnce(&mut QueueReader, &Arc<Counters>) -> Result<S, Stop> + Send + 'static,
    finish: impl FnOnce(S) -> Result<u64, ImageError> + Send + 'static,
) -> Result<Report, ImageError> {
    let start = Instant::now();
    let counters = Arc::new(Counters::new());
    let mut meter = Meter::new(start);
    let expected = find_digest(source, options, &counters).await?;
    tracing::info!(image = %source, digest = expected.as_ref().map(Digest::to_string), "fetching image");

    let algorithm = expected.as_ref().map(Digest::algorithm);
    let mut pipeline = Pipeline::start(source, algorithm, options.memory, &counters, sink);
    let ends = observed(pipeline.join(source, options, &counters), observer, &mut meter, &counters, Step::Streaming);
    let (written, compression) = ends.await.judge(source, expected.as_ref(), &counters)?;

    let settled = tokio::task::spawn_blocking(move || finish(written));
    let settled = observed(settled, observer, &mut meter, &counters, Step::Settling).await;
    let read_back = settled.map_err(|_| ImageError::StageDied { stage: "settling" })??;
    observer.progress(&meter.read(&counters, Step::Settling));

    let report = report(&counters, &pipeline.clocks, compression, expected, read_back, start);
    tracing::info!(
        image = %source,
        bytes_in = report.bytes_in,
        bytes_out = report.bytes_out,
        files = report.files,
        seconds = format!("{:.1}", report.seconds),
        compression = report.compression,
        "image is on the disk"
    );
    Ok(report)
}

struct Clocks {
    fetch: Arc<Clock>,
    digest: Arc<Clock>,
    decompress: Arc<Clock>,
    write: Arc<Clock>,
}

type Thread<T> = tokio::task::JoinHandle<Result<T, Stop>>;

/// The stages that run.
struct Pipeline<S> {
    clocks: Clocks,
    /// Where fetched bytes go; taken by the fetch.
    fetched: Option<Sender>,
    digest: Thread<Option<Digest>>,
    decompress: Thread<Compression>,
    write: Thread<S>,
}

/// How the stages ended.
struct Ends<S> {
    fetch: Result<(), Stop>,
    digest: Result<Result<Option<Digest>, Stop>, JoinError>,
    decompress: Result<Result<Compression, Stop>, JoinError>,
    write: Result<Result<S, Stop>, JoinError>,
}

impl<S: Send + 'static> Pipeline<S> {
    fn start(
        source: &Source,
        algorithm: Option<Algorithm>,
        memory: MemoryLimit,
        counters: &Arc<Counters>,
        sink: impl FnOnce(&mut QueueReader, &Arc<Counters>) -> Result<S, Stop> + Send + 'static,
    ) -> Self {
        let clock = Arc::<Clock>::default;
        let clocks = Clocks { fetch: clock(), digest: clock(), decompress: clock(), write: clock() };
        let damage = Arc::new(Damage::default());
        let (fetched, to_hash) = queue(FETCHED_CHUNKS, &clocks.fetch, &clocks.digest);
        let (hashed, to_decompress) = queue(HASHED_CHUNKS, &clocks.digest, &clocks.decompress);
        let (decompressed, to_write) = queue(DECOMPRESSED_CHUNKS, &clocks.decompress, &clocks.write);
        let image = source.to_string();
        let found = Arc::clone(&damage);
        let digest = stage(&clocks.digest, move || stages::hash(to_hash, hashed, algorithm, &found));
        let found = Arc::clone(&damage);
        let decompress = stage(&clocks.decompress, move || {
            with_reader(to_decompress, &found, |input| stages::decompress(&image, memory, input, decompressed))
        });
        let counters = Arc::clone(counters);
        let write = stage(&clocks.write, move || with_reader(to_write, &damage, |input| sink(input, &counters)));
        Self { clocks, fetched: Some(fetched), digest, decompress, write }
    }

    /// Fetches, and waits until all have ended.
    async fn join(&mut self, source: &Source, options: &Options, counters: &Arc<Counters>) -> Ends<S> {
        let fetched = self.fetched.take();
        let clock = Arc::clone(&self.clocks.fetch);
        let fetch = async {
            let start = Instant::now();
            let result = match fetched {
                Some(sender) => fetch(source, options, counters, sender).await,
                None => Err(Stop::Gone),
            };
            clock.ran_since(start);
            result
        };
        let (fetch, digest, decompress, write) =
            tokio::join!(fetch, &mut self.digest, &mut self.decompress, &mut self.write);
        Ends { fetch, digest, decompress, write }
    }
}

impl<S> Ends<S> {
    /// The one reason, if anything failed. A wrong digest explains damage further on and comes before it; a stage
    /// that only lost its neighbour has no reason of its own.
    fn judge(
        self,
        source: &Source,
        expected: Option<&Digest>,
        counters: &Counters,
    ) -> Result<(S, Compression), ImageError> {
        let died = |stage| move |_| ImageError::StageDied { stage };
        let digest = self.digest.map_err(died("digest"))?;
        let decompress = self.decompress.map_err(died("decompress"))?;
        let write = self.write.map_err(died("write"))?;
        let failure = match (&decompress, &write) {
            (Err(Stop::Failed(err)), _) | (_, Err(Stop::Failed(err))) => Some(err),
            _ => None,
        };
        if let (Some(expected), Ok(Some(found))) = (expected, &digest)
            && expected != found
        {
            return Err(ImageError::Digest {
                image: source.to_string(),
                expected: expected.clone(),
                found: found.clone(),
                bytes: Counters::get(&counters.bytes_in),
                damage: failure.map(|err| with_causes(err)),
            });
        }
        match (decompress, write, self.fetch, digest) {
            (Err(Stop::Failed(err)), ..) | (_, Err(Stop::Failed(err)), ..) | (_, _, Err(Stop::Failed(err)), _) => {
                Err(err)
            }
            (Ok(compression), Ok(written), Ok(()), Ok(_)) => Ok((written, compression)),
            _ => Err(ImageError::StageDied { stage: "image" }),
        }
    }
}

/// A stage on a thread of its own.
fn stage<T: Send + 'static>(clock: &Arc<Clock>, work: impl FnOnce() -> Result<T, Stop> + Send + 'static) -> Thread<T> {
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

async fn fetch(source: &Source, options: &Options, counters: &Arc<Counters>, sender: Sender) -> Result<(), Stop> {
    match source {
        Source::Url(url) => fetch_url(client(source, options)?, url, options.retry, counters, sender).await,
        Source::File(path) => {
            let (path, counters) = (path.clone(), Arc::clone(counters));
            let fetched = tokio::task::spawn_blocking(move || fetch_file(&path, &counters, sender));
            fetched.await.unwrap_or(Err(Stop::Failed(ImageError::StageDied { stage: "fetch" })))
        }
    }
}

/// Does the work and tells of its progress.
async fn observed<T>(
    work: impl Future<Output = T>,
    observer: &(dyn Observer + Send + Sync),
    meter: &mut Meter,
    counters: &Counters,
    step: Step,
) -> T {
    let mut ticks = tokio::time::interval(Meter::TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => observer.progress(&meter.read(counters, step)),
        }
    }
}

/// The digest that the image must have, `None` only if it may go without.
async fn find_digest(source: &Source, options: &Options, counters: &Counters) -> Result<Option<Digest>, ImageError> {
    if let DigestRule::Given(digest) = &options.digest {
        return Ok(Some(digest.clone()));
    }
    let file_name = source.file_name();
    for (suffix, algorithm) in SUFFIXES {
        let beside = source.beside(suffix);
        let Some(text) = read_sidecar(&beside, options).await? else { continue };
        match parse_sidecar(&text, algorithm, &file_name) {
            Some(digest) => return Ok(Some(digest)),
            None => counters.warn(format!("{beside} holds no {algorithm} digest of {file_name}")),
        }
    }
    let tried = SUFFIXES.map(|(suffix, _)| suffix).join(", ");
    match options.digest {
        DigestRule::AllowMissing => {
            counters.warn(format!("{source} has no digest: its content can't be checked"));
            Ok(None)
        }
        DigestRule::Given(_) | DigestRule::Sidecar => Err(ImageError::NoDigest { image: source.to_string(), tried }),
    }
}

async fn read_sidecar(source: &Source, options: &Options) -> Result<Option<String>, ImageError> {
    match source {
        Source::Url(url) => fetch_text(client(source, options)?, url, SIDECAR_MAX_BYTES, options.retry).await,
        Source::File(path) => match std::fs::read(path) {
            Ok(bytes) if bytes.len() <= SIDECAR_MAX_BYTES => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Ok(_) => Ok(None),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ImageError::ReadFile { path: path.clone(), offset: 0, source }),
        },
    }
}

fn client<'o>(source: &Source, options: &'o Options) -> Result<&'o Client, ImageError> {
    options.http.as_ref().ok_or_else(|| ImageError::NoHttpClient { url: source.to_string() })
}

fn report(
    counters: &Counters,
    clocks: &Clocks,
    compression: Compression,
    digest: Option<Digest>,
    read_back: u64,
    start: Instant,
) -> Report {
    Report {
        bytes_in: Counters::get(&counters.bytes_in),
        bytes_out: Counters::get(&counters.bytes_out),
        files: Counters::get(&counters.files),
        seconds: start.elapsed().as_secs_f64(),
        compression: compression.as_str(),
        busy: BusyShares {
            fetch: clocks.fetch.busy_share(),
            digest: clocks.digest.busy_share(),
            decompress: clocks.decompress.busy_share(),
            write: clocks.write.busy_share(),
        },
        retries: Counters::get(&counters.retries),
        digest,
        read_back,
        bytes_zeroed: Counters::get(&counters.bytes_zeroed),
        grown: counters.grown(),
        peak_rss_bytes: read_peak_rss(),
        warnings: counters.warnings(),
    }
}
