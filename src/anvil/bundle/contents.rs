//! What goes into a bundle: files from here and there, and what the manifest says about them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ring::digest;
use time::OffsetDateTime;

use super::Progress;
use super::manifest::{
    AGENT, ANVIL, FORMAT, IMAGES, INITRD, IPXE, KERNEL, Manifest, Member, PCI_IDS, PackedImage, Versions,
};
use crate::anvil::images::{self, SIGNATURE_SUFFIX};
use crate::anvil::sizes::Size;
use crate::anvil::store::{Store, Tx};
use crate::api::layout::FilesystemLayout;
use crate::api::rest::Image;

/// Loaders that firmware asks for by TFTP and HTTP.
const LOADERS: [&str; 4] = ["ipxe.efi", "ipxe.pxe", "snponly.efi", "undionly.kpxe"];

/// What is wanted in a bundle.
pub struct Wanted {
    pub anvil: PathBuf,
    pub agent: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Directory with iPXE's loaders.
    pub ipxe: PathBuf,
    pub pci_ids: Option<PathBuf>,
    pub images: Vec<WantedImage>,
    pub layouts: Vec<FilesystemLayout>,
    pub sizes: Vec<Size>,
    pub created: OffsetDateTime,
}

/// An image, and its file.
pub struct WantedImage {
    pub image: Image,
    pub file: PathBuf,
}

/// A file that is packed.
pub struct Source {
    pub member: Member,
    pub file: PathBuf,
    pub executable: bool,
}

/// A manifest, and where its files come from, in the same order.
pub struct Contents {
    pub manifest: Manifest,
    pub sources: Vec<Source>,
}

/// What an anvil's data directory has to offer.
#[derive(Default)]
pub struct Offer {
    pub images: Vec<WantedImage>,
    pub layouts: Vec<FilesystemLayout>,
    pub sizes: Vec<Size>,
    /// Ids of images that lie elsewhere, so that they can't be packed.
    pub elsewhere: Vec<String>,
}

/// Images, layouts and sizes of an anvil's data directory. Without ids all images that lie there.
pub fn read_offer(data: &Path, ids: &[String]) -> Result<Offer> {
    let database = data.join("anvil.db");
    ensure!(database.exists(), "{} is not there: no anvil has run with this data directory", database.display());
    let dir = data.join(IMAGES);
    let offer = Store::open(&database)?.run_blocking(|tx| {
        let images = if ids.is_empty() { tx.all::<Image>()? } else { named_images(tx, ids)? };
        Ok((images, tx.all::<FilesystemLayout>()?, tx.all::<Size>()?))
    });
    let (images, layouts, sizes) = offer.with_context(|| format!("reading {}", database.display()))?;
    let mut offer = Offer { layouts, sizes, ..Offer::default() };
    for image in images {
        let file = dir.join(&image.id).join(image.url.rsplit('/').next().unwrap_or_default());
        if file.is_file() {
            offer.images.push(WantedImage { image, file });
        } else if ids.is_empty() {
            offer.elsewhere.push(image.id);
        } else {
            bail!(
                "image {:?} does not lie here but at {}: give its file, --image {}=FILE",
                image.id,
                image.url,
                image.id
            );
        }
    }
    Ok(offer)
}

fn named_images(tx: &Tx<'_>, ids: &[String]) -> Result<Vec<Image>, crate::anvil::refusal::Refusal> {
    ids.iter()
        .map(|id| match images::resolve(tx, id)? {
            Some(image) => Ok(image),
            None => tx.expect(id),
        })
        .collect()
}

/// Reads every file once, for its digest, and checks that a site could use the whole.
pub fn gather(mut wanted: Wanted, progress: Progress<'_>) -> Result<Contents> {
    wanted.images.sort_by(|a, b| a.image.id.cmp(&b.image.id));
    wanted.layouts.sort_by(|a, b| a.id.cmp(&b.id));
    wanted.sizes.sort_by(|a, b| a.id.cmp(&b.id));
    let files = list_files(&wanted)?;
    let total = files.iter().map(|(_, file, _)| file_bytes(file)).sum::<Result<u64>>()?;
    let mut done = 0;
    let mut sources = Vec::new();
    for (path, file, executable) in files {
        let (bytes, sha256) = digest_file(&file, &mut |count| {
            done += count;
            progress(done, total);
        })?;
        sources.push(Source { member: Member { path, bytes, sha256 }, file, executable });
    }
    let manifest = Manifest {
        format: FORMAT,
        created: wanted.created,
        versions: read_versions(&wanted)?,
        files: sources.iter().map(|source| source.member.clone()).collect(),
        images: wanted.images.iter().map(packed_image).collect(),
        layouts: wanted.layouts,
        sizes: wanted.sizes,
    };
    manifest.check()?;
    Ok(Contents { manifest, sources })
}

