//! Network links, addresses and routes, by rtnetlink.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::api::mac::Mac;

/// How often the state of the links is looked at while something waits for it.
const CARRIER_POLL: Duration = Duration::from_millis(250);

/// One network link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None` when the link has no address of six bytes.
    pub mac: Option<Mac>,
    /// Set up by someone (IFF_UP).
    pub up: bool,
    /// The cable is in and the other end alive (IFF_LOWER_UP); always false while not `up`.
    pub carrier: bool,
    pub mtu_bytes: Option<u32>,
    /// A port with a cable: an Ethernet device that is not made of others (no bridge, bond, VLAN, tunnel). A veth
    /// counts: it is the cable of containers and tests.
    pub ethernet: bool,
}

/// A link that is known to be Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthernetLink {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
}

impl Link {
    /// `None` for anything but a port with a cable.
    pub fn as_ethernet(&self) -> Option<EthernetLink> {
        let mac = self.mac.filter(|_| self.ethernet)?;
        Some(EthernetLink { index: self.index, name: self.name.clone(), mac })
    }
}

/// A way to a network. Without `gateway` the network is on the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    pub destination: IpNet,
    /// Of the destination's family.
    pub gateway: Option<IpAddr>,
}

impl Route {
    pub fn default_via(gateway: impl Into<IpAddr>) -> Self {
        let gateway = gateway.into();
        let destination = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        Self { destination, gateway: Some(gateway) }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gateway {
            Some(gateway) => write!(f, "{} via {gateway}", self.destination),
            None => write!(f, "{} on the link", self.destination),
        }
    }
}

/// A connection to rtnetlink in the network namespace of the thread that opened it.
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Needs a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _messages) = new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// All links, in the kernel's order.
    pub async fn read_links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.context("reading network links")?;
        Ok(messages.iter().map(parse_link).collect())
    }

    /// The ports with a cable, whether or not it is plugged in.
    pub async fn read_ethernet_links(&self) -> Result<Vec<EthernetLink>> {
        Ok(self.read_links().await?.iter().filter_map(Link::as_ethernet).collect())
    }

    pub async fn apply_up(&self, link_index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link_index).up().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("setting link {link_index} up"))
    }

    pub async fn apply_mtu(&self, link_index: u32, mtu_bytes: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link_index).mtu(mtu_bytes).build();
        let done = self.handle.link().set(message).execute().await;
        done.with_context(|| format!("setting the MTU of link {link_index} to {mtu_bytes}"))
    }

    /// Sets every Ethernet link up. A link that refuses is logged and left out of the answer.
    pub async fn apply_ethernet_up(&self) -> Result<Vec<EthernetLink>> {
        let mut ready = Vec::new();
        for link in self.read_links().await? {
            let Some(ethernet) = link.as_ethernet() else { continue };
            if !link.up
                && let Err(error) = self.apply_up(link.index).await
            {
                tracing::warn!(link = %link.name, error = format!("{error:#}"), "link stays down");
                continue;
            }
            ready.push(ethernet);
        }
        Ok(ready)
    }

    /// Waits until one of the links named (any Ethernet link when `name` is `None`) has a carrier. `None` after
    /// `limit`.
    pub async fn wait_for_carrier(&self, name: Option<&str>, limit: Duration) -> Result<Option<EthernetLink>> {
        let wanted = |link: &Link| link.carrier && name.is_none_or(|name| name == link.name);
        let search = async {
            loop {
                let links = self.read_links().await?;
                if let Some(found) = links.iter().filter(|link| wanted(link)).find_map(Link::as_ethernet) {
                    return Ok(found);
                }
                tokio::time::sleep(CARRIER_POLL).await;
            }
        };
        tokio::time::timeout(limit, search).await.ok().transpose()
    }

    /// Addresses that others can reach, IPv4 first, with the index of their link. Neither loopback nor link-local ones,
    /// nor those of which it is not known yet that no other has them.
    pub async fn read_addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.context("reading addresses")?;
        let mut addresses: Vec<_> = messages.iter().filter_map(parse_address).collect();
        addresses.sort_by_key(|(_, address)| matches!(address, IpNet::V6(_)));
        Ok(addresses)
    }

    /// Adds the address or changes the lifetime of the one that is there. `None` means for ever.
    pub async fn apply_address(&self, link_index: u32, address: IpNet, lifetime: Option<Duration>) -> Result<()> {
        let mut request = self.handle.address().add(link_index, address.addr(), address.prefix_len());
        if let Some(lifetime) = lifetime {
            let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1);
            let mut cache = CacheInfo::default();
            cache.ifa_preferred = seconds;
            cache.ifa_valid = seconds;
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(cache));
        }
        let done = request.replace().execute().await;
        done.with_context(|| format!("setting address {address} on link {link_index}"))
    }

    /// Takes the address away; it is no fault when it is gone already.
    pub async fn remove_address(&self, link_index: u32, address: IpNet) -> Result<()> {
        let addresses = self.handle.address();
        let mut found = addresses
            .get()
            .set_link_index_filter(link_index)
            .set_address_filter(address.addr())
            .set_prefix_length_filter(address.prefix_len())
            .execute();
        while let Some(message) = found.try_next().await.context("reading addresses")? {
            let done = addresses.del(message).execute().await;
            done.with_context(|| format!("removing address {address} from link {link_index}"))?;
        }
        Ok(())
    }

    /// Adds the route or replaces the one to the same network.
    pub async fn apply_route(&self, link_index: u32, route: &Route) -> Result<()> {
        let context = || format!("setting route {route} on link {link_index}");
        let message = route_message(link_index, route).with_context(context)?;
        self.handle.route().add(message).replace().execute().await.with_context(context)
    }

    pub async fn remove_route(&self, link_index: u32, route: &Route) -> Result<()> {
        let context = || format!("removing route {route} from link {link_index}");
        let message = route_message(link_index, route).with_context(context)?;
        self.handle.route().del(message).execute().await.with_context(context)
    }
}

fn route_message(link_index: u32, route: &Route) -> Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len())?
        .output_interface(link_index);
    Ok(match route.gateway {
        // Onlink: a router outside the own network (a /32 address) is legal, and the kernel would refuse it.
        Some(gateway) => builder.gateway(gateway)?.onlink().build(),
        None => builder.scope(RouteScope::Link).build(),
    })
}

fn parse_link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mtu_bytes: None,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether && !flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = Mac::from_slice(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu_bytes = Some(*mtu),
            LinkAttribute::LinkInfo(infos) => link.ethernet &= infos.iter().all(is_a_cable),
            _ => {}
        }
    }
    link
}

/// Real devices name no kind; of those that do, only veth stands for a cable.
fn is_a_cable(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::Kind(kind) => *kind == InfoKind::Veth,
        _ => true,
    }
}

fn parse_address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // IFA_LOCAL is the own address, where it is told; IFA_ADDRESS is the peer's on a point-to-point link.
    let local = find(|attribute| if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None });
    let named =
        || find(|attribute| if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None });
    let address = local.or_else(named)?;
    let usable = match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => address != Ipv6Addr::LOCALHOST && !address.is_unicast_link_local(),
    };
    let unproven = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    (usable && !message.header.flags.intersects(unproven)).then_some((message.header.index, net))
}
