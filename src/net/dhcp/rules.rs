//! Who asks for an address, where, and whose answers count.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;
use uuid::Uuid;

use super::lease::Lease;
use super::reply::Reply;
use crate::api::mac::Mac;
use crate::config::cmdline::Cmdline;
use crate::net::Say;
use crate::net::links::parse_boot_mac;
use crate::net::mtu::configured_mtu;
use crate::net::resolver::Hosts;

/// How an address is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpOptions {
    /// The machine's UUID: option 97 as PXE sends it, and option 61. Without it the server knows the machine by MAC.
    ///
    /// Options 60 and 93 are never sent: boot servers must not take the agent for PXE firmware.
    pub uuid: Option<Uuid>,
    pub servers: ServerRules,
    pub needs: Needs,
    /// The port that firmware booted from (`BOOTIF=`): asked on alone at first.
    pub boot_port: Option<Mac>,
    /// `drophammer.mtu=`: in place of option 26.
    pub mtu_bytes: Option<u16>,
}

impl DhcpOptions {
    /// What the command line says about it. What is wrong there is told and left out.
    pub fn of_cmdline(cmdline: &Cmdline, uuid: Option<Uuid>, say: Say<'_>) -> Self {
        Self {
            uuid,
            servers: ServerRules::of_cmdline(cmdline, say),
            needs: Needs::of_cmdline(cmdline),
            boot_port: read_boot_port(cmdline, say),
            mtu_bytes: configured_mtu(cmdline, say),
        }
    }

    /// The lease in a server's message, as it is to be applied.
    pub(super) fn lease(&self, reply: &Reply) -> Result<Lease, super::lease::Useless> {
        let lease = Lease::from_reply(reply)?;
        Ok(Lease { mtu_bytes: self.mtu_bytes.or(lease.mtu_bytes), ..lease })
    }
}

/// The port of `BOOTIF=`, if there is a good one.
fn read_boot_port(cmdline: &Cmdline, say: Say<'_>) -> Option<Mac> {
    let text = cmdline.get("BOOTIF")?;
    let mac = parse_boot_mac(text);
    if mac.is_none() {
        say(format!("BOOTIF={text}: expected 01-aa-bb-cc-dd-ee-ff; left out"));
    }
    mac
}

/// Whose answers count: all but those of `drophammer.dhcp_exclude=`, and, with `drophammer.dhcp_server=`, no others than
/// its.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRules {
    pub exclude: Vec<Ipv4Addr>,
    /// `Some` of an empty list refuses everybody: a server was meant that could not be read.
    pub only: Option<Vec<Ipv4Addr>>,
}

impl ServerRules {
    fn of_cmdline(cmdline: &Cmdline, say: Say<'_>) -> Self {
        let read = |key: &str| -> Vec<Ipv4Addr> {
            let parse = |text: &&str| match text.parse() {
                Ok(address) => Some(address),
                Err(_) => {
                    say(format!("{key}: {text:?} is no IPv4 address; left out"));
                    None
                }
            };
            cmdline.list(key).iter().filter_map(parse).collect()
        };
        let only = "drophammer.dhcp_server";
        Self {
            exclude: read("drophammer.dhcp_exclude"),
            only: cmdline.get(only).filter(|value| !value.is_empty()).map(|_| read(only)),
        }
    }

    /// Why a message does not count, if it does not. `server` is what it says of itself (option 54), `source` where it
    /// came from: a server that lies about itself is still known by its address, and one behind a relay by its word.
    pub fn reason_against(&self, server: Option<Ipv4Addr>, source: Ipv4Addr) -> Option<&'static str> {
        if self.exclude.iter().any(|excluded| Some(*excluded) == server || *excluded == source) {
            return Some("drophammer.dhcp_exclude= names it");
        }
        let only = self.only.as_ref()?;
        let known = server.unwrap_or(source);
        (!only.contains(&known)).then_some("drophammer.dhcp_server= does not name it")
    }
}

/// What a network must have, so that the agent gets on in it: a way to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The configuration's server, when it is given by address.
    pub address: Option<Ipv4Addr>,
    /// The configuration's server, when it is a name that takes a name server of the network.
    pub name: Option<String>,
}

