//! Which server the command talks to, and with which key.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::anvil::client::Client;
use crate::anvil::keys::read_key;
use crate::anvil::serve::ClientFile;

const DEFAULT_DATA: &str = "/var/lib/anvil";

/// Each flag can also be set by a variable of the environment.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Connection {
    /// Server, such as http://10.77.0.1:4242 [env: ANVIL_URL] [default: what DATA/client.json says]
    #[arg(long, global = true)]
    url: Option<String>,
    /// File with the key [env: ANVIL_KEY_FILE] [default: what DATA/client.json says]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Data directory of the server on this host [env: ANVIL_DATA] [default: /var/lib/anvil]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Connection {
    /// The data directory, when the caller named one.
    pub(super) fn data(&self) -> Option<PathBuf> {
        self.data.clone().or_else(|| environment("ANVIL_DATA").map(PathBuf::from))
    }

    /// Where anvil keeps its data unless somebody says otherwise.
    pub(super) fn data_or_default(&self) -> PathBuf {
        self.data().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA))
    }

    pub(super) fn client(&self) -> Result<Client> {
        let url = self.url.clone().or_else(|| environment("ANVIL_URL"));
        let key_file = self.key_file.clone().or_else(|| environment("ANVIL_KEY_FILE").map(PathBuf::from));
        let (url, key_file) = match (url, key_file) {
            (Some(url), Some(key_file)) => (url, key_file),
            (url, key_file) => {
                let local = self.read_client_file()?;
                (url.unwrap_or(local.url), key_file.unwrap_or(local.key_file))
            }
        };
        Client::new(&url, read_key(&key_file)?)
    }

    fn read_client_file(&self) -> Result<ClientFile> {
        let path = self.data_or_default().join("client.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("reading {} (written by \"anvil serve\"; or give --url and --key-file)", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An id as one segment of a path: everything but plain characters is escaped.
pub(super) fn segment(id: &str) -> String {
    id.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(segment("debian-12.0"), "debian-12.0");
        assert_eq!(segment("a/b?c ü"), "a%2Fb%3Fc%20%C3%BC");
    }
}
