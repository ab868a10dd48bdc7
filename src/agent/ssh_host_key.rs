//! The key that the agent's SSH server shows, made anew in each boot.

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};

const TYPE: &[u8] = b"ssh-ed25519";
const KEY_BYTES: usize = 32;

/// An Ed25519 key (RFC 8709). Not `Debug`: it is a secret.
pub(super) struct HostKey {
    seed: [u8; KEY_BYTES],
    public: Vec<u8>,
}

impl HostKey {
    pub(super) fn generate() -> Result<Self> {
        let mut seed = [0; KEY_BYTES];
        getrandom::fill(&mut seed).context("reading the kernel's random source")?;
        Self::of(seed)
    }

    fn of(seed: [u8; KEY_BYTES]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| anyhow!("making a host key: {error}"))?;
        Ok(Self { seed, public: pair.public_key().as_ref().to_vec() })
    }

    /// As dropbear keeps it: the type, and then secret and public half as one string.
    pub(super) fn dropbear_file(&self) -> Vec<u8> {
        [string(TYPE), string(&[&self.seed[..], &self.public].concat())].concat()
    }

    /// `SHA256:…`, as `ssh` and `ssh-keygen -l` print it.
    pub(super) fn fingerprint(&self) -> String {
        let blob = [string(TYPE), string(&self.public)].concat();
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, &blob)))
    }
}

/// RFC 4251, section 5: length in four bytes, and the bytes. All of ours are short.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_one_ssh_shows() {
        // The first key of RFC 8032, section 7.1; the fingerprint is ssh-keygen's.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = HostKey::of(seed.clone().try_into().unwrap()).unwrap();
        assert_eq!(key.fingerprint(), "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8");
        let file = key.dropbear_file();
        assert_eq!(file.len(), 4 + 11 + 4 + 64);
        assert_eq!(file[19..51], seed);
        assert_eq!(hex::encode(&file[51..]), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn every_boot_has_another_key() {
        assert_ne!(HostKey::generate().unwrap().fingerprint(), HostKey::generate().unwrap().fingerprint());
    }
}
