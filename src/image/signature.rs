//! Signatures of minisign beside an image: `img.tar.zst.minisig`.
//!
//! Source: <https://jedisct1.github.io/minisign/#signature-format> as of minisign 0.11. Four lines: a comment, base64 of
//! (`ED`, 8 bytes of key id, 64 bytes of Ed25519 over the BLAKE2b-512 of the file), the trusted comment, and base64 of
//! 64 bytes of Ed25519 over the first signature and the trusted comment. The old kind, `Ed`, signs the file itself,
//! which would have to be held in memory as a whole; it is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Serialize;

use super::digest::Digest;
use super::error::ImageError;
use crate::api::image_key::{ImageKey, KeyId};

/// At the end of the image's name.
pub(super) const SUFFIX: &str = ".minisig";

const UNTRUSTED: &str = "untrusted comment:";
const TRUSTED: &str = "trusted comment: ";

/// Who signed an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// Id of the key, as `minisign` shows it.
    pub key: String,
    /// What the signer says about the image; signed, too.
    pub trusted_comment: String,
}

/// Why a file is no signature that an image can be checked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it is no signature of minisign: {0}")]
    Malformed(&'static str),
    #[error(
        "it is of the old kind, which signs the file itself and not its hash: sign again with minisign 0.10 or later \
         (`minisign -Sm IMAGE`, without -l)"
    )]
    Legacy,
    #[error("it was made with key {found}, which is not among the configured ones ({known})")]
    UnknownKey { found: KeyId, known: String },
    #[error("its trusted comment was changed, or the key {0} is another one with the same id")]
    TrustedComment(KeyId),
}

/// A signature by a configured key, not yet held against the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The file it was read from.
    pub(super) file: String,
    key: ImageKey,
    signature: [u8; 64],
    trusted_comment: String,
}

impl Signed {
    /// Reads a signature, looks its key up, and checks the trusted comment.
    pub(crate) fn check(text: &str, file: String, keys: &[ImageKey]) -> Result<Self, SignatureError> {
        let parsed = parse(text)?;
        let key = keys.iter().find(|key| key.id == parsed.key).ok_or_else(|| {
            let known: Vec<String> = keys.iter().map(|key| key.id.to_string()).collect();
            SignatureError::UnknownKey { found: parsed.key, known: known.join(", ") }
        })?;
        let signed = [parsed.signature.as_slice(), parsed.trusted_comment.as_bytes()].concat();
        if !verifies(key, &signed, &parsed.global) {
            return Err(SignatureError::TrustedComment(key.id));
        }
        let trusted_comment = parsed.trusted_comment.to_owned();
        Ok(Self { file, key: key.clone(), signature: parsed.signature, trusted_comment })
    }

    /// Whether it is a signature of the content with that BLAKE2b-512.
    pub(crate) fn holds(&self, blake2b: &Digest) -> bool {
        verifies(&self.key, blake2b.bytes(), &self.signature)
    }

    pub(super) fn key(&self) -> KeyId {
        self.key.id
    }

    /// For people. To be believed only after [`Self::holds`].
    pub(crate) fn shown(&self) -> Signature {
        Signature { key: self.key.id.to_string(), trusted_comment: self.trusted_comment.clone() }
    }
}

/// Refuses an image of a kind that can't be signed, such as `OCI images`, if images must be.
#[allow(dead_code)] // for sources that are no single file
pub(super) fn refuse_if_keys(keys: &[ImageKey], image: &str, kind: &'static str) -> Result<(), ImageError> {
    match keys {
        [] => Ok(()),
        _ => Err(ImageError::NotSignable { image: image.to_owned(), kind }),
    }
}

fn verifies(key: &ImageKey, message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, &key.key).verify(message, signature).is_ok()
}

struct Parsed<'a> {
    key: KeyId,
    signature: [u8; 64],
    trusted_comment: &'a str,
    global: [u8; 64],
}

