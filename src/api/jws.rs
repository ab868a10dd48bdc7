//! JSON Web Signatures in their compact form (RFC 7515): what a machine says it did, in a form that others can check.
//!
//! The certificate of the key is in the header (`x5c`), so that a signature can be checked years later, when the key
//! and its certificate were replaced, by whoever has the authority's certificate.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// How it is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// ECDSA with P-384 and SHA-384.
    ES384,
    /// RSA by PKCS #1 1.5, with SHA-256.
    RS256,
    /// RSA-PSS with SHA-256.
    PS256,
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// Not signed at all.
    #[serde(rename = "none")]
    None,
}

/// What the payload is; `typ` of the header, so that one kind can't be taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// What became of one disk.
    #[serde(rename = "drophammer-erase-record")]
    EraseRecord,
    /// What an installation is about to do.
    #[serde(rename = "drophammer-plan")]
    Plan,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub alg: Algorithm,
    pub typ: Kind,
    /// The signer's certificate and those between it and the authority: DER in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub x5c: Vec<String>,
}

impl Header {
    /// The certificates of `x5c` in DER.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>, Malformed> {
        self.x5c.iter().map(|text| STANDARD.decode(text).map_err(|_| Malformed::Certificate)).collect()
    }

    /// `x5c` of certificates in DER.
    pub fn x5c_of<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        certificates.into_iter().map(|der| STANDARD.encode(der)).collect()
    }
}

/// Why a text is no signature that we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it has {0} parts, a compact JWS has 3")]
    Parts(usize),
    #[error("its {0} is not base64url")]
    Base64(&'static str),
    #[error("its header is not understood: {0}")]
    Header(String),
    #[error("a certificate of its header is not base64")]
    Certificate,
}

/// A JWS that can be read; whether it is right is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jws {
    pub header: Header,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
    /// What was signed: header and payload as they came.
    pub signed: String,
}

impl Jws {
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [header, payload, signature] = parts.as_slice() else { return Err(Malformed::Parts(parts.len())) };
        let decode = |text: &str, what| URL_SAFE_NO_PAD.decode(text).map_err(|_| Malformed::Base64(what));
        let header_json = decode(header, "header")?;
        Ok(Self {
            header: serde_json::from_slice(&header_json).map_err(|error| Malformed::Header(error.to_string()))?,
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?,
            signed: format!("{header}.{payload}"),
        })
    }
}

/// Header and payload, in the form that is signed.
pub fn to_be_signed(header: &Header, payload: &[u8]) -> Result<String, serde_json::Error> {
    let header = serde_json::to_vec(header)?;
    Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)))
}

/// The whole.
pub fn compact(signed: &str, signature: &[u8]) -> String {
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { alg: Algorithm::ES256, typ: Kind::EraseRecord, x5c: Header::x5c_of([&b"certificate"[..]]) }
    }

    #[test]
    fn what_is_put_together_can_be_taken_apart() {
        let signed = to_be_signed(&header(), b"{\"a\":1}").unwrap();
        let jws = Jws::parse(&format!("{}\n", compact(&signed, &[1, 2, 255]))).unwrap();
        assert_eq!((jws.header.clone(), jws.payload.as_slice()), (header(), &b"{\"a\":1}"[..]));
        assert_eq!((jws.signature.as_slice(), jws.signed), (&[1, 2, 255][..], signed));
        assert_eq!(jws.header.certificates().unwrap(), [b"certificate".to_vec()]);
    }

    #[test]
    fn says_which_part_is_wrong() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let good = encode(r#"{"alg":"ES256","typ":"drophammer-plan"}"#);
        let cases = [
            ("a.b".to_owned(), "it has 2 parts"),
            ("=.b.c".to_owned(), "its header is not base64url"),
            (format!("{good}.+.c"), "its payload is not base64url"),
            (format!("{good}.YQ.+"), "its signature is not base64url"),
            (format!("{}.YQ.YQ", encode("{}")), "its header is not understood: missing field `alg`"),
            (format!("{}.YQ.YQ", encode(r#"{"alg":"HS256","typ":"x"}"#)), "unknown variant `HS256`"),
        ];
        for (text, expected) in cases {
            let error = Jws::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
