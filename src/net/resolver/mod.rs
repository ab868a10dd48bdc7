//! Names, from the configured servers and nobody else.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use reqwest::dns::{Addrs, Resolve, Resolving};
use thiserror::Error;

use super::bring_up::Network;

/// Per question and server. With the tries below a dead name server costs four seconds, not twenty.
const QUERY_LIMIT: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    #[error("cannot look up {name:?}: no name server is configured")]
    NoServers { name: String },
    #[error("cannot look up {name:?} at {}: {reason}", list(servers))]
    Failed { name: String, servers: Vec<IpAddr>, reason: String },
}

fn list(servers: &[IpAddr]) -> String {
    servers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Asks the configured name servers. A cheap handle: clones share servers and cache.
#[derive(Clone)]
pub struct Resolver(Arc<RwLock<Inner>>);

/// The lock is only ever held to copy or to replace this.
#[derive(Clone)]
struct Inner {
    servers: Vec<IpAddr>,
    /// `None` without servers.
    lookup: Option<TokioResolver>,
}

impl Resolver {
    /// With no servers only literal addresses are resolved. `search` completes names without a dot.
    pub fn new(servers: &[IpAddr], search: &[String]) -> Self {
        Self(Arc::new(RwLock::new(Inner::new(servers, search))))
    }

    /// For the servers, domain and search list of `network`.
    pub fn for_network(network: &Network) -> Self {
        Self::new(&network.dns, &search_list(network))
    }

    /// From now on asks the servers of `network`. Keeps the cache when nothing changed.
    pub fn configure(&self, network: &Network) {
        if self.servers() != network.dns {
            let inner = Inner::new(&network.dns, &search_list(network));
            *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = inner;
        }
    }

    pub fn servers(&self) -> Vec<IpAddr> {
        self.inner().servers
    }

    /// All addresses of `name`, at least one. A literal address, with or without `[]`, is its own.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(literal) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        let Inner { servers, lookup } = self.inner();
        let Some(lookup) = lookup else { return Err(ResolveError::NoServers { name: name.to_owned() }) };
        let failed = |reason: String| ResolveError::Failed { name: name.to_owned(), servers: servers.clone(), reason };
        let answer = lookup.lookup_ip(name).await.map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(addresses) }
    }

    fn inner(&self) -> Inner {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

fn search_list(network: &Network) -> Vec<String> {
    if network.search.is_empty() { network.domain.iter().cloned().collect() } else { network.search.clone() }
}

impl Inner {
    fn new(servers: &[IpAddr], search: &[String]) -> Self {
        let lookup = (!servers.is_empty()).then(|| build(servers, search)).flatten();
        Self { servers: servers.to_vec(), lookup }
    }
}

fn build(servers: &[IpAddr], search: &[String]) -> Option<TokioResolver> {
    let search = search.iter().filter_map(|domain| Name::from_str(domain).ok()).collect();
    let servers = servers.iter().map(|server| NameServerConfig::udp_and_tcp(*server)).collect();
    let config = ResolverConfig::from_parts(None, search, servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = QUERY_LIMIT;
    options.attempts = TRIES;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    match builder.build() {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!(%error, "name servers can't be used");
            None
        }
    }
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
