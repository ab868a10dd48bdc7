//! The documents that lead to an image's layers: index, manifest, configuration.
//!
//! Source: OCI image-spec, manifest.md, image-index.md, descriptor.md and config.md; "Image Manifest V 2, Schema 2" of
//! the Docker registry, which has the same members under other media types.

use serde::Deserialize;

use super::error::OciError;
use crate::image::digest::{Algorithm, Digest};

/// Registries refuse larger ones, and so do we.
pub const DOCUMENT_MAX_BYTES: u64 = 4 << 20;
/// Tools make 127 at most.
const LAYERS_MAX: usize = 512;
/// More than any disk has; keeps sums far from overflowing.
const LAYER_MAX_BYTES: u64 = 1 << 50;

const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// What may follow says how it is compressed, which is told by content.
const LAYER_TYPES: [&str; 2] =
    ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];

/// For the header `Accept`.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// What stands at the end of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OciDocument {
    /// Images to choose from.
    Index(Vec<Descriptor>),
    Image(Manifest),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
}

/// Points to another document, or to a layer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    /// Bytes.
    size: u64,
    urls: Option<Vec<String>>,
    platform: Option<Platform>,
    annotations: Option<Annotations>,
}

/// Also what is of use to us in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// A layer that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerFacts {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// An index or a manifest, of OCI or Docker. What it is, its members tell; a media type that says otherwise, and a
/// document that could be both, are refused.
pub fn parse_oci_manifest(json: &[u8]) -> Result<OciDocument, OciError> {
    let document: Document = parse("the manifest", json)?;
    if document.schema_version == Some(1) {
        return Err(OciError::SchemaOne);
    }
    let malformed = |reason: &str| OciError::Malformed { what: "the manifest".to_owned(), reason: reason.to_owned() };
    let (found, types) = match (document.manifests, document.config, document.layers) {
        (Some(entries), None, None) => (OciDocument::Index(entries), INDEX_TYPES),
        (None, Some(config), Some(layers)) => (OciDocument::Image(Manifest { config, layers }), MANIFEST_TYPES),
        (Some(_), _, _) => return Err(malformed("it could be an index and an image's")),
        (None, _, _) => return Err(malformed("it has neither manifests nor config and layers")),
    };
    match document.media_type {
        Some(media_type) if !media_type.is_empty() && !types.contains(&media_type.as_str()) => {
            Err(OciError::NotAnImage { what: "manifest", media_type })
        }
        _ => Ok(found),
    }
}

/// The platform of an image by its configuration.
pub(super) fn parse_config(json: &[u8]) -> Result<Platform, OciError> {
    parse("the configuration", json)
}

fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a [u8]) -> Result<T, OciError> {
    serde_json::from_slice(json).map_err(|err| OciError::Malformed { what: what.to_owned(), reason: err.to_string() })
}

impl Manifest {
    /// The layers, if each of them can be had.
    pub(super) fn layers(&self) -> Result<Vec<LayerFacts>, OciError> {
        if !CONFIG_TYPES.contains(&self.config.media_type.as_str()) {
            return Err(OciError::NotAnImage { what: "configuration", media_type: self.config.media_type.clone() });
        }
        match self.layers.len() {
            0 => Err(OciError::NoLayers),
            found if found > LAYERS_MAX => Err(OciError::TooManyLayers { found, limit: LAYERS_MAX }),
            _ => (1..).zip(&self.layers).map(|(number, layer)| layer.facts(number)).collect(),
        }
    }
}

impl Descriptor {
    pub(super) fn bytes(&self) -> u64 {
        self.size
    }

    /// `what` names the thing in errors.
    pub(super) fn digest(&self, what: &str) -> Result<Digest, OciError> {
        let digest: Digest =
            self.digest.parse().map_err(|source| OciError::BadDigest { what: what.to_owned(), source })?;
        match digest.algorithm() {
            Algorithm::Sha256 | Algorithm::Sha512 => Ok(digest),
            Algorithm::Md5 | Algorithm::Blake2b => Err(OciError::WeakDigest { digest }),
        }
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.tag.as_deref()
    }

