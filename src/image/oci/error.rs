//! What can be wrong with an OCI image.

use std::path::PathBuf;

use crate::image::digest::{Digest, DigestError};

/// Why an OCI image was not installed. Which image it is stands before it, in [`crate::image::ImageError::Oci`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    #[error(
        "it has no digest: add @sha256:… to the reference, or give the digest of its manifest (the API's digest, \
         --digest). A tag may name another image tomorrow"
    )]
    NoDigest,
    #[error("its reference says {reference}, and {given} was asked for")]
    DigestsDiffer { reference: Digest, given: Digest },
    #[error("tag {tag} is {found} now, expected {expected}")]
    TagDiffers { tag: String, expected: Digest, found: String },
    #[error("{digest} can't be an image's digest: expected sha256 or sha512")]
    WeakDigest { digest: Digest },
    #[error("{what} has a bad digest")]
    BadDigest { what: String, source: DigestError },
    #[error("{what} does not have the content it should have: expected {expected}, found {found}")]
    WrongContent { what: String, expected: Digest, found: Digest },
    #[error("{what} is {found} bytes long, expected {expected}")]
    WrongLength { what: String, expected: u64, found: u64 },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("{what} is not valid: {reason}")]
    Malformed { what: String, reason: String },
    #[error("its manifest is of the old form (schema 1), which has no digests: push the image again with a newer tool")]
    SchemaOne,
    #[error("it is no image for machines: its {what} is of type {media_type:?}")]
    NotAnImage { what: &'static str, media_type: String },
    #[error("indexes lie in one another more than {limit} deep")]
    TooDeep { limit: usize },
    #[error("it has no tag {tag:?}, found {}", list(found))]
    NoTag { tag: String, found: Vec<String> },
    #[error("there are several images, say which: {}", list(found))]
    Several { found: Vec<String> },
    #[error("it is not for {wanted}, found {}", list(found))]
    NoPlatform { wanted: String, found: Vec<String> },
    #[error("it has no layers")]
    NoLayers,
    #[error("it has {found} layers, more than {limit}")]
    TooManyLayers { found: usize, limit: usize },
    #[error("layer {number} is encrypted ({media_type})")]
    Encrypted { number: usize, media_type: String },
    #[error("layer {number} may not be distributed and lies elsewhere ({media_type}): it is not fetched from there")]
    Foreign { number: usize, media_type: String },
    #[error("layer {number} is of type {media_type:?}, which is not known")]
    LayerType { number: usize, media_type: String },
    #[error("{path} is no OCI image layout: it has no {missing}")]
    NoLayout { path: PathBuf, missing: String },
    #[error("{path} is compressed ({format}), and is read here and there: decompress it first")]
    CompressedArchive { path: PathBuf, format: &'static str },
    #[error("{registry} has no {what}")]
    Missing { registry: String, what: String },
    #[error("{registry} does not let us in (it asks for {asked}): {reason}")]
    Denied { registry: String, asked: String, reason: String },
}

/// Some of what was found, for a person.
fn list(found: &[String]) -> String {
    const SHOWN_MAX: usize = 16;
    let shown = found.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match found.len() {
        0 => "none".to_owned(),
        1..=SHOWN_MAX => shown,
        more => format!("{shown} and {} more", more - SHOWN_MAX),
    }
}
