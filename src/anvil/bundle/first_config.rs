//! The configuration of a site that has none yet.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use serde_json::json;

use super::manifest::{INITRD, IPXE, KERNEL};
use super::{CURRENT, DIRECTORY};
use crate::anvil::config::parse_config;
use crate::anvil::netboot::config::DhcpMode;

/// So many addresses are enough for a rack; more would take long to search.
const MAX_RANGE: u32 = 4096;

/// What only the operator knows.
#[derive(Clone, Debug)]
pub struct Site {
    /// anvil's address on the machines' network, and the network.
    pub listen: Ipv4Net,
    pub interface: String,
    pub domain: String,
    pub dhcp: DhcpMode,
}

/// The configuration file's text. It is valid, and everything in it is of this site.
pub fn render(data: &Path, site: &Site) -> Result<String> {
    let data = std::path::absolute(data).context("making the data directory's path absolute")?;
    let current = data.join(DIRECTORY).join(CURRENT);
    let address = site.listen.addr();
    let domain = &site.domain;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    ensure!(
        domain.starts_with(|c: char| c.is_ascii_alphanumeric()) && domain.bytes().all(is_plain),
        "--domain: expected letters, digits, \"-\" and \".\", found {domain:?}"
    );
    let quoted = |path: PathBuf| json!(path.display().to_string()).to_string();
    let mut text = format!(
        "# Made by \"anvil bundle import\", which never changes it again.\n\
         data: {data}\n\
         listen: {address}\n\
         interface: {interface}\n\
         partition:\n  \
           id: site\n  \
           dns_servers: [{{ip: {address}}}]\n  \
           ntp_servers: [{{address: {address}}}]\n  \
           bootconfig:\n    \
             kernel: {kernel}\n    \
             initrd: {initrd}\n    \
             commandline: console=ttyS0,115200n8\n\
         tftp: {{dir: {ipxe}}}\n\
         dns: {{domain: {domain}, hosts: {{anvil.{domain}: {address}}}, forward: []}}\n\
         ntp: {{serve_unsynchronised: true}}\n",
        data = quoted(data.clone()),
        interface = json!(site.interface),
        kernel = quoted(current.join(KERNEL)),
        initrd = quoted(current.join(INITRD)),
        ipxe = quoted(current.join(IPXE)),
    );
    match site.dhcp {
        DhcpMode::Off => {}
        DhcpMode::Proxy => text.push_str("dhcp: {mode: proxy}\n"),
        DhcpMode::Server => {
            let (first, last) = plan_range(site.listen)?;
            text.push_str(&format!(
                "dhcp:\n  mode: server\n  range: [{first}, {last}]\n  prefix: {}\n  router: null\n  domain: {domain}\n  \
                 dns_servers: [{address}]\n  ntp_servers: [{address}]\n",
                site.listen.prefix_len()
            ));
        }
    }
    let config = parse_config(&text).context("making a configuration of what was given")?;
    ensure!(config.listen == IpAddr::V4(address), "listen: expected {address}, found {}", config.listen);
    Ok(text)
}

/// The upper half of the network: the lower one is for what has fixed addresses.
fn plan_range(listen: Ipv4Net) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let (network, broadcast) = (u32::from(listen.network()), u32::from(listen.broadcast()));
    let size = broadcast - network;
    ensure!(size >= 7, "{listen} is too small a network for DHCP: expected /29 or larger");
    let last = broadcast - 1;
    let first = (network + size / 2 + 1).max(last.saturating_sub(MAX_RANGE - 1));
    Ok((first.into(), last.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(listen: &str, dhcp: DhcpMode) -> Site {
        let (interface, domain) = ("eth 1: #".to_owned(), "rack.internal".to_owned());
        Site { listen: listen.parse().unwrap(), interface, domain, dhcp }
    }

    #[test]
    fn what_is_made_is_a_configuration_with_everything_on_this_host() {
        let text = render(Path::new("/srv/my \"anvil\""), &site("10.77.0.1/24", DhcpMode::Server)).unwrap();
        let config = parse_config(&text).unwrap();
        assert_eq!(config.data, Path::new("/srv/my \"anvil\""));
        assert_eq!(config.interface.as_deref(), Some("eth 1: #"));
        assert_eq!(config.dhcp.range, Some([[10, 77, 0, 128].into(), [10, 77, 0, 254].into()]));
        let kernel = config.partition.bootconfig.kernel.unwrap();
        assert_eq!(kernel, Path::new("/srv/my \"anvil\"/bundle/current/boot/vmlinuz"));
        assert!(config.dns.unwrap().forward.is_empty(), "nothing is asked of anybody");
    }

    #[test]
    fn a_domain_is_a_name_and_no_yaml() {
        for bad in ["", "-x", "a b", "x}, forward: [192.0.2.1]", "x: y", "\"x\""] {
            let site = Site { domain: bad.into(), ..site("10.77.0.1/24", DhcpMode::Off) };
            assert!(render(Path::new("/d"), &site).unwrap_err().to_string().contains("--domain"), "{bad}");
        }
    }

    #[test]
    fn a_dhcp_server_runs_only_when_asked_for() {
        for (mode, wanted) in [(DhcpMode::Off, DhcpMode::Off), (DhcpMode::Proxy, DhcpMode::Proxy)] {
            let text = render(Path::new("/d"), &site("10.77.0.1/24", mode)).unwrap();
            assert_eq!(parse_config(&text).unwrap().dhcp.mode, wanted);
        }
    }

    #[test]
    fn ranges_are_the_upper_half_of_the_network() {
        let range = |net: &str| plan_range(net.parse().unwrap()).map(|(first, last)| format!("{first} {last}"));
        assert_eq!(range("10.0.0.1/29").unwrap(), "10.0.0.4 10.0.0.6");
        assert_eq!(range("10.0.0.1/8").unwrap(), "10.255.239.255 10.255.255.254");
        assert!(range("10.0.0.1/30").unwrap_err().to_string().contains("too small"));
        for bits in 8..=29 {
            let text = render(Path::new("/d"), &site(&format!("10.0.0.1/{bits}"), DhcpMode::Server)).unwrap();
            assert!(parse_config(&text).is_ok(), "{text}");
        }
    }
}
