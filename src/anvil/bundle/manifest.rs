//! The manifest of a bundle: what is in it, and what belongs together.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::anvil::images::{self, SIGNATURE_SUFFIX};
use crate::anvil::layouts;
use crate::anvil::sizes::{self, Size};
use crate::api::layout::{FilesystemLayout, validate};
use crate::api::rest::Image;

/// Of this form of manifest.
pub const FORMAT: u32 = 1;
/// Names of the first two members.
pub const MANIFEST: &str = "manifest.json";
pub const SIGNATURE: &str = "manifest.json.minisig";

/// Names of files that are the same in every bundle.
pub const ANVIL: &str = "anvil";
pub const AGENT: &str = "drophammer";
pub const KERNEL: &str = "boot/vmlinuz";
pub const INITRD: &str = "boot/initramfs.img";
pub const PCI_IDS: &str = "pci.ids";
/// Directories of those that are not.
pub const IPXE: &str = "ipxe";
pub const IMAGES: &str = "images";

/// What `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Which of two bundles is newer.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    pub versions: Versions,
    /// All files, in the order in which they come.
    pub files: Vec<Member>,
    pub images: Vec<PackedImage>,
    pub layouts: Vec<FilesystemLayout>,
    pub sizes: Vec<Size>,
}

/// For people; absent when not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    pub anvil: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drophammer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_ids: Option<String>,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Relative; one to three plain names.
    pub path: String,
    pub bytes: u64,
    /// 64 hexadecimal digits, lower case.
    pub sha256: String,
}

/// An image, and where in the bundle its files are. A signature lies beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedImage {
    pub id: String,
    pub name: String,
    pub description: String,
    pub features: Vec<String>,
    pub classification: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_date: Option<String>,
    /// `images/<id>/<file>`.
    pub file: String,
}

impl PackedImage {
    /// The file's own name.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or_default()
    }

    /// The image as a server at `base` (`http://10.77.0.1:4242`) has it.
    pub fn to_image(&self, base: &str, sha256: &str) -> Image {
        Image {
            id: self.id.clone(),
            name: self.name.clone(),
            description: self.description.clone(),
            url: format!("{base}/{}", self.file),
            features: self.features.clone(),
            expiration_date: self.expiration_date.clone(),
            classification: self.classification.clone(),
            usedby: Vec::new(),
            digest: Some(format!("sha256:{sha256}")),
        }
    }
}

/// Read before all the rest, so that a newer manifest is not called a damaged one.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Parses and checks a manifest. Whatever passes is safe to unpack.
pub fn parse_manifest(text: &[u8]) -> Result<Manifest> {
    let FormatOnly { format } = serde_json::from_slice(text).context("it is no manifest of a bundle")?;
    ensure!(format == FORMAT, "it is of format {format}, and this anvil knows {FORMAT}: use the anvil in the bundle");
    let manifest: Manifest = serde_json::from_slice(text)?;
    manifest.check()?;
    Ok(manifest)
}

impl Manifest {
    /// The file of that path, if there is one.
    pub fn member(&self, path: &str) -> Option<&Member> {
        self.files.iter().find(|member| member.path == path)
    }