impl Needs {
    fn of_cmdline(cmdline: &Cmdline) -> Self {
        let host =
            cmdline.config_url().and_then(|url| Url::parse(url).ok()).and_then(|url| url.host_str().map(str::to_owned));
        let Some(host) = host else { return Self::default() };
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => Self { address: Some(address), name: None },
            // Not this protocol's business.
            Ok(IpAddr::V6(_)) => Self::default(),
            Err(_) => {
                let (hosts, _) = Hosts::parse(&cmdline.list("drophammer.host"));
                let known = !hosts.find(&host).is_empty() || !cmdline.list("drophammer.dns").is_empty();
                Self { address: None, name: (!known).then_some(host) }
            }
        }
    }

    /// What an offer lacks, for people; `None` when it has everything.
    pub fn lacking(&self, lease: &Lease) -> Option<String> {
        if let Some(address) = self.address {
            let direct = lease.address.contains(&address);
            let routed = lease.routes.iter().any(|route| route.destination.contains(&IpAddr::V4(address)));
            if !direct && !routed {
                return Some(format!("no way to {address}, where the configuration is"));
            }
        }
        match &self.name {
            Some(name) if lease.dns.is_empty() => Some(format!("no name server, and the configuration is at {name}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::net::links::Route;

    const GOOD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 66);

    fn options(line: &str) -> (DhcpOptions, Vec<String>) {
        let said = Mutex::new(Vec::new());
        let options = DhcpOptions::of_cmdline(&Cmdline::parse(line), None, &|text| said.lock().unwrap().push(text));
        (options, said.into_inner().unwrap())
    }

    #[test]
    fn excluded_servers_are_known_by_what_they_say_and_by_where_they_are() {
        let (options, said) = options("drophammer.dhcp_exclude=10.1.0.66,x");
        let refused = |server, source| options.servers.reason_against(server, source).is_some();
        assert!(refused(Some(ROGUE), ROGUE) && refused(Some(GOOD), ROGUE) && refused(Some(ROGUE), GOOD));
        assert!(refused(None, ROGUE) && !refused(None, GOOD) && !refused(Some(GOOD), GOOD));
        assert_eq!(said, ["drophammer.dhcp_exclude: \"x\" is no IPv4 address; left out"]);
    }

    #[test]
    fn with_a_list_of_servers_nobody_else_counts() {
        let (options, _) = options("drophammer.dhcp_server=10.1.0.1");
        let relay = Ipv4Addr::new(10, 1, 0, 254);
        assert_eq!(options.servers.reason_against(Some(GOOD), relay), None, "a relay passes it on");
        assert!(options.servers.reason_against(Some(ROGUE), ROGUE).is_some());
        assert!(options.servers.reason_against(None, ROGUE).is_some());
        let (nobody, _) = self::options("drophammer.dhcp_server=x");
        assert!(nobody.servers.reason_against(Some(GOOD), GOOD).is_some(), "a mistake must not let everybody in");
        let (everybody, _) = self::options("");
        assert_eq!(everybody.servers.reason_against(Some(ROGUE), ROGUE), None);
    }

    fn lease(routes: Vec<Route>, dns: Vec<Ipv4Addr>) -> Lease {
        Lease {
            address: "10.1.0.77/24".parse().unwrap(),
            server: GOOD,
            routes,
            dns,
            domain: None,
            search: vec![],
            ntp: vec![],
            mtu_bytes: None,
            times: None,
        }
    }

    #[test]
    fn an_offer_without_a_way_to_the_configuration_lacks_it() {
        let lacking = |line: &str, lease: &Lease| options(line).0.needs.lacking(lease);
        let (bare, routed) = (lease(vec![], vec![]), lease(vec![Route::default_via(GOOD)], vec![]));
        let near = "drophammer.config=http://10.1.0.5:4242/certs";
        let far = "PIXIE_API_URL=https://10.2.0.5/certs";
        assert_eq!(lacking(near, &bare), None);
        assert_eq!(lacking(far, &bare).as_deref(), Some("no way to 10.2.0.5, where the configuration is"));
        assert_eq!(lacking(far, &routed), None);
        let named = "drophammer.config=http://boot.lab/certs";
        assert_eq!(lacking(named, &routed).as_deref(), Some("no name server, and the configuration is at boot.lab"));
        assert_eq!(lacking(named, &lease(vec![], vec![GOOD])), None);
        for known in ["drophammer.dns=10.1.0.53", "drophammer.host=boot.lab=10.1.0.5"] {
            assert_eq!(lacking(&format!("{named} {known}"), &routed), None, "{known}");
        }
        for other in ["", "drophammer.config=http://[fd00::5]/certs", "drophammer.config=nonsense"] {
            assert_eq!(lacking(other, &bare), None, "{other}");
        }
    }

    #[test]
    fn the_operators_mtu_goes_before_the_servers() {
        let reply = crate::net::dhcp::reply::Reply { mtu_bytes: Some(1400), ..super::super::lease::tests::ack() };
        assert_eq!(options("").0.lease(&reply).unwrap().mtu_bytes, Some(1400));
        assert_eq!(options("drophammer.mtu=9000").0.lease(&reply).unwrap().mtu_bytes, Some(9000));
    }

    #[test]
    fn the_port_that_firmware_booted_from_is_read() {
        let (with, _) = options("BOOTIF=01-02-00-00-00-00-0a");
        assert_eq!(with.boot_port, Some(Mac([2, 0, 0, 0, 0, 10])));
        let (without, said) = options("BOOTIF=eth0");
        assert_eq!((without.boot_port, said.len()), (None, 1));
    }
}
