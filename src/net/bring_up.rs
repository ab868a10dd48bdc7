//! The network phase: from links without addresses to a [`Network`], kept alive in the background.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

use super::carrier::search_when_away;
use super::dhcp::{self, Acquired, Confirmed, DhcpOptions};
use super::kernel_config::{KernelConfig, read_kernel_config};
use super::links::{EthernetLink, Netlink, Route};
use super::made_links::MadeLinks;
use super::mtu;
use super::resolver::Resolver;
use super::static_ip::{IpSetting, StaticIp, parse_ip_setting};
use super::{AbortOnDrop, Backoff, Say};
use crate::api::mac::Mac;
use crate::config::cmdline::Cmdline;
use crate::sys::roots::Roots;

/// Delays between tries of what should simply work.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(16);
/// How long to look for a carrier before saying so.
const CARRIER_WAIT: Duration = Duration::from_secs(5);
/// Between two questions about the kernel's lease.
const CONFIRM_PAUSE: Duration = Duration::from_secs(60);

/// Who configured the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Our own DHCP client.
    Dhcp,
    /// The kernel, before user space.
    Kernel,
    /// The operator, by `ip=`.
    Static,
}

/// The network as it is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    pub interface: String,
    pub link_index: u32,
    pub mac: Mac,
    /// Its own addresses, at least one; those of IPv4 come first.
    pub addresses: Vec<IpNet>,
    /// What we set. The kernel's own routes are not listed until its lease has been taken over.
    pub routes: Vec<Route>,
    /// Name servers that DHCP, the kernel or `ip=` tell. May be empty. Who is asked is [`Resolver::servers`].
    pub dns: Vec<IpAddr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    /// Time servers of option 42, the kernel or `ip=`. May be empty.
    pub ntp: Vec<String>,
    /// From `ip=`.
    pub host_name: Option<String>,
    pub dhcp_server: Option<IpAddr>,
    pub origin: Origin,
}

/// A working network. Dropping it stops renewing the lease.
pub struct Online {
    /// Follows the name servers of later leases by itself.
    pub resolver: Resolver,
    state: watch::Receiver<Network>,
    _keeper: Option<AbortOnDrop>,
    _made_links: Option<AbortOnDrop>,
}

impl Online {
    /// Tells every change of it.
    pub fn watch(&self) -> watch::Receiver<Network> {
        self.state.clone()
    }

    /// The network as of now: a later lease may differ from the first.
    pub fn network(&self) -> Network {
        self.state.borrow().clone()
    }
}

/// Gets the machine onto the network and keeps it there. Tries for ever; `say` is told what is being waited for.
///
/// What is asked for first is taken first: an address the kernel already has, then `ip=`, then DHCP.
pub async fn bring_up(roots: &Roots, cmdline: &Cmdline, uuid: Option<Uuid>, say: Say<'_>) -> Online {
    let netlink = until_it_works(say, || async { Netlink::open().context("opening rtnetlink") }).await;
    let resolver = Resolver::of_cmdline(cmdline, say);
    mtu::enable_path_probing(roots);
    let made = MadeLinks::of_cmdline(cmdline, say);
    let made_device = made.device().map(str::to_owned);
    let made_links = made.follow(roots);
    let options = DhcpOptions::of_cmdline(cmdline, uuid, say);
    // What the kernel has configured is the port below.
    if made_device.is_none()
        && let Some(kernel) = read_kernel_config(roots)
        && let Some((link, address)) = until_it_works(say, || find_configured_link(&netlink)).await
    {
        say(format!("{} has {address} from the kernel", link.name));
        return online_by_kernel(netlink, link, address, kernel, options, resolver);
    }
    let setting = parse_ip_setting(cmdline.get("ip")).unwrap_or_else(|error| {
        say(format!("{error}; using DHCP instead"));
        IpSetting::Dhcp { device: None }
    });
    let online = match setting {
        IpSetting::Static(mut setting) => {
            let boot_port = || options.boot_port.map(|mac| mac.to_string());
            setting.device = setting.device.or(made_device).or_else(boot_port);
            online_by_operator(netlink, setting, options.mtu_bytes, resolver, say).await
        }
        IpSetting::Dhcp { device } => online_by_dhcp(netlink, device.or(made_device), options, resolver, say).await,
    };
    Online { _made_links: made_links, ..online }
}

async fn online_by_dhcp(
    netlink: Netlink,
    device: Option<String>,
    options: DhcpOptions,
    resolver: Resolver,
    say: Say<'_>,
) -> Online {
    let acquired = lease_on_link(&netlink, device.as_deref(), &options, say).await;
    let network = network_of_lease(&acquired);
    say(describe(&network));
    resolver.set_network(&network);
    let (publish, state) = watch::channel(network);
    let keeper = Keeper { netlink, device, options, resolver: resolver.clone(), publish };
    let task = tokio::spawn(keeper.run(acquired));
    Online { resolver, state, _keeper: Some(AbortOnDrop(task)), _made_links: None }
}

