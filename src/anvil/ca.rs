//! anvil's own certificate authority: made at the first start, leafs renewed at a start when they run out.
//!
//! One certificate for the gRPC server, one for all agents and boot servers (metal-stack's agents share one, too). Where
//! machines have to be admitted, each has one of its own instead.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::keys::write_secret;
use crate::api::ca_pin::CaPin;

const CA_LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(730);
/// Below this much time left, a start makes a new certificate.
const RENEW_BEFORE: Duration = Duration::days(30);
/// Certificates begin in the past, for machines whose clock is behind.
const BACKDATED: Duration = Duration::days(1);

/// Certificates and keys, PEM. Not `Debug`: the keys are secrets.
#[derive(Clone)]
pub struct Pki {
    pub ca_cert: String,
    pub server_cert: String,
    pub server_key: String,
    pub client_cert: String,
    pub client_key: String,
}

impl Pki {
    /// By which agents know this authority.
    pub fn ca_pin(&self) -> Result<CaPin> {
        let der =
            CertificateDer::from_pem_slice(self.ca_cert.as_bytes()).context("reading the authority's certificate")?;
        Ok(CaPin::of(&der))
    }

    /// The server's certificate with the authority's behind it, which agents that know only its digest need to see.
    pub fn server_tls(&self) -> Result<ServerConfig> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(format!("{}{}", self.server_cert, self.ca_cert).as_bytes())
                .collect::<Result<_, _>>()
                .context("reading the server's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).context("reading the server's key")?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choosing versions of TLS")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("using the server's certificate")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// What was issued, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    #[serde(with = "time::serde::rfc3339")]
    ca_until: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    leafs_until: OffsetDateTime,
    /// Addresses and names the server certificate is for.
    server_names: Vec<String>,
}

/// Reads the authority under `dir`, making what is missing, runs out within 30 days, or is for other addresses.
pub fn ensure_pki(dir: &Path, listen: IpAddr, now: OffsetDateTime) -> Result<Pki> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let server_names = server_names(listen);
    let issued = read_issued(dir);
    let ca_until = match issued.as_ref().filter(|issued| issued.ca_until - now > RENEW_BEFORE) {
        Some(issued) => issued.ca_until,
        None => make_ca(dir, now)?,
    };
    let leafs_are_good = issued.as_ref().is_some_and(|issued| {
        issued.ca_until == ca_until && issued.leafs_until - now > RENEW_BEFORE && issued.server_names == server_names
    });
    if !leafs_are_good {
        let leafs_until = make_leafs(dir, &server_names, now)?;
        // Last, so that a half-made set is made again.
        let issued = Issued { ca_until, leafs_until, server_names };
        write_secret(&dir.join("issued.json"), &serde_json::to_string_pretty(&issued)?)?;
        tracing::info!(until = %leafs_until.date(), "made certificates for the gRPC server and its clients");
    }
    read_pki(dir)
}

fn server_names(listen: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let listen = listen.to_string();
    if !names.contains(&listen) {
        names.push(listen);
    }
    names
}

/// Absent when anything of it can't be read: then all is made anew.
fn read_issued(dir: &Path) -> Option<Issued> {
    let issued = serde_json::from_str(&fs::read_to_string(dir.join("issued.json")).ok()?).ok()?;
    let complete = ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"]
        .iter()
        .all(|file| dir.join(file).exists());
    complete.then_some(issued)
}

fn read_pki(dir: &Path) -> Result<Pki> {
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(Pki {
        ca_cert: read("ca.pem")?,
        server_cert: read("server.pem")?,
        server_key: read("server.key")?,
        client_cert: read("client.pem")?,
        client_key: read("client.key")?,
    })
}

/// The authority's parameters. An issuer is made of them again at each start, so they must not vary.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "anvil certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_ca(dir: &Path, now: OffsetDateTime) -> Result<OffsetDateTime> {
    let key = KeyPair::generate().context("generating the authority's key")?;
    let until = now + CA_LIFETIME;
    let mut params = ca_params();
    params.not_before = now - BACKDATED;
    params.not_after = until;
    let certificate = params.self_signed(&key).context("signing the authority's certificate")?;
    write_secret(&dir.join("ca.key"), &key.serialize_pem())?;
    write_secret(&dir.join("ca.pem"), &certificate.pem())?;
    tracing::info!(until = %until.date(), "made a certificate authority");
    Ok(until)
}

