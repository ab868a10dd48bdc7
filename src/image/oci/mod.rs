//! OCI images: layers, one above the other, that a manifest names by their digests.
//!
//! The reference's digest vouches for the manifest (or an index that names it), the manifest for the layers and the
//! configuration; nothing else is believed. A layer's bytes are checked as they come, so what the configuration says
//! of the same layer uncompressed (`diff_ids`) is not checked again.

mod challenge;
mod error;
mod layer;
mod layout;
mod manifest;
mod reference;
mod registry;

use std::sync::Arc;

pub use error::OciError;
pub use manifest::{Descriptor, Manifest, OciDocument, parse_oci_manifest};
pub use reference::OciReference;

pub(super) use layer::Layer;
pub(super) use registry::Registry;

use self::layer::Content;
use self::layout::{INDEX, Layout, blob_name};
use self::manifest::{DOCUMENT_MAX_BYTES, LayerFacts, Platform, choose_platform, choose_tag, parse_config};
use self::reference::{DEFAULT_TAG, Place};
use super::digest::{Algorithm, Digest, Hasher};
use super::engine::{DigestRule, Options, client};
use super::error::ImageError;
use super::report::Counters;
use super::source::Source;

/// An index may name another index.
const NESTED_MAX: usize = 4;

/// What is to be fetched, the lowest layer first.
pub(super) struct OciImage {
    pub(super) layers: Vec<Layer>,
    /// What vouches for all of it, if anything was asked for.
    pub(super) digest: Option<Digest>,
}

/// Finds the image of this machine and its layers. Nothing is written yet.
pub(super) async fn find_layers(
    reference: &OciReference,
    options: &Options,
    counters: &Counters,
) -> Result<OciImage, ImageError> {
    let fault = |source| ImageError::Oci { image: reference.to_string(), source };
    let digest = expected_digest(reference, &options.digest).map_err(fault)?;
    let search = Search { reference, store: Store::open(reference, options).await? };
    let manifest = search.manifest(digest.as_ref(), counters).await?;
    let facts = manifest.layers().map_err(fault)?;
    let config = search.blob(&manifest.config, "the configuration").await?;
    parse_config(&config).and_then(|platform| platform.check(&Platform::own())).map_err(fault)?;
    let count = facts.len();
    let layers: Result<Vec<Layer>, ImageError> =
        (1..).zip(facts).map(|(number, facts)| search.layer(number, count, facts)).collect();
    Ok(OciImage { layers: layers?, digest })
}

/// What the first document must have; `None` only if it may go without.
fn expected_digest(reference: &OciReference, rule: &DigestRule) -> Result<Option<Digest>, OciError> {
    let given = match rule {
        DigestRule::Given(given) => Some(given),
        DigestRule::Sidecar | DigestRule::AllowMissing => None,
    };
    match (&reference.digest, given) {
        (Some(reference), Some(given)) if reference != given => {
            Err(OciError::DigestsDiffer { reference: reference.clone(), given: given.clone() })
        }
        (_, Some(weak)) if !matches!(weak.algorithm(), Algorithm::Sha256 | Algorithm::Sha512) => {
            Err(OciError::WeakDigest { digest: weak.clone() })
        }
        (Some(digest), _) | (None, Some(digest)) => Ok(Some(digest.clone())),
        (None, None) if *rule == DigestRule::AllowMissing => Ok(None),
        (None, None) => Err(OciError::NoDigest),
    }
}

/// Where an image's documents and layers are.
enum Store {
    Layout(Layout),
    Registry(Arc<Registry>),
}

impl Store {
    async fn open(reference: &OciReference, options: &Options) -> Result<Self, ImageError> {
        Ok(match &reference.place {
            Place::Directory(path) => Self::Layout(Layout::open_directory(path)?),
            Place::Archive(path) => {
                let path = path.clone();
                let opened = tokio::task::spawn_blocking(move || Layout::open_archive(&path)).await;
                Self::Layout(opened.unwrap_or(Err(ImageError::StageDied { stage: "index" }))?)
            }
            Place::Registry(place) => {
                let client = client(&Source::Oci(reference.clone()), options)?.clone();
                Self::Registry(Arc::new(Registry::new(client, place.clone(), options.retry)))
            }
        })
    }
}