/// A lease that is applied. A lease that can't be applied is asked for anew.
async fn lease_on_link(netlink: &Netlink, device: Option<&str>, options: &DhcpOptions, say: Say<'_>) -> Acquired {
    until_it_works(say, || async {
        let acquired = dhcp::acquire(netlink, device, options, say).await;
        dhcp::apply_lease(netlink, &acquired, None).await?;
        Ok(acquired)
    })
    .await
}

fn online_by_kernel(
    netlink: Netlink,
    link: EthernetLink,
    address: Ipv4Net,
    kernel: KernelConfig,
    options: DhcpOptions,
    resolver: Resolver,
) -> Online {
    let network = Network {
        interface: link.name.clone(),
        link_index: link.index,
        mac: link.mac,
        addresses: vec![address.into()],
        routes: Vec::new(),
        dns: kernel.dns.iter().copied().map(IpAddr::V4).collect(),
        domain: kernel.domain,
        search: Vec::new(),
        ntp: kernel.ntp.iter().map(Ipv4Addr::to_string).collect(),
        host_name: None,
        dhcp_server: None,
        origin: Origin::Kernel,
    };
    resolver.set_network(&network);
    let (publish, state) = watch::channel(network);
    let keeper = kernel.from_server.then(|| {
        // The kernel asked by MAC alone. With a client identifier the server would take us for another machine.
        let options = DhcpOptions { uuid: None, ..options };
        let keeper = Keeper { netlink, device: None, options, resolver: resolver.clone(), publish };
        AbortOnDrop(tokio::spawn(keeper.adopt(link, address)))
    });
    Online { resolver, state, _keeper: keeper, _made_links: None }
}

async fn online_by_operator(
    netlink: Netlink,
    setting: StaticIp,
    mtu_bytes: Option<u16>,
    resolver: Resolver,
    say: Say<'_>,
) -> Online {
    let link = find_link(&netlink, setting.device.as_deref(), say).await;
    if let Some(mtu) = mtu_bytes {
        mtu::apply_mtu(&netlink, link.index, &link.name, mtu.into()).await;
    }
    until_it_works(say, || apply_static(&netlink, &link, &setting)).await;
    let network = Network {
        interface: link.name,
        link_index: link.index,
        mac: link.mac,
        addresses: vec![setting.address.into()],
        routes: setting.gateway.map(Route::default_via).into_iter().collect(),
        dns: setting.dns.iter().copied().map(IpAddr::V4).collect(),
        domain: None,
        search: Vec::new(),
        ntp: setting.ntp.iter().map(Ipv4Addr::to_string).collect(),
        host_name: setting.host_name,
        dhcp_server: None,
        origin: Origin::Static,
    };
    say(describe(&network));
    resolver.set_network(&network);
    let (_, state) = watch::channel(network);
    Online { resolver, state, _keeper: None, _made_links: None }
}

async fn apply_static(netlink: &Netlink, link: &EthernetLink, setting: &StaticIp) -> Result<()> {
    if let Some(holder) = dhcp::arp::find_holder(netlink, link, setting.address.addr()).await {
        bail!("address {} on {} is in use by {holder} already", setting.address, link.name);
    }
    netlink.apply_address(link.index, setting.address.into(), None).await?;
    match setting.gateway {
        Some(gateway) => netlink.apply_route(link.index, &Route::default_via(gateway)).await,
        None => Ok(()),
    }
}

/// Waits for the link named, or the first one with a carrier.
async fn find_link(netlink: &Netlink, device: Option<&str>, say: Say<'_>) -> EthernetLink {
    let started = Instant::now();
    loop {
        let found = until_it_works(say, || async {
            netlink.apply_ethernet_up().await?;
            netlink.wait_for_carrier(device, CARRIER_WAIT).await
        });
        if let Some(link) = found.await {
            return link;
        }
        let what = device.unwrap_or("any Ethernet link");
        say(format!("no carrier on {what} for {} s; still looking", started.elapsed().as_secs()));
    }
}

/// The Ethernet link that has an address already.
async fn find_configured_link(netlink: &Netlink) -> Result<Option<(EthernetLink, Ipv4Net)>> {
    let links = netlink.read_ethernet_links().await?;
    let addresses = netlink.read_addresses().await?;
    let found = addresses.into_iter().find_map(|(index, address)| {
        let IpNet::V4(address) = address else { return None };
        links.iter().find(|link| link.index == index).map(|link| (link.clone(), address))
    });
    Ok(found)
}