fn read_issuer(dir: &Path) -> Result<Issuer<'static, KeyPair>> {
    let ca_key_pem = fs::read_to_string(dir.join("ca.key")).context("reading the authority's key")?;
    let ca_key = KeyPair::from_pem(&ca_key_pem).context("parsing the authority's key")?;
    Ok(Issuer::new(ca_params(), ca_key))
}

fn make_leafs(dir: &Path, server_names: &[String], now: OffsetDateTime) -> Result<OffsetDateTime> {
    let issuer = read_issuer(dir)?;
    let leafs = [
        ("server", server_names, "anvil", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", &[][..], "anvil client", ExtendedKeyUsagePurpose::ClientAuth),
    ];
    for (file, names, common_name, usage) in leafs {
        let (cert, key) = issue(&issuer, names, common_name, usage, now)?;
        write_secret(&dir.join(format!("{file}.key")), &key)?;
        write_secret(&dir.join(format!("{file}.pem")), &cert)?;
    }
    Ok(now + LEAF_LIFETIME)
}

/// Certificate and key, PEM.
fn issue(
    issuer: &Issuer<'static, KeyPair>,
    names: &[String],
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
    now: OffsetDateTime,
) -> Result<(String, String)> {
    let key = KeyPair::generate().context("generating a key")?;
    let mut params = CertificateParams::new(names.to_vec()).context("naming a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - BACKDATED;
    params.not_after = now + LEAF_LIFETIME;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).context("signing a certificate")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A client certificate of one machine's own, and its key, PEM. Not `Debug`: the key is a secret.
pub struct MachineCert {
    pub cert: String,
    pub key: String,
    pub until: OffsetDateTime,
}

/// Issues a certificate with the machine's id as its name, in the subject and as the name that clients are known by.
/// `dir` is [`ensure_pki`]'s.
pub fn issue_machine(dir: &Path, machine: &str, now: OffsetDateTime) -> Result<MachineCert> {
    let until = now + LEAF_LIFETIME;
    let (cert, key) =
        issue(&read_issuer(dir)?, &[machine.to_owned()], machine, ExtendedKeyUsagePurpose::ClientAuth, now)?;
    Ok(MachineCert { cert, key, until })
}

/// Whether a certificate that runs out then is to be replaced.
pub fn is_running_out(until: OffsetDateTime, now: OffsetDateTime) -> bool {
    until - now <= RENEW_BEFORE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-02 03:00:00 UTC);

    fn ensure(dir: &Path, listen: &str, now: OffsetDateTime) -> Pki {
        ensure_pki(dir, listen.parse().unwrap(), now).unwrap()
    }

    #[test]
    fn certificates_survive_a_restart_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), "10.77.0.1", NOW);
        let second = ensure(dir.path(), "10.77.0.1", NOW + Duration::days(600));
        assert!(first.server_cert == second.server_cert && first.ca_cert == second.ca_cert);
        for key in ["ca.key", "server.key", "client.key"] {
            let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn leafs_are_renewed_under_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), "10.77.0.1", NOW);
        let later = ensure(dir.path(), "10.77.0.1", NOW + Duration::days(701));
        assert!(first.ca_cert == later.ca_cert && first.server_cert != later.server_cert);
        let moved = ensure(dir.path(), "10.77.0.2", NOW + Duration::days(701));
        assert!(moved.ca_cert == later.ca_cert && moved.server_cert != later.server_cert);
    }

    #[test]
    fn a_lost_file_makes_a_new_set() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), "10.77.0.1", NOW);
        fs::remove_file(dir.path().join("client.key")).unwrap();
        let second = ensure(dir.path(), "10.77.0.1", NOW);
        assert!(first.ca_cert != second.ca_cert && first.client_cert != second.client_cert);
    }
}
