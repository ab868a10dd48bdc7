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

use super::bmc_link::leads_to_bmc;
use crate::api::mac::Mac;
use crate::inventory::attribute::read_link_name;
use crate::sys::roots::Roots;

/// How often the state of the links is looked at while something waits for it.
const CARRIER_POLL: Duration = Duration::from_millis(250);

/// What a link is, as far as addresses are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A port with a cable: an Ethernet device that is not made of others. A veth counts: it is the cable of
    /// containers and tests.
    Port,
    Bond,
    Vlan,
    /// Loopback, bridges, tunnels, InfiniBand: never touched.
    Other,
}

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
    /// How often the carrier came or went (IFLA_CARRIER_CHANGES, since Linux 3.15).
    pub carrier_changes: Option<u32>,
    pub mtu_bytes: Option<u32>,
    /// What its driver takes at most (IFLA_MAX_MTU, since Linux 4.19); `None` when it does not tell.
    pub max_mtu_bytes: Option<u32>,
    pub kind: LinkKind,
    /// The bond that it is a port of (IFLA_MASTER).
    pub controller: Option<u32>,
    /// What it stands on (IFLA_LINK): a VLAN's parent.
    pub parent: Option<u32>,
    /// A cable-less USB link to this machine's own BMC.
    pub to_bmc: bool,
}

/// A link that is known to be Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthernetLink {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
}

impl Link {
    /// `None` for anything but a port with a cable. A BMC's link has none.
    pub fn as_ethernet(&self) -> Option<EthernetLink> {
        let mac = self.mac.filter(|_| self.kind == LinkKind::Port && !self.to_bmc)?;
        Some(EthernetLink { index: self.index, name: self.name.clone(), mac })
    }

    /// `None` unless it may have an address of its own: a port that is in no bond, a bond, a VLAN.
    pub fn as_addressable(&self) -> Option<EthernetLink> {
        let addressable = match self.kind {
            LinkKind::Port => self.controller.is_none() && !self.to_bmc,
            LinkKind::Bond | LinkKind::Vlan => true,
            LinkKind::Other => false,
        };
        let mac = self.mac.filter(|_| addressable)?;
        Some(EthernetLink { index: self.index, name: self.name.clone(), mac })
    }

    /// Whether it is the link called `only`, or, when none is named, a port.
    pub(super) fn is_wanted(&self, only: Option<&str>) -> bool {
        match only {
            Some(name) => self.is_called(name),
            None => self.kind == LinkKind::Port,
        }
    }

    /// Whether an operator who writes `name` means this link: its name, or the MAC of a port with `-` or `:`. Bonds and
    /// VLANs have the MAC of a port, too, and go by their names alone.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name
            || (self.kind == LinkKind::Port && parse_boot_mac(name).is_some_and(|mac| self.mac == Some(mac)))
    }
}