/// What runs in the background: holds the lease, and gets a new one when it is lost.
struct Keeper {
    netlink: Netlink,
    device: Option<String>,
    options: DhcpOptions,
    resolver: Resolver,
    publish: watch::Sender<Network>,
}

impl Keeper {
    async fn run(self, first: Acquired) {
        let say = |text: String| warn!("{text}");
        // The port that firmware booted from is the one that is away.
        let elsewhere = DhcpOptions { boot_port: None, ..self.options.clone() };
        let device = self.device.as_deref();
        let mut held = first;
        loop {
            let link = held.link.clone();
            let mut latest = held.clone();
            let kept = dhcp::keep(&self.netlink, held, &self.options, |renewed| {
                latest = renewed.clone();
                self.publish(renewed);
            });
            let search = || dhcp::acquire(&self.netlink, device, &elsewhere, &say);
            held = tokio::select! {
                lost = kept => {
                    warn!(link = %link.name, reason = %lost, "network lost, asking for a new address");
                    dhcp::remove_lease(&self.netlink, &link, &latest.lease).await;
                    lease_on_link(&self.netlink, device, &self.options, &say).await
                }
                found = search_when_away(&self.netlink, &link, search) => {
                    warn!(from = %link.name, to = %found.link.name, "the network is on another link now");
                    dhcp::remove_lease(&self.netlink, &link, &latest.lease).await;
                    if let Err(error) = dhcp::apply_lease(&self.netlink, &found, None).await {
                        warn!(error = format!("{error:#}"), "lease not applied in full");
                    }
                    found
                }
            };
            self.publish(&held);
        }
    }

    /// Makes a lease of the address that the kernel got, then keeps it. The kernel never renews.
    async fn adopt(self, link: EthernetLink, address: Ipv4Net) {
        loop {
            match dhcp::confirm(&link, address.addr(), &self.options).await {
                Ok(Confirmed::Lease(acquired)) if acquired.lease.address == address => {
                    info!(link = %link.name, %address, "DHCP lease of the kernel taken over");
                    if let Err(error) = dhcp::apply_lease(&self.netlink, &acquired, None).await {
                        warn!(error = format!("{error:#}"), "lease not applied in full");
                    }
                    self.publish(&acquired);
                    return self.run(*acquired).await;
                }
                Ok(Confirmed::Lease(other)) => {
                    warn!(%address, offered = %other.lease.address, "DHCP server gives another address; not renewing");
                    return;
                }
                Ok(Confirmed::Refused(reason)) => {
                    let reason = reason.unwrap_or_default();
                    warn!(%address, reason, "DHCP server does not confirm the kernel's address; not renewing");
                    return;
                }
                Ok(Confirmed::NoAnswer) => {
                    warn!(%address, "no DHCP server confirms the kernel's address; asking again")
                }
                Err(error) => warn!(error = format!("{error:#}"), "kernel's lease not confirmed; asking again"),
            }
            sleep(CONFIRM_PAUSE).await;
        }
    }

    fn publish(&self, acquired: &Acquired) {
        let network = network_of_lease(acquired);
        self.resolver.set_network(&network);
        self.publish.send_replace(network);
    }
}

fn network_of_lease(acquired: &Acquired) -> Network {
    let Acquired { link, lease, .. } = acquired;
    Network {
        interface: link.name.clone(),
        link_index: link.index,
        mac: link.mac,
        addresses: vec![lease.address.into()],
        routes: lease.routes.clone(),
        dns: lease.dns.iter().copied().map(IpAddr::V4).collect(),
        domain: lease.domain.clone(),
        search: lease.search.clone(),
        ntp: lease.ntp.iter().map(Ipv4Addr::to_string).collect(),
        host_name: None,
        dhcp_server: Some(lease.server.into()),
        origin: Origin::Dhcp,
    }
}

fn describe(network: &Network) -> String {
    let addresses: Vec<String> = network.addresses.iter().map(IpNet::to_string).collect();
    let (interface, addresses) = (&network.interface, addresses.join(", "));
    match network.dhcp_server {
        Some(server) => format!("{interface} has {addresses} from DHCP server {server}"),
        None => format!("{interface} has {addresses}"),
    }
}

/// Repeats with growing delays, saying why.
async fn until_it_works<T, F: Future<Output = Result<T>>>(say: Say<'_>, mut attempt: impl FnMut() -> F) -> T {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                let delay = backoff.next_delay();
                say(format!("{error:#}; trying again in {} s", delay.as_secs().max(1)));
                sleep(delay).await;
            }
        }
    }
}
