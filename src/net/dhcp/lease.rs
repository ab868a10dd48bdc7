//! A lease: what an ACK promises, with what it leaves out filled in.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;
use thiserror::Error;

use super::options::is_host;
use super::reply::{Reply, ReplyKind};
use crate::net::links::Route;

/// Leases shorter than this are taken as this long: renewing must not become a busy loop.
const SHORTEST_LEASE_S: u32 = 4;

/// How long a lease holds, from the moment it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseTimes {
    /// T1: ask the same server again.
    pub renew: Duration,
    /// T2: ask any server.
    pub rebind: Duration,
    pub expire: Duration,
}

/// What one server promised for one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    pub address: Ipv4Net,
    pub server: Ipv4Addr,
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub ntp: Vec<Ipv4Addr>,
    pub mtu_bytes: Option<u16>,
    /// `None`: for ever.
    pub times: Option<LeaseTimes>,
}

/// Why a reply can't be used as a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Useless {
    #[error("it is a refusal")]
    Nak,
    #[error("it gives no address (a boot server's answer)")]
    NoAddress,
    #[error("its address {0} is no host's")]
    BadAddress(Ipv4Addr),
    #[error("it does not name its server (option 54)")]
    NoServer,
}

impl Lease {
    /// The lease in an offer or an ACK.
    pub fn from_reply(reply: &Reply) -> Result<Self, Useless> {
        if reply.kind == ReplyKind::Nak {
            return Err(Useless::Nak);
        }
        let address = reply.your_address.ok_or(Useless::NoAddress)?;
        if !is_host(address) || address.is_loopback() {
            return Err(Useless::BadAddress(address));
        }
        Ok(Self {
            address: with_netmask(address, reply.netmask),
            server: reply.server.ok_or(Useless::NoServer)?,
            routes: routes(reply),
            dns: reply.dns.clone(),
            domain: reply.domain.clone(),
            search: reply.search.clone(),
            ntp: reply.ntp.clone(),
            mtu_bytes: reply.mtu_bytes,
            times: times(reply),
        })
    }
}

/// Without a usable mask the address keeps that of its class, as the kernel's own client does.
fn with_netmask(address: Ipv4Addr, netmask: Option<Ipv4Addr>) -> Ipv4Net {
    netmask
        .and_then(|netmask| Ipv4Net::with_netmask(address, netmask).ok())
        .unwrap_or_else(|| Ipv4Net::new_assert(address, class_prefix(address)))
}

/// Prefix length of the address' historical class.
pub(in crate::net) fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192..=255 => 24,
    }
}

fn routes(reply: &Reply) -> Vec<Route> {
    match &reply.classless_routes {
        Some(routes) => routes.clone(),
        // The first router is the best; a second default route would only shadow it.
        None => reply.routers.first().map(|router| Route::default_via(*router)).into_iter().collect(),
    }
}

fn times(reply: &Reply) -> Option<LeaseTimes> {
    let expire_s = reply.lease_s.filter(|seconds| *seconds != u32::MAX)?.max(SHORTEST_LEASE_S);
    let rebind_s =
        reply.rebind_s.filter(|rebind| (2..expire_s).contains(rebind)).unwrap_or(expire_s - expire_s.div_ceil(8));
    let renew_s = reply.renew_s.filter(|renew| (1..rebind_s).contains(renew)).unwrap_or((expire_s / 2).min(rebind_s));
    let seconds = |s| Duration::from_secs(u64::from(s));
    Some(LeaseTimes { renew: seconds(renew_s), rebind: seconds(rebind_s), expire: seconds(expire_s) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::mac::Mac;

    /// A server's ACK of 10.1.0.77.
    pub(in crate::net::dhcp) fn ack() -> Reply {
        Reply {
            kind: ReplyKind::Ack,
            transaction: 1,
            client: Mac([2, 0, 0, 0, 0, 1]),
            your_address: Some(Ipv4Addr::new(10, 1, 0, 77)),
            server: Some(Ipv4Addr::new(10, 1, 0, 1)),
            netmask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            routers: vec![Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2)],
            dns: vec![],
            domain: None,
            mtu_bytes: None,
            ntp: vec![],
            lease_s: Some(3600),
            renew_s: None,
            rebind_s: None,
            search: vec![],
            classless_routes: None,
            message: None,
            faults: vec![],
        }
    }

    fn seconds(times: Option<LeaseTimes>) -> Option<(u64, u64, u64)> {
        times.map(|times| (times.renew.as_secs(), times.rebind.as_secs(), times.expire.as_secs()))
    }

    #[test]
    fn times_left_out_or_out_of_order_are_those_of_rfc_2131() {
        let mut reply = ack();
        assert_eq!(seconds(Lease::from_reply(&reply).unwrap().times), Some((1800, 3150, 3600)));
        reply.renew_s = Some(4000);
        reply.rebind_s = Some(3600);
        assert_eq!(seconds(Lease::from_reply(&reply).unwrap().times), Some((1800, 3150, 3600)));
        reply.renew_s = Some(60);
        reply.rebind_s = Some(100);
        assert_eq!(seconds(Lease::from_reply(&reply).unwrap().times), Some((60, 100, 3600)));
    }

    #[test]
    fn an_endless_lease_has_no_times_and_a_zero_lease_some() {
        let mut reply = ack();
        reply.lease_s = Some(u32::MAX);
        assert_eq!(Lease::from_reply(&reply).unwrap().times, None);
        reply.lease_s = Some(0);
        assert_eq!(seconds(Lease::from_reply(&reply).unwrap().times), Some((2, 3, 4)));
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let mut reply = ack();
        assert_eq!(Lease::from_reply(&reply).unwrap().routes, [Route::default_via(Ipv4Addr::new(10, 1, 0, 1))]);
        reply.classless_routes = Some(vec![]);
        assert_eq!(Lease::from_reply(&reply).unwrap().routes, []);
    }

    #[test]
    fn an_address_without_a_usable_mask_keeps_that_of_its_class() {
        for (netmask, expected) in [(None, 8), (Some([255, 0, 255, 0]), 8), (Some([255, 255, 255, 255]), 32)] {
            let reply = Reply { netmask: netmask.map(Ipv4Addr::from), ..ack() };
            assert_eq!(Lease::from_reply(&reply).unwrap().address.prefix_len(), expected);
        }
    }

    #[test]
    fn useless_answers_are_told_apart() {
        let cases = [
            (Reply { kind: ReplyKind::Nak, ..ack() }, Useless::Nak),
            (Reply { your_address: None, ..ack() }, Useless::NoAddress),
            (Reply { server: None, ..ack() }, Useless::NoServer),
            (Reply { your_address: Some(Ipv4Addr::LOCALHOST), ..ack() }, Useless::BadAddress(Ipv4Addr::LOCALHOST)),
        ];
        for (reply, expected) in cases {
            assert_eq!(Lease::from_reply(&reply), Err(expected));
        }
    }
}