struct Search<'a> {
    reference: &'a OciReference,
    store: Store,
}

impl Search<'_> {
    /// From the reference through indexes to the image of this machine.
    async fn manifest(&self, expected: Option<&Digest>, counters: &Counters) -> Result<Manifest, ImageError> {
        let mut document = self.first(expected, counters).await?;
        for _ in 0..NESTED_MAX {
            let entries = match document {
                OciDocument::Image(manifest) => return Ok(manifest),
                OciDocument::Index(entries) => entries,
            };
            let entry = choose_platform(&entries, &Platform::own()).map_err(|err| self.fault(err))?;
            let json = self.blob(entry, "the manifest").await?;
            document = parse_oci_manifest(&json).map_err(|err| self.fault(err))?;
        }
        match document {
            OciDocument::Image(manifest) => Ok(manifest),
            OciDocument::Index(_) => Err(self.fault(OciError::TooDeep { limit: NESTED_MAX })),
        }
    }

    /// What the reference names.
    async fn first(&self, expected: Option<&Digest>, counters: &Counters) -> Result<OciDocument, ImageError> {
        let json = match (&self.store, expected) {
            (Store::Registry(registry), Some(digest)) => registry.fetch_manifest(&digest.to_string()).await?,
            (Store::Registry(registry), None) => {
                let tag = self.reference.tag.as_deref().unwrap_or(DEFAULT_TAG);
                let json = registry.fetch_manifest(tag).await?;
                self.warn_of_no_digest(&digest_of(Algorithm::Sha256, &json).to_string(), counters);
                json
            }
            (Store::Layout(layout), Some(digest)) => {
                if let Some(tag) = &self.reference.tag {
                    self.check_tag(layout, tag, digest)?;
                }
                self.read_document(layout, &blob_name(digest))?
            }
            (Store::Layout(layout), None) => {
                let entries = self.tagged(layout, self.reference.tag.as_deref())?;
                let found: Vec<String> = entries.iter().map(Descriptor::describe).collect();
                self.warn_of_no_digest(&found.join(" or "), counters);
                return Ok(OciDocument::Index(entries));
            }
        };
        if let Some(digest) = expected {
            self.check("the manifest", digest, &json)?;
        }
        parse_oci_manifest(&json).map_err(|err| self.fault(err))
    }

    fn warn_of_no_digest(&self, found: &str, counters: &Counters) {
        counters.warn(format!("{} is not checked against a digest; it is {found} now", self.reference));
    }

    /// The images of a layout.
    fn tagged(&self, layout: &Layout, tag: Option<&str>) -> Result<Vec<Descriptor>, ImageError> {
        let json = self.read_document(layout, INDEX)?;
        let entries = match parse_oci_manifest(&json).map_err(|err| self.fault(err))? {
            OciDocument::Index(entries) => entries,
            OciDocument::Image(_) => {
                let (what, reason) = (INDEX.to_owned(), "it is no index".to_owned());
                return Err(self.fault(OciError::Malformed { what, reason }));
            }
        };
        choose_tag(entries, tag).map_err(|err| self.fault(err))
    }

    fn check_tag(&self, layout: &Layout, tag: &str, expected: &Digest) -> Result<(), ImageError> {
        let entries = self.tagged(layout, Some(tag))?;
        if entries.iter().any(|entry| entry.digest(tag).is_ok_and(|found| found == *expected)) {
            return Ok(());
        }
        let found = entries.iter().map(Descriptor::describe).collect::<Vec<_>>().join(" or ");
        Err(self.fault(OciError::TagDiffers { tag: tag.to_owned(), expected: expected.clone(), found }))
    }

    /// A document that a descriptor names, checked.
    async fn blob(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, ImageError> {
        let digest = descriptor.digest(what).map_err(|err| self.fault(err))?;
        if descriptor.bytes() > DOCUMENT_MAX_BYTES {
            return Err(self.fault(OciError::TooLarge { what: what.to_owned(), limit: DOCUMENT_MAX_BYTES }));
        }
        let json = match &self.store {
            Store::Layout(layout) => self.read_document(layout, &blob_name(&digest))?,
            Store::Registry(registry) if what == "the configuration" => registry.fetch_blob(&digest).await?,
            Store::Registry(registry) => registry.fetch_manifest(&digest.to_string()).await?,
        };
        let (expected, found) = (descriptor.bytes(), json.len() as u64);
        if expected != found {
            return Err(self.fault(OciError::WrongLength { what: what.to_owned(), expected, found }));
        }
        self.check(what, &digest, &json)?;
        Ok(json)
    }

    fn read_document(&self, layout: &Layout, name: &str) -> Result<Vec<u8>, ImageError> {
        match layout.read(name, DOCUMENT_MAX_BYTES)? {
            Some(found) => found.map_err(|err| self.fault(err)),
            None => Err(self.missing(name)),
        }
    }

    /// Where a layer is. In a layout it must be there, and as long as it should be.
    fn layer(&self, number: usize, count: usize, facts: LayerFacts) -> Result<Layer, ImageError> {
        let LayerFacts { digest, bytes } = facts;
        let content = match &self.store {
            Store::Registry(registry) => {
                Content::Blob { url: registry.blob_url(&digest)?, registry: Arc::clone(registry) }
            }
            Store::Layout(layout) => {
                let name = blob_name(&digest);
                let Some((path, range)) = layout.find(&name)? else { return Err(self.missing(&name)) };
                if range.bytes != bytes {
                    let (what, expected, found) = (format!("layer {number}"), bytes, range.bytes);
                    return Err(self.fault(OciError::WrongLength { what, expected, found }));
                }
                Content::File { path, offset: range.offset }
            }
        };
        Ok(Layer { number, count, digest, bytes, content })
    }

    fn check(&self, what: &str, expected: &Digest, content: &[u8]) -> Result<(), ImageError> {
        let found = digest_of(expected.algorithm(), content);
        if found == *expected {
            return Ok(());
        }
        Err(self.fault(OciError::WrongContent { what: what.to_owned(), expected: expected.clone(), found }))
    }

    fn missing(&self, name: &str) -> ImageError {
        self.fault(OciError::Missing { registry: "the layout".to_owned(), what: name.to_owned() })
    }

    fn fault(&self, source: OciError) -> ImageError {
        ImageError::Oci { image: self.reference.to_string(), source }
    }
}

