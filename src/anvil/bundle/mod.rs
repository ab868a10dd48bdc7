//! Bundles: all that a site needs, in one file that is carried over the air gap.
//!
//! A bundle is a tar archive compressed by zstd. Its first member, `manifest.json`, names every other one with its
//! length and SHA-256; the second, `manifest.json.minisig`, is minisign's signature of the first, and empty in a bundle
//! that is not signed. Then come the files, in the manifest's order, and nothing else.
//!
//! - [`manifest`]: the manifest, and what may stand in one
//! - [`contents`]: what is packed, and [`pack`]: how
//! - [`signing`]: signatures by minisign's secret keys
//! - [`archive`]: reading, which checks everything
//! - [`plan`]: what an import would do; [`import`] does it; [`first_config`] is the configuration of a new site

pub mod archive;
pub mod contents;
pub mod first_config;
pub mod import;
pub mod manifest;
pub mod pack;
pub mod plan;
pub mod signing;

/// Told how much is done, and of how much: bytes.
pub type Progress<'p> = &'p dyn Fn(u64, u64);

/// Files at the site, below this directory of anvil's data: one directory a bundle, and a link to the newest.
pub(crate) const DIRECTORY: &str = "bundle";
pub(crate) const CURRENT: &str = "current";
