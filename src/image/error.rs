//! What can go wrong with an image, with the facts.

use std::io;
use std::path::PathBuf;

use super::digest::Digest;
use super::oci::OciError;
use super::signature::SignatureError;
use super::tar::TarError;
use crate::api::image_key::KeyId;

/// Why an image was not installed.
///
/// The first line of each (`Display`) holds the facts an operator needs; the cause, if there is one, follows as
/// `source`. `{err:#}` of an `anyhow::Error` made of it prints both. URLs appear without user name and query, which
/// may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{text} is no image source: {reason}")]
    Source { text: String, reason: String },

    #[error("{url} needs an HTTP client and none was given")]
    NoHttpClient { url: String },

    #[error("fetching {url} at byte {offset}: server answered {status}, expected {expected}")]
    Status { url: String, offset: u64, status: u16, expected: &'static str },

    /// Connections refused, broken or stalled until the tries were used up.
    /// `history` has each reason once, with how often and where.
    #[error("fetching {url} at byte {offset}: gave up after {tries} tries in a row that brought nothing: {history}")]
    Unreachable { url: String, offset: u64, tries: u32, history: String },

    /// An answer that is not the image as it lies on the server.
    #[error("fetching {url} at byte {offset}: {reason}")]
    Answer { url: String, offset: u64, reason: String },

    #[error("{image} is short: {expected} bytes promised, {found} found")]
    Short { image: String, expected: u64, found: u64 },

    #[error("{url} changed while it was being fetched, at byte {offset}: {what} was {expected}, is now {found}")]
    Changed { url: String, offset: u64, what: &'static str, expected: String, found: String },

    /// Two places have different images. `expected` is what the one before said.
    #[error("{url} has {found} bytes, where another place had {expected}, and can't be gone on with at byte {offset}")]
    OtherLength { url: String, offset: u64, expected: String, found: String },

    /// Every place of the image failed; `failures` has a line for each.
    #[error("{image} can't be had from any of its places:{}", lines(failures))]
    NoPlaceLeft { image: String, failures: Vec<String>, last: Box<ImageError> },

    #[error("{url}: asked for bytes from {offset}, server sent {found}")]
    WrongRange { url: String, offset: u64, found: String },

    #[error("reading {path} at byte {offset}")]
    ReadFile { path: PathBuf, offset: u64, source: io::Error },

    #[error("{image} has no digest: none was given, and there is none beside it (tried {tried})")]
    NoDigest { image: String, tried: String },

    /// `damage` tells what else was wrong with the content, if it could not be unpacked.
    #[error("digest of {image} is wrong: expected {expected}, found {found} over {bytes} bytes{}", also(damage))]
    Digest { image: String, expected: Digest, found: Digest, bytes: u64, damage: Option<String> },

    /// Keys are configured, so that an image needs a signature.
    #[error(
        "{image} is not signed (no {tried}), and only images signed with {keys} are installed: sign it with \
         `minisign -Sm IMAGE` and put the .minisig beside it"
    )]
    Unsigned { image: String, tried: String, keys: String },

    #[error("the signature {file} can't be used: {reason}")]
    Signature { file: String, reason: SignatureError },

    /// `damage` as for a digest.
    #[error(
        "the signature {file} by key {key} does not hold for {image}, over {bytes} bytes: the image or the signature \
         is another one, or damaged{}",
        also(damage)
    )]
    WrongSignature { image: String, file: String, key: KeyId, bytes: u64, damage: Option<String> },

    #[error(
        "{image}: signatures of {kind} are not supported, and keys are configured that an image must be signed with"
    )]
    NotSignable { image: String, kind: &'static str },

    #[error("{image}")]
    Oci { image: String, source: OciError },

    /// Something in a layer of an OCI image.
    #[error("layer {number} of {count}, {digest}")]
    Layer { number: usize, count: usize, digest: Digest, source: Box<ImageError> },

    #[error(
        "{image} is an archive of a container image, its first entry is {entry:?}: unpacked it would be no system. \
         As oci-archive:FILE an OCI image in a tar file is installed, as oci://HOST/NAME one in a registry; \
         `skopeo copy docker-archive:FILE oci-archive:FILE` makes one of Docker's"
    )]
    ContainerArchive { image: String, entry: String },

    #[error("{image} is not an archive: starts with {start}")]
    NotAnArchive { image: String, start: String },

    #[error("decompressing {image} ({format}) near byte {offset}")]
    Decompress { image: String, format: &'static str, offset: u64, source: io::Error },

    #[error("{image}: bad archive")]
    Archive { image: String, source: TarError },

    /// The archive asks for something that is not done, such as writing outside the target.
    #[error("refused {entry:?} at byte {offset} of the archive: {reason}")]
    Refused { entry: String, offset: u64, reason: String },

    #[error("{action} {path:?}, {written} bytes into the target, at byte {offset} of the archive")]
    Write { action: &'static str, path: String, offset: u64, written: u64, source: io::Error },

    #[error("opening {path}")]
    OpenTarget { path: PathBuf, source: io::Error },

    #[error("{path} is not fit for an image: {reason}")]
    UnfitTarget { path: PathBuf, reason: String },

    #[error("image is bigger than {device}: device has {capacity} bytes, image at least {image}")]
    TooBig { device: PathBuf, capacity: u64, image: u64 },

    #[error("{action} {path} at byte {offset}")]
    Device { action: &'static str, path: PathBuf, offset: u64, source: io::Error },

    #[error("bringing {path} to the disk")]
    Sync { path: String, source: io::Error },

    /// The disk gave back something else than was written.
    #[error("{path} reads back wrong after writing: expected {expected}, found {found}")]
    ReadBack { path: String, expected: String, found: String },

    /// The image itself is on the disk, and holds.
    #[error("growing what is on {device}, after the image was written and verified")]
    Grow { device: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },

    #[error("the {stage} stage ended without a result")]
    StageDied { stage: &'static str },
}

impl ImageError {
    /// The content is at fault and not the target, so the rest is still worth hashing to tell damage on the way
    /// from a bad image.
    pub(super) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::NotAnArchive { .. } | Self::Decompress { .. } | Self::Archive { .. } | Self::Refused { .. }
        )
    }
}

fn lines(failures: &[String]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}

fn also(damage: &Option<String>) -> String {
    damage.as_ref().map(|what| format!(" ({what})")).unwrap_or_default()
}
