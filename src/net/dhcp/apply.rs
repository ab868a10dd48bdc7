//! Putting a lease onto its link.

use anyhow::Result;
use tracing::warn;

use super::acquire::Acquired;
use super::lease::Lease;
use crate::net::links::{EthernetLink, Netlink};

/// Smallest MTU that IPv4 must live with (RFC 791); a server that says less is not believed.
const SMALLEST_MTU_BYTES: u16 = 576;

/// Sets MTU, address with its lifetime, and routes; takes away what `before` had and the new lease has not.
pub async fn apply_lease(netlink: &Netlink, acquired: &Acquired, before: Option<&Lease>) -> Result<()> {
    let Acquired { link, lease, since } = acquired;
    if before.and_then(|before| before.mtu_bytes) != lease.mtu_bytes {
        apply_mtu(netlink, link, lease).await;
    }
    let lifetime = lease.times.map(|times| times.expire.saturating_sub(since.elapsed()));
    netlink.apply_address(link.index, lease.address.into(), lifetime).await?;
    if let Some(before) = before {
        remove_outdated(netlink, link, before, lease).await;
    }
    // Routers may lie behind routes on the link, so these come first.
    let (on_link, through): (Vec<_>, Vec<_>) = lease.routes.iter().partition(|route| route.gateway.is_none());
    for route in on_link.into_iter().chain(through) {
        netlink.apply_route(link.index, route).await?;
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

async fn apply_mtu(netlink: &Netlink, link: &EthernetLink, lease: &Lease) {
    let Some(mtu) = lease.mtu_bytes else { return };
    if mtu < SMALLEST_MTU_BYTES {
        warn!(link = %link.name, mtu, "MTU of the DHCP server is too small, ignored");
        return;
    }
    // Not fatal: the link works with the MTU it has.
    if let Err(error) = netlink.apply_mtu(link.index, u32::from(mtu)).await {
        warn!(error = format!("{error:#}"), "MTU of the DHCP server not set");
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
