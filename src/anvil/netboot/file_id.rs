//! Opaque names for files that the boot server hands out: the path, encrypted and signed.
//!
//! Only this server can make one, so a client can ask for nothing that a script did not offer it. The key is kept in
//! the data directory: a machine half through its boot survives a restart of anvil.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::leases::write_atomically;

const KEY_LEN: usize = 32;

pub struct FileIds {
    key: LessSafeKey,
}

impl FileIds {
    pub fn new(key: &[u8; KEY_LEN]) -> Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| anyhow!("the key of file ids is unusable"))?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// Reads the key from a file, which is made when there is none.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let key: [u8; KEY_LEN] = match fs::read(path) {
            Ok(bytes) => bytes.as_slice().try_into().with_context(|| {
                format!("{} has {} bytes, expected a key of {KEY_LEN}", path.display(), bytes.len())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_key(path)?,
            Err(error) => {
                return Err(error).with_context(|| format!("reading the key of file ids from {}", path.display()));
            }
        };
        Self::new(&key)
    }

    pub fn seal(&self, path: &Path) -> Result<String> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| anyhow!("getting random bytes: {error}"))?;
        let mut sealed = path.as_os_str().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .map_err(|_| anyhow!("sealing the path {}", path.display()))?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce, sealed.as_slice()].concat()))
    }

    /// The path that an id stands for; `None` when the id is not one of ours.
    pub fn open(&self, id: &str) -> Option<PathBuf> {
        let mut bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let path = self.key.open_in_place(nonce, Aad::empty(), sealed).ok()?;
        Some(std::ffi::OsString::from_vec(path.to_vec()).into())
    }
}

fn create_key(path: &Path) -> Result<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key).map_err(|error| anyhow!("getting random bytes: {error}"))?;
    write_atomically(path, &key, 0o600)
        .with_context(|| format!("writing the key of file ids to {}", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_opens_only_as_it_was_made() {
        let ids = FileIds::new(&[7; 32]).unwrap();
        let id = ids.seal(Path::new("/srv/vmlinuz")).unwrap();
        assert_eq!(ids.open(&id), Some(PathBuf::from("/srv/vmlinuz")));
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{id}");
        let mut forged = URL_SAFE_NO_PAD.decode(&id).unwrap();
        forged[NONCE_LEN] ^= 1;
        assert_eq!(ids.open(&URL_SAFE_NO_PAD.encode(forged)), None);
        assert_eq!(FileIds::new(&[8; 32]).unwrap().open(&id), None);
        for junk in ["", "AAAA", "!!", "/srv/vmlinuz"] {
            assert_eq!(ids.open(junk), None, "{junk:?}");
        }
    }

    #[test]
    fn ids_outlive_the_process_through_the_key_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file-id.key");
        let id = FileIds::load_or_create(&path).unwrap().seal(Path::new("/a")).unwrap();
        assert_eq!(FileIds::load_or_create(&path).unwrap().open(&id), Some(PathBuf::from("/a")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
