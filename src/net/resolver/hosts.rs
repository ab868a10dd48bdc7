//! Names that nobody is asked for: `drophammer.host=NAME=ADDRESS,…`.

use std::net::IpAddr;

/// As lines of hosts(5) would give them. A name may have several addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<(String, IpAddr)>);

impl Hosts {
    /// Reads the parts of `drophammer.host=`. Of those that are none, what is wrong with them.
    pub fn parse(parts: &[&str]) -> (Self, Vec<String>) {
        let (mut hosts, mut faults) = (Vec::new(), Vec::new());
        for part in parts {
            let Some((name, address)) = part.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                faults.push(format!("drophammer.host={part}: expected NAME=ADDRESS"));
                continue;
            };
            match address.trim_start_matches('[').trim_end_matches(']').parse() {
                Ok(address) => hosts.push((plain(name), address)),
                Err(_) => faults.push(format!("drophammer.host={part}: {address:?} is no IP address")),
            }
        }
        (Self(hosts), faults)
    }

    /// The addresses of a name, in the order given; empty if it has none here.
    pub(in crate::net) fn find(&self, name: &str) -> Vec<IpAddr> {
        let name = plain(name);
        self.0.iter().filter(|(known, _)| *known == name).map(|(_, address)| *address).collect()
    }
}

/// Names are the same in any case, and with or without the dot of the root.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_addresses_that_were_given_to_it() {
        let (hosts, faults) = Hosts::parse(&["api.lab=10.1.0.5", "API.lab=fd00::5", "b=[fd00::6]"]);
        assert_eq!(faults, Vec::<String>::new());
        let addresses: Vec<IpAddr> = ["10.1.0.5", "fd00::5"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(hosts.find("Api.Lab."), addresses);
        assert_eq!(hosts.find("b").len(), 1);
        assert_eq!(hosts.find("api"), Vec::<IpAddr>::new());
    }

    #[test]
    fn what_is_wrong_is_named_and_the_rest_is_kept() {
        let (hosts, faults) = Hosts::parse(&["10.1.0.5", "a=b", "=10.1.0.5", "c=10.1.0.7"]);
        assert_eq!(
            faults,
            [
                "drophammer.host=10.1.0.5: expected NAME=ADDRESS",
                "drophammer.host=a=b: \"b\" is no IP address",
                "drophammer.host==10.1.0.5: expected NAME=ADDRESS"
            ]
        );
        assert_eq!(hosts.find("c").len(), 1);
    }
}
