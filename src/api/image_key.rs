//! Public keys that images are signed with, in minisign's form.
//!
//! Source: <https://jedisct1.github.io/minisign/#public-key-format> as of minisign 0.11: base64 of `Ed`, 8 bytes of key
//! id, 32 bytes of an Ed25519 key.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Both kinds of signatures are made with keys of this kind.
const ALGORITHM: [u8; 2] = *b"Ed";

/// Which key of several: a random number, no fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

/// As `minisign -G` shows it.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageKey {
    pub id: KeyId,
    /// Ed25519, RFC 8032.
    pub key: [u8; 32],
}

/// Why a text is no public key of minisign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageKeyError {
    #[error("{0:?} is no public key of minisign: expected the line that begins with RW in minisign.pub")]
    NotBase64(String),
    #[error("{text:?} is no public key of minisign: it has {found} bytes, expected 42")]
    WrongLength { text: String, found: usize },
    #[error("{0:?} is no public key of minisign: it is of another algorithm than Ed25519")]
    OtherAlgorithm(String),
    #[error("this is a secret key of minisign, which belongs with whoever signs: expected the public one")]
    Secret,
}

impl FromStr for ImageKey {
    type Err = ImageKeyError;

    /// The line of base64, or a whole `minisign.pub`, whose first line is a comment.
    fn from_str(text: &str) -> Result<Self, ImageKeyError> {
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with("untrusted comment:");
        let line = text.lines().map(str::trim).rfind(is_key).unwrap_or_default();
        let shown = || line.chars().take(80).collect::<String>();
        let bytes = STANDARD.decode(line).map_err(|_| ImageKeyError::NotBase64(shown()))?;
        // what is secret must not be repeated by an error
        if bytes.len() > 100 {
            return Err(ImageKeyError::Secret);
        }
        let Some((algorithm, rest)) = bytes.split_first_chunk() else { return Err(ImageKeyError::NotBase64(shown())) };
        if *algorithm != ALGORITHM {
            return Err(ImageKeyError::OtherAlgorithm(shown()));
        }
        let key = rest.split_first_chunk().and_then(|(id, key)| Some((KeyId(*id), key.try_into().ok()?)));
        let (id, key) = key.ok_or_else(|| ImageKeyError::WrongLength { text: shown(), found: bytes.len() })?;
        Ok(Self { id, key })
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([ALGORITHM.as_slice(), &self.id.0, &self.key].concat()))
    }
}

impl TryFrom<String> for ImageKey {
    type Error = ImageKeyError;

    fn try_from(text: String) -> Result<Self, ImageKeyError> {
        text.parse()
    }
}

impl From<ImageKey> for String {
    fn from(key: ImageKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by minisign 0.11.
    const KEY: &str = "RWS7czYRT8p5jUqJcRL+Z+BHnjeXhuD5nllelSrbEqUggTSMeiO70FS7";

    #[test]
    fn a_key_is_read_alone_and_with_its_comment() {
        let key: ImageKey = KEY.parse().unwrap();
        assert_eq!(key.id.to_string(), "8D79CA4F113673BB");
        assert_eq!(key.to_string(), KEY);
        let file = format!("untrusted comment: minisign public key 8D79CA4F113673BB\r\n{KEY}\r\n");
        assert_eq!(file.parse(), Ok(key));
    }

    #[test]
    fn other_texts_say_what_they_are_not() {
        let error = |text: &str| text.parse::<ImageKey>().unwrap_err();
        for text in ["", "ssh-ed25519 AAAA", "RW", &KEY[..40].replace('+', "!")] {
            assert!(matches!(error(text), ImageKeyError::NotBase64(_) | ImageKeyError::OtherAlgorithm(_)), "{text}");
        }
        assert!(matches!(error(&KEY[..52]), ImageKeyError::WrongLength { found: 39, .. }));
        assert!(matches!(error(&STANDARD.encode([1; 42])), ImageKeyError::OtherAlgorithm(_)));
        let secret = STANDARD.encode([b'E'; 158]);
        assert_eq!(error(&secret), ImageKeyError::Secret);
        assert!(!error(&secret).to_string().contains(&secret[..10]));
    }
}