fn parse(text: &str) -> Result<Parsed<'_>, SignatureError> {
    let malformed = SignatureError::Malformed;
    let mut lines = text.lines();
    let mut line = |what| lines.next().ok_or(malformed(what));
    if !line("it is empty")?.starts_with(UNTRUSTED) {
        return Err(malformed("its first line is not an untrusted comment"));
    }
    let signature = STANDARD.decode(line("it ends after its first line")?.trim());
    let signature = signature.map_err(|_| malformed("its second line is not base64"))?;
    let trusted_comment = line("it has no trusted comment")?.strip_prefix(TRUSTED);
    let trusted_comment = trusted_comment.ok_or(malformed("its third line is not a trusted comment"))?;
    let global = STANDARD.decode(line("the trusted comment is not signed")?.trim());
    let global = global.map_err(|_| malformed("its fourth line is not base64"))?;

    let length = malformed("its second line has not the length of a signature");
    let (algorithm, rest) = signature.split_first_chunk::<2>().ok_or(length.clone())?;
    match algorithm {
        b"ED" => {}
        b"Ed" => return Err(SignatureError::Legacy),
        _ => return Err(malformed("it is of an unknown algorithm")),
    }
    let (id, signature) = rest.split_first_chunk::<8>().ok_or(length.clone())?;
    Ok(Parsed {
        key: KeyId(*id),
        signature: signature.try_into().map_err(|_| length)?,
        trusted_comment,
        global: global
            .as_slice()
            .try_into()
            .map_err(|_| malformed("its fourth line has not the length of a signature"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::{Algorithm, Hasher};

    /// Made by minisign 0.11 with `-W`; the signed file holds `image` and a newline.
    const KEY: &str = "RWQ8o+IlQV+jburG5K/m3XWuvJ5Hxl+MLT1NjgXPP+qx+FzYfmYRGO3N";
    const OTHER_KEY: &str = "RWS7czYRT8p5jUqJcRL+Z+BHnjeXhuD5nllelSrbEqUggTSMeiO70FS7";
    const SIGNATURE: &str = "untrusted comment: made for tests\n\
        RUQ8o+IlQV+jbg2ThXHXatwFTfGihjuN/pddil0mc7nDiQXKIhaCtqyAGtmeciZofJReMlN8m2G4YXpYzYkFUgEIBlkNU5x+qgI=\n\
        trusted comment: for tests\n\
        wUhyQ3PWkYXuMvFv74KfazdQn6aJLr/+FH2Pvsx/W1mtzmxnKPcfmqmTl9/3Z+vukqGGyaGXlyOJUHaa3aNvBQ==";
    const LEGACY: &str = "untrusted comment: made for tests\n\
        RWQ8o+IlQV+jbgAcZ7471tNEPQriCTuQ/gXpKZk4i/nK/0Yw4Nx+d0Umc1WvzcZaQ1ysPl0LKbeNz4nCefAfC2RMIZT/WNaylQM=\n\
        trusted comment: for tests\n\
        OqbGxJQQnNGqXD/QEKxs5otUC0lYYWxERJK19l1XiaD//QYY/qj65xmTBSnCfr7ww48hIULMrUv1UzLrG5nRCA==";

    fn check(text: &str, keys: &[&str]) -> Result<Signed, SignatureError> {
        let keys: Vec<ImageKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
        Signed::check(text, "img.minisig".into(), &keys)
    }

    fn blake2b(content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Blake2b);
        hasher.update(content);
        hasher.finish()
    }

    #[test]
    fn a_signature_of_minisign_holds_for_its_content_and_no_other() {
        let signed = check(SIGNATURE, &[OTHER_KEY, KEY]).unwrap();
        assert_eq!(signed.shown().trusted_comment, "for tests");
        assert!(signed.holds(&blake2b(b"image\n")));
        assert!(!signed.holds(&blake2b(b"image")));
    }

    #[test]
    fn the_signature_of_an_unknown_key_names_it_and_the_known_ones() {
        match check(SIGNATURE, &[OTHER_KEY]).unwrap_err() {
            SignatureError::UnknownKey { found, known } => {
                assert_eq!((found, known.as_str()), (KEY.parse::<ImageKey>().unwrap().id, "8D79CA4F113673BB"));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_old_kind_is_refused_with_what_to_do() {
        let error = check(LEGACY, &[KEY]).unwrap_err();
        assert_eq!(error, SignatureError::Legacy);
        assert!(error.to_string().contains("minisign -Sm"));
    }

    #[test]
    fn a_changed_trusted_comment_is_noticed() {
        let error = check(&SIGNATURE.replace("for tests", "for all"), &[KEY]).unwrap_err();
        assert!(matches!(error, SignatureError::TrustedComment(_)), "{error}");
    }

    #[test]
    fn what_can_not_be_signed_is_refused_only_when_it_must_be() {
        assert!(refuse_if_keys(&[], "oci://10.0.0.1/img", "OCI images").is_ok());
        let error = refuse_if_keys(&[KEY.parse().unwrap()], "oci://10.0.0.1/img", "OCI images").unwrap_err();
        assert!(error.to_string().contains("signatures of OCI images are not supported"), "{error}");
    }

    #[test]
    fn other_texts_say_where_they_are_wrong() {
        let lines: Vec<&str> = SIGNATURE.lines().collect();
        let of = |lines: &[&str]| match check(&lines.join("\n"), &[KEY]).unwrap_err() {
            SignatureError::Malformed(what) => what,
            other => panic!("{other}"),
        };
        assert_eq!(of(&[]), "it is empty");
        assert_eq!(of(&["<html>"]), "its first line is not an untrusted comment");
        assert_eq!(of(&lines[..1]), "it ends after its first line");
        assert_eq!(of(&[lines[0], "!"]), "its second line is not base64");
        assert_eq!(of(&lines[..2]), "it has no trusted comment");
        assert_eq!(of(&[lines[0], "RUQ=", lines[2], lines[3]]), "its second line has not the length of a signature");
        assert_eq!(of(&[lines[0], "WFg=", lines[2], lines[3]]), "it is of an unknown algorithm");
        assert_eq!(of(&[lines[0], lines[1], lines[2], "RUQ="]), "its fourth line has not the length of a signature");
    }
}
