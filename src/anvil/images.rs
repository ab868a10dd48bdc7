//! Images: their ids, the files that anvil keeps of them, and who uses them.
//!
//! A local image lies at `DATA/images/<id>/<file>` and is served under the same path. It comes in as a stream: written
//! beside, synced, renamed, and only then entered into the database, so that no image is ever known half.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures_util::{Stream, StreamExt};
use ring::digest;
use serde::Deserialize;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::refusal::Refusal;
use super::state::Anvil;
use super::store::Tx;
use super::version::ImageId;
use crate::api::rest::Image;

/// Files of uploads that did not end begin so.
const UPLOAD_PREFIX: &str = ".upload-";
/// As minisign and the agents have it.
pub(crate) const SIGNATURE_SUFFIX: &str = ".minisig";
const SIGNATURE_MAX_BYTES: usize = 8 << 10;

/// Where an agent can get images from. The last is a registry by plain HTTP.
const URL_BEGINNINGS: [&str; 4] = ["http://", "https://", "oci://", "oci+http://"];

/// The image of that id; an id without patch is the newest image of its minor version.
pub fn resolve(tx: &Tx<'_>, id: &str) -> Result<Option<Image>, Refusal> {
    if let Some(image) = tx.get(id)? {
        return Ok(Some(image));
    }
    let wanted = ImageId::parse(id)?;
    if wanted.version.is_exact() {
        return Ok(None);
    }
    let [major, minor, _] = wanted.version.numbers();
    let newest = tx
        .all::<Image>()?
        .into_iter()
        .filter_map(|image| {
            let id = ImageId::parse(&image.id).ok()?;
            let [image_major, image_minor, patch] = id.version.numbers();
            (id.os == wanted.os && (image_major, image_minor) == (major, minor)).then_some((patch, image))
        })
        .max_by_key(|(patch, _)| *patch);
    Ok(newest.map(|(_, image)| image))
}

/// Checks what a person gave and fills in defaults.
pub fn complete(mut image: Image) -> Result<Image, Refusal> {
    ImageId::parse(&image.id)?;
    check_path_segment("id", &image.id)?;
    if image.name.is_empty() {
        image.name = image.id.clone();
    }
    if image.features.is_empty() {
        image.features = vec!["machine".to_owned()];
    }
    if let Some(odd) = image.features.iter().find(|feature| !matches!(feature.as_str(), "machine" | "firewall")) {
        return Err(Refusal::BadRequest(format!("features: expected machine or firewall, found {odd:?}")));
    }
    if let Some(digest) = &image.digest {
        check_digest(digest)?;
    }
    if !URL_BEGINNINGS.iter().any(|beginning| image.url.starts_with(beginning)) {
        let known = "an http or https URL, or oci://REGISTRY/NAME";
        return Err(Refusal::BadRequest(format!("url: expected {known}, found {:?}", image.url)));
    }
    if image.classification.is_empty() {
        image.classification = "supported".to_owned();
    }
    image.usedby.clear();
    Ok(image)
}

/// `md5:`, `sha256:` or `sha512:` and the hex digits that belong to it.
fn check_digest(digest: &str) -> Result<(), Refusal> {
    let digits = match digest.split_once(':') {
        Some(("md5", _)) => 32,
        Some(("sha256", _)) => 64,
        Some(("sha512", _)) => 128,
        _ => 0,
    };
    let hex = digest.split_once(':').map(|(_, hex)| hex).unwrap_or_default();
    if digits == 0 || hex.len() != digits || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Refusal::BadRequest(format!(
            "digest: expected md5:, sha256: or sha512: and lower-case hex digits; found {digest:?}"
        )));
    }
    Ok(())
}

/// Only that it may be one: whose it is, and whether it holds, is judged by the agents, which have the keys.
fn check_signature(text: &str) -> Result<(), Refusal> {
    if text.len() > SIGNATURE_MAX_BYTES || !text.starts_with("untrusted comment:") || text.lines().count() != 4 {
        return Err(Refusal::BadRequest(
            "signature: expected the four lines of a signature by minisign, which begin with \"untrusted comment:\""
                .to_owned(),
        ));
    }
    Ok(())
}

