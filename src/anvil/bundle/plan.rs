//! What an import would do at a site. Looks, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;

use super::archive::Bundle;
use super::manifest::{IMAGES, MANIFEST, Manifest, PackedImage, parse_manifest};
use super::{CURRENT, DIRECTORY};
use crate::anvil::images::SIGNATURE_SUFFIX;
use crate::anvil::layouts;
use crate::anvil::machines::format_time;
use crate::anvil::refusal::Refusal;
use crate::anvil::sizes::{self, Size};
use crate::anvil::store::{Entity, Store, Tx};
use crate::api::layout::FilesystemLayout;
use crate::api::rest::Image;
use crate::sys::units::Bytes;

/// A file's last block is counted whole, and the database grows.
const BLOCK_BYTES: u64 = 4096;
const DATABASE_BYTES: u64 = 16 << 20;

/// What is to be done; all of it empty where the bundle is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Programs, and what machines boot.
    pub places_files: bool,
    pub offer: Offer,
}

/// Additions to the database, and what stays as the site has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    pub images: Vec<PackedImage>,
    pub layouts: Vec<FilesystemLayout>,
    pub sizes: Vec<Size>,
    /// Layouts and sizes of which the site has another version, its own.
    pub kept: Vec<String>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        !self.places_files
            && self.offer.images.is_empty()
            && self.offer.layouts.is_empty()
            && self.offer.sizes.is_empty()
    }

    /// Whether a file of the bundle has to come onto the disk.
    pub(super) fn unpacks(&self, path: &str) -> bool {
        if !path.strip_prefix(IMAGES).is_some_and(|rest| rest.starts_with('/')) {
            return self.places_files;
        }
        let belongs = |rest: &str| rest.is_empty() || rest == SIGNATURE_SUFFIX;
        self.offer.images.iter().any(|image| path.strip_prefix(image.file.as_str()).is_some_and(belongs))
    }

    /// With what the file system takes beside.
    fn needed_bytes(&self, manifest: &Manifest) -> u64 {
        let files = manifest.files.iter().filter(|member| self.unpacks(&member.path));
        files.fold(DATABASE_BYTES, |sum, member| {
            sum.saturating_add(member.bytes.saturating_add(2 * BLOCK_BYTES) / BLOCK_BYTES * BLOCK_BYTES)
        })
    }
}

/// Where the files of a bundle lie at a site.
pub(super) fn place_of(data: &Path, bundle: &Bundle) -> PathBuf {
    let digest = bundle.digest();
    data.join(DIRECTORY).join(digest.get(..16).unwrap_or(&digest))
}

/// Compares the bundle with the site. An older bundle than the site's is refused unless it is wanted.
pub fn plan_import(bundle: &Bundle, data: &Path, older_is_wanted: bool) -> Result<Plan> {
    let current = data.join(DIRECTORY).join(CURRENT);
    check_age(bundle, &current, older_is_wanted)?;
    let database = data.join("anvil.db");
    let store = if database.exists() { Store::open(&database)? } else { Store::in_memory()? };
    let images = data.join(IMAGES);
    let offer =
        store.run_blocking(|tx| plan_offer(tx, &bundle.manifest, &images)).context("comparing with the site")?;
    Ok(Plan { places_files: !is_placed(bundle, data), offer })
}

fn check_age(bundle: &Bundle, current: &Path, older_is_wanted: bool) -> Result<()> {
    let path = current.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    // What another version of anvil left there can't be compared, and is no reason to refuse.
    let Ok(known) = parse_manifest(&text) else { return Ok(()) };
    let (ours, theirs) = (known.created, bundle.manifest.created);
    ensure!(
        older_is_wanted || theirs >= ours,
        "{} is older than what is here: it was made {}, and the one imported last {}; --older imports it all the same",
        bundle.path.display(),
        format_time(theirs),
        format_time(ours)
    );
    Ok(())
}

