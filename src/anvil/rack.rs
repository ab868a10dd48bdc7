//! The services of a rack beside the API: network boot, image files, DNS and NTP, as the configuration asks for them.

use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use tokio::task::JoinSet;

use super::authority::Authority;
use super::config::BootConfig;
use super::dns::MachineNames;
use super::netboot::config::{DhcpMode, TftpSettings};
use super::netboot::file_id::FileIds;
use super::netboot::http::{self, BootHttp};
use super::netboot::leases::LeaseFile;
use super::netboot::script::SecureConfig;
use super::netboot::{self, BootAuthority, Handles};
use super::state::Anvil;
use super::{dns, images_http, ntp};

/// Running services; they end when this is dropped.
pub struct Services {
    netboot: Handles,
    servers: JoinSet<Result<()>>,
}

impl Services {
    /// Waits until one of them fails. With none configured it waits for ever.
    pub async fn failed(&mut self) -> anyhow::Error {
        let server = async {
            match self.servers.join_next().await {
                Some(Ok(Ok(()))) => anyhow::anyhow!("a server of the rack ended"),
                Some(Ok(Err(error))) => error,
                Some(Err(error)) => anyhow::Error::new(error).context("running a server of the rack"),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.netboot.failed() => error,
            error = server => error,
        }
    }
}

/// Routes that are served beside REST: boot scripts and files when there is something to boot, and the images.
pub fn routes(anvil: &Anvil) -> Result<Router> {
    let images = images_http::router(anvil.images_dir());
    let BootConfig { kernel, initrd, .. } = &anvil.config.partition.bootconfig;
    let (kernel, initrd) = match (kernel, initrd) {
        (Some(kernel), Some(initrd)) => (kernel.clone(), initrd.clone()),
        (None, None) => return Ok(images),
        _ => bail!("partition.bootconfig: expected both kernel and initrd, found one of them"),
    };
    let IpAddr::V4(listen) = anvil.config.listen else {
        bail!("listen: network boot needs an IPv4 address, found {}", anvil.config.listen);
    };
    let boot = BootHttp {
        authority: authority(anvil),
        address: SocketAddrV4::new(listen, anvil.endpoints.http.port()),
        kernel,
        initrd,
        pixie_api_url: anvil.metal_config().pixie_api_url,
        secure_config: SecureConfig { url: format!("{}/certs", anvil.endpoints.https_url()), ca: anvil.pki.ca_pin()? },
        debug: false,
        loader_dir: tftp(anvil).dir,
        ids: FileIds::load_or_create(&anvil.config.data.join("boot-file.key"))?,
    };
    Ok(http::router(Arc::new(boot)).merge(images))
}

/// Binds all sockets and starts the servers; an error names the address and port.
pub async fn start(anvil: &Anvil) -> Result<Services> {
    let config = &anvil.config;
    let mut servers = JoinSet::new();
    if let Some(settings) = config.dns.clone().filter(|dns| dns.enabled) {
        let sockets = dns::bind(config.listen).await?;
        let machines = MachineNames::new(anvil.store.clone(), LeaseFile::in_data(&config.data));
        servers.spawn(async move { dns::serve(sockets, &settings, Some(machines), std::future::pending()).await });
    }
    if let Some(settings) = config.ntp.as_ref().filter(|ntp| ntp.enabled) {
        let socket = ntp::bind(config.listen).await?;
        servers.spawn(ntp::serve(socket, settings.serve_unsynchronised, std::future::pending()));
    }
    let netboot = netboot::start(netboot_config(anvil)?, authority(anvil)).await.context("starting network boot")?;
    Ok(Services { netboot, servers })
}

fn authority(anvil: &Anvil) -> Arc<dyn BootAuthority> {
    Arc::new(Authority::new(anvil.clone()))
}

fn tftp(anvil: &Anvil) -> TftpSettings {
    anvil.config.tftp.clone().unwrap_or_else(|| TftpSettings { enabled: false, ..TftpSettings::default() })
}

fn netboot_config(anvil: &Anvil) -> Result<netboot::Config> {
    let config = &anvil.config;
    let tftp = tftp(anvil);
    let listen = match config.listen {
        IpAddr::V4(listen) => listen,
        // Neither is served over IPv6 yet, and the check of the file lets only `off` pass.
        IpAddr::V6(_) if config.dhcp.mode == DhcpMode::Off && !tftp.enabled => std::net::Ipv4Addr::LOCALHOST,
        IpAddr::V6(listen) => bail!("listen: DHCP and TFTP need an IPv4 address, found {listen}"),
    };
    Ok(netboot::Config {
        listen,
        interface: config.interface.clone(),
        http_port: anvil.endpoints.http.port(),
        data: config.data.clone(),
        dhcp: config.dhcp.clone(),
        tftp,
    })
}