    /// All files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, member| sum.saturating_add(member.bytes))
    }

    /// Whether all that belongs to a site is there, under names that stay in their directory, and consistent.
    pub fn check(&self) -> Result<()> {
        let mut paths = BTreeSet::new();
        for member in &self.files {
            check_path(&member.path)?;
            ensure!(paths.insert(&member.path), "{:?} stands in it twice", member.path);
            let is_digest = member.sha256.len() == 64
                && member.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            ensure!(is_digest, "{:?}: expected a SHA-256 of 64 digits, found {:?}", member.path, member.sha256);
        }
        for needed in [ANVIL, AGENT, KERNEL, INITRD] {
            ensure!(self.member(needed).is_some(), "{needed:?} is not in it");
        }
        self.check_images()?;
        self.check_layouts()?;
        self.check_sizes()
    }

    fn check_images(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        for image in &self.images {
            images::complete(image.to_image("http://127.0.0.1", &"0".repeat(64)))
                .with_context(|| format!("image {:?}", image.id))?;
            ensure!(known.insert(image.id.clone()), "image {:?} stands in it twice", image.id);
            ensure!(
                image.file == format!("{IMAGES}/{}/{}", image.id, image.file_name()),
                "image {:?}: its file is not in its own directory, but at {:?}",
                image.id,
                image.file
            );
            ensure!(self.member(&image.file).is_some(), "image {:?}: {:?} is not in it", image.id, image.file);
        }
        let beginning = format!("{IMAGES}/");
        for member in self.files.iter().filter(|member| member.path.starts_with(&beginning)) {
            let file = member.path.strip_suffix(SIGNATURE_SUFFIX).unwrap_or(&member.path);
            let owned = self.images.iter().any(|image| image.file == file || image.file == member.path);
            ensure!(owned, "{:?} belongs to no image", member.path);
        }
        Ok(())
    }

    fn check_layouts(&self) -> Result<()> {
        for (index, layout) in self.layouts.iter().enumerate() {
            if let Some(fault) = validate::validate(layout).first() {
                bail!("layout {:?}: {fault}", layout.id);
            }
            let others = self.layouts.get(..index).unwrap_or_default();
            ensure!(!others.iter().any(|other| other.id == layout.id), "layout {:?} stands in it twice", layout.id);
            if let Some(fault) = layouts::collision(layout, others) {
                bail!("{fault}");
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<()> {
        for (index, size) in self.sizes.iter().enumerate() {
            if let Some(fault) = sizes::validate(size).first() {
                bail!("size {:?}: {fault}", size.id);
            }
            let others = self.sizes.get(..index).unwrap_or_default();
            ensure!(!others.iter().any(|other| other.id == size.id), "size {:?} stands in it twice", size.id);
            if let Some(fault) = sizes::overlap(size, others) {
                bail!("{fault}");
            }
        }
        Ok(())
    }
}

/// Only names that a site knows what to do with, so that nothing comes to lie anywhere else.
fn check_path(path: &str) -> Result<()> {
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts {
        images::check_path_segment("name", part).with_context(|| format!("{path:?}"))?;
    }
    let known = match parts.as_slice() {
        [_] => [ANVIL, AGENT, PCI_IDS].contains(&path),
        ["boot", _] => [KERNEL, INITRD].contains(&path),
        [IPXE, _] | [IMAGES, _, _] => true,
        _ => false,
    };
    ensure!(known, "{path:?} is no file of a bundle");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};
    use time::macros::datetime;

    fn member(path: &str) -> Member {
        Member { path: path.into(), bytes: 5, sha256: "0a".repeat(32) }
    }

    fn manifest() -> Manifest {
        let image = PackedImage {
            id: "debian-12.0.1".into(),
            name: String::new(),
            description: String::new(),
            features: vec!["machine".into()],
            classification: String::new(),
            expiration_date: None,
            file: "images/debian-12.0.1/img.tar.zst".into(),
        };
        let files = [ANVIL, AGENT, KERNEL, INITRD, "ipxe/snponly.efi", PCI_IDS, &image.file];
        Manifest {
            format: FORMAT,
            created: datetime!(2026-01-02 03:00:00 UTC),
            versions: Versions { anvil: "0.1.0".into(), ..Versions::default() },
            files: files.into_iter().map(member).collect(),
            images: vec![image],
            layouts: Vec::new(),
            sizes: Vec::new(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = manifest();
        change(&mut manifest);
        format!("{:#}", parse_manifest(&serde_json::to_vec(&manifest).unwrap()).unwrap_err())
    }

    #[test]
    fn what_is_written_is_read() {
        let text = serde_json::to_vec(&manifest()).unwrap();
        assert_eq!(parse_manifest(&text).unwrap(), manifest());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [
            "/anvil",
            "../anvil",
            "boot/../anvil",
            "boot/other",
            "etc/passwd",
            "images/x",
            "ipxe/.hidden",
            "ipxe/a/b",
            "manifest.json",
            "",
        ] {
            let text = refusal(|manifest| manifest.files.push(member(bad)));
            assert!(text.contains(&format!("{bad:?}")), "{bad}: {text}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        type Change = fn(&mut Manifest);
        let cases: [(&str, Change); 9] = [
            ("of format 2, and this anvil knows 1", |m| m.format = 2),
            ("\"anvil\" stands in it twice", |m| m.files.push(member(ANVIL))),
            ("\"boot/vmlinuz\" is not in it", |m| m.files.retain(|member| member.path != KERNEL)),
            ("expected a SHA-256 of 64 digits", |m| m.files[0].sha256 = "0A".repeat(32)),
            ("is not in its own directory", |m| m.images[0].file = "images/other-1.0.1/img.tar.zst".into()),
            ("\"images/debian-12.0.1/img.tar.zst\" is not in it", |m| m.files.truncate(6)),
            ("belongs to no image", |m| m.files.push(member("images/debian-12.0.1/other"))),
            ("image \"debian-12.0.1\" stands in it twice", |m| m.images.push(m.images[0].clone())),
            ("size \"\": ", |m| m.sizes.push(Size::default())),
        ];
        for (expected, change) in cases {
            let text = refusal(change);
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn an_unknown_key_is_no_manifest_of_this_format() {
        let mut value = serde_json::to_value(manifest()).unwrap();
        value["hook"] = "rm -r /".into();
        assert!(parse_manifest(value.to_string().as_bytes()).is_err());
        assert!(format!("{:#}", parse_manifest(b"[]").unwrap_err()).contains("no manifest of a bundle"));
    }

    proptest! {
        #[test]
        fn whatever_path_passes_stays_below_its_directory(path in "[a-z./\\\\-]{0,12}|(images|ipxe|boot)/\\PC{0,12}(/\\PC{0,8})?") {
            if check_path(&path).is_ok() {
                let parts: Vec<Component<'_>> = Path::new(&path).components().collect();
                prop_assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(parts.len(), path.split('/').count());
            }
        }
    }
}