/// A MAC as boot loaders write it: `BOOTIF=01-aa-bb-cc-dd-ee-ff`, where 01 is ARP's number for Ethernet. Without the
/// number it is understood, too.
pub fn parse_boot_mac(text: &str) -> Option<Mac> {
    text.strip_prefix("01-")
        .or_else(|| text.strip_prefix("01:"))
        .and_then(|mac| mac.parse().ok())
        .or_else(|| text.parse().ok())
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
    /// Where it is looked up which USB device a link is.
    roots: Roots,
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
        Ok(Self { handle, connection: tokio::spawn(connection), roots: Roots::system() })
    }

    /// For what only one part of the network asks of the kernel.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All links, in the kernel's order.
    pub async fn read_links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.context("reading network links")?;
        Ok(messages.iter().map(|message| self.finish_link(message)).collect())
    }

    /// One link; `None` when it is gone.
    pub(super) async fn read_link(&self, link_index: u32) -> Result<Option<Link>> {
        let read = self.handle.link().get().match_index(link_index).execute().try_next().await;
        match read {
            Ok(message) => Ok(message.map(|message| self.finish_link(&message))),
            Err(rtnetlink::Error::NetlinkError(error)) if error.to_io().raw_os_error() == Some(libc::ENODEV) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("reading link {link_index}")),
        }
    }

    fn finish_link(&self, message: &LinkMessage) -> Link {
        let mut link = parse_link(message);
        link.to_bmc = link.kind == LinkKind::Port
            && parse_usb_interface(message)
                .or_else(|| read_usb_interface(&self.roots, &link.name))
                .is_some_and(|interface| leads_to_bmc(&self.roots, &interface));
        link
    }

    /// The ports with a cable, whether or not it is plugged in.
    pub async fn read_ethernet_links(&self) -> Result<Vec<EthernetLink>> {
        Ok(self.read_links().await?.iter().filter_map(Link::as_ethernet).collect())
    }

    /// The links that may have an address: ports that are in no bond, bonds, VLANs.
    pub async fn read_addressable_links(&self) -> Result<Vec<EthernetLink>> {
        Ok(self.read_links().await?.iter().filter_map(Link::as_addressable).collect())
    }

    pub async fn apply_up(&self, link_index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link_index).up().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("setting link {link_index} up"))
    }

    pub async fn apply_down(&self, link_index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link_index).down().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("setting link {link_index} down"))
    }

    /// Removes a link that is made of others, or of nothing.
    pub async fn remove_link(&self, link_index: u32) -> Result<()> {
        let done = self.handle.link().del(link_index).execute().await;
        done.with_context(|| format!("removing link {link_index}"))
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

    /// Waits until the link called `name` (any port when that is `None`) has a carrier. `None` after `limit`.
    pub async fn wait_for_carrier(&self, name: Option<&str>, limit: Duration) -> Result<Option<EthernetLink>> {
        let wanted = |link: &Link| link.carrier && link.is_wanted(name);
        let search = async {
            loop {
                let links = self.read_links().await?;
                if let Some(found) = links.iter().filter(|link| wanted(link)).find_map(Link::as_addressable) {
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
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether && !flags.contains(LinkFlags::Loopback);
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        carrier_changes: None,
        mtu_bytes: None,
        max_mtu_bytes: None,
        kind: if is_ethernet { LinkKind::Port } else { LinkKind::Other },
        controller: None,
        parent: None,
        to_bmc: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = Mac::from_slice(bytes),
            LinkAttribute::CarrierChanges(changes) => link.carrier_changes = Some(*changes),
            LinkAttribute::Mtu(mtu) => link.mtu_bytes = Some(*mtu),
            LinkAttribute::MaxMtu(mtu) => link.max_mtu_bytes = Some(*mtu).filter(|mtu| *mtu > 0),
            LinkAttribute::Controller(index) => link.controller = Some(*index).filter(|index| *index > 0),
            LinkAttribute::Link(index) => link.parent = Some(*index),
            LinkAttribute::LinkInfo(infos) if is_ethernet => link.kind = kind_of(infos),
            _ => {}
        }
    }
    link
}

/// Real devices name no kind; of those that do, veth stands for a cable.
fn kind_of(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
    match kind {
        None | Some(InfoKind::Veth) => LinkKind::Port,
        Some(InfoKind::Bond) => LinkKind::Bond,
        Some(InfoKind::Vlan) => LinkKind::Vlan,
        Some(_) => LinkKind::Other,
    }
}

/// The USB interface (`1-2:1.0`) that the link belongs to, as kernels since 5.14 tell it.
fn parse_usb_interface(message: &LinkMessage) -> Option<String> {
    let mut name = None;
    let mut bus = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::ParentDevName(text) => name = Some(text),
            LinkAttribute::ParentDevBusName(text) => bus = Some(text),
            _ => {}
        }
    }
    name.filter(|_| bus.is_some_and(|bus| bus == "usb")).cloned()
}

