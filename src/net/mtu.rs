//! How large packets may be.
//!
//! A link has 1500 bytes until somebody who knows its path says otherwise: `drophammer.mtu=`, or DHCP option 26. See
//! docs/decisions.md.

use std::fs;

use anyhow::Result;
use tracing::{debug, info, warn};

use super::links::{Link, LinkKind, Netlink};
use crate::config::cmdline::Cmdline;
use crate::sys::roots::Roots;

/// What every Ethernet takes.
pub(in crate::net) const ETHERNET_MTU_BYTES: u32 = 1500;
/// Smallest MTU that IPv4 must live with (RFC 791); who says less is not believed.
const SMALLEST_MTU_BYTES: u32 = 576;

/// `drophammer.mtu=BYTES`, if there is a good one.
pub fn configured_mtu(cmdline: &Cmdline, say: super::Say<'_>) -> Option<u16> {
    let text = cmdline.get("drophammer.mtu")?;
    let mtu = text.parse::<u16>().ok().filter(|mtu| u32::from(*mtu) >= SMALLEST_MTU_BYTES);
    if mtu.is_none() {
        say(format!("drophammer.mtu={text}: expected {SMALLEST_MTU_BYTES} to 65535; left out"));
    }
    mtu
}

/// TCP finds out by itself when large packets vanish on the way without a word (RFC 4821).
pub fn enable_path_probing(roots: &Roots) {
    let path = roots.proc.join("sys/net/ipv4/tcp_mtu_probing");
    // 1: only after packets have vanished.
    if let Err(error) = fs::write(&path, "1\n") {
        debug!(path = %path.display(), %error, "TCP does not probe the path's MTU");
    }
}

/// Sets the MTU of a link, and before it of what it stands on, where that takes less. A driver that does not take so
/// much gets what it takes. Not fatal: a link works with the MTU it has.
pub(in crate::net) async fn apply_mtu(netlink: &Netlink, link_index: u32, name: &str, mtu_bytes: u32) {
    if mtu_bytes < SMALLEST_MTU_BYTES {
        warn!(link = %name, mtu_bytes, "MTU is too small, ignored");
        return;
    }
    if let Err(error) = try_mtu(netlink, link_index, name, mtu_bytes).await {
        warn!(link = %name, error = format!("{error:#}"), "the MTU stays as it is");
    }
}

async fn try_mtu(netlink: &Netlink, link_index: u32, name: &str, wanted: u32) -> Result<()> {
    let links = netlink.read_links().await?;
    let steps = plan_mtu(&links, link_index, wanted);
    let Some(&(_, mtu_bytes)) = steps.last() else { return Ok(()) };
    if mtu_bytes < wanted {
        info!(link = %name, wanted, mtu_bytes, "the driver does not take so large packets");
    }
    for (index, mtu) in steps {
        netlink.apply_mtu(index, mtu).await?;
    }
    debug!(link = %name, mtu_bytes, "MTU set");
    Ok(())
}

/// Which links get which MTU, in order; empty when all is well. A VLAN can't have more than its parent; a bond sets its
/// ports' itself, so what they take counts.
fn plan_mtu(links: &[Link], link_index: u32, wanted: u32) -> Vec<(u32, u32)> {
    let find = |index: u32| links.iter().find(|link| link.index == index);
    let Some(link) = find(link_index) else { return Vec::new() };
    let parent = link.parent.filter(|_| link.kind == LinkKind::Vlan).and_then(find);
    let stack: Vec<&Link> = parent.into_iter().chain([link]).collect();
    let ports = links.iter().filter(|port| stack.iter().any(|link| port.controller == Some(link.index)));
    let most = stack.iter().copied().chain(ports).filter_map(|link| link.max_mtu_bytes).min();
    let mtu = most.map_or(wanted, |most| wanted.min(most));
    let raised =
        parent.filter(|parent| parent.mtu_bytes.is_some_and(|now| now < mtu)).map(|parent| (parent.index, mtu));
    let own = (link.mtu_bytes != Some(mtu)).then_some((link.index, mtu));
    raised.into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: LinkKind, max: Option<u32>) -> Link {
        Link {
            index,
            name: format!("link{index}"),
            mac: None,
            up: true,
            carrier: true,
            carrier_changes: None,
            mtu_bytes: Some(1500),
            max_mtu_bytes: max,
            kind,
            controller: None,
            parent: None,
            to_bmc: false,
        }
    }

    #[test]
    fn a_port_gets_what_its_driver_takes() {
        let links = [link(1, LinkKind::Port, Some(4078)), link(2, LinkKind::Port, None)];
        assert_eq!(plan_mtu(&links, 1, 9000), [(1, 4078)]);
        assert_eq!(plan_mtu(&links, 2, 9000), [(2, 9000)]);
        assert_eq!(plan_mtu(&links, 2, 1500), []);
        assert_eq!(plan_mtu(&links, 9, 9000), []);
    }

    #[test]
    fn a_vlan_on_a_bond_raises_the_bond_as_far_as_its_ports_go() {
        let links = [
            Link { controller: Some(3), ..link(1, LinkKind::Port, Some(9000)) },
            Link { controller: Some(3), ..link(2, LinkKind::Port, Some(8000)) },
            link(3, LinkKind::Bond, Some(65_535)),
            Link { parent: Some(3), ..link(4, LinkKind::Vlan, Some(65_535)) },
        ];
        assert_eq!(plan_mtu(&links, 4, 9000), [(3, 8000), (4, 8000)]);
        assert_eq!(plan_mtu(&links, 4, 1400), [(4, 1400)], "the parent keeps what it has");
    }

    #[test]
    fn the_operators_mtu_is_read() {
        let of = |line: &str| configured_mtu(&Cmdline::parse(line), &|_| {});
        assert_eq!(of("drophammer.mtu=9000"), Some(9000));
        for line in ["", "drophammer.mtu=", "drophammer.mtu=500", "drophammer.mtu=9k", "drophammer.mtu=70000"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
