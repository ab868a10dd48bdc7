//! Which name and time servers the installed system uses, and whether it will ask any others.

use std::fmt;
use std::net::IpAddr;

use anyhow::Result;
use tracing::warn;

use super::Input;
use super::systemd_conf::read_setting;
use super::tree::Tree;

/// The servers that somebody configured. The allocation goes first; without any, what the agent itself uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Address literals.
    pub dns: Vec<String>,
    /// The allocation names them, so what DHCP says does not count.
    pub dns_is_allocated: bool,
    /// Address literals or names. Empty: nobody named any.
    pub ntp: Vec<String>,
}

impl Servers {
    pub fn of(input: &Input) -> Self {
        let allocated_dns = valid(input.allocation.dns_servers.iter().map(|server| server.ip.as_str()), is_address);
        let allocated_ntp = valid(input.allocation.ntp_servers.iter().map(|server| server.address.as_str()), is_host);
        let dns_is_allocated = !allocated_dns.is_empty();
        let own_dns = || input.resolvers.iter().map(IpAddr::to_string).collect();
        let own_ntp = || valid(input.ntp_servers.iter().map(String::as_str), is_host);
        Self {
            dns: if dns_is_allocated { allocated_dns } else { own_dns() },
            dns_is_allocated,
            ntp: if allocated_ntp.is_empty() { own_ntp() } else { allocated_ntp },
        }
    }
}

/// They are written into configuration files, where a stray space or newline would be another setting.
fn valid<'a>(values: impl Iterator<Item = &'a str>, is_valid: fn(&str) -> bool) -> Vec<String> {
    let (good, bad): (Vec<&str>, Vec<&str>) = values.partition(|value| is_valid(value));
    if !bad.is_empty() {
        warn!(?bad, "leaving out servers that are neither an address nor a name");
    }
    good.into_iter().map(str::to_owned).collect()
}

/// An address literal, perhaps with a zone (`fe80::1%eth0`).
fn is_address(value: &str) -> bool {
    let (address, zone) = value.split_once('%').unwrap_or((value, "lo"));
    address.parse::<IpAddr>().is_ok() && !zone.is_empty() && zone.chars().all(is_host_char)
}

fn is_host(value: &str) -> bool {
    is_address(value) || !value.is_empty() && !value.starts_with('-') && value.chars().all(is_host_char)
}

fn is_host_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// A server in the installed system's configuration that nobody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    pub file: &'static str,
    pub server: String,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names {}, which is not configured", self.file, self.server)
    }
}

/// Reads the files as the installed system's services will.
///
/// Time servers are looked at only where some are configured: without any, the image's own stay on purpose.
pub fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    let mut check = |file: &'static str, found: Vec<String>, configured: &[String]| {
        let unknown = found.into_iter().filter(|server| !configured.contains(server));
        strangers.extend(unknown.map(|server| Stranger { file, server }));
    };
    let resolv_conf = tree.read_text("/etc/resolv.conf")?.unwrap_or_default();
    check("/etc/resolv.conf", directive_values(&resolv_conf, &["nameserver"]), &servers.dns);
    for key in ["DNS", "FallbackDNS"] {
        check("systemd-resolved's configuration", read_setting(tree, "resolved.conf", key)?, &servers.dns);
    }
    if !servers.ntp.is_empty() {
        for key in ["NTP", "FallbackNTP"] {
            check("systemd-timesyncd's configuration", read_setting(tree, "timesyncd.conf", key)?, &servers.ntp);
        }
        let chrony_conf = tree.read_text("/etc/chrony/chrony.conf")?.unwrap_or_default();
        check("/etc/chrony/chrony.conf", directive_values(&chrony_conf, &["server", "pool", "peer"]), &servers.ntp);
    }
    Ok(strangers)
}

/// The first argument of every line that begins with one of `keys`.
fn directive_values(text: &str, keys: &[&str]) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|key| keys.contains(key))?;
            words.next().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_from_garbage() {
        for value in ["10.1.0.53", "2001:db8::1", "fe80::1%eth0"] {
            assert!(is_address(value) && is_host(value), "{value}");
        }
        for value in ["ntp.lab.example", "ntp_1"] {
            assert!(!is_address(value) && is_host(value), "{value}");
        }
        for value in ["", "10.1.0.53\nnameserver 192.0.2.1", "a b", "-a", "fe80::1%"] {
            assert!(!is_host(value), "{value}");
        }
    }

    #[test]
    fn a_server_nobody_named_is_found_in_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        tree.write("/etc/resolv.conf", "# nameserver 192.0.2.9\nnameserver 10.1.0.53\nnameserver 192.0.2.1\n", 0o644)
            .unwrap();
        tree.write("/etc/systemd/resolved.conf.d/dns.conf", "[Resolve]\nDNS=192.0.2.2 10.1.0.53\n", 0o644).unwrap();
        tree.write("/etc/systemd/timesyncd.conf", "[Time]\nNTP=192.0.2.3\nFallbackNTP=192.0.2.4\n", 0o644).unwrap();
        tree.write("/etc/chrony/chrony.conf", "pool 192.0.2.5 iburst\nserver 10.1.0.1 iburst\n", 0o644).unwrap();
        let found = |ntp: &[&str]| {
            let servers = Servers {
                dns: vec!["10.1.0.53".into()],
                ntp: ntp.iter().map(|server| (*server).to_owned()).collect(),
                ..Default::default()
            };
            read_strangers(&tree, &servers).unwrap().into_iter().map(|stranger| stranger.server).collect::<Vec<_>>()
        };
        assert_eq!(found(&["10.1.0.1"]), ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]);
        assert_eq!(found(&[]), ["192.0.2.1", "192.0.2.2"]);
    }
}
