//! Importing a bundle: everything is checked first, then unpacked beside, and taken into use by renaming.
//!
//! At the site a bundle becomes `DATA/bundle/<digest>/`, with the link `DATA/bundle/current` to it, which is what the
//! configuration names; images go where anvil keeps them. A server may run meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::archive::{self, Bundle, Trust};
use super::first_config::{self, Site};
use super::manifest::{AGENT, ANVIL, IMAGES, MANIFEST, Member, SIGNATURE};
use super::plan::{Offer, Plan, check_room, place_of, plan_import, plan_offer};
use super::{CURRENT, DIRECTORY, Progress};
use crate::anvil::refusal::Refusal;
use crate::anvil::serve::ClientFile;
use crate::anvil::store::{Store, Tx};
use crate::api::image_key::ImageKey;

/// Where images are until a server says better: it does so at its start.
const UNKNOWN_SERVER: &str = "http://127.0.0.1:4242";
const STAGING: &str = ".import";

/// What is to be imported, and where.
pub struct Import<'i> {
    pub file: &'i Path,
    /// One of them must have signed it.
    pub keys: &'i [ImageKey],
    pub data: &'i Path,
    pub older_is_wanted: bool,
    /// Made when it is not there, and `site` is known.
    pub config: &'i Path,
    pub site: Option<&'i Site>,
}

/// What was done.
pub struct Imported {
    pub bundle: Bundle,
    pub plan: Plan,
    pub config: ConfigFile,
}

/// What became of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    Made,
    /// It was there, and is as it was.
    Kept,
    /// There is none: nobody said which address anvil has.
    Missing,
}

/// Checks the bundle and the site, then imports it. After an error before the first change the site is as it was; a
/// later one leaves what another import completes.
pub fn import(request: &Import<'_>, progress: Progress<'_>) -> Result<Imported> {
    let trust = Trust::Keys(request.keys);
    let bundle = archive::check(request.file, trust, progress)?;
    let plan = plan_import(&bundle, request.data, request.older_is_wanted)?;
    check_room(&plan, &bundle.manifest, request.data)?;
    let config = plan_config(request)?;

    if !plan.is_empty() {
        let _lock = prepare(request.data)?;
        let again = plan_import(&bundle, request.data, request.older_is_wanted)?;
        ensure!(again == plan, "the site changed meanwhile, by another import: import again");
        apply(&bundle, &plan, request.data, trust, progress)?;
    }
    let config = match config {
        Some(text) => {
            write_new(request.config, &mut text.as_bytes(), 0o644)?;
            ConfigFile::Made
        }
        None if request.config.exists() => ConfigFile::Kept,
        None => ConfigFile::Missing,
    };
    Ok(Imported { bundle, plan, config })
}

/// The text of a configuration that is to be made.
fn plan_config(request: &Import<'_>) -> Result<Option<String>> {
    match request.site.filter(|_| !request.config.exists()) {
        Some(site) => first_config::render(request.data, site).map(Some),
        None => Ok(None),
    }
}

/// Makes the directories. Held as long as the import runs, so that two do not meet.
fn prepare(data: &Path) -> Result<Flock<File>> {
    for dir in [data.join(IMAGES), data.join(DIRECTORY)] {
        // The database and the keys in it are nobody else's.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("creating {}", dir.display()))?;
    }
    let path = data.join(DIRECTORY).join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}: is another import running?", path.display()))
}

fn apply(bundle: &Bundle, plan: &Plan, data: &Path, trust: Trust<'_>, progress: Progress<'_>) -> Result<()> {
    let staging = Staging::make(data.join(DIRECTORY).join(STAGING))?;
    let unpacked = archive::read(&bundle.path, trust, progress, &mut |member, content| {
        if plan.unpacks(&member.path) {
            unpack(&staging.0, member, content)
        } else {
            io::copy(content, &mut io::sink()).map(drop).context("reading")
        }
    })?;
    ensure!(
        unpacked.manifest_text == bundle.manifest_text,
        "{} was replaced while it was imported",
        bundle.path.display()
    );
    let store = Store::open(&data.join("anvil.db"))?;
    let base = server_url(data);
    store
        .run_blocking(|tx| apply_offer(tx, bundle, &plan.offer, data, &staging.0, &base))
        .context("entering images, layouts and sizes")?;
    if plan.places_files {
        place_files(bundle, data, &staging.0)?;
    }
    Ok(())
}

