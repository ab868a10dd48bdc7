//! Names, from the configured servers and nobody else.
//!
//! Who is asked are the first of these that are any: `drophammer.dns=`; `dns_servers` of MetalConfig; those that the
//! network tells (DHCP, the kernel, `ip=`). Addresses, and the names of `drophammer.host=`, are never asked for.

mod hosts;
mod servers;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use reqwest::dns::{Addrs, Resolve, Resolving};
use thiserror::Error;

pub use hosts::Hosts;

use self::servers::Servers;
use super::Say;
use super::bring_up::Network;
use crate::config::cmdline::Cmdline;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    #[error("cannot look up {name:?}: no name server is configured")]
    NoServers { name: String },
    /// A server knows that there is none. The others are not asked.
    #[error("cannot look up {name:?}: name server {server} says that {reason}")]
    Nothing { name: String, server: IpAddr, reason: String },
    #[error("cannot look up {name:?}: {}", list(failures))]
    Failed { name: String, failures: Vec<(IpAddr, String)> },
}

fn list(failures: &[(IpAddr, String)]) -> String {
    failures.iter().map(|(server, reason)| format!("name server {server}: {reason}")).collect::<Vec<_>>().join("; ")
}

/// Asks the configured name servers. A cheap handle: clones share servers and cache.
#[derive(Clone, Default)]
pub struct Resolver(Arc<RwLock<Inner>>);

/// The lock is only ever held to copy or to replace this.
#[derive(Clone, Default)]
struct Inner {
    sources: Sources,
    /// `None` when nobody is configured.
    servers: Option<Arc<Servers>>,
}

/// Who names servers, the first first.
#[derive(Clone, Default, PartialEq, Eq)]
struct Sources {
    cmdline: Vec<IpAddr>,
    metal_config: Vec<IpAddr>,
    network: Vec<IpAddr>,
    search: Vec<String>,
    hosts: Hosts,
}

impl Sources {
    fn servers(&self) -> &[IpAddr] {
        [&self.cmdline, &self.metal_config, &self.network]
            .into_iter()
            .find(|servers| !servers.is_empty())
            .map_or(&[], Vec::as_slice)
    }
}

impl Resolver {
    /// With no servers only literal addresses are resolved. `search` completes names without a dot.
    pub fn new(servers: &[IpAddr], search: &[String]) -> Self {
        let resolver = Self::default();
        resolver.change(|sources| {
            sources.network = servers.to_vec();
            sources.search = search.to_vec();
        });
        resolver
    }

    /// With `drophammer.dns=` and `drophammer.host=`. What is wrong there is told and left out.
    pub fn of_cmdline(cmdline: &Cmdline, say: Say<'_>) -> Self {
        let resolver = Self::default();
        resolver.change(|sources| {
            sources.cmdline = parse_servers("drophammer.dns", &cmdline.list("drophammer.dns"), say);
            let (hosts, faults) = Hosts::parse(&cmdline.list("drophammer.host"));
            faults.into_iter().for_each(|fault| say(format!("{fault}; left out")));
            sources.hosts = hosts;
        });
        resolver
    }

    /// From now on knows the servers, domain and search list of `network`.
    pub fn set_network(&self, network: &Network) {
        self.change(|sources| {
            sources.network.clone_from(&network.dns);
            sources.search = search_list(network);
        });
    }

    /// From now on knows `dns_servers` of MetalConfig. What is no address is told and left out.
    pub fn set_metal_config(&self, servers: &[String], say: Say<'_>) {
        let servers = parse_servers("dns_servers of MetalConfig", servers, say);
        self.change(|sources| sources.metal_config = servers);
    }

    /// Keeps the caches when nothing changed.
    fn change(&self, change: impl FnOnce(&mut Sources)) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = inner.sources.clone();
        change(&mut inner.sources);
        let now = &inner.sources;
        if (before.servers(), &before.search) != (now.servers(), &now.search) {
            inner.servers = match now.servers() {
                [] => None,
                servers => Some(Arc::new(Servers::new(servers, &now.search))),
            };
        }
    }

    /// Those that are asked.
    pub fn servers(&self) -> Vec<IpAddr> {
        self.inner().sources.servers().to_vec()
    }

    /// All addresses of `name`, at least one. A literal address, with or without `[]`, is its own.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(literal) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        let Inner { sources, servers } = self.inner();
        let given = sources.hosts.find(name);
        if !given.is_empty() {
            return Ok(given);
        }
        match servers {
            Some(servers) => servers.resolve(name).await,
            None => Err(ResolveError::NoServers { name: name.to_owned() }),
        }
    }

    fn inner(&self) -> Inner {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn parse_servers(whose: &str, texts: &[impl AsRef<str>], say: Say<'_>) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for text in texts {
        let text = text.as_ref();
        match text.parse() {
            Ok(address) => servers.push(address),
            Err(_) => say(format!("{whose}: {text:?} is no IP address; left out")),
        }
    }
    servers
}

fn search_list(network: &Network) -> Vec<String> {
    if network.search.is_empty() { network.domain.iter().cloned().collect() } else { network.search.clone() }
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = Resolver::resolve(&resolver, name.as_str()).await?;
            // Port 0: the URL's.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

impl From<ResolveError> for io::Error {
    fn from(error: ResolveError) -> Self {
        Self::new(io::ErrorKind::NotFound, error)
    }
}

/// The name servers of this host, for subcommands at a desk. None when it has no resolv.conf(5).
pub fn read_desk_name_servers() -> Vec<IpAddr> {
    fs::read_to_string("/etc/resolv.conf").map(|text| parse_resolv_conf(&text)).unwrap_or_default()
}

/// The servers of a resolv.conf(5).
pub fn parse_resolv_conf(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_need_no_server() {
        let resolver = Resolver::new(&[], &[]);
        for (text, expected) in
            [("10.1.0.5", "10.1.0.5"), ("2001:db8::5", "2001:db8::5"), ("[2001:db8::5]", "2001:db8::5")]
        {
            assert_eq!(resolver.resolve(text).await, Ok(vec![expected.parse().unwrap()]), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_without_servers_fails_in_a_sentence() {
        let error = Resolver::new(&[], &[]).resolve("api.lab.example").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot look up \"api.lab.example\": no name server is configured");
    }

    #[test]
    fn name_servers_of_a_resolv_conf_are_read() {
        let text =
            "# made by hand\nsearch lab\nnameserver 10.1.0.53\nnameserver fe80::1%eth0\n nameserver 2001:db8::53\n";
        let expected: Vec<IpAddr> = ["10.1.0.53", "2001:db8::53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(parse_resolv_conf(text), expected);
    }
}
