//! What an image must be: the digest that is known, or the one in a file beside it.

use super::digest::Digest;
use super::engine::{DigestRule, Options, client};
use super::error::ImageError;
use super::http::fetch_text;
use super::report::Counters;
use super::sidecar::{SUFFIXES, parse_sidecar};
use super::source::Source;

/// No checksum file is longer; one for a whole directory may come near.
const SIDECAR_MAX_BYTES: usize = 64 << 10;

/// The digest that the image must have, `None` only if it may go without.
pub(super) async fn find_digest(
    source: &Source,
    options: &Options,
    counters: &Counters,
) -> Result<Option<Digest>, ImageError> {
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
        // its digest is in its reference
        Source::Oci(_) => Ok(None),
    }
}
