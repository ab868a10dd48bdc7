//! Digests of certificates, by which an agent knows the server of its configuration: `drophammer.ca=sha256:…`. A kernel
//! command line has no room for a certificate, but for its digest.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use thiserror::Error;

/// SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaPin([u8; SHA256_OUTPUT_LEN]);

/// What is no digest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not sha256: and 64 hexadecimal digits")]
pub struct BadPin(String);

impl CaPin {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

/// With colons between the digits, too, as tools print them.
impl FromStr for CaPin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let digits = text.strip_prefix("sha256:").map(|digits| digits.replace(':', ""));
        let bytes = digits.and_then(|digits| hex::decode(digits).ok()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| BadPin(text.to_owned()))
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_tools_print_them() {
        let digits = "ab".repeat(32);
        let pin: CaPin = format!("sha256:{digits}").parse().unwrap();
        assert_eq!(pin.to_string(), format!("sha256:{digits}"));
        let colons = ["AB"; 32].join(":");
        assert_eq!(format!("sha256:{colons}").parse(), Ok(pin));
        for text in ["", &digits, "sha256:", "sha256:ab", "sha512:ab", &format!("sha256:{digits}00"), "sha256:xy"] {
            assert_eq!(text.parse::<CaPin>(), Err(BadPin(text.to_owned())));
        }
    }
}
