//! What an image must be: the digest that is known, or the one in a file beside it, and a signature if there are keys.

use super::digest::Digest;
use super::engine::{DigestRule, Options, client};
use super::error::ImageError;
use super::http::fetch_text;
use super::places::Places;
use super::report::Counters;
use super::sidecar::{SUFFIXES, parse_sidecar};
use super::signature::{self, Signed};
use super::source::Source;

/// No checksum file is longer; one for a whole directory may come near.
const SIDECAR_MAX_BYTES: usize = 64 << 10;

/// What an image is held against. With neither it may go without.
pub(super) struct Expected {
    pub(super) digest: Option<Digest>,
    pub(super) signature: Option<Signed>,
}

/// Looks for what the image must be, at each place in order until one has it. A signature is enough; without one and
/// without digest the image is refused, unless it may go without. `before` is a digest that was found at a place which
/// has failed since: better than none.
pub(super) async fn find_expected(
    places: &Places,
    options: &Options,
    before: Option<Digest>,
    counters: &Counters,
) -> Result<Expected, ImageError> {
    let signature = match options.keys.as_slice() {
        [] => None,
        _ => Some(find_signature(places, options).await?),
    };
    let digest = match &options.digest {
        DigestRule::Given(digest) => Some(digest.clone()),
        DigestRule::Sidecar | DigestRule::AllowMissing => {
            // a signature is enough: no server is waited for that may have a digest besides
            let ask = if signature.is_some() { 1 } else { usize::MAX };
            find_digest(places, ask, options, counters).await?.or(before)
        }
    };
    let image = places.current();
    match (&digest, &signature, &options.digest) {
        (Some(_), ..) | (_, Some(_), _) => {}
        (None, None, DigestRule::AllowMissing) => {
            counters.warn(format!("{image} has no digest: its content can't be checked"));
        }
        (None, None, DigestRule::Given(_) | DigestRule::Sidecar) => {
            let tried = SUFFIXES.map(|(suffix, _)| suffix).join(", ");
            return Err(places.all_failed(ImageError::NoDigest { image: image.to_string(), tried }));
        }
    }
    Ok(Expected { digest, signature })
}

async fn find_signature(places: &Places, options: &Options) -> Result<Signed, ImageError> {
    let image = places.current().to_string();
    for (place, source) in places.left() {
        let beside = source.beside(signature::SUFFIX);
        let found = match read_beside(&beside, options).await {
            Ok(None) => continue,
            Ok(Some(text)) => Signed::check(&text, beside.to_string(), &options.keys)
                .map_err(|reason| ImageError::Signature { file: beside.to_string(), reason }),
            Err(error) => Err(error),
        };
        match found {
            Ok(signed) => {
                tracing::info!(file = signed.file, key = %signed.key(), "the image has a signature");
                return Ok(signed);
            }
            Err(error) => give_up(places, place, error)?,
        }
    }
    let keys: Vec<String> = options.keys.iter().map(|key| key.id.to_string()).collect();
    let tried = format!("{}{}", places.current().file_name(), signature::SUFFIX);
    Err(places.all_failed(ImageError::Unsigned { image, tried, keys: keys.join(", ") }))
}

/// The first that is found counts, also where a later place has a stronger one. At most `ask` places are asked.
async fn find_digest(
    places: &Places,
    ask: usize,
    options: &Options,
    counters: &Counters,
) -> Result<Option<Digest>, ImageError> {
    for (place, source) in places.left().into_iter().take(ask) {
        match find_digest_beside(source, options, counters).await {
            Ok(Some((beside, digest))) => {
                tracing::info!(%beside, %digest, "the image has a digest");
                return Ok(Some(digest));
            }
            Ok(None) => {}
            Err(error) => give_up(places, place, error)?,
        }
    }
    Ok(None)
}

async fn find_digest_beside(
    source: &Source,
    options: &Options,
    counters: &Counters,
) -> Result<Option<(Source, Digest)>, ImageError> {
    let file_name = source.file_name();
    if let Source::File(path) = source {
        // else it would be the digest that is missing
        std::fs::metadata(path).map_err(|source| ImageError::ReadFile { path: path.clone(), offset: 0, source })?;
    }
    for (suffix, algorithm) in SUFFIXES {
        let beside = source.beside(suffix);
        let Some(text) = read_beside(&beside, options).await? else { continue };
        match parse_sidecar(&text, algorithm, &file_name) {
            Some(digest) => return Ok(Some((beside, digest))),
            None => counters.warn(format!("{beside} holds no {algorithm} digest of {file_name}")),
        }
    }
    Ok(None)
}

/// A place that can't even say what the image must be is not asked for the image.
fn give_up(places: &Places, place: usize, error: ImageError) -> Result<(), ImageError> {
    places.fail(place, &error);
    match places.left().is_empty() {
        true => Err(places.all_failed(error)),
        false => Ok(()),
    }
}

async fn read_beside(source: &Source, options: &Options) -> Result<Option<String>, ImageError> {
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
