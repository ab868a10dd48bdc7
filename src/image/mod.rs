//! The image engine: source, digest, decompression, unpacking, raw writing.
//!
//! An image goes from its source to the disk in one pass: [`unpack`] for archives, [`write_raw`] for disk images.
//! Fetching, hashing, decompressing and writing run side by side; memory is a few MiB of queues and the decoder's
//! window, which has a limit ([`MemoryLimit`]), however large the image. Names of files and compressions are never
//! believed, contents are. An OCI image is several archives, one above the other (`oci`).
//!
//! It may have several places (`places`), and is held against what it must be (`expected`): a digest, and a signature
//! (`signature`) where keys are configured.

pub mod command;
mod console;
mod decompress;
mod digest;
mod engine;
mod error;
mod expected;
mod fetch;
mod fill;
mod http;
mod memory;
mod oci;
mod pipeline;
mod places;
mod queue;
mod raw;
mod report;
mod retry;
mod sidecar;
pub(crate) mod signature;
mod source;
mod stages;
pub mod tar;
mod unpack;

pub use console::{Console, line};
pub use decompress::{Compression, decompress_to};
pub(crate) use digest::Hasher;
pub use digest::{Algorithm, Digest, DigestError};
pub use engine::{DigestRule, Options, Verify, unpack, write_raw};
pub use error::ImageError;
pub use memory::MemoryLimit;
pub use oci::{OciDocument, OciError, OciReference, parse_oci_manifest};
pub use report::{BusyShares, Grown, Observer, Progress, Report, Step, Unobserved};
pub use retry::Retry;
pub use sidecar::parse_sidecar;
pub use signature::{Signature, SignatureError};
pub use source::Source;
