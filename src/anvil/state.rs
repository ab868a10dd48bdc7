//! What all parts of the running server share.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;

use super::ca::{Pki, ensure_pki};
use super::config::{Config, LoggingConfig};
use super::images;
use super::keys::{Keys, ensure_keys};
use super::machines::{self, Partition};
use super::progress::LiveProgress;
use super::store::Store;
use super::waiting::Waiters;
use crate::api::hmac::Role;
use crate::api::image_key::ImageKey;
use crate::api::image_places::Mirror;
use crate::api::metal_config::MetalConfig;

/// Below the data directory.
const CA_DIR: &str = "ca";

/// Where the servers listen, as machines reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub grpc: SocketAddr,
}

impl Endpoints {
    /// `http://10.77.0.1:4242`, without a slash at the end.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The same by TLS.
    pub fn https_url(&self) -> String {
        format!("https://{}", self.https)
    }
}

/// The running anvil; cheap to clone.
#[derive(Clone)]
pub struct Anvil(Arc<Shared>);

/// See the fields; reached through [`Anvil`].
pub struct Shared {
    pub config: Config,
    pub endpoints: Endpoints,
    pub store: Store,
    pub keys: Keys,
    pub pki: Pki,
    pub waiters: Waiters,
    pub live: LiveProgress,
    /// Held as long as anvil runs, so that two can't share a data directory.
    _lock: Flock<fs::File>,
}

impl Deref for Anvil {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Anvil {
    /// Opens the data directory, making what is missing: database, authority, keys.
    pub fn open(config: Config, endpoints: Endpoints) -> Result<Self> {
        let data = &config.data;
        // The database and the keys in it are nobody else's.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data.join("images"))
            .with_context(|| format!("creating {}", data.display()))?;
        let lock = lock_data_dir(data)?;
        let keys = ensure_keys(&data.join("hmac"))?;
        let pki = ensure_pki(&data.join(CA_DIR), config.listen, OffsetDateTime::now_utc())?;
        let store = Store::open(&data.join("anvil.db"))?;
        let partition = Partition::from_config(&config.partition, endpoints);
        store.run_blocking(|tx| tx.put(&partition)).context("storing the partition")?;
        store
            .run_blocking(|tx| machines::judge_sizes(tx, config.sizes.matching(), OffsetDateTime::now_utc()))
            .context("judging the sizes of machines by the configured rules")?;
        let images = data.join("images");
        images::sweep_uploads(&images)?;
        store
            .run_blocking(|tx| images::refresh_urls(tx, &images, &endpoints.http_url()))
            .context("bringing the URLs of local images up to date")?;
        Ok(Self(Arc::new(Shared {
            config,
            endpoints,
            store,
            keys,
            pki,
            waiters: Waiters::default(),
            live: LiveProgress::default(),
            _lock: lock,
        })))
    }

    /// Where image files lie: `<dir>/<image id>/<file>`.
    pub fn images_dir(&self) -> PathBuf {
        self.config.data.join("images")
    }

    /// Where the authority's files lie.
    pub fn ca_dir(&self) -> PathBuf {
        self.config.data.join(CA_DIR)
    }

    /// What the boot server hands to every agent on `/certs`; where machines have to be admitted, with other keys.
    pub fn metal_config(&self) -> MetalConfig {
        let url = self.endpoints.http_url();
        let partition = &self.config.partition;
        let ntp = partition.ntp_servers.iter().map(|server| server.address.clone()).collect();
        MetalConfig {
            debug: false,
            address: Some(self.endpoints.grpc.to_string()),
            metal_api_url: Some(url.clone()),
            pixie_api_url: format!("{url}/certs"),
            ca_cert: Some(self.pki.ca_cert.clone()),
            cert: Some(self.pki.client_cert.clone()),
            key: Some(self.pki.client_key.clone()),
            hmac: Some(self.keys.secret(Role::View).to_owned()),
            ntp_servers: Some(ntp),
            dns_servers: partition.dns_servers.iter().map(|server| server.ip.clone()).collect(),
            partition: partition.id.clone(),
            logging: partition.logging.as_ref().map(LoggingConfig::to_logging),
            ssh_keys: partition.ssh_keys.clone(),
            image_mirrors: partition.image_mirrors.iter().map(Mirror::to_secret_string).collect(),
            image_keys: partition.image_keys.iter().map(ImageKey::to_string).collect(),
            image_digest: partition.image_digest.map(|rule| rule.as_str().to_owned()),
            http_proxy: partition.http_proxy.as_ref().map(|proxy| proxy.secret_url().to_string()),
            no_proxy: partition.no_proxy.clone(),
        }
    }
}

fn lock_data_dir(data: &std::path::Path) -> Result<Flock<fs::File>> {
    let path = data.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}: is another anvil running with this data directory?", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::config::parse_config;

    const KEY: &str = "RWS7czYRT8p5jUqJcRL+Z+BHnjeXhuD5nllelSrbEqUggTSMeiO70FS7";

    fn metal_config(partition: &str) -> serde_json::Value {
        let data = tempfile::tempdir().unwrap();
        let text = format!("{{data: '{}', partition: {{{partition}}}}}", data.path().display());
        let address = SocketAddr::from(([127, 0, 0, 1], 4242));
        let anvil =
            Anvil::open(parse_config(&text).unwrap(), Endpoints { http: address, https: address, grpc: address })
                .unwrap();
        serde_json::to_value(anvil.metal_config()).unwrap()
    }

    #[test]
    fn agents_are_told_where_images_come_from_and_who_signs_them() {
        let config = metal_config(&format!(
            "image_mirrors: ['http://10.0.0.5/m'], image_keys: [{KEY}], image_digest: optional, \
             http_proxy: 'http://user:secret@10.0.0.3:3128', no_proxy: [10.77.0.0/24]"
        ));
        assert_eq!(config["image_mirrors"], serde_json::json!(["http://10.0.0.5/m"]));
        assert_eq!(config["image_keys"], serde_json::json!([KEY]));
        assert_eq!(config["image_digest"], "optional");
        assert_eq!(config["http_proxy"], "http://user:secret@10.0.0.3:3128/");
        assert_eq!(config["no_proxy"], serde_json::json!(["10.77.0.0/24"]));
    }

    #[test]
    fn without_a_word_of_it_the_configuration_is_upstreams() {
        let config = metal_config("id: lab");
        let ours = ["image_mirrors", "image_keys", "image_digest", "http_proxy", "no_proxy", "logging", "ssh_keys"];
        assert!(ours.iter().all(|key| config.get(key).is_none()), "{config}");
    }
}
