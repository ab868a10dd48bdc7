//! Image layouts made by hand, so that anything can be in them.

use std::path::{Path, PathBuf};

use drophammer::image::{DigestRule, ImageError, Report, Source, Unobserved, unpack};
use serde_json::{Value, json};

use crate::support::{block_on, options, run, text};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout in a directory.
pub struct Layout {
    pub path: PathBuf,
}

impl Layout {
    pub fn new(path: PathBuf) -> Self {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Self { path }
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replace(':', "/"))
    }

    /// Stores it and gives its descriptor.
    pub fn add(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = sha256(content);
        std::fs::write(self.blob_path(&digest), content).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    pub fn add_json(&self, media_type: &str, document: &Value) -> Value {
        self.add(media_type, document.to_string().as_bytes())
    }

    /// An image of these layers for this machine; gives its manifest's descriptor.
    pub fn add_image(&self, layers: &[Vec<u8>]) -> Value {
        let layers: Vec<Value> = layers.iter().map(|layer| self.add(LAYER, layer)).collect();
        self.add_json(MANIFEST, &self.manifest(&layers))
    }

    pub fn manifest(&self, layers: &[Value]) -> Value {
        let config = self.add_json(CONFIG, &json!({"os": "linux", "architecture": own_architecture()}));
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    }

    pub fn write_index(&self, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        std::fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }

    pub fn reference(&self) -> String {
        format!("oci:{}", text(&self.path))
    }
}

pub fn tagged(mut descriptor: Value, tag: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    descriptor
}

pub fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

pub fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub fn sha256(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(ring::digest::digest(&ring::digest::SHA256, content)))
}

/// Archives by a script in Python, one for each `layer()` in it. After it `add('name', 'content')`,
/// `add('name', type=tarfile.DIRTYPE)` and so on put entries into that layer.
pub fn layers(script: &str) -> Vec<Vec<u8>> {
    const BEGINNING: &str = r"
import io, sys, tarfile
archives = []
def layer():
    archives.append(tarfile.open(f'{sys.argv[1]}/{len(archives)}', 'w', format=tarfile.PAX_FORMAT))
def add(name, content='', **fields):
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), 1000000000
    for key, value in fields.items():
        setattr(info, key, value)
    archives[-1].addfile(info, io.BytesIO(content.encode()))
def directory(name, **fields):
    add(name, type=tarfile.DIRTYPE, mode=0o755, **fields)
def link(name, leads):
    add(name, type=tarfile.SYMTYPE, linkname=leads)
def hard(name, old):
    add(name, type=tarfile.LNKTYPE, linkname=old)
";
    let temp = tempfile::tempdir().unwrap();
    let end = "\nfor archive in archives:\n    archive.close()\n";
    run("python3", &["-c", &format!("{BEGINNING}{script}{end}"), text(temp.path())]);
    let paths = (0..).map(|number| temp.path().join(number.to_string())).take_while(|path| path.exists());
    paths.map(|path| std::fs::read(path).unwrap()).collect()
}

pub fn unpack_source(source: &str, target: &Path, rule: DigestRule) -> Result<Report, ImageError> {
    let source: Source = source.parse()?;
    block_on(unpack(&source, target, &options(rule), &Unobserved))
}
