//! Signs what the machine says it did, with the key that it registers with: the client key of MetalConfig.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{Signer as KeySigner, SigningKey};

use crate::api::jws::{Algorithm, Header, Kind, compact, to_be_signed};
use crate::api::metal_config::MetalConfig;

/// The certificates that go along with a signature: the key's own and those between it and the authority.
const CHAIN_LIMIT: usize = 4;

/// In the order in which they are tried. A key can do one of the ECDSA ones, or Ed25519, or RSA.
const SCHEMES: [(SignatureScheme, Algorithm); 4] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, Algorithm::ES256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, Algorithm::ES384),
    (SignatureScheme::RSA_PKCS1_SHA256, Algorithm::RS256),
    (SignatureScheme::ED25519, Algorithm::EdDSA),
];

/// Signs for one machine. Cheap to clone; `Debug` leaves the key out.
#[derive(Clone)]
pub struct Signer {
    machine_id: String,
    /// Absent when the configuration has no key that can sign.
    key: Option<Key>,
}

#[derive(Clone)]
struct Key {
    key: Arc<dyn SigningKey>,
    x5c: Vec<String>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("machine_id", &self.machine_id).finish_non_exhaustive()
    }
}

impl Signer {
    /// With a key that can't be used it signs nothing, and says why once: a record without a signature is better than
    /// none.
    pub fn new(config: &MetalConfig, machine_id: &str) -> Self {
        let key = Key::read(config)
            .inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "erase records can't be signed"))
            .ok();
        Self { machine_id: machine_id.to_owned(), key }
    }

    /// A JSON object with the machine's id put into it, as a JWS; with algorithm `none` when there is no key.
    pub fn sign(&self, kind: Kind, object: &str) -> Result<String> {
        let payload = self.with_machine(object)?;
        match &self.key {
            Some(key) => key.sign(kind, payload.as_bytes()).context("signing with the client key"),
            None => {
                let header = Header { alg: Algorithm::None, typ: kind, x5c: Vec::new() };
                Ok(compact(&to_be_signed(&header, payload.as_bytes())?, &[]))
            }
        }
    }

    /// On the text, which is logged as it is, too: taking it apart for this would be much code for little.
    fn with_machine(&self, object: &str) -> Result<String> {
        let members = object.strip_prefix('{').context("what is to be signed is no JSON object")?;
        let comma = if members.starts_with('}') { "" } else { "," };
        Ok(format!("{{\"machine\":{}{comma}{members}", serde_json::to_string(&self.machine_id)?))
    }
}

impl Key {
    fn read(config: &MetalConfig) -> Result<Self> {
        let certificates: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(config.cert.as_deref().unwrap_or_default().as_bytes())
                .collect::<Result<_, _>>()
                .context("parsing the client certificate")?;
        ensure!(!certificates.is_empty(), "MetalConfig has no client certificate");
        let key = PrivateKeyDer::from_pem_slice(config.key.as_deref().unwrap_or_default().as_bytes())
            .context("parsing the client key")?;
        let key = any_supported_type(&key).context("reading the client key")?;
        let x5c = Header::x5c_of(certificates.iter().take(CHAIN_LIMIT).map(AsRef::as_ref));
        let usable = Self { key, x5c };
        usable.choose()?;
        Ok(usable)
    }

    fn choose(&self) -> Result<(Box<dyn KeySigner>, Algorithm)> {
        for (scheme, algorithm) in SCHEMES {
            if let Some(signer) = self.key.choose_scheme(&[scheme]) {
                return Ok((signer, algorithm));
            }
        }
        bail!("the client key is of a kind that can't sign: {:?}", self.key.algorithm())
    }

    fn sign(&self, kind: Kind, payload: &[u8]) -> Result<String> {
        let (signer, alg) = self.choose()?;
        let signed = to_be_signed(&Header { alg, typ: kind, x5c: self.x5c.clone() }, payload)?;
        let signature = signer.sign(signed.as_bytes())?;
        let signature = match alg {
            Algorithm::ES256 => fixed_width(&signature, 32)?,
            Algorithm::ES384 => fixed_width(&signature, 48)?,
            Algorithm::RS256 | Algorithm::PS256 | Algorithm::EdDSA | Algorithm::None => signature,
        };
        Ok(compact(&signed, &signature))
    }
}

/// An ECDSA signature as JWS has it, two numbers of `width` bytes, of what TLS has: `SEQUENCE { INTEGER, INTEGER }` in
/// DER. All lengths here are below 128, so each is one byte.
fn fixed_width(der: &[u8], width: usize) -> Result<Vec<u8>> {
    let [0x30, length, rest @ ..] = der else { bail!("an ECDSA signature is a sequence") };
    ensure!(usize::from(*length) == rest.len(), "an ECDSA signature has the length that it says");
    let mut fixed = Vec::with_capacity(2 * width);
    let mut rest = rest;
    for _ in 0..2 {
        let [0x02, length, numbers @ ..] = rest else { bail!("an ECDSA signature is of two integers") };
        let (number, after) =
            numbers.split_at_checked(usize::from(*length)).context("an integer is longer than its signature")?;
        rest = after;
        // Without the zero that keeps it positive, and with those that DER leaves out.
        let digits = number.iter().position(|byte| *byte != 0).and_then(|at| number.get(at..)).unwrap_or_default();
        let zeros = width.checked_sub(digits.len()).context("an integer is longer than its curve")?;
        fixed.extend(std::iter::repeat_n(0, zeros));
        fixed.extend_from_slice(digits);
    }
    ensure!(rest.is_empty(), "bytes follow an ECDSA signature");
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_signature_get_their_full_width() {
        let der = [0x30, 8, 2, 2, 0, 0x80, 2, 2, 1, 2];
        assert_eq!(fixed_width(&der, 3).unwrap(), [0, 0, 0x80, 0, 1, 2]);
    }

    #[test]
    fn a_damaged_signature_is_an_error() {
        let bad: [&[u8]; 6] = [
            &[],
            &[0x30, 9, 2, 1, 1],
            &[0x30, 3, 2, 9, 1],
            &[0x30, 6, 2, 4, 1, 1, 1, 1],
            &[0x30, 7, 2, 1, 1, 2, 1, 1, 9],
            &[0x31, 0],
        ];
        for der in bad {
            assert!(fixed_width(der, 3).is_err(), "{der:?}");
        }
    }

    #[test]
    fn without_a_key_a_record_goes_unsigned() {
        let signer = Signer::new(&MetalConfig::default(), "m-1");
        for (object, payload) in
            [(r#"{"layout":"vm"}"#, r#"{"machine":"m-1","layout":"vm"}"#), ("{}", r#"{"machine":"m-1"}"#)]
        {
            let jws = crate::api::jws::Jws::parse(&signer.sign(Kind::Plan, object).unwrap()).unwrap();
            assert_eq!((jws.header.alg, jws.signature.is_empty()), (Algorithm::None, true));
            assert_eq!(String::from_utf8(jws.payload).unwrap(), payload);
        }
        assert!(signer.sign(Kind::Plan, "[]").is_err());
    }
}
