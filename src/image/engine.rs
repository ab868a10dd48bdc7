//! An image from its source to the disk. Success is told only when the digest holds, everything is on the disk, and
//! what was written has been read back.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use reqwest::{Client, Url};

use super::decompress::Compression;
use super::digest::Digest;
use super::error::ImageError;
use super::expected::{Expected, find_expected};
use super::memory::MemoryLimit;
use super::oci::{OciImage, find_layers};
use super::pipeline::{Clocks, Part, Sink, stream};
use super::places::Places;
use super::raw::RawWriter;
use super::report::{Counters, Meter, Observer, Report, Step, read_peak_rss};
use super::retry::Retry;
use super::signature::{Signature, Signed, refuse_if_keys};
use super::source::Source;
use super::unpack::{Manner, Unpacker};
use crate::api::image_key::ImageKey;

/// What an image is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestRule {
    /// The digest is known.
    Given(Digest),
    /// The digest is in a file beside the image, at the first of its places that has one; without one and without a
    /// signature the image is refused.
    Sidecar,
    /// As [`DigestRule::Sidecar`], but an image without either is taken with a warning.
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
    /// Keys of minisign. When there is any, the image must be signed with one of them (`.minisig` beside it), and needs
    /// no digest besides.
    pub keys: Vec<ImageKey>,
    /// More places of the same image, by `http` or `https`, asked in this order when those before failed.
    pub mirrors: Vec<Url>,
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
            keys: Vec::new(),
            mirrors: Vec::new(),
            http: None,
            user_mode: !nix::unistd::geteuid().is_root(),
            memory: MemoryLimit::default(),
            retry: Retry::default(),
            verify: Verify::default(),
            grow: false,
        }
    }
}

/// Unpacks the archive at `source` below `target`, which must exist; of an OCI image all layers, one upon the other.
///
/// Files that are in the way are replaced, other files stay. An image that changes while it is fetched, or that a
/// mirror has damaged, is begun anew if there were no files below `target`. On any error `target` holds a part of the
/// image, and the caller must see to it that nobody uses it. Dropping the future stops the work soon, not at once: the
/// threads notice at their next chunk. Needs a tokio runtime with time and IO enabled.
pub async fn unpack(
    source: &Source,
    target: &Path,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
) -> Result<Report, ImageError> {
    let counters = Arc::new(Counters::new());
    let layered = matches!(source, Source::Oci(_));
    let manner = Manner { user_mode: options.user_mode, verify: options.verify, layered };
    let sink = Unpacker::open(target, manner, &counters)?;
    install(source, options, observer, &counters, sink).await
}

/// Writes the raw disk image at `source` to `target`, an existing block device that is not in use, or an existing
/// file. The first MiB is written last: after any error but one of growing the disk does not boot. Else as [`unpack`].
pub async fn write_raw(
    source: &Source,
    target: &Path,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
) -> Result<Report, ImageError> {
    if matches!(source, Source::Oci(_)) {
        let reason = "an OCI image holds files, not a disk: `drophammer unpack` is for it".to_owned();
        return Err(ImageError::Source { text: source.to_string(), reason });
    }
    let counters = Arc::new(Counters::new());
    let sink = RawWriter::new(target, options.grow, &counters);
    install(source, options, observer, &counters, sink).await
}