/// Path in the bundle, file, whether it is a program. What people look for stands first.
fn list_files(wanted: &Wanted) -> Result<Vec<(String, PathBuf, bool)>> {
    let mut files: Vec<(String, PathBuf, bool)> = vec![
        (ANVIL.to_owned(), wanted.anvil.clone(), true),
        (AGENT.to_owned(), wanted.agent.clone(), true),
        (KERNEL.to_owned(), wanted.kernel.clone(), false),
        (INITRD.to_owned(), wanted.initrd.clone(), false),
    ];
    let loaders: Vec<&str> = LOADERS.into_iter().filter(|name| wanted.ipxe.join(name).is_file()).collect();
    ensure!(
        !loaders.is_empty(),
        "there is no loader of iPXE in {}: expected {} (Debian's package ipxe; --ipxe names another directory)",
        wanted.ipxe.display(),
        LOADERS.join(", ")
    );
    files.extend(loaders.into_iter().map(|name| (format!("{IPXE}/{name}"), wanted.ipxe.join(name), false)));
    files.extend(wanted.pci_ids.iter().map(|file| (PCI_IDS.to_owned(), file.clone(), false)));
    for wanted in &wanted.images {
        let path = image_path(wanted);
        let mut signature = wanted.file.clone().into_os_string();
        signature.push(SIGNATURE_SUFFIX);
        let signature = PathBuf::from(signature);
        if signature.is_file() {
            files.push((format!("{path}{SIGNATURE_SUFFIX}"), signature, false));
        }
        files.push((path, wanted.file.clone(), false));
    }
    Ok(files)
}

fn image_path(wanted: &WantedImage) -> String {
    let name = wanted.file.file_name().unwrap_or_default().to_string_lossy();
    format!("{IMAGES}/{}/{name}", wanted.image.id)
}

fn packed_image(wanted: &WantedImage) -> PackedImage {
    let image = wanted.image.clone();
    PackedImage {
        file: image_path(wanted),
        id: image.id,
        name: image.name,
        description: image.description,
        features: image.features,
        classification: image.classification,
        expiration_date: image.expiration_date,
    }
}

fn file_bytes(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(metadata.is_file(), "{} is no file", file.display());
    Ok(metadata.len())
}

fn digest_file(file: &Path, read: &mut dyn FnMut(u64)) -> Result<(u64, String)> {
    let reading = || format!("reading {}", file.display());
    let mut opened = File::open(file).with_context(reading)?;
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut bytes: u64 = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match opened.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex::encode(sha256.finish()))),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(reading),
        };
        sha256.update(buffer.get(..count).unwrap_or_default());
        bytes += count as u64;
        read(count as u64);
    }
}

fn read_versions(wanted: &Wanted) -> Result<Versions> {
    let head = |file: &Path, bytes: u64| -> Result<Vec<u8>> {
        let reading = || format!("reading {}", file.display());
        let mut content = Vec::new();
        File::open(file).with_context(reading)?.take(bytes).read_to_end(&mut content).with_context(reading)?;
        Ok(content)
    };
    let pci_ids = wanted.pci_ids.as_deref().map(|file| head(file, 4096)).transpose()?;
    Ok(Versions {
        anvil: program_version(&wanted.anvil).unwrap_or_else(|| crate::VERSION.to_owned()),
        drophammer: program_version(&wanted.agent),
        kernel: parse_kernel_version(&head(&wanted.kernel, 64 << 10)?),
        pci_ids: pci_ids.and_then(|text| parse_pci_ids_version(&String::from_utf8_lossy(&text))),
    })
}

/// The second word of `PROGRAM --version`; absent when it does not run here.
fn program_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().nth(1).map(str::to_owned)
}

/// Source: Documentation/arch/x86/boot.rst, `kernel_version`: a pointer, less 0x200, to a text.
fn parse_kernel_version(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let pointer = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(pointer) + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, 0 | b' '))?;
    let version = std::str::from_utf8(text.get(..end)?).ok()?;
    (!version.is_empty()).then(|| version.to_owned())
}

/// The line `# Version: 2023.04.11`, with a tab, at the beginning of the file.
fn parse_pci_ids_version(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.trim_start_matches(['#', '\t', ' ']).strip_prefix("Version: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_its_version() {
        let mut image = vec![0; 0x800];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        image[0x500..0x50e].copy_from_slice(b"6.1.0-9-amd64 ");
        assert_eq!(parse_kernel_version(&image).as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(parse_kernel_version(&image[..0x508]), None, "it ends in the middle");
        assert_eq!(parse_kernel_version(b"\x7fELF"), None);
        image[0x202] = 0;
        assert_eq!(parse_kernel_version(&image), None);
    }

    #[test]
    fn pci_ids_tell_their_version() {
        let text = "#\n#\tList of PCI ID's\n#\n#\tVersion: 2023.04.11\n#\tDate:    2023-04-11\n";
        assert_eq!(parse_pci_ids_version(text).as_deref(), Some("2023.04.11"));
        assert_eq!(parse_pci_ids_version("0001  SafeNet\n"), None);
    }
}
