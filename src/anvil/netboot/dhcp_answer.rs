//! What a DHCP message is answered with: decisions only, no sockets, no clock.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use tracing::{info, warn};

use super::dhcp_message::{Reply, ReplyType, Request, RequestType, option};
use super::leases::LeasePool;
use super::pxe::{self, Beside, BootClient, address_value};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Where this server is: what every answer needs.
#[derive(Clone, Copy, Debug)]
pub struct Me {
    /// Server id, TFTP server and the host of URLs.
    pub address: Ipv4Addr,
    pub http_port: u16,
}

impl Me {
    fn http(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.http_port)
    }
}

/// What a lease says about the network.
#[derive(Clone, Debug)]
pub struct Network {
    pub subnet: Ipv4Net,
    pub router: Option<Ipv4Addr>,
    pub dns_servers: Vec<Ipv4Addr>,
    pub ntp_servers: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub lease_seconds: u32,
}

/// The answer of a server that gives addresses. `now` is in seconds since 1970. `None`: say nothing.
pub fn answer(request: &Request, me: Me, network: &Network, pool: &mut LeasePool, now: u64) -> Option<Reply> {
    let server = Server { request, me, network, now };
    if !request.giaddr.is_unspecified() && !network.subnet.contains(&request.giaddr) {
        warn!(relay = %request.giaddr, mac = %request.mac, "DHCP: no addresses for the relay's network, not answered");
        return None;
    }
    match request.kind {
        RequestType::Discover => server.discover(pool),
        RequestType::Request => server.request(pool),
        RequestType::Decline => {
            let address = request.address_option(option::REQUESTED_ADDRESS)?;
            if pool.decline(request.mac, address, now) {
                warn!(mac = %request.mac, %address, "DHCP: client found its address in use by somebody else");
            }
            None
        }
        RequestType::Release => {
            if pool.release(request.mac, request.ciaddr, now) {
                info!(mac = %request.mac, address = %request.ciaddr, "DHCP: address given back");
            }
            None
        }
        RequestType::Inform => Some(server.inform()),
    }
}

struct Server<'a> {
    request: &'a Request,
    me: Me,
    network: &'a Network,
    now: u64,
}

impl Server<'_> {
    fn discover(&self, pool: &mut LeasePool) -> Option<Reply> {
        let request = self.request;
        let Some(address) = pool.offer(request.mac, request.address_option(option::REQUESTED_ADDRESS), self.now) else {
            warn!(mac = %request.mac, "DHCP: no free address is left in the range");
            return None;
        };
        Some(self.reply(ReplyType::Offer, address))
    }

    /// RFC 2131 section 4.3.2: the client takes our offer, another's, comes back after a reboot, or renews.
    fn request(&self, pool: &mut LeasePool) -> Option<Reply> {
        let request = self.request;
        if let Some(chosen) = request.address_option(option::SERVER_ID)
            && chosen != self.me.address
        {
            pool.withdraw_offer(request.mac);
            return None;
        }
        let address = match request.address_option(option::REQUESTED_ADDRESS) {
            Some(address) => address,
            None if !request.ciaddr.is_unspecified() => request.ciaddr,
            None => return None,
        };
        let ends = self.now.saturating_add(u64::from(self.network.lease_seconds));
        // A lease that we don't know (the file was lost) is granted when it is free: no other server has a say here.
        if pool.take(request.mac, request.option(option::CLIENT_ID), address, self.now, ends) {
            Some(self.reply(ReplyType::Ack, address))
        } else {
            info!(mac = %request.mac, %address, "DHCP: refused an address that is not the client's to have");
            Some(self.refusal())
        }
    }

    /// The client has an address already and asks for the rest (RFC 2131 section 4.3.5): no lease, no yiaddr.
    fn inform(&self) -> Reply {
        let mut reply = self.reply(ReplyType::Ack, Ipv4Addr::UNSPECIFIED);
        let lease_only = [option::LEASE_TIME, option::RENEWAL_TIME, option::REBINDING_TIME];
        reply.options.retain(|(code, _)| !lease_only.contains(code));
        reply
    }

    fn reply(&self, kind: ReplyType, yiaddr: Ipv4Addr) -> Reply {
        let request = self.request;
        let mut reply = blank_reply(request, kind, self.me);
        reply.to = destination(request, kind);
        reply.yiaddr = yiaddr;
        reply.siaddr = Ipv4Addr::UNSPECIFIED;
        reply.options.extend(self.network_options());
        if let Some(client) = pxe::identify(request) {
            let fields = pxe::boot_fields(client, Beside::OwnAddress, request.mac, self.me.http());
            reply.siaddr = self.me.address;
            reply.server_name = fields.server_name;
            reply.boot_file = fields.file;
            reply.options.extend(fields.options);
        }
        if let Some(id) = request.option(option::CLIENT_ID) {
            reply.options.push((option::CLIENT_ID, id.to_vec())); // RFC 6842
        }
        reply.options.extend(pxe::echoed_options(request));
        reply
    }

    fn refusal(&self) -> Reply {
        let mut reply = blank_reply(self.request, ReplyType::Nak, self.me);
        reply.to = destination(self.request, ReplyType::Nak);
        // Behind a relay the client must get the refusal by broadcast (RFC 2131 section 4.3.2).
        reply.broadcast |= !self.request.giaddr.is_unspecified();
        reply.ciaddr = Ipv4Addr::UNSPECIFIED;
        reply.siaddr = Ipv4Addr::UNSPECIFIED;
        reply.options.push((option::MESSAGE, b"this address is not yours to have here".to_vec()));
        reply
            .options
            .extend(pxe::echoed_options(self.request).into_iter().filter(|(code, _)| *code == option::RELAY_AGENT));
        reply
    }

    fn network_options(&self) -> Vec<(u8, Vec<u8>)> {
        let network = self.network;
        let lease = network.lease_seconds;
        let mut options = vec![
            (option::LEASE_TIME, lease.to_be_bytes().to_vec()),
            (option::RENEWAL_TIME, (lease / 2).to_be_bytes().to_vec()),
            (option::REBINDING_TIME, (lease - lease / 8).to_be_bytes().to_vec()),
            (option::SUBNET_MASK, address_value(network.subnet.netmask())),
        ];
        if let Some(router) = network.router {
            options.push((option::ROUTER, address_value(router)));
        }
        for (code, servers) in
            [(option::DNS_SERVERS, &network.dns_servers), (option::NTP_SERVERS, &network.ntp_servers)]
        {
            if !servers.is_empty() {
                options.push((code, servers.iter().flat_map(Ipv4Addr::octets).collect()));
            }
        }
        if let Some(domain) = &network.domain {
            options.push((option::DOMAIN_NAME, domain.as_bytes().to_vec()));
        }
        options
    }
}

