//! Signatures by minisign's secret keys.
//!
//! Source: <https://jedisct1.github.io/minisign/#secret-key-format> and `#signature-format`, as of minisign 0.11. A
//! secret key is base64 of 158 bytes: `Ed`, how the password becomes a key (zeros: there is none), `B2`, 48 bytes of
//! salt and limits, 8 bytes of key id, the seed, the public key, a checksum.
//!
//! Keys without a password (`minisign -G -W`) are used here; for others the `minisign` program is called, which asks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use ring::signature::Ed25519KeyPair;

use super::manifest::MANIFEST;

/// Of the decoded key.
const KEY_BYTES: usize = 158;
const NO_PASSWORD: &[u8] = &[0, 0];

/// A secret key of minisign. Not `Debug`.
pub enum SecretKey {
    Plain {
        id: [u8; 8],
        pair: Box<Ed25519KeyPair>,
    },
    /// Locked by a password.
    Locked,
}

/// Why a text is no secret key that can be signed with. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    #[error("it is no secret key of minisign (the file that \"minisign -G -s FILE\" makes)")]
    Malformed,
    #[error("its two halves do not belong together: it is damaged")]
    Damaged,
}

impl SecretKey {
    /// Parses the file's text: a comment, and base64.
    pub fn parse(text: &str) -> Result<Self, SecretKeyError> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).ok_or(SecretKeyError::Malformed)?;
        let bytes = STANDARD.decode(line).map_err(|_| SecretKeyError::Malformed)?;
        let malformed = SecretKeyError::Malformed;
        if bytes.len() != KEY_BYTES || !bytes.starts_with(b"Ed") {
            return Err(malformed);
        }
        if bytes.get(2..4) != Some(NO_PASSWORD) {
            return Ok(Self::Locked);
        }
        let id = bytes.get(54..62).and_then(|id| id.try_into().ok()).ok_or(malformed)?;
        let (seed, public) = bytes.get(62..94).zip(bytes.get(94..126)).ok_or(malformed)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| SecretKeyError::Damaged)?;
        Ok(Self::Plain { id, pair: Box::new(pair) })
    }
}

/// Signs with the key in `key_file`. `scratch` is a path beside which two files may be made for a moment.
pub fn sign(key_file: &Path, message: &[u8], comment: &str, scratch: &Path) -> Result<String> {
    let text = fs::read_to_string(key_file).with_context(|| format!("reading {}", key_file.display()))?;
    let key = SecretKey::parse(&text).with_context(|| format!("reading {}", key_file.display()))?;
    match key {
        SecretKey::Plain { id, pair } => Ok(sign_plain(id, &pair, message, comment)),
        SecretKey::Locked => sign_by_program(key_file, message, comment, scratch),
    }
}

fn sign_plain(id: [u8; 8], pair: &Ed25519KeyPair, message: &[u8], comment: &str) -> String {
    let signature = pair.sign(&Blake2b512::digest(message));
    let global = pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
    format!(
        "untrusted comment: signature of {MANIFEST}\n{}\ntrusted comment: {comment}\n{}\n",
        STANDARD.encode([b"ED".as_slice(), &id, signature.as_ref()].concat()),
        STANDARD.encode(global.as_ref())
    )
}

/// The program asks for the password on the terminal.
fn sign_by_program(key_file: &Path, message: &[u8], comment: &str, scratch: &Path) -> Result<String> {
    let file = scratch.with_extension("manifest");
    let signature = scratch.with_extension("minisig");
    let signed = call_minisign(key_file, message, comment, &file, &signature);
    for path in [&file, &signature] {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            bail!("removing {}: {error}", path.display());
        }
    }
    signed
}

fn call_minisign(key_file: &Path, message: &[u8], comment: &str, file: &Path, signature: &Path) -> Result<String> {
    fs::write(file, message).with_context(|| format!("writing {}", file.display()))?;
    let mut command = Command::new("minisign");
    command.arg("-S").arg("-s").arg(key_file).arg("-m").arg(file).arg("-x").arg(signature).args(["-t", comment]);
    let status = command.status().context("calling minisign, which keys with a password need")?;
    ensure!(status.success(), "minisign did not sign: {status}");
    fs::read_to_string(signature).with_context(|| format!("reading {}", signature.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::image_key::{ImageKey, KeyId};
    use crate::image::signature::Signed;
    use crate::image::{Algorithm, Hasher};
    use ring::signature::KeyPair as _;

    fn key_text(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let seed = [7_u8; 32];
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let mut bytes =
            [b"Ed\0\0B2".as_slice(), &[0; 48], b"12345678", &seed, pair.public_key().as_ref(), &[0; 32]].concat();
        change(&mut bytes);
        format!("untrusted comment: minisign secret key\n{}\n", STANDARD.encode(bytes))
    }

    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> Option<SecretKeyError> {
        SecretKey::parse(&key_text(change)).err()
    }

    #[test]
    fn what_is_signed_is_verified_by_the_agents_own_check() {
        let Ok(SecretKey::Plain { id, pair }) = SecretKey::parse(&key_text(|_| ())) else { panic!("not plain") };
        let text = sign_plain(id, &pair, b"message", "made for tests");
        let key = ImageKey { id: KeyId(id), key: pair.public_key().as_ref().try_into().unwrap() };
        let signed = Signed::check(&text, "test".into(), &[key]).unwrap();
        let digest = |content: &[u8]| {
            let mut hasher = Hasher::new(Algorithm::Blake2b);
            hasher.update(content);
            hasher.finish()
        };
        assert!(signed.holds(&digest(b"message")));
        assert!(!signed.holds(&digest(b"massage")));
    }

    #[test]
    fn other_keys_are_told_apart() {
        assert!(matches!(SecretKey::parse(&key_text(|key| key[2..4].copy_from_slice(b"Sc"))), Ok(SecretKey::Locked)));
        assert_eq!(refusal(|key| key[100] ^= 1), Some(SecretKeyError::Damaged));
        assert_eq!(refusal(|key| key.truncate(157)), Some(SecretKeyError::Malformed));
        assert_eq!(refusal(|key| key[0] = b'R'), Some(SecretKeyError::Malformed));
        assert_eq!(SecretKey::parse("").err(), Some(SecretKeyError::Malformed));
    }
}
