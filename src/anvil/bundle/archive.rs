//! Reading a bundle: from its first byte to its last, with every length, digest and name held against the manifest.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use ring::digest;
use tar::{Archive, Entries, Entry, EntryType};
use zstd::stream::read::Decoder;

use super::Progress;
use super::manifest::{MANIFEST, Manifest, Member, SIGNATURE, parse_manifest};
use crate::api::image_key::ImageKey;
use crate::image::signature::Signed;
use crate::image::{Algorithm, Hasher, Signature};

/// A manifest that is longer is none: it is read into memory.
const MANIFEST_MAX_BYTES: u64 = 16 << 20;
const SIGNATURE_MAX_BYTES: u64 = 8 << 10;

/// Whom a bundle is believed.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'k> {
    /// It must be signed by one of these.
    Keys(&'k [ImageKey]),
    /// Nobody: only whether it is whole.
    Unchecked,
}

/// A bundle that was read to its end and is what its manifest says.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub manifest: Manifest,
    /// The manifest's own bytes, and the signature's.
    pub manifest_text: Vec<u8>,
    pub signature_text: Vec<u8>,
    /// Whose signature holds; absent when it was not checked.
    pub signer: Option<Signature>,
}

impl Bundle {
    /// SHA-256 of the manifest, which stands for all of the bundle.
    pub fn digest(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.manifest_text))
    }
}

/// Reads all of it and keeps nothing.
pub fn check(path: &Path, trust: Trust<'_>, progress: Progress<'_>) -> Result<Bundle> {
    read(path, trust, progress, &mut |_, content| {
        io::copy(content, &mut io::sink())?;
        Ok(())
    })
}

/// Gives each file, once signature and manifest are checked, to `take`, which must read it to its end before anything
/// of it is believed: digests are compared behind it.
pub fn read(
    path: &Path,
    trust: Trust<'_>,
    progress: Progress<'_>,
    take: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<Bundle> {
    let opening = || format!("opening {}", path.display());
    let file = File::open(path).with_context(opening)?;
    let length = file.metadata().with_context(opening)?.len();
    let position = Rc::new(Cell::new(0));
    let counted = Counted { inner: file, position: Rc::clone(&position), length, progress };
    read_archive(path, counted, trust, take)
        .with_context(|| format!("{} is refused, at byte {} of {length}", path.display(), position.get()))
}

fn read_archive(
    path: &Path,
    file: impl Read,
    trust: Trust<'_>,
    take: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<Bundle> {
    let mut archive = Archive::new(Decoder::new(file).context("starting to decompress")?);
    // Raw: what would rename or replace the next member is a member itself, and none that belongs here.
    let mut entries = archive.entries()?.raw(true);
    let manifest_text = read_small(&mut entries, MANIFEST, MANIFEST_MAX_BYTES).context("it is no bundle")?;
    let signature_text = read_small(&mut entries, SIGNATURE, SIGNATURE_MAX_BYTES)?;
    // The signature comes first: what nobody signed is not even parsed.
    let signer = match trust {
        Trust::Keys(keys) => Some(verify(&manifest_text, &signature_text, keys)?),
        Trust::Unchecked => None,
    };
    let manifest = parse_manifest(&manifest_text).context(MANIFEST)?;
    for member in &manifest.files {
        read_member(&mut entries, member, take).with_context(|| format!("file {:?}", member.path))?;
    }
    if let Some(more) = entries.next() {
        let more = more.context("reading behind the last file")?;
        bail!("{:?} is in it and not in its manifest", String::from_utf8_lossy(&more.path_bytes()));
    }
    check_end(archive.into_inner())?;
    Ok(Bundle { path: path.to_owned(), manifest, manifest_text, signature_text, signer })
}

fn verify(manifest: &[u8], signature: &[u8], keys: &[ImageKey]) -> Result<Signature> {
    ensure!(!signature.is_empty(), "it is not signed");
    let text = std::str::from_utf8(signature).context("its signature is no text")?;
    let signed = Signed::check(text, SIGNATURE.to_owned(), keys).context("its signature")?;
    let mut hasher = Hasher::new(Algorithm::Blake2b);
    hasher.update(manifest);
    ensure!(signed.holds(&hasher.finish()), "its signature does not hold: {MANIFEST} was changed after it was signed");
    Ok(signed.shown())
}

/// The next member, which must be a plain file of that name.
fn next<'a, R: Read>(entries: &mut Entries<'a, R>, name: &str) -> Result<Entry<'a, R>> {
    let entry = entries.next().with_context(|| format!("it ends before {name:?}"))?;
    let entry = entry.with_context(|| format!("reading up to {name:?}"))?;
    let found = entry.path_bytes().into_owned();
    ensure!(found == name.as_bytes(), "expected {name:?}, found {:?}", String::from_utf8_lossy(&found));
    let kind = entry.header().entry_type();
    ensure!(kind == EntryType::Regular, "{name:?} is no plain file, but {kind:?}");
    Ok(entry)
}

fn read_small<R: Read>(entries: &mut Entries<'_, R>, name: &str, max_bytes: u64) -> Result<Vec<u8>> {
    let mut entry = next(entries, name)?;
    ensure!(entry.size() <= max_bytes, "{name:?} has {} bytes, expected at most {max_bytes}", entry.size());
    let expected = entry.size();
    let mut content = Vec::new();
    entry.read_to_end(&mut content).with_context(|| format!("reading {name:?}"))?;
    ensure!(content.len() as u64 == expected, "{name:?} ends after {} of {expected} bytes", content.len());
    Ok(content)
}

fn read_member<R: Read>(
    entries: &mut Entries<'_, R>,
    member: &Member,
    take: &mut dyn FnMut(&Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let entry = next(entries, &member.path)?;
    ensure!(entry.size() == member.bytes, "expected {} bytes, found {}", member.bytes, entry.size());
    let mut hashed = Hashed { inner: entry, bytes: 0, sha256: digest::Context::new(&digest::SHA256) };
    take(member, &mut hashed)?;
    ensure!(hashed.bytes == member.bytes, "it ends after {} of {} bytes", hashed.bytes, member.bytes);
    let found = hex::encode(hashed.sha256.finish());
    ensure!(found == member.sha256, "expected SHA-256 {}, found {found}", member.sha256);
    Ok(())
}

/// Behind the last member there are only zeros, and the checksum of the compression holds.
fn check_end(mut rest: impl Read) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = rest.read(&mut buffer).context("reading behind the last file")?;
        if count == 0 {
            return Ok(());
        }
        ensure!(buffer.iter().take(count).all(|byte| *byte == 0), "there is something behind its last file");
    }
}

/// Digest and length of what passes.
struct Hashed<R> {
    inner: R,
    bytes: u64,
    sha256: digest::Context,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.sha256.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Position in the bundle's own file: where to look for damage, and how far the work is.
struct Counted<'p, R> {
    inner: R,
    position: Rc<Cell<u64>>,
    length: u64,
    progress: Progress<'p>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.position.set(self.position.get() + count as u64);
        (self.progress)(self.position.get(), self.length);
        Ok(count)
    }
}