/// The answer of a boot server beside another DHCP server (ProxyDHCP), on port 67: only to a discovering client that
/// wants to boot, and without an address.
pub fn answer_as_proxy(request: &Request, me: Me) -> Option<Reply> {
    if request.kind != RequestType::Discover {
        return None;
    }
    let client = pxe::identify(request)?;
    let fields = pxe::boot_fields(client, Beside::OtherServer, request.mac, me.http());
    let mut reply = blank_reply(request, ReplyType::Offer, me);
    reply.broadcast = true;
    reply.to = destination_without_address(request);
    // Old HTTP-boot firmware takes an answer for one of PXE when there is a next server in it.
    reply.siaddr = if client == BootClient::Http { Ipv4Addr::UNSPECIFIED } else { me.address };
    reply.server_name = fields.server_name;
    reply.boot_file = fields.file;
    reply.options.extend(fields.options);
    reply.options.extend(pxe::echoed_options(request));
    Some(reply)
}

/// The answer on port 4011, to where the request came from. UEFI sends a request here, other clients a discover.
pub fn answer_binl(request: &Request, me: Me, from: SocketAddrV4) -> Option<Reply> {
    if !matches!(request.kind, RequestType::Discover | RequestType::Request) {
        return None;
    }
    let firmware = pxe::identify_binl(request)?;
    let mut reply = blank_reply(request, ReplyType::Ack, me);
    reply.to = from;
    reply.siaddr = me.address;
    reply.server_name = me.address.to_string();
    reply.boot_file = pxe::tftp_path(request.mac, firmware);
    reply.options.push((option::VENDOR_CLASS, b"PXEClient".to_vec()));
    reply.options.extend(pxe::echoed_options(request));
    Some(reply)
}

fn blank_reply(request: &Request, kind: ReplyType, me: Me) -> Reply {
    Reply {
        kind,
        to: destination_without_address(request),
        xid: request.xid,
        broadcast: request.broadcast,
        ciaddr: request.ciaddr,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: me.address,
        giaddr: request.giaddr,
        mac: request.mac,
        server_name: String::new(),
        boot_file: String::new(),
        options: vec![(option::SERVER_ID, address_value(me.address))],
    }
}

/// RFC 2131 section 4.1: to the relay, to the address the client has, else to everybody. (Unicast to an address that
/// the client does not have yet would need an ARP entry made by hand; every client takes the broadcast.)
fn destination(request: &Request, kind: ReplyType) -> SocketAddrV4 {
    if request.giaddr.is_unspecified() && !request.ciaddr.is_unspecified() && kind != ReplyType::Nak {
        return SocketAddrV4::new(request.ciaddr, CLIENT_PORT);
    }
    destination_without_address(request)
}

fn destination_without_address(request: &Request) -> SocketAddrV4 {
    if request.giaddr.is_unspecified() {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT)
    } else {
        SocketAddrV4::new(request.giaddr, SERVER_PORT)
    }
}