/// A name that is safe as one segment of a path and of a URL.
pub(crate) fn check_path_segment(field: &str, name: &str) -> Result<(), Refusal> {
    let good = (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'));
    if !good {
        return Err(Refusal::BadRequest(format!(
            "{field}: expected letters, digits, \".\", \"-\", \"_\" or \"+\", not beginning with \".\"; found {name:?}"
        )));
    }
    Ok(())
}

/// What an upload says about the image.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Upload {
    /// Base name of the file; its ending tells the compression.
    pub filename: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// Comma separated; empty means `machine`.
    #[serde(default)]
    pub features: String,
    /// What the sender expects, `sha256:<hex>`.
    #[serde(default)]
    pub digest: Option<String>,
    /// A signature of minisign, the whole file. It is kept beside the image, where agents look for it.
    #[serde(default)]
    pub signature: Option<String>,
    /// Only say whether the upload would be accepted. A client asks so first: a refusal in the middle of sending is
    /// seen as a broken connection.
    #[serde(default)]
    pub dry_run: bool,
}

/// Takes in a local image: file first, then the entry.
pub async fn receive_file<S, B, E>(anvil: &Anvil, id: &str, upload: Upload, body: S) -> Result<Image, Refusal>
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
    E: std::error::Error + Send + Sync + 'static,
{
    check_path_segment("filename", &upload.filename)?;
    if let Some(signature) = &upload.signature {
        check_signature(signature)?;
    }
    let image = complete(Image {
        id: id.to_owned(),
        name: upload.name,
        description: upload.description,
        url: format!("{}/images/{id}/{}", anvil.endpoints.http_url(), upload.filename),
        features: upload.features.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect(),
        digest: upload.digest.clone(),
        ..Image::default()
    })?;
    refuse_existing(anvil, id).await?;
    if upload.dry_run {
        return Ok(image);
    }

    let dir = anvil.images_dir();
    let fresh = FreshFile(dir.join(format!("{UPLOAD_PREFIX}{}", uuid::Uuid::new_v4())));
    let found = write_stream(&fresh.0, body).await?;
    if let Some(expected) = &upload.digest
        && *expected != found
    {
        return Err(Refusal::BadRequest(format!("digest: expected {expected}, the file has {found}")));
    }
    // From here on nobody else's upload of this id may come between, so file and entry are one blocking step.
    let image = Image { digest: Some(found), ..image };
    let entry = image.clone();
    let target_dir = dir.join(id);
    let target = target_dir.join(&upload.filename);
    anvil
        .store
        .run(move |tx| {
            tx.create(&entry)?;
            place_file(&fresh.0, &target_dir, &target, upload.signature.as_deref())?;
            Ok(())
        })
        .await?;
    tracing::info!(image = %image.id, url = %image.url, "image added");
    Ok(image)
}

async fn refuse_existing(anvil: &Anvil, id: &str) -> Result<(), Refusal> {
    let id = id.to_owned();
    let known = anvil.store.run(move |tx| tx.get::<Image>(&id)).await?;
    match known {
        Some(image) => Err(Refusal::Conflict(format!("image {:?} exists already; remove it first", image.id))),
        None => Ok(()),
    }
}

/// Writes and syncs the stream; returns `sha256:<hex>` of it.
async fn write_stream<S, B, E>(path: &Path, mut body: S) -> Result<String, Refusal>
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut written_bytes: u64 = 0;
    let mut file = fs::File::create(path).await.with_context(|| format!("creating {}", path.display()))?;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            Refusal::BadRequest(format!("the upload broke off after {written_bytes} bytes: {error}"))
        })?;
        sha256.update(chunk.as_ref());
        written_bytes += chunk.as_ref().len() as u64;
        file.write_all(chunk.as_ref()).await.with_context(|| format!("writing {}", path.display()))?;
    }
    if written_bytes == 0 {
        return Err(Refusal::BadRequest("the file is empty".to_owned()));
    }
    file.flush().await.with_context(|| format!("writing {}", path.display()))?;
    file.sync_all().await.with_context(|| format!("syncing {}", path.display()))?;
    Ok(format!("sha256:{}", hex::encode(sha256.finish())))
}

/// Moves a finished upload to its place. What lies there is of an image that is not known any more.
fn place_file(fresh: &Path, dir: &Path, target: &Path, signature: Option<&str>) -> Result<(), Refusal> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    std::fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
    std::fs::rename(fresh, target).with_context(|| format!("renaming {}", fresh.display()))?;
    if let Some(signature) = signature {
        write_beside(target, SIGNATURE_SUFFIX, signature)?;
    }
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("syncing {}", dir.display()))?;
    }
    Ok(())
}