async fn install<S: Sink>(
    source: &Source,
    options: &Options,
    observer: &(dyn Observer + Send + Sync),
    counters: &Arc<Counters>,
    mut sink: S,
) -> Result<Report, ImageError> {
    let start = Instant::now();
    let mut meter = Meter::new(start);
    let clocks = Clocks::default();
    let places = Arc::new(Places::new(source, &options.mirrors)?);
    let mut starts = 1;
    let mut digest_before = None;
    let (sink, compression, plan) = loop {
        let plan = plan(source, &places, options, digest_before, counters).await?;
        let (digest, layers) = (plan.digest.as_ref().map(Digest::to_string), plan.parts.len());
        tracing::info!(image = %places.current(), digest, layers, signed = plan.signature.is_some(), "fetching image");
        let streamed = stream_all(&plan.parts, sink, options, &clocks, counters);
        let (back, failed) = match observed(streamed, observer, &mut meter, counters, Step::Streaming).await {
            (Some(sink), Ok(compression)) => break (sink, compression, plan),
            (Some(back), Err(failed)) => (back, failed),
            (None, Err(err)) => return Err(err),
            (None, Ok(_)) => return Err(ImageError::StageDied { stage: "write" }),
        };
        let reason = places.begin_anew(failed)?;
        counters.warn(format!("{reason}: starting over, from {}", places.current()));
        sink = start_over(back, reason).await.map_err(|err| places.all_failed(err))?;
        digest_before = plan.digest;
        starts += 1;
        counters.start_over();
        meter = Meter::new(Instant::now());
    };
    if let Some(signature) = &plan.signature {
        tracing::info!(key = signature.key, trusted_comment = ?signature.trusted_comment, "the signature holds");
    }

    let settled = tokio::task::spawn_blocking(move || sink.settle());
    let settled = observed(settled, observer, &mut meter, counters, Step::Settling).await;
    let read_back = settled.map_err(|_| ImageError::StageDied { stage: "settling" })??;
    observer.progress(&meter.read(counters, Step::Settling));

    let report = Report {
        bytes_in: Counters::get(&counters.bytes_in),
        bytes_out: Counters::get(&counters.bytes_out),
        files: Counters::get(&counters.files),
        seconds: start.elapsed().as_secs_f64(),
        compression,
        busy: clocks.busy(),
        retries: Counters::get(&counters.retries),
        starts,
        digest: plan.digest,
        signature: plan.signature,
        places: places.served(),
        read_back,
        bytes_zeroed: Counters::get(&counters.bytes_zeroed),
        grown: counters.grown(),
        peak_rss_bytes: read_peak_rss(),
        warnings: counters.warnings(),
    };
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

/// What is fetched, in order, and the digest that vouches for all of it.
struct Plan {
    parts: Vec<Part>,
    digest: Option<Digest>,
    signature: Option<Signature>,
}

/// `before` is a digest that was found at a place which has failed since.
async fn plan(
    source: &Source,
    places: &Arc<Places>,
    options: &Options,
    before: Option<Digest>,
    counters: &Counters,
) -> Result<Plan, ImageError> {
    let Source::Oci(reference) = source else {
        let Expected { digest, signature } = find_expected(places, options, before, counters).await?;
        let shown = signature.as_ref().map(Signed::shown);
        let (source, expected) = (places.current().clone(), digest.clone());
        let part = Part { source, places: Arc::clone(places), expected, signature, layer: None };
        return Ok(Plan { parts: vec![part], digest, signature: shown });
    };
    refuse_if_keys(&options.keys, &source.to_string(), "OCI images")?;
    places.serves(0);
    let OciImage { layers, digest } = find_layers(reference, options, counters).await?;
    counters.set_whole(layers.iter().map(|layer| layer.bytes).fold(0, u64::saturating_add));
    let part = |layer: super::oci::Layer| Part {
        source: source.clone(),
        places: Arc::clone(places),
        expected: Some(layer.digest.clone()),
        signature: None,
        layer: Some(layer),
    };
    Ok(Plan { parts: layers.into_iter().map(part).collect(), digest, signature: None })
}

/// Brings all parts into the sink, one after the other. Tells how they were compressed.
async fn stream_all<S: Sink>(
    parts: &[Part],
    mut sink: S,
    options: &Options,
    clocks: &Clocks,
    counters: &Arc<Counters>,
) -> (Option<S>, Result<&'static str, ImageError>) {
    let mut compression = None;
    for part in parts {
        let (back, streamed) = stream(part, sink, options, clocks, counters).await;
        let found = match (streamed, &part.layer) {
            (Ok(found), _) => found,
            (Err(changed @ ImageError::Changed { .. }), _) => return (back, Err(changed)),
            (Err(err), Some(layer)) => return (back, Err(layer.locate(err))),
            (Err(err), None) => return (back, Err(err)),
        };
        let Some(back) = back else { return (None, Err(ImageError::StageDied { stage: "write" })) };
        sink = back;
        compression = match compression {
            None => Some(found.as_str()),
            Some(before) if before == found.as_str() => Some(before),
            Some(_) => Some("several"),
        };
    }
    (Some(sink), Ok(compression.unwrap_or(Compression::None.as_str())))
}

async fn start_over<S: Sink>(mut sink: S, reason: ImageError) -> Result<S, ImageError> {
    let cleared = tokio::task::spawn_blocking(move || sink.start_over(reason).map(|()| sink));
    cleared.await.unwrap_or(Err(ImageError::StageDied { stage: "write" }))
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

pub(super) fn client<'o>(source: &Source, options: &'o Options) -> Result<&'o Client, ImageError> {
    options.http.as_ref().ok_or_else(|| ImageError::NoHttpClient { url: source.to_string() })
}