    /// Tag, platform and digest, as far as they are known.
    pub(super) fn describe(&self) -> String {
        let platform = self.platform.as_ref().map(Platform::to_string);
        let words = [self.tag().map(str::to_owned), platform, Some(self.digest.clone())];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn facts(&self, number: usize) -> Result<LayerFacts, OciError> {
        let media_type = self.media_type.clone();
        if media_type.ends_with("+encrypted") {
            return Err(OciError::Encrypted { number, media_type });
        }
        if media_type.contains("nondistributable") || media_type.contains(".foreign.") || self.has_urls() {
            return Err(OciError::Foreign { number, media_type });
        }
        let is_known = LAYER_TYPES.iter().any(|known| match media_type.strip_prefix(known) {
            Some(compression) => matches!(compression, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"),
            None => false,
        });
        if !is_known {
            return Err(OciError::LayerType { number, media_type });
        }
        let what = format!("layer {number}");
        if self.size > LAYER_MAX_BYTES {
            return Err(OciError::TooLarge { what, limit: LAYER_MAX_BYTES });
        }
        Ok(LayerFacts { digest: self.digest(&what)?, bytes: self.size })
    }

    fn has_urls(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().filter(|variant| !variant.is_empty()).map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Of the machine that this program is made for, in Go's words.
    pub(super) fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    fn is_for(&self, machine: &Self) -> bool {
        (&self.os, &self.architecture) == (&machine.os, &machine.architecture)
    }

    /// A configuration that says nothing fits every machine.
    pub(super) fn check(&self, machine: &Self) -> Result<(), OciError> {
        if self.is_for(machine) || (self.os.is_empty() && self.architecture.is_empty()) {
            return Ok(());
        }
        Err(OciError::NoPlatform { wanted: machine.to_string(), found: vec![self.to_string()] })
    }

    /// The least demanding variant first: none, then what every machine of its kind is.
    fn rank(&self) -> (u8, &str) {
        match self.variant.as_deref() {
            None | Some("") => (0, ""),
            Some(variant @ ("v1" | "v8")) => (1, variant),
            Some(other) => (2, other),
        }
    }
}

/// The images of a layout with that tag; without one all, if they are not several under different names.
pub(super) fn choose_tag(entries: Vec<Descriptor>, tag: Option<&str>) -> Result<Vec<Descriptor>, OciError> {
    let Some(tag) = tag else {
        let several = entries.iter().any(|entry| entry.tag() != entries.first().and_then(Descriptor::tag));
        return match several {
            true => Err(OciError::Several { found: entries.iter().map(Descriptor::describe).collect() }),
            false => Ok(entries),
        };
    };
    let (chosen, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.tag() == Some(tag));
    match chosen.is_empty() {
        true => Err(OciError::NoTag { tag: tag.to_owned(), found: others.iter().map(Descriptor::describe).collect() }),
        false => Ok(chosen),
    }
}

/// The image for that machine: the one whose platform says so, or the only one that names none.
pub(super) fn choose_platform<'d>(entries: &'d [Descriptor], machine: &Platform) -> Result<&'d Descriptor, OciError> {
    let fitting = entries.iter().filter_map(|entry| Some((entry.platform.as_ref()?, entry)));
    let fitting = fitting.filter(|(platform, _)| platform.is_for(machine));
    // of equal ones the first
    if let Some((_, entry)) = fitting.min_by_key(|(platform, _)| platform.rank()) {
        return Ok(entry);
    }
    let found = || entries.iter().map(Descriptor::describe).collect();
    let mut unnamed = entries.iter().filter(|entry| entry.platform.is_none());
    match (unnamed.next(), unnamed.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(OciError::Several { found: found() }),
        (None, _) => Err(OciError::NoPlatform { wanted: machine.to_string(), found: found() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hex(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn descriptor(media_type: &str, digit: &str) -> Value {
        json!({"mediaType": media_type, "digest": hex(digit), "size": 7, "annotations": null})
    }

    fn image(layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "config": descriptor(CONFIG_TYPES[0], "c"), "layers": layers, "unknown": [1, {}]})
    }

    fn parse(value: &Value) -> Result<OciDocument, OciError> {
        parse_oci_manifest(value.to_string().as_bytes())
    }

    fn layers(layers: &[Value]) -> Result<Vec<LayerFacts>, OciError> {
        let OciDocument::Image(manifest) = parse(&image(layers)).unwrap() else { panic!("an index") };
        manifest.layers()
    }

    fn entries(value: &Value) -> Vec<Descriptor> {
        let OciDocument::Index(entries) = parse(value).unwrap() else { panic!("an image") };
        entries
    }

    fn for_platform(os: &str, architecture: &str, variant: Option<&str>, digit: &str) -> Value {
        let platform = json!({"os": os, "architecture": architecture, "variant": variant});
        json!({"mediaType": MANIFEST_TYPES[0], "digest": hex(digit), "size": 7, "platform": platform})
    }

    fn amd64() -> Platform {
        Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
    }

    #[test]
    fn layers_of_all_kinds_are_known() {
        let known = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ];
        let found = layers(&known.map(|known| descriptor(known, "1"))).unwrap();
        assert_eq!(found, vec![LayerFacts { digest: hex("1").parse().unwrap(), bytes: 7 }; 4]);
    }

    #[test]
    fn layers_that_can_not_be_had_are_refused() {
        let refused = |layer: Value| layers(&[layer]).unwrap_err();
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let encrypted = format!("{gzip}+encrypted");
        assert!(matches!(refused(descriptor(&encrypted, "1")), OciError::Encrypted { number: 1, .. }));
        for foreign in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(matches!(refused(descriptor(foreign, "1")), OciError::Foreign { .. }), "{foreign}");
        }
        let mut elsewhere = descriptor(gzip, "1");
        elsewhere["urls"] = json!(["http://10.0.0.1/layer"]);
        assert!(matches!(refused(elsewhere), OciError::Foreign { .. }));
        assert!(matches!(refused(descriptor("text/plain", "1")), OciError::LayerType { number: 1, .. }));
        let mut weak = descriptor(gzip, "1");
        weak["digest"] = json!("md5:900150983cd24fb0d6963f7d28e17f72");
        assert!(matches!(refused(weak), OciError::WeakDigest { .. }));
        let mut huge = descriptor(gzip, "1");
        huge["size"] = json!(u64::MAX);
        assert!(matches!(refused(huge), OciError::TooLarge { .. }));
        assert_eq!(layers(&[]).unwrap_err(), OciError::NoLayers);
        let many = vec![descriptor(gzip, "1"); LAYERS_MAX + 1];
        assert_eq!(layers(&many).unwrap_err(), OciError::TooManyLayers { found: 513, limit: 512 });
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let mut artifact = image(&[descriptor("text/plain", "1")]);
        artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
        let OciDocument::Image(manifest) = parse(&artifact).unwrap() else { panic!("an index") };
        assert!(matches!(manifest.layers(), Err(OciError::NotAnImage { what: "configuration", .. })));
        let schema_one = json!({"schemaVersion": 1, "fsLayers": []});
        assert_eq!(parse(&schema_one).unwrap_err(), OciError::SchemaOne);
        let mut both = image(&[]);
        both["manifests"] = json!([]);
        assert!(matches!(parse(&both), Err(OciError::Malformed { .. })));
        let mut lying = image(&[]);
        lying["mediaType"] = json!(INDEX_TYPES[0]);
        assert!(matches!(parse(&lying), Err(OciError::NotAnImage { .. })));
        for odd in [json!({}), json!([]), json!({"manifests": [{"size": -1}]}), json!(null)] {
            assert!(matches!(parse(&odd), Err(OciError::Malformed { .. })), "{odd}");
        }
    }

    #[test]
    fn the_image_of_the_machine_is_chosen() {
        let list = json!({"manifests": [
            for_platform("unknown", "unknown", None, "0"),
            for_platform("linux", "arm64", Some("v8"), "1"),
            for_platform("linux", "amd64", Some("v3"), "2"),
            for_platform("linux", "amd64", Some("v1"), "3"),
            for_platform("linux", "amd64", Some("v1"), "4"),
            for_platform("windows", "amd64", None, "5"),
        ]});
        let entries = entries(&list);
        assert_eq!(choose_platform(&entries, &amd64()).unwrap().digest, hex("3"));
        let riscv = Platform { architecture: "riscv64".into(), ..amd64() };
        let err = choose_platform(&entries, &riscv).unwrap_err().to_string();
        assert!(err.starts_with("it is not for linux/riscv64, found unknown/unknown sha256:000"), "{err}");
        assert!(err.contains("linux/amd64/v3 sha256:222"), "{err}");
    }

    #[test]
    fn an_entry_without_platform_counts_if_it_is_alone() {
        let unnamed = |digit: &str| descriptor(MANIFEST_TYPES[0], digit);
        let one = entries(&json!({"manifests": [unnamed("1"), for_platform("linux", "arm", None, "2")]}));
        assert_eq!(choose_platform(&one, &amd64()).unwrap().digest, hex("1"));
        let two = entries(&json!({"manifests": [unnamed("1"), unnamed("2")]}));
        assert!(matches!(choose_platform(&two, &amd64()), Err(OciError::Several { .. })));
        assert!(matches!(choose_platform(&[], &amd64()), Err(OciError::NoPlatform { .. })));
    }

    #[test]
    fn tags_choose_in_a_layout() {
        let tagged = |tag: &str, digit: &str| {
            let mut entry = descriptor(MANIFEST_TYPES[0], digit);
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag, "other": "x"});
            entry
        };
        let all = entries(&json!({"manifests": [tagged("a", "1"), tagged("b", "2")]}));
        assert_eq!(choose_tag(all.clone(), Some("b")).unwrap(), all[1..]);
        assert_eq!(choose_tag(all[..1].to_vec(), None).unwrap(), all[..1]);
        let err = choose_tag(all.clone(), Some("c")).unwrap_err().to_string();
        assert!(err.starts_with("it has no tag \"c\", found a sha256:111"), "{err}");
        assert!(matches!(choose_tag(all, None), Err(OciError::Several { .. })));
    }

    #[test]
    fn a_configuration_for_another_machine_is_refused() {
        let config = |text: &str| parse_config(text.as_bytes()).unwrap().check(&amd64());
        assert_eq!(config(r#"{"os":"linux","architecture":"amd64","rootfs":{}}"#), Ok(()));
        assert_eq!(config("{}"), Ok(()));
        assert!(matches!(config(r#"{"os":"linux","architecture":"arm64"}"#), Err(OciError::NoPlatform { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512), cut in 0_usize..400) {
            let _ = parse_oci_manifest(&bytes);
            let good = image(&[descriptor("application/vnd.oci.image.layer.v1.tar", "1")]).to_string().into_bytes();
            let cut = cut.min(good.len());
            let _ = parse_oci_manifest(&[&good[..cut], &bytes, &good[cut..]].concat()).map(|found| match found {
                OciDocument::Image(manifest) => drop(manifest.layers()),
                OciDocument::Index(entries) => drop(choose_platform(&entries, &amd64()).cloned()),
            });
        }
    }
}
