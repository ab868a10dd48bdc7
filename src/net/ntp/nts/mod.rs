//! Network Time Security (RFC 8915): answers that only the server with the right certificate can give.
//!
//! [`exchange_keys`] gets keys and cookies over TLS; [`Association`] makes questions of them, and
//! [`SealedQuestion::check`] tells whether an answer is the server's.

mod key_exchange;
mod records;
mod sealed;
mod siv;

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

pub use key_exchange::exchange_keys;
pub use records::{Record, parse_records, render_records};
pub use sealed::{Association, Keys, SealedQuestion, read_fields, render_field, seal_fields};
pub use siv::{open, seal};

/// Of application-layer protocol negotiation.
pub const PROTOCOL: &[u8] = b"ntske/1";
/// AEAD_AES_SIV_CMAC_256, the only algorithm that every server must have (RFC 8915 section 5.1).
pub const AES_SIV_CMAC_256: u16 = 15;
/// Number of NTPv4 among the protocols that keys can be exchanged for.
pub const NTP_V4: u16 = 0;
/// Of TLS key export (RFC 8915 section 4.3).
pub const EXPORT_LABEL: &[u8] = b"EXPORTER-network-time-security";

/// Context of the export: protocol, algorithm, direction.
pub fn export_context(to_client: bool) -> [u8; 5] {
    let ([p0, p1], [a0, a1]) = (NTP_V4.to_be_bytes(), AES_SIV_CMAC_256.to_be_bytes());
    [p0, p1, a0, a1, u8::from(to_client)]
}

/// Why NTS did not come about.
#[derive(Debug, Error)]
pub enum NtsError {
    #[error("no certificate authority is trusted")]
    NoTrust,
    #[error("the key exchange does not answer in time")]
    TooSlow,
    #[error("connecting for the key exchange")]
    Connect(#[source] std::io::Error),
    #[error("key exchange")]
    Talk(#[source] std::io::Error),
    #[error("the key exchange needs a name that a certificate can have, found {0:?}")]
    Name(String),
    #[error("the server speaks something else than the key exchange on its port")]
    OtherProtocol,
    #[error("the keys cannot be taken from the connection: {0}")]
    Export(String),
    #[error("the server's part of the key exchange {0}")]
    Malformed(&'static str),
    #[error("the server refuses the key exchange with code {0}")]
    Refused(u16),
    #[error("all cookies of the server are spent")]
    NoCookies,
    #[error("drawing a random number: {0}")]
    Random(String),
}

/// TLS as the key exchange wants it, trusting these authorities; `None` when there are none.
pub(super) fn tls(extra_ca_pem: Option<&str>) -> Result<Option<Arc<ClientConfig>>> {
    let mut roots = RootCertStore::empty();
    for certificate in crate::net::http_client::trusted_roots(extra_ca_pem)? {
        roots.add(certificate).context("using trusted certificates")?;
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("setting TLS up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Some(Arc::new(config)))
}
