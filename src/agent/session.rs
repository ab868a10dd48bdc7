//! The connections to the control plane.

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};

use super::Agent;
use crate::api::ca_pin::CaPin;
use crate::api::metal_config::MetalConfig;
use crate::client::boot::{self, BootService};
use crate::client::metal_config;
use crate::client::rest::RestClient;
use crate::client::signature::Signer;
use crate::config::cmdline::Cmdline;
use crate::net::{Resolver, http_client, pinned_http_client};

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
        let config = fetch_config(&agent.cmdline, resolver, url).await?;
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
        let config = fetch_config(&agent.cmdline, &self.resolver, &self.config_url).await?;
        if config == self.config {
            return Ok(());
        }
        info!("the configuration has changed");
        *self = Self::open(agent, &self.resolver.clone(), &self.machine_id.clone()).await?;
        Ok(())
    }
}

/// With `drophammer.ca=` from a server that shows one of these certificates, or from none.
async fn fetch_config(cmdline: &Cmdline, resolver: &Resolver, url: &str) -> Result<MetalConfig> {
    let Some(pins) = cmdline.ca_pins() else {
        if url.starts_with("http://") {
            warn!(
                url,
                "the configuration comes by plain HTTP: whoever is on this network can read the keys in it, or answer \
                 in the server's place; https and drophammer.ca= prevent both"
            );
        }
        return metal_config::fetch(&http_client(resolver.clone(), None)?, url).await;
    };
    let pins: Vec<CaPin> = pins.iter().map(|pin| pin.parse()).collect::<Result<_, _>>().context("drophammer.ca=")?;
    ensure!(!pins.is_empty(), "drophammer.ca= names no certificate, so that no server can be trusted");
    ensure!(url.starts_with("https://"), "drophammer.ca= is given, and {url} is not https: anybody could answer there");
    metal_config::fetch(&pinned_http_client(resolver.clone(), &pins)?, url).await
}
