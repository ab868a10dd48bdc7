//! What the kernel's own client (`CONFIG_IP_PNP`) learned before user space.
//!
//! Sources: `/proc/net/pnp` (name servers, domain), `/proc/net/ipconfig/ntp_servers` (Linux 4.18 and later).

use std::fs;
use std::net::Ipv4Addr;

use crate::sys::roots::Roots;

/// Names and times as the kernel learned them. The address is on the link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// By DHCP or BOOTP, so that there is a lease to keep.
    pub from_server: bool,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub ntp: Vec<Ipv4Addr>,
}

/// `None` when the kernel did nothing: no `/proc/net/pnp`, or nothing in it.
pub fn read_kernel_config(roots: &Roots) -> Option<KernelConfig> {
    let pnp = fs::read_to_string(roots.proc.join("net/pnp")).ok()?;
    let ntp = fs::read_to_string(roots.proc.join("net/ipconfig/ntp_servers")).unwrap_or_default();
    parse_pnp(&pnp, &ntp)
}

/// Reads both files. The kernel writes `#MANUAL` or `#PROTO: DHCP`, then `domain NAME`, `nameserver ADDRESS`,
/// `bootserver ADDRESS`; of an `ip=` it did not act on there is only `#MANUAL`.
pub fn parse_pnp(pnp: &str, ntp_servers: &str) -> Option<KernelConfig> {
    let mut config = KernelConfig::default();
    let mut told = false;
    for line in pnp.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match (key, value.trim()) {
            ("#PROTO:", "DHCP" | "BOOTP" | "RARP") => config.from_server = true,
            ("domain", domain) if !domain.is_empty() => config.domain = Some(domain.to_owned()),
            ("nameserver", address) => config.dns.extend(parse_server(address)),
            ("bootserver", _) => told = true,
            _ => {}
        }
    }
    config.ntp = ntp_servers.lines().filter_map(|line| parse_server(line.trim())).collect();
    let learned = told || config.from_server || !config.dns.is_empty() || config.domain.is_some();
    learned.then_some(config)
}

fn parse_server(text: &str) -> Option<Ipv4Addr> {
    text.parse::<Ipv4Addr>().ok().filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_learned_is_read() {
        let pnp = "#PROTO: DHCP\ndomain lab.example\nnameserver 10.1.0.53\nnameserver 0.0.0.0\nbootserver 10.1.0.5\n";
        let expected = KernelConfig {
            from_server: true,
            dns: vec![Ipv4Addr::new(10, 1, 0, 53)],
            domain: Some("lab.example".into()),
            ntp: vec![Ipv4Addr::new(10, 1, 0, 1)],
        };
        assert_eq!(parse_pnp(pnp, "10.1.0.1\n0.0.0.0\n"), Some(expected));
    }

    #[test]
    fn a_kernel_that_did_nothing_leaves_nothing() {
        assert_eq!(parse_pnp("#MANUAL\n", ""), None);
        assert_eq!(parse_pnp("", "10.1.0.1\n"), None);
    }
}
