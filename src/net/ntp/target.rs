//! How a time server is written: `host`, `host:port`, `[v6]:port`, a bare IPv6 address, any of them behind `nts:`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;

use crate::net::resolver::{ResolveError, Resolver};

const NTP_PORT: u16 = 123;
/// Of the key exchange (RFC 8915 section 7.1).
const NTS_KE_PORT: u16 = 4460;
const DEMAND: &str = "nts:";

/// Whether a server is asked by NTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nts {
    /// Or not at all.
    Demanded,
    /// If it has it: it was given by name, which a certificate can vouch for.
    Offered,
    Never,
}

/// A time server as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Without brackets; a link-local address with its zone.
    pub host: String,
    /// Of the key exchange when NTS is demanded, else of NTP.
    pub port: u16,
    pub nts: Nts,
}

impl Target {
    pub(super) fn parse(server: &str) -> Self {
        let (demanded, server) = match server.strip_prefix(DEMAND) {
            Some(rest) => (true, rest),
            None => (false, server),
        };
        let (host, port) = split_port(server);
        let is_name = address_of(host).is_none();
        let nts = match (demanded, port) {
            (true, _) => Nts::Demanded,
            // Whoever names a port means that one.
            (false, None) if is_name => Nts::Offered,
            (false, _) => Nts::Never,
        };
        let usual_port = if demanded { NTS_KE_PORT } else { NTP_PORT };
        Self { host: host.to_owned(), port: port.unwrap_or(usual_port), nts }
    }

    /// The same host, to be asked for the time without NTS.
    pub(super) fn plain(&self) -> Self {
        Self { host: self.host.clone(), port: NTP_PORT, nts: Nts::Never }
    }

    /// Of the key exchange.
    pub(super) fn key_exchange(&self) -> Self {
        let port = if self.nts == Nts::Demanded { self.port } else { NTS_KE_PORT };
        Self { host: self.host.clone(), port, nts: self.nts }
    }
}

/// Host and port of `host`, `host:port`, `[v6]:port`, or a bare IPv6 address. The brackets are left out.
pub(crate) fn split_port(server: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => port.parse().map_or((server, None), |port| (host, Some(port))),
        Some(_) | None => (server, None),
    }
}

/// An address literal and the number of its zone, 0 for none. A link that is not there gives none, too.
fn address_of(host: &str) -> Option<(IpAddr, u32)> {
    let Some((address, zone)) = host.split_once('%') else { return host.parse().ok().map(|ip| (ip, 0)) };
    let number = zone.parse().ok().or_else(|| if_nametoindex(zone).ok());
    Some((address.parse().ok()?, number.unwrap_or(0)))
}

/// Where to send: IPv4 first, as most servers have it.
pub(super) async fn resolve(target: &Target, resolver: &Resolver) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Some((ip, zone)) = address_of(&target.host) {
        return Ok(vec![match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, target.port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, target.port, 0, zone).into(),
        }]);
    }
    let mut found = resolver.resolve(&target.host).await?;
    found.sort_by_key(IpAddr::is_ipv6);
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, target.port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_split_off() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", None),
            ("ntp.lab:1123", "ntp.lab", Some(1123)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:1123", "2001:db8::1", Some(1123)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("ntp.lab:x", "ntp.lab:x", None),
        ] {
            assert_eq!(split_port(text), (host, port), "{text}");
        }
    }

    #[test]
    fn names_are_offered_nts_and_addresses_are_not() {
        let parse = |text: &str| (Target::parse(text).nts, Target::parse(text).port);
        assert_eq!(parse("ntp.lab"), (Nts::Offered, 123));
        assert_eq!(parse("nts:ntp.lab"), (Nts::Demanded, 4460));
        assert_eq!(parse("nts:ntp.lab:14460"), (Nts::Demanded, 14460));
        assert_eq!(parse("ntp.lab:1123"), (Nts::Never, 1123));
        for address in ["10.1.0.1", "2001:db8::1", "fe80::1%eth0"] {
            assert_eq!(parse(address), (Nts::Never, 123), "{address}");
        }
    }

    #[tokio::test]
    async fn a_link_local_address_keeps_its_link() {
        let resolver = Resolver::new(&[], &[]);
        let found = resolve(&Target::parse("fe80::1%7"), &resolver).await.unwrap();
        assert_eq!(found, ["[fe80::1%7]:123".parse().unwrap()]);
        // The number of the loopback link is 1 in every network namespace.
        let found = resolve(&Target::parse("fe80::1%lo"), &resolver).await.unwrap();
        assert_eq!(found, ["[fe80::1%1]:123".parse().unwrap()]);
    }
}
