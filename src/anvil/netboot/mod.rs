//! Network boot: from a machine's first DHCP packet to the agent's kernel, and the configuration it then reads.
//!
//! | step | file |
//! |---|---|
//! | address, and what to load | [`dhcp`] (sockets), [`dhcp_answer`] (decisions), [`dhcp_message`], [`leases`], [`pxe`] |
//! | iPXE for firmware that brings none | [`tftp`], [`tftp_packet`] |
//! | script, kernel, initrd, configuration | [`http`], [`script`], [`file_id`], [`file_response`] |
//! | no waiting for IPv6 | [`ra`] |
//!
//! What a machine boots is not decided here: [`BootAuthority`] knows.

pub mod config;
pub mod dhcp;
pub mod dhcp_answer;
pub mod dhcp_message;
pub mod file_id;
pub mod file_response;
pub mod http;
pub mod leases;
pub mod pxe;
pub mod ra;
pub mod script;
pub mod tftp;
pub mod tftp_packet;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api::enrolment::NotAdmitted;
use crate::api::mac::Mac;
use crate::api::metal_config::MetalConfig;
use crate::sys::udp::{UdpOptions, bind_udp};
use config::{DhcpMode, DhcpSettings, TftpSettings};
use dhcp::{DhcpSocket, Role, ServerState};
use dhcp_answer::Me;
use leases::{LeaseFile, LeasePool};
use ra::RouterAdvertiser;
use tftp::TftpServer;

/// What a machine is to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootDecision {
    /// The agent. `cmdline` is the partition's; the boot server adds `PIXIE_API_URL` and `DEBUG`.
    Agent { cmdline: String },
    /// The operating system on the machine's own disk.
    LocalDisk,
}

/// The side that knows the machines: anvil's store, or a control plane behind gRPC.
#[async_trait]
pub trait BootAuthority: Send + Sync {
    /// A machine asks for an address in order to boot: event `PXE Booting`. `uuid` is lower-case, `8-4-4-4-12`.
    /// Comes several times per boot.
    async fn saw_dhcp(&self, uuid: &str) -> Result<()>;

    /// `mac` is lower-case with colons.
    async fn boot(&self, mac: &str) -> Result<BootDecision>;

    /// What the agent gets to know; holds secrets.
    async fn metal_config(&self, asking: Asking) -> Result<ConfigAnswer>;
}

/// Who asks for the agent's configuration: all of it the machine's own word. Not `Debug`: it may hold a token.
#[derive(Clone, Default)]
pub struct Asking {
    /// UUID, lower case. metal-stack's agent does not say.
    pub machine: Option<String>,
    pub macs: Vec<Mac>,
    pub token: Option<String>,
    /// Nobody on the way can read the answer.
    pub by_tls: bool,
    /// The address that it asks from.
    pub from: Option<IpAddr>,
}

/// What a machine that asks is told.
pub enum ConfigAnswer {
    Config(Box<MetalConfig>),
    NotAdmitted(NotAdmitted),
}

/// What [`start`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our address on the machines' network.
    pub listen: Ipv4Addr,
    /// The machines' interface: DHCP and router advertisements stay on it. Without it DHCP listens on every
    /// interface, and there are no advertisements.
    pub interface: Option<String>,
    /// Where [`http::router`] is served on `listen`.
    pub http_port: u16,
    /// Directory for the leases.
    pub data: PathBuf,
    pub dhcp: DhcpSettings,
    pub tftp: TftpSettings,
}

/// The servers that run; they end when this is dropped.
pub struct Handles {
    tasks: JoinSet<Result<()>>,
}

impl Handles {
    /// Waits until one of the servers ends, which none does unless something is broken. With no server configured it
    /// waits for ever.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => anyhow::anyhow!("a boot server ended"),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("running a boot server"),
            None => std::future::pending().await,
        }
    }

    /// Ends all servers and waits until they have ended. No state is lost: leases are on disk before they are given.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Binds all sockets, then starts the servers. Either all run or none: an error names the address and port.
pub async fn start(config: Config, authority: Arc<dyn BootAuthority>) -> Result<Handles> {
    let me = Me { address: config.listen, http_port: config.http_port };
    let mut dhcp_sockets = Vec::new();
    match config.dhcp.mode {
        DhcpMode::Server => {
            let state = server_state(&config)?;
            let socket = bind(&config, "DHCP", Ipv4Addr::UNSPECIFIED, 67, false)?;
            dhcp_sockets.push(DhcpSocket::new(socket, me, Role::Server(Box::new(state)), Arc::clone(&authority))?);
        }
        DhcpMode::Proxy => {
            let socket = bind(&config, "ProxyDHCP", Ipv4Addr::UNSPECIFIED, 67, true)?;
            dhcp_sockets.push(DhcpSocket::new(socket, me, Role::Proxy, Arc::clone(&authority))?);
            let socket = bind(&config, "PXE", Ipv4Addr::UNSPECIFIED, 4011, false)?;
            dhcp_sockets.push(DhcpSocket::new(socket, me, Role::Binl, authority)?);
        }
        DhcpMode::Off => {}
    }
    let tftp = if config.tftp.enabled {
        let socket = bind(&config, "TFTP", config.listen, 69, false)?;
        Some(TftpServer::new(socket, config.tftp.dir.clone())?)
    } else {
        None
    };
    let mut tasks = JoinSet::new();
    for socket in dhcp_sockets {
        tasks.spawn(socket.run());
    }
    if let Some(tftp) = tftp {
        tasks.spawn(tftp.run());
    }
    if let Some(advertiser) = advertiser(&config) {
        tasks.spawn(advertiser.run());
    }
    info!(listen = %config.listen, interface = config.interface, dhcp = ?config.dhcp.mode, tftp = config.tftp.enabled, "network boot runs");
    Ok(Handles { tasks })
}

fn server_state(config: &Config) -> Result<ServerState> {
    let (range, network) = config.dhcp.server_parts(config.listen)?;
    let file = LeaseFile::in_data(&config.data);
    let reserved = std::iter::once(config.listen).chain(config.dhcp.router).collect();
    let pool = LeasePool::new(range, reserved, file.load()?);
    Ok(ServerState { network, pool, file })
}

/// An interface without IPv6 costs machines a few seconds of waiting, so this is no reason not to start.
fn advertiser(config: &Config) -> Option<RouterAdvertiser> {
    if config.dhcp.mode == DhcpMode::Off || !config.dhcp.router_advertisement {
        return None;
    }
    let Some(interface) = &config.interface else {
        warn!("no router advertisements without `interface`: iPXE will wait 13 s at every boot");
        return None;
    };
    match RouterAdvertiser::open(interface) {
        Ok(advertiser) => Some(advertiser),
        Err(error) => {
            warn!(error = format!("{error:#}"), "no router advertisements: iPXE will wait 13 s at every boot");
            None
        }
    }
}

fn bind(config: &Config, what: &str, address: Ipv4Addr, port: u16, share_port: bool) -> Result<std::net::UdpSocket> {
    let address = SocketAddrV4::new(address, port);
    // TFTP clients may come through a relay's interface; only broadcasts must be told apart by interface.
    let device = config.interface.as_deref().filter(|_| port != 69);
    let options = UdpOptions { address, device, broadcast: true, share_port };
    bind_udp(&options).with_context(|| {
        let on = device.map(|device| format!(" on {device}")).unwrap_or_default();
        format!("binding UDP {address}{on} for {what}")
    })
}