/// Names were checked to be plain ones, one to three deep.
fn unpack(staging: &Path, member: &Member, content: &mut dyn Read) -> Result<()> {
    let path = staging.join(&member.path);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let is_program = [ANVIL, AGENT].contains(&member.path.as_str());
    write_new(&path, content, if is_program { 0o755 } else { 0o644 })
}

/// Writes and syncs a file that is not there yet.
fn write_new(path: &Path, content: &mut dyn Read, mode: u32) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(writing)?;
    io::copy(content, &mut file).with_context(writing)?;
    file.sync_all().with_context(writing)
}

/// Images that a running server has: it is told by the database, which is the same.
fn apply_offer(
    tx: &Tx<'_>,
    bundle: &Bundle,
    planned: &Offer,
    data: &Path,
    staging: &Path,
    base: &str,
) -> Result<(), Refusal> {
    let images = data.join(IMAGES);
    let manifest = &bundle.manifest;
    if plan_offer(tx, manifest, &images)? != *planned {
        return Err(Refusal::Conflict("the site changed meanwhile: import again".to_owned()));
    }
    for image in &planned.images {
        let Some(member) = manifest.member(&image.file) else { continue };
        tx.put(&crate::anvil::images::complete(image.to_image(base, &member.sha256))?)?;
        let target = images.join(&image.id);
        // What lies there is of an image that is not known any more, or not whole.
        remove_dir(&target)?;
        rename(&staging.join(IMAGES).join(&image.id), &target)?;
        sync_dir(&target)?;
    }
    sync_dir(&images)?;
    planned.layouts.iter().try_for_each(|layout| tx.put(layout))?;
    planned.sizes.iter().try_for_each(|size| tx.put(size))
}

/// All of a bundle's files come into use at once, by the link; older ones are removed.
fn place_files(bundle: &Bundle, data: &Path, staging: &Path) -> Result<()> {
    write_new(&staging.join(MANIFEST), &mut bundle.manifest_text.as_slice(), 0o644)?;
    write_new(&staging.join(SIGNATURE), &mut bundle.signature_text.as_slice(), 0o644)?;
    remove_dir(&staging.join(IMAGES))?;
    for dir in ["boot", "ipxe", ""].map(|dir| staging.join(dir)).iter().filter(|dir| dir.is_dir()) {
        sync_dir(dir)?;
    }
    let place = place_of(data, bundle);
    let dir = data.join(DIRECTORY);
    remove_dir(&place)?;
    rename(staging, &place)?;
    let name = place.file_name().context("the bundle's place has no name")?;
    let link = dir.join(".current.new");
    let _ = fs::remove_file(&link);
    symlink(name, &link).with_context(|| format!("making {}", link.display()))?;
    rename(&link, &dir.join(CURRENT))?;
    sync_dir(&dir)?;
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != name {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

/// The running server's, or the last one's.
fn server_url(data: &Path) -> String {
    let text = fs::read_to_string(data.join("client.json")).ok();
    let client: Option<ClientFile> = text.and_then(|text| serde_json::from_str(&text).ok());
    client.map_or_else(|| UNKNOWN_SERVER.to_owned(), |client| client.url)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("syncing {}", dir.display()))
}

/// What is unpacked and not yet in its place; removed when dropped.
struct Staging(PathBuf);

impl Staging {
    /// Empty: what is left of an import that was cut off goes.
    fn make(path: PathBuf) -> Result<Self> {
        remove_dir(&path)?;
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
