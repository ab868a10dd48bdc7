//! The settings of network boot, in the shape of anvil's configuration file.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::dhcp_answer::Network;
use super::leases::AddressRange;

/// A TTL shorter than this would have clients renew all the time.
const MIN_LEASE_SECONDS: u32 = 60;
/// So many servers fit an option of 255 bytes.
const MAX_SERVERS: usize = 63;

/// Who gives addresses on the machines' network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// We do.
    Server,
    /// Another server; we only tell machines what to boot.
    Proxy,
    /// Not our business. The default: a DHCP server that nobody asked for takes a network down.
    #[default]
    Off,
}

/// Block `dhcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhcpSettings {
    pub mode: DhcpMode,
    /// First and last address given to machines. Needed in mode `server`.
    pub range: Option<[Ipv4Addr; 2]>,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    pub router: Option<Ipv4Addr>,
    pub lease_seconds: u32,
    pub domain: Option<String>,
    pub dns_servers: Vec<Ipv4Addr>,
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Spares iPXE its wait for an IPv6 router. Needs `interface`.
    pub router_advertisement: bool,
}

impl Default for DhcpSettings {
    fn default() -> Self {
        Self {
            mode: DhcpMode::Off,
            range: None,
            prefix: 24,
            router: None,
            lease_seconds: 600,
            domain: None,
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            router_advertisement: true,
        }
    }
}

/// Block `tftp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TftpSettings {
    pub enabled: bool,
    /// Where the iPXE binaries are: undionly.kpxe, snponly.efi, ipxe.efi.
    pub dir: PathBuf,
}

impl Default for TftpSettings {
    fn default() -> Self {
        Self { enabled: true, dir: PathBuf::from("/usr/lib/ipxe") }
    }
}

impl DhcpSettings {
    /// The pool's range and what leases say, checked against the server's address.
    pub fn server_parts(&self, listen: Ipv4Addr) -> Result<(AddressRange, Network)> {
        let [first, last] = self.range.context("dhcp.range is missing, which mode server needs")?;
        let range = AddressRange::new(first, last).context("dhcp.range")?;
        let subnet = Ipv4Net::new(listen, self.prefix)
            .with_context(|| format!("dhcp.prefix {} is not between 0 and 32", self.prefix))?
            .trunc();
        for address in [first, last].into_iter().chain(self.router) {
            ensure!(subnet.contains(&address), "dhcp: {address} is not in {subnet}, the network of {listen}");
        }
        ensure!(
            self.prefix > 30 || (first != subnet.network() && last != subnet.broadcast()),
            "dhcp.range holds the network's own address or its broadcast address, {} or {}",
            subnet.network(),
            subnet.broadcast()
        );
        if self.lease_seconds < MIN_LEASE_SECONDS {
            bail!("dhcp.lease_seconds is {}, less than {MIN_LEASE_SECONDS}", self.lease_seconds);
        }
        for (key, servers) in [("dns_servers", &self.dns_servers), ("ntp_servers", &self.ntp_servers)] {
            ensure!(servers.len() <= MAX_SERVERS, "dhcp.{key} has {} entries, more than {MAX_SERVERS}", servers.len());
        }
        if let Some(domain) = &self.domain {
            ensure!(!domain.is_empty() && domain.len() <= 253, "dhcp.domain {domain:?} is not a domain name");
        }
        let network = Network {
            subnet,
            router: self.router,
            dns_servers: self.dns_servers.clone(),
            ntp_servers: self.ntp_servers.clone(),
            domain: self.domain.clone(),
            lease_seconds: self.lease_seconds,
        };
        Ok((range, network))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> DhcpSettings {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn refusal(yaml: &str) -> String {
        format!("{:#}", settings(yaml).server_parts([10, 77, 0, 1].into()).unwrap_err())
    }

    #[test]
    fn the_example_is_accepted() {
        let settings = settings(
            "{mode: server, range: [10.77.0.100, 10.77.0.199], prefix: 24, router: null, lease_seconds: 600, \
             domain: lab.test, dns_servers: [10.77.0.1], ntp_servers: [10.77.0.1], router_advertisement: true}",
        );
        let (_, network) = settings.server_parts([10, 77, 0, 1].into()).unwrap();
        assert_eq!(network.subnet.to_string(), "10.77.0.0/24");
        assert_eq!(network.router, None);
    }

    #[test]
    fn nothing_configured_means_no_dhcp() {
        assert_eq!(settings("{}").mode, DhcpMode::Off);
    }

    #[test]
    fn says_what_does_not_fit_together() {
        assert!(refusal("{mode: server}").contains("dhcp.range is missing"));
        assert!(refusal("{range: [10.78.0.1, 10.78.0.2]}").contains("10.78.0.1 is not in 10.77.0.0/24"));
        assert!(refusal("{range: [10.77.0.9, 10.77.0.255]}").contains("broadcast address"));
        assert!(refusal("{range: [10.77.0.9, 10.77.0.10], prefix: 40}").contains("prefix 40"));
        assert!(refusal("{range: [10.77.0.9, 10.77.0.10], lease_seconds: 5}").contains("less than 60"));
        assert!(refusal("{range: [10.77.0.9, 10.77.0.10], router: 10.0.0.1}").contains("10.0.0.1 is not in"));
    }
}