/// The link leads to this bundle's directory, and each file there is of the right length.
fn is_placed(bundle: &Bundle, data: &Path) -> bool {
    let place = place_of(data, bundle);
    let link = fs::read_link(data.join(DIRECTORY).join(CURRENT)).ok();
    let has_length = |path: &str, bytes: u64| fs::metadata(place.join(path)).is_ok_and(|found| found.len() == bytes);
    let beginning = format!("{IMAGES}/");
    link.is_some_and(|link| Some(link.as_os_str()) == place.file_name())
        && fs::read(place.join(MANIFEST)).is_ok_and(|text| text == bundle.manifest_text)
        && bundle
            .manifest
            .files
            .iter()
            .filter(|member| !member.path.starts_with(&beginning))
            .all(|member| has_length(&member.path, member.bytes))
}

/// What the database lacks. An image of the same id and other content is refused: machines may run it.
pub(super) fn plan_offer(tx: &Tx<'_>, manifest: &Manifest, images: &Path) -> Result<Offer, Refusal> {
    let mut offer = Offer::default();
    for image in &manifest.images {
        if !is_known(tx, manifest, image, images)? {
            offer.images.push(image.clone());
        }
    }
    offer.layouts = plan_entities(tx, &manifest.layouts, &mut offer.kept, layouts::collision)?;
    let named: Vec<Size> = manifest.sizes.iter().cloned().map(with_name).collect();
    offer.sizes = plan_entities(tx, &named, &mut offer.kept, |size, others| {
        sizes::overlap(size, others).map(|fault| fault.to_string())
    })?;
    Ok(offer)
}

fn is_known(tx: &Tx<'_>, manifest: &Manifest, image: &PackedImage, images: &Path) -> Result<bool, Refusal> {
    let Some(known) = tx.get::<Image>(&image.id)? else { return Ok(false) };
    let Some(member) = manifest.member(&image.file) else { return Ok(false) };
    let ours = format!("sha256:{}", member.sha256);
    if known.digest.as_ref() != Some(&ours) {
        return Err(Refusal::Conflict(format!(
            "image {:?} is here with another content: {}, and the bundle's has {ours}; remove it, or give the other one \
             another id",
            image.id,
            known.digest.as_deref().unwrap_or("without digest")
        )));
    }
    // It may have come here under another name.
    let names = [image.file_name(), known.url.rsplit('/').next().unwrap_or_default()];
    let has_length = |name: &str| {
        let file = fs::metadata(images.join(&image.id).join(name));
        file.is_ok_and(|found| found.is_file() && found.len() == member.bytes)
    };
    Ok(names.into_iter().any(has_length))
}

fn plan_entities<E: Entity + Clone + PartialEq>(
    tx: &Tx<'_>,
    packed: &[E],
    kept: &mut Vec<String>,
    clash: impl Fn(&E, &[E]) -> Option<String>,
) -> Result<Vec<E>, Refusal> {
    let known: Vec<E> = tx.all()?;
    let mut added = Vec::new();
    for entity in packed {
        match known.iter().find(|known| known.id() == entity.id()) {
            Some(known) if known == entity => {}
            Some(_) => kept.push(format!("{} {:?}", E::KIND, entity.id())),
            None => match clash(entity, &known) {
                Some(fault) => return Err(Refusal::Conflict(fault)),
                None => added.push(entity.clone()),
            },
        }
    }
    Ok(added)
}

/// As the API stores them.
fn with_name(mut size: Size) -> Size {
    if size.name.is_empty() {
        size.name = size.id.clone();
    }
    size
}

/// Whether all that would be unpacked fits.
pub fn check_room(plan: &Plan, manifest: &Manifest, data: &Path) -> Result<()> {
    let data = std::path::absolute(data).context("making the data directory's path absolute")?;
    let Some(existing) = data.ancestors().find(|dir| dir.exists()) else { bail!("{} can't be made", data.display()) };
    let found = statvfs(existing).with_context(|| format!("asking for the room in {}", existing.display()))?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    let needed = plan.needed_bytes(manifest);
    ensure!(
        free >= needed,
        "there is not enough room in {}: {} are needed, {} are free",
        existing.display(),
        Bytes(needed),
        Bytes(free)
    );
    Ok(())
}