fn digest_of(algorithm: Algorithm, content: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(content);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_from_the_reference_or_the_one_who_asks() {
        let digest = |digit: &str| -> Digest { format!("sha256:{}", digit.repeat(64)).parse().unwrap() };
        let (a, b) = (digest("a"), digest("b"));
        let plain = OciReference::parse("oci:/x:1").unwrap().unwrap();
        let pinned = OciReference::parse(&format!("oci:/x:1@{a}")).unwrap().unwrap();
        let given = |digest: &Digest| DigestRule::Given(digest.clone());
        assert_eq!(expected_digest(&pinned, &DigestRule::Sidecar), Ok(Some(a.clone())));
        assert_eq!(expected_digest(&pinned, &given(&a)), Ok(Some(a.clone())));
        assert_eq!(expected_digest(&plain, &given(&b)), Ok(Some(b.clone())));
        assert_eq!(expected_digest(&plain, &DigestRule::AllowMissing), Ok(None));
        assert_eq!(expected_digest(&plain, &DigestRule::Sidecar), Err(OciError::NoDigest));
        let differ = OciError::DigestsDiffer { reference: a, given: b.clone() };
        assert_eq!(expected_digest(&pinned, &given(&b)), Err(differ));
        let md5 = "md5:900150983cd24fb0d6963f7d28e17f72".parse().unwrap();
        assert!(matches!(expected_digest(&plain, &given(&md5)), Err(OciError::WeakDigest { .. })));
    }
}
