//! Digests in the API's text form, `alg:hex`.

use std::fmt;
use std::str::FromStr;

use md5::Digest as _;

/// What an image can be checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512,
    /// BLAKE2b-512 (RFC 7693), which signatures of minisign are over. No text form is read of it.
    Blake2b,
}

impl Algorithm {
    /// Those that a digest may be given in.
    pub const ALL: [Self; 3] = [Self::Sha512, Self::Sha256, Self::Md5];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake2b => "blake2b",
        }
    }

    /// Length of a digest in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
            Self::Sha512 | Self::Blake2b => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An algorithm and its value over some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

/// Not a digest in the form `sha256:0123…`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("{0:?} has no algorithm: expected md5:…, sha256:… or sha512:…")]
    NoAlgorithm(String),
    #[error("algorithm {0:?} is not known: expected md5, sha256 or sha512")]
    UnknownAlgorithm(String),
    #[error("{0:?} is not hexadecimal")]
    NotHex(String),
    #[error("{algorithm} has {expected} hexadecimal digits, found {found}")]
    WrongLength { algorithm: Algorithm, expected: usize, found: usize },
}

impl Digest {
    /// From hexadecimal digits of either case.
    pub fn from_hex(algorithm: Algorithm, digits: &str) -> Result<Self, DigestError> {
        let expected = algorithm.digest_bytes() * 2;
        if digits.len() != expected {
            return Err(DigestError::WrongLength { algorithm, expected, found: digits.len() });
        }
        let bytes = hex::decode(digits).map_err(|_| DigestError::NotHex(digits.to_owned()))?;
        Ok(Self { algorithm, bytes })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let text = text.trim();
        let (name, digits) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| DigestError::UnknownAlgorithm(name.to_owned()))?;
        Self::from_hex(algorithm, digits)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, hex::encode(&self.bytes))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Computes a digest piece by piece.
pub struct Hasher(State);

enum State {
    Md5(md5::Md5),
    Sha2(Algorithm, ring::digest::Context),
    Blake2b(Box<blake2::Blake2b512>),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Md5 => State::Md5(md5::Md5::new()),
            Algorithm::Sha256 => State::Sha2(algorithm, ring::digest::Context::new(&ring::digest::SHA256)),
            Algorithm::Sha512 => State::Sha2(algorithm, ring::digest::Context::new(&ring::digest::SHA512)),
            Algorithm::Blake2b => State::Blake2b(Box::default()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha2(_, state) => state.update(bytes),
            State::Blake2b(state) => state.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self.0 {
            State::Md5(state) => Digest { algorithm: Algorithm::Md5, bytes: state.finalize().to_vec() },
            State::Sha2(algorithm, state) => Digest { algorithm, bytes: state.finish().as_ref().to_vec() },
            State::Blake2b(state) => Digest { algorithm: Algorithm::Blake2b, bytes: state.finalize().to_vec() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(algorithm: Algorithm, pieces: &[&[u8]]) -> String {
        let mut hasher = Hasher::new(algorithm);
        pieces.iter().for_each(|piece| hasher.update(piece));
        hasher.finish().to_string()
    }

    #[test]
    fn agrees_with_the_usual_tools_on_abc() {
        let pieces: [&[u8]; 2] = [b"a", b"bc"];
        assert_eq!(digest_of(Algorithm::Md5, &pieces), "md5:900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            digest_of(Algorithm::Sha256, &pieces),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(digest_of(Algorithm::Sha512, &pieces).starts_with("sha512:ddaf35a193617abacc417349ae204131"));
        assert!(digest_of(Algorithm::Blake2b, &pieces).starts_with("blake2b:ba80a53f981c4d0d6a2797b69f12f6e9"));
    }

    #[test]
    fn text_form_survives_and_ignores_case() {
        let text = "md5:900150983CD24FB0D6963F7D28E17F72";
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }

    #[test]
    fn names_what_is_wrong_with_a_text() {
        let parse = |text: &str| text.parse::<Digest>().unwrap_err();
        assert_eq!(parse("abc"), DigestError::NoAlgorithm("abc".into()));
        assert_eq!(parse("crc:00"), DigestError::UnknownAlgorithm("crc".into()));
        assert_eq!(parse("md5:00"), DigestError::WrongLength { algorithm: Algorithm::Md5, expected: 32, found: 2 });
        assert_eq!(parse(&format!("md5:{}", "zz".repeat(16))), DigestError::NotHex("zz".repeat(16)));
    }
}