fn write_beside(target: &Path, suffix: &str, text: &str) -> Result<(), Refusal> {
    let mut path = target.to_owned().into_os_string();
    path.push(suffix);
    let path = PathBuf::from(path);
    std::fs::File::create(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

/// Removed when dropped; after the rename there is nothing left to remove.
struct FreshFile(PathBuf);

impl Drop for FreshFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes an image and its file; refused while a machine is allocated with it.
pub async fn remove(anvil: &Anvil, id: &str) -> Result<Image, Refusal> {
    let wanted = id.to_owned();
    let dir = anvil.images_dir();
    let image = anvil
        .store
        .run(move |tx| {
            let users = tx.machines_using_image(&wanted)?;
            if !users.is_empty() {
                return Err(Refusal::Unprocessable(format!("image {wanted:?} is in use by {}", users.join(", "))));
            }
            tx.remove::<Image>(&wanted)
        })
        .await?;
    // Ids are checked when they are entered, so this is a directory of ours.
    let dir = dir.join(&image.id);
    match fs::remove_dir_all(&dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "the image is removed, but its files are not");
        }
        _ => {}
    }
    tracing::info!(image = %image.id, "image removed");
    Ok(image)
}

/// Gives local images the server's present address, also in allocations that are still to be installed.
pub fn refresh_urls(tx: &Tx<'_>, dir: &Path, base: &str) -> Result<(), Refusal> {
    for image in tx.all::<Image>()? {
        let Some(url) = local_url(&image, dir, base) else { continue };
        if url != image.url {
            tracing::info!(image = %image.id, %url, "the image has a new address");
            refresh_allocations(tx, &image, &url)?;
            tx.put(&Image { url, ..image })?;
        }
    }
    Ok(())
}

/// The present URL of an image whose file lies here; `None` for one that lies elsewhere.
fn local_url(image: &Image, dir: &Path, base: &str) -> Option<String> {
    let (before, file) = image.url.rsplit_once('/')?;
    let ours = before.ends_with(&format!("/images/{}", image.id)) && dir.join(&image.id).join(file).is_file();
    ours.then(|| format!("{base}/images/{}/{file}", image.id))
}

fn refresh_allocations(tx: &Tx<'_>, before: &Image, url: &str) -> Result<(), Refusal> {
    for id in tx.machines_using_image(&before.id)? {
        let mut machine = tx.expect_machine(&id)?;
        let image = machine.allocation.as_mut().and_then(|allocation| allocation.image.as_mut());
        if let Some(image) = image.filter(|image| image.url == before.url) {
            image.url = url.to_owned();
            tx.put_machine(&machine)?;
        }
    }
    Ok(())
}

/// Removes what uploads left behind that were cut off by a kill.
pub fn sweep_uploads(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UPLOAD_PREFIX) {
            std::fs::remove_file(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::store::Store;

    fn image(id: &str) -> Image {
        Image { id: id.to_owned(), url: "http://10.0.0.1/img.tar.zst".into(), ..Image::default() }
    }

    #[test]
    fn a_short_id_is_the_newest_of_its_minor() {
        let store = Store::in_memory().unwrap();
        store
            .run_blocking(|tx| {
                for id in ["debian-12.0.9", "debian-12.0.10", "debian-12.1.1", "ubuntu-12.0.99"] {
                    tx.put(&image(id))?;
                }
                let resolved = |id: &str| Ok::<_, Refusal>(resolve(tx, id)?.map(|image| image.id));
                assert_eq!(resolved("debian-12.0")?.as_deref(), Some("debian-12.0.10"));
                assert_eq!(resolved("debian-12.0.9")?.as_deref(), Some("debian-12.0.9"));
                assert_eq!(resolved("debian-12.0.8")?, None);
                assert_eq!(resolved("debian-13.0")?, None);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn names_that_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", ".x", "a/b", "a\\b", "a b", "a%2f"] {
            assert!(check_path_segment("filename", bad).is_err(), "{bad}");
        }
        assert!(complete(image("../x-1.2")).is_err());
        assert!(check_path_segment("filename", "img.tar.zst").is_ok());
    }

    #[test]
    fn digests_and_urls_are_checked() {
        let with = |digest: &str| complete(Image { digest: Some(digest.into()), ..image("debian-12.0.1") });
        assert!(with(&format!("sha256:{}", "0a".repeat(32))).is_ok());
        for bad in ["", "sha256", "sha256:00", &format!("sha1:{}", "0".repeat(40)), &format!("md5:{}", "G".repeat(32))]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
        let at = |url: &str| complete(Image { url: url.into(), ..image("debian-12.0.1") });
        assert!(at("oci://10.0.0.1/os/debian:12").is_ok());
        for bad in ["/img.tar", "oci:/srv/image", "file:///img.tar"] {
            let error = at(bad).unwrap_err().to_string();
            assert!(error.starts_with("url: expected"), "{error}");
        }
    }
}
