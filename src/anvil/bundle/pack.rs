//! Writing a bundle: beside its place, read back, and renamed when it is whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType, Header};
use zstd::stream::write::Encoder;

use super::Progress;
use super::archive::{self, Bundle, Trust};
use super::contents::{Contents, Source};
use super::manifest::{MANIFEST, SIGNATURE};
use super::signing;
use crate::anvil::machines::format_time;

/// Images are compressed already; more would only take longer.
const LEVEL: i32 = 3;

/// Packs and signs. The same contents with the same key make the same bytes. Returns what was read back.
pub fn pack(contents: &Contents, output: &Path, key: Option<&Path>, progress: Progress<'_>) -> Result<Bundle> {
    let part = Part::beside(output)?;
    let manifest = serde_json::to_vec_pretty(&contents.manifest).context("writing the manifest")?;
    let comment = format!("bundle of {}", format_time(contents.manifest.created));
    let signature = match key {
        Some(key) => signing::sign(key, &manifest, &comment, &part.0)?,
        None => String::new(),
    };
    write(&part.0, contents, &manifest, signature.as_bytes(), progress)
        .with_context(|| format!("writing {}", part.0.display()))?;
    // Whoever finds damage at the other side has no way back to here.
    let bundle = archive::check(&part.0, Trust::Unchecked, progress).context("reading back what was written")?;
    ensure!(bundle.manifest_text == manifest, "{} holds another manifest than was written", part.0.display());
    part.rename(output)?;
    Ok(Bundle { path: output.to_owned(), ..bundle })
}

fn write(part: &Path, contents: &Contents, manifest: &[u8], signature: &[u8], progress: Progress<'_>) -> Result<()> {
    let mut encoder = Encoder::new(BufWriter::new(File::create(part)?), LEVEL)?;
    encoder.include_checksum(true)?;
    let mut archive = Builder::new(encoder);
    let mtime = u64::try_from(contents.manifest.created.unix_timestamp()).unwrap_or_default();
    append(&mut archive, MANIFEST, manifest.len() as u64, false, mtime, manifest)?;
    append(&mut archive, SIGNATURE, signature.len() as u64, false, mtime, signature)?;
    let total = contents.manifest.total_bytes();
    let mut done = 0;
    for Source { member, file, executable } in &contents.sources {
        let opened = File::open(file).with_context(|| format!("reading {}", file.display()))?;
        let mut counted = Counted { inner: opened.take(member.bytes), bytes: 0, before: done, total, progress };
        append(&mut archive, &member.path, member.bytes, *executable, mtime, &mut counted)
            .with_context(|| format!("packing {}", file.display()))?;
        ensure!(counted.bytes == member.bytes, "{} became shorter while it was packed", file.display());
        done += member.bytes;
    }
    let file = archive.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(file.sync_all()?)
}

/// Owner, time and mode are the same wherever the bundle is made.
fn append(
    archive: &mut Builder<impl Write>,
    path: &str,
    bytes: u64,
    executable: bool,
    mtime: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path).with_context(|| format!("{path:?} is too long a name"))?;
    header.set_size(bytes);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_cksum();
    Ok(archive.append(&header, content)?)
}

struct Counted<'p, R> {
    inner: R,
    bytes: u64,
    before: u64,
    total: u64,
    progress: Progress<'p>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        (self.progress)(self.before + self.bytes, self.total);
        Ok(count)
    }
}

/// An unfinished bundle; removed when dropped.
struct Part(PathBuf);

impl Part {
    fn beside(output: &Path) -> Result<Self> {
        ensure!(!output.is_dir(), "{} is a directory", output.display());
        let name = output.file_name().with_context(|| format!("{} names no file", output.display()))?;
        let mut part = OsString::from(".");
        part.push(name);
        part.push(".part");
        Ok(Self(output.with_file_name(part)))
    }

    fn rename(self, output: &Path) -> Result<()> {
        fs::rename(&self.0, output).with_context(|| format!("renaming {}", self.0.display()))?;
        let dir = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("syncing {}", dir.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        let _ = fs::remove_file(&self.0);
    }
}
