//! What agents want kept: erase records and plans. Judged when they come, against the certificates that we issued.
//!
//! A record whose signature is wrong is kept all the same, with what is wrong with it: it says something about the
//! machine, or about somebody who speaks for it.

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;

use super::machines::format_time;
use super::refusal::Refusal;
use super::store::Tx;
use crate::api::erasure::{Erasure, SentPlan, Signature};
use crate::api::jws::{Algorithm, Jws, Kind, Malformed};
use crate::api::progress::Record;

/// A record as it is in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// RFC 3339.
    pub received: String,
    /// What is wrong with the signature.
    pub fault: Option<String>,
    pub jws: String,
}

impl Stored {
    /// SHA-256 of what was sent, in hexadecimal.
    pub fn digest(&self) -> String {
        hex::encode(digest(&SHA256, self.jws.as_bytes()))
    }

    fn signature(&self) -> Signature {
        Signature { valid: self.fault.is_none(), fault: self.fault.clone() }
    }

    /// What was signed; `null` when that is no JSON.
    fn payload(&self) -> Value {
        let payload = Jws::parse(&self.jws).map(|jws| jws.payload).unwrap_or_default();
        serde_json::from_slice(&payload).unwrap_or_default()
    }

    /// As REST shows an erase record.
    pub fn to_erasure(&self) -> Erasure {
        Erasure {
            received: self.received.clone(),
            signature: self.signature(),
            record: self.payload(),
            jws: self.jws.clone(),
        }
    }

    /// As REST shows a plan.
    pub fn to_plan(&self) -> SentPlan {
        SentPlan { received: self.received.clone(), signature: self.signature(), plan: self.payload() }
    }
}

/// Why a signature proves nothing.
#[derive(Debug, Error)]
pub enum NotValid {
    #[error("it can't be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("it is not signed")]
    NotSigned,
    #[error("it has no certificate")]
    NoCertificate,
    #[error("our own certificate authority can't be read: {0}")]
    Authority(String),
    #[error("its certificate is none of ours, or has run out: {0}")]
    Foreign(rustls::Error),
    #[error("its certificate can't be read")]
    Certificate,
    #[error("the signature does not fit what is signed, so it was changed or made with another key")]
    Wrong,
    #[error("it was sent as one thing and signed as another")]
    OtherKind,
    #[error("its certificate is another machine's")]
    OtherSigner,
    #[error("it is of machine {signed:?}, and machine {sender:?} sent it")]
    OtherMachine { signed: String, sender: String },
}

/// Whose certificates a record may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signers {
    /// Those of all agents, which share one.
    Agents,
    /// The machine's own, where machines have to be admitted.
    Machine,
}

/// Whether `jws` was made with a key whose certificate the authority `ca_pem` issued, as a document of that kind and
/// of that machine.
pub fn verify(
    ca_pem: &str,
    signers: Signers,
    machine: &str,
    record: &Record,
    now: OffsetDateTime,
) -> Result<(), NotValid> {
    let jws = Jws::parse(&record.jws)?;
    let algorithm = verification(jws.header.alg).ok_or(NotValid::NotSigned)?;
    let chain: Vec<CertificateDer<'_>> = jws.header.certificates()?.into_iter().map(CertificateDer::from).collect();
    let (certificate, between) = chain.split_first().ok_or(NotValid::NoCertificate)?;
    verify_issued(ca_pem, certificate, between, now)?;
    let certificate = ParsedCertificate::try_from(certificate).map_err(|_| NotValid::Certificate)?;
    if signers == Signers::Machine && !is_named(&certificate, machine) {
        return Err(NotValid::OtherSigner);
    }
    let key_info = certificate.subject_public_key_info();
    let key = public_key(key_info.as_ref()).ok_or(NotValid::Certificate)?;
    UnparsedPublicKey::new(algorithm, key)
        .verify(jws.signed.as_bytes(), &jws.signature)
        .map_err(|_| NotValid::Wrong)?;
    if jws.header.typ != record.kind {
        return Err(NotValid::OtherKind);
    }
    let payload: Value = serde_json::from_slice(&jws.payload).unwrap_or_default();
    let signed = payload.get("machine").and_then(Value::as_str).unwrap_or_default();
    if signed != machine {
        return Err(NotValid::OtherMachine { signed: signed.to_owned(), sender: machine.to_owned() });
    }
    Ok(())
}

fn verification(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Some(&ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Some(&ECDSA_P384_SHA384_FIXED),
        Algorithm::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::EdDSA => Some(&ED25519),
        Algorithm::None => None,
    }
}

fn is_named(certificate: &ParsedCertificate<'_>, machine: &str) -> bool {
    ServerName::try_from(machine).is_ok_and(|name| verify_server_name(certificate, &name).is_ok())
}

/// The way from the certificate to the authority, as for a client that connects.
fn verify_issued(
    ca_pem: &str,
    certificate: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), NotValid> {
    let authority = |error: &dyn std::fmt::Display| NotValid::Authority(error.to_string());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| authority(&error))?;
    roots.add(root).map_err(|error| authority(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| authority(&error))?;
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier.verify_client_cert(certificate, between, now).map_err(NotValid::Foreign)?;
    Ok(())
}

/// The key in a SubjectPublicKeyInfo (RFC 5280, section 4.1): `SEQUENCE { SEQUENCE algorithm, BIT STRING key }`.
fn public_key(key_info: &[u8]) -> Option<&[u8]> {
    let (whole, _) = der_value(key_info, 0x30)?;
    let (_, rest) = der_value(whole, 0x30)?;
    let (bits, _) = der_value(rest, 0x03)?;
    // A whole number of bytes: none of the bits at the end is unused.
    bits.strip_prefix(&[0])
}

/// The content of a DER value of that tag, and what follows it. Lengths up to 64 KiB, more than any key has.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match der.strip_prefix(&[tag])? {
        [short @ ..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Judges a record that came in now.
pub fn judge(ca_pem: &str, signers: Signers, machine: &str, record: Record, now: OffsetDateTime) -> Stored {
    let fault = verify(ca_pem, signers, machine, &record, now).err().map(|fault| fault.to_string());
    Stored { received: format_time(now), fault, jws: record.jws }
}

/// Keeps what was judged.
pub fn keep(tx: &Tx<'_>, machine: &str, kind: Kind, record: &Stored) -> Result<(), Refusal> {
    match kind {
        Kind::EraseRecord => {
            if tx.add_erasure(machine, record)? {
                let payload = record.payload();
                let (device, serial) = (text(&payload, "device"), text(&payload, "serial"));
                tell(machine, record, &format!("erase record of {device}, serial {serial}"));
            }
        }
        Kind::Plan => {
            tx.put_plan(machine, record)?;
            tell(machine, record, "plan of an installation");
        }
    }
    Ok(())
}

fn text(payload: &Value, key: &str) -> String {
    payload.get(key).and_then(Value::as_str).unwrap_or("none").to_owned()
}

fn tell(machine: &str, record: &Stored, what: &str) {
    match &record.fault {
        None => tracing::info!(%machine, "{what}: kept, the signature is valid"),
        Some(fault) => tracing::warn!(%machine, %fault, "{what}: kept, but the signature is NOT valid"),
    }
}
