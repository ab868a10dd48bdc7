//! The connections to the control plane.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};

use super::Agent;
use crate::api::ca_pin::CaPin;
use crate::api::mac::Mac;
use crate::api::metal_config::MetalConfig;
use crate::client::boot::{self, BootService};
use crate::client::metal_config::{self, Introduction};
use crate::client::rest::RestClient;
use crate::client::signature::Signer;
use crate::config::cmdline::Cmdline;
use crate::net::{Resolver, http_client, pinned_http_client};
use crate::redact;

/// Everything that MetalConfig leads to.
pub(crate) struct Session {
    pub config: MetalConfig,
    pub boot: BootService,
    pub rest: RestClient,
    pub resolver: Resolver,
    config_url: String,
    machine_id: String,
    signer: Signer,
}

impl Session {
    /// Fetches MetalConfig and opens what it names. Events go there from now on.
    pub(crate) async fn open(agent: &Agent, resolver: &Resolver, machine_id: &str) -> Result<Self> {
        let url = agent
            .cmdline
            .config_url()
            .context("the kernel command line has neither drophammer.config= nor PIXIE_API_URL=")?;
        let config = fetch_config(&agent.cmdline, resolver, url, &introduce(agent, machine_id)).await?;
        hide_secrets(&config);
        resolver.set_metal_config(&config.dns_servers, &|line| warn!("{line}"));
        let http = http_client(resolver.clone(), config.ca_cert.as_deref())?;
        let channel = boot::channel(&config, resolver)?;
        agent.events.connect(channel.clone(), machine_id);
        let rest = RestClient::new(
            http,
            config.metal_api_url.as_deref().unwrap_or_default(),
            config.hmac.as_deref().unwrap_or_default(),
        );
        Ok(Self {
            boot: BootService::new(channel),
            rest,
            resolver: resolver.clone(),
            signer: Signer::new(&config, machine_id),
            config,
            config_url: url.to_owned(),
            machine_id: machine_id.to_owned(),
        })
    }

    /// Signs what the control plane is to keep.
    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Asks for MetalConfig again, and opens everything anew when it changed: certificates and addresses do.
    pub(crate) async fn refresh(&mut self, agent: &Agent) -> Result<()> {
        let me = introduce(agent, &self.machine_id);
        let config = fetch_config(&agent.cmdline, &self.resolver, &self.config_url, &me).await?;
        if config == self.config {
            return Ok(());
        }
        info!("the configuration has changed");
        *self = Self::open(agent, &self.resolver.clone(), &self.machine_id.clone()).await?;
        Ok(())
    }
}

/// Whatever prints them from now on: the log has `***`.
fn hide_secrets(config: &MetalConfig) {
    let logging = config.logging.as_ref();
    let certificate_key = logging.and_then(|logging| logging.certificate_auth.as_ref()).map(|auth| auth.key.as_str());
    let password = logging.and_then(|logging| logging.basic_auth.as_ref()).map(|auth| auth.password.as_str());
    let given = [config.key.as_deref(), config.hmac.as_deref(), certificate_key, password];
    given.into_iter().flatten().for_each(redact::hide);
    // The log server's URL may have one, too.
    let urls = [config.http_proxy.as_deref(), logging.map(|logging| logging.endpoint.as_str())];
    for url in urls.into_iter().flatten().filter_map(|url| url.parse::<reqwest::Url>().ok()) {
        url.password().into_iter().for_each(redact::hide);
    }
}

/// Who this machine says it is.
fn introduce(agent: &Agent, machine_id: &str) -> Introduction {
    Introduction {
        machine_id: machine_id.to_owned(),
        macs: read_macs(&agent.roots.sys.join("class/net")),
        token: agent.cmdline.token().map(str::to_owned),
    }
}

/// Addresses of the Ethernet cards, in the order of their names. A card that can't be read is left out, since any
/// other will do for an operator.
fn read_macs(net: &Path) -> Vec<Mac> {
    let Ok(entries) = fs::read_dir(net) else { return Vec::new() };
    let mut links: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    links.sort();
    links.iter().filter(|link| link.join("device").exists()).filter_map(|link| read_mac(link)).collect()
}

fn read_mac(link: &Path) -> Option<Mac> {
    // ARPHRD_ETHER of include/uapi/linux/if_arp.h; InfiniBand has longer addresses.
    let is_ethernet = fs::read_to_string(link.join("type")).ok()?.trim() == "1";
    let mac = fs::read_to_string(link.join("address")).ok()?.trim().parse().ok()?;
    (is_ethernet && mac != Mac([0; 6])).then_some(mac)
}

/// With `drophammer.ca=` from a server that shows one of these certificates, or from none.
async fn fetch_config(cmdline: &Cmdline, resolver: &Resolver, url: &str, me: &Introduction) -> Result<MetalConfig> {
    let Some(pins) = cmdline.ca_pins() else {
        if url.starts_with("http://") {
            warn!(
                url,
                "the configuration comes by plain HTTP: whoever is on this network can read the keys in it, or answer \
                 in the server's place; https and drophammer.ca= prevent both"
            );
        }
        return metal_config::fetch(&http_client(resolver.clone(), None)?, url, me).await;
    };
    let pins: Vec<CaPin> = pins.iter().map(|pin| pin.parse()).collect::<Result<_, _>>().context("drophammer.ca=")?;
    ensure!(!pins.is_empty(), "drophammer.ca= names no certificate, so that no server can be trusted");
    ensure!(url.starts_with("https://"), "drophammer.ca= is given, and {url} is not https: anybody could answer there");
    metal_config::fetch(&pinned_http_client(resolver.clone(), &pins)?, url, me).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ethernet_cards_name_a_machine() {
        let net = tempfile::tempdir().unwrap();
        let link = |name: &str, kind: &str, address: &str, is_card: bool| {
            let dir = net.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("type"), kind).unwrap();
            fs::write(dir.join("address"), address).unwrap();
            if is_card {
                fs::create_dir(dir.join("device")).unwrap();
            }
        };
        link("eth1", "1\n", "02:00:00:00:00:02\n", true);
        link("eth0", "1\n", "02:00:00:00:00:01\n", true);
        link("ib0", "32\n", "80:00:02:08:fe:80:00:00:00:00:00:00:02:00:00:00:00:00:00:01\n", true);
        link("lo", "772\n", "00:00:00:00:00:00\n", false);
        link("bond0", "1\n", "02:00:00:00:00:09\n", false);
        let found: Vec<String> = read_macs(net.path()).iter().map(Mac::to_string).collect();
        assert_eq!(found, ["02:00:00:00:00:01", "02:00:00:00:00:02"]);
    }
}