/// The same of older kernels. Only USB has names with a `:` between numbers like these.
fn read_usb_interface(roots: &Roots, link: &str) -> Option<String> {
    let name = read_link_name(&roots.sys.join("class/net").join(link).join("device"))?;
    let is_usb = |name: &str| {
        name.split_once(':').is_some_and(|(device, _)| {
            device.split_once('-').is_some_and(|(bus, _)| bus.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    Some(name).filter(|name| is_usb(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);

    fn port() -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            mac: Some(MAC),
            up: true,
            carrier: true,
            carrier_changes: None,
            mtu_bytes: Some(1500),
            max_mtu_bytes: None,
            kind: LinkKind::Port,
            controller: None,
            parent: None,
            to_bmc: false,
        }
    }

    #[test]
    fn the_mac_of_a_boot_loader_is_read_with_and_without_the_hardware_type() {
        for text in ["01-aa-bb-cc-dd-ee-ff", "AA-BB-CC-DD-EE-FF", "aa:bb:cc:dd:ee:ff", "01:aa:bb:cc:dd:ee:ff"] {
            assert_eq!(parse_boot_mac(text), Some(MAC), "{text}");
        }
        assert_eq!(parse_boot_mac("01-02-03-04-05-06"), Some(Mac([1, 2, 3, 4, 5, 6])), "a MAC that begins with 01");
        for text in ["", "eth0", "01-", "20-aa-bb-cc-dd-ee-ff", "01-aa-bb-cc-dd"] {
            assert_eq!(parse_boot_mac(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_goes_by_its_mac_and_a_bond_with_the_same_mac_does_not() {
        let bond = Link { name: "bond0".into(), kind: LinkKind::Bond, ..port() };
        assert!(port().is_called("eth0") && port().is_called("aa-bb-cc-dd-ee-ff") && !port().is_called("eth"));
        assert!(bond.is_called("bond0") && !bond.is_called("aa-bb-cc-dd-ee-ff"));
    }

    fn kind(layer: LinkLayerType, attributes: Vec<LinkAttribute>) -> LinkKind {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = layer;
        message.attributes = attributes;
        parse_link(&message).kind
    }

    #[test]
    fn only_ethernet_is_touched_and_infiniband_and_bridges_are_not() {
        let made = |kind: InfoKind| vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        assert_eq!(kind(LinkLayerType::Ether, vec![]), LinkKind::Port);
        assert_eq!(kind(LinkLayerType::Ether, made(InfoKind::Veth)), LinkKind::Port);
        assert_eq!(kind(LinkLayerType::Ether, made(InfoKind::Bond)), LinkKind::Bond);
        assert_eq!(kind(LinkLayerType::Ether, made(InfoKind::Vlan)), LinkKind::Vlan);
        assert_eq!(kind(LinkLayerType::Ether, made(InfoKind::Bridge)), LinkKind::Other);
        assert_eq!(kind(LinkLayerType::Infiniband, vec![]), LinkKind::Other);
        assert_eq!(kind(LinkLayerType::Infiniband, made(InfoKind::Ipoib)), LinkKind::Other);
        assert_eq!(kind(LinkLayerType::Loopback, vec![]), LinkKind::Other);
    }

    #[test]
    fn the_usb_interface_of_a_card_is_known_from_old_and_new_kernels() {
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::ParentDevName("1-11.3:2.0".into()), LinkAttribute::ParentDevBusName("usb".into())];
        assert_eq!(parse_usb_interface(&message).as_deref(), Some("1-11.3:2.0"));
        message.attributes[1] = LinkAttribute::ParentDevBusName("pci".into());
        assert_eq!(parse_usb_interface(&message), None);

        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::under(dir.path());
        for (link, device) in [("usb0", "1-11.3:2.0"), ("eth0", "0000:00:1f.6"), ("eth1", "virtio0")] {
            let link = roots.sys.join("class/net").join(link);
            std::fs::create_dir_all(&link).unwrap();
            std::os::unix::fs::symlink(format!("../../../devices/x/{device}"), link.join("device")).unwrap();
        }
        assert_eq!(read_usb_interface(&roots, "usb0").as_deref(), Some("1-11.3:2.0"));
        for other in ["eth0", "eth1", "eth2"] {
            assert_eq!(read_usb_interface(&roots, other), None, "{other}");
        }
    }

    #[test]
    fn only_what_leads_somewhere_and_belongs_to_nobody_may_have_an_address() {
        let names = |link: Link| (link.as_ethernet().is_some(), link.as_addressable().is_some());
        assert_eq!(names(port()), (true, true));
        assert_eq!(names(Link { controller: Some(9), ..port() }), (true, false), "LLDP is heard on ports of a bond");
        assert_eq!(names(Link { to_bmc: true, ..port() }), (false, false));
        assert_eq!(names(Link { kind: LinkKind::Vlan, ..port() }), (false, true));
        assert_eq!(names(Link { kind: LinkKind::Other, ..port() }), (false, false));
        assert_eq!(names(Link { mac: None, ..port() }), (false, false), "InfiniBand has addresses of 20 bytes");
    }
}
