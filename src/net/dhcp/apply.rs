//! Putting a lease onto its link.

use anyhow::Result;
use tracing::warn;

use super::acquire::Acquired;
use super::arp;
use super::lease::Lease;
use crate::net::links::{EthernetLink, Netlink};
use crate::net::mtu::{self, ETHERNET_MTU_BYTES};

/// Sets MTU, address with its lifetime, and routes; takes away what `before` had and the new lease has not.
pub async fn apply_lease(netlink: &Netlink, acquired: &Acquired, before: Option<&Lease>) -> Result<()> {
    let Acquired { link, lease, since } = acquired;
    let mtu_before = before.and_then(|before| before.mtu_bytes);
    if mtu_before != lease.mtu_bytes {
        let mtu = lease.mtu_bytes.map_or(ETHERNET_MTU_BYTES, u32::from);
        mtu::apply_mtu(netlink, link.index, &link.name, mtu).await;
    }
    // First: when an address goes, the kernel takes later ones of its network along (promote_secondaries of ip-sysctl).
    if let Some(before) = before {
        remove_outdated(netlink, link, before, lease).await;
    }
    let lifetime = lease.times.map(|times| times.expire.saturating_sub(since.elapsed()));
    netlink.apply_address(link.index, lease.address.into(), lifetime).await?;
    // Routers may lie behind routes on the link, so these come first.
    let (on_link, through): (Vec<_>, Vec<_>) = lease.routes.iter().partition(|route| route.gateway.is_none());
    for route in on_link.into_iter().chain(through) {
        netlink.apply_route(link.index, route).await?;
    }
    if before.is_none_or(|before| before.address != lease.address)
        && let Err(error) = arp::announce(link, lease.address.addr()).await
    {
        tracing::debug!(error = format!("{error:#}"), "address not announced");
    }
    Ok(())
}

/// Takes the lease's address and routes away. What is gone already is no fault.
pub async fn remove_lease(netlink: &Netlink, link: &EthernetLink, lease: &Lease) {
    for route in &lease.routes {
        if let Err(error) = netlink.remove_route(link.index, route).await {
            tracing::debug!(error = format!("{error:#}"), "old route");
        }
    }
    if let Err(error) = netlink.remove_address(link.index, lease.address.into()).await {
        warn!(error = format!("{error:#}"), "old address stays");
    }
}

async fn remove_outdated(netlink: &Netlink, link: &EthernetLink, before: &Lease, now: &Lease) {
    for route in before.routes.iter().filter(|route| !now.routes.contains(route)) {
        if let Err(error) = netlink.remove_route(link.index, route).await {
            tracing::debug!(error = format!("{error:#}"), "old route");
        }
    }
    if before.address != now.address
        && let Err(error) = netlink.remove_address(link.index, before.address.into()).await
    {
        warn!(error = format!("{error:#}"), "old address stays");
    }
}
