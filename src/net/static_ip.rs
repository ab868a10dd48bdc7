//! The `ip=` key of the kernel command line, in the kernel's own syntax.
//!
//! Source: Documentation/admin-guide/nfs/nfsroot.rst:
//! `ip=<client>:<server>:<gateway>:<netmask>:<host>:<device>:<autoconf>:<dns0>:<dns1>:<ntp0>`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;
use thiserror::Error;

use super::dhcp::class_prefix;

/// What `ip=` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpSetting {
    /// Ask a server; on this link only, when one is named.
    Dhcp {
        device: Option<String>,
    },
    Static(StaticIp),
}

/// An address given by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaticIp {
    pub address: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
    pub host_name: Option<String>,
    /// `None`: the first link with a carrier.
    pub device: Option<String>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
}

/// What is wrong with an `ip=`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IpSettingError {
    #[error("ip={value}: {field} is {found:?}, not an IPv4 address")]
    Address { value: String, field: &'static str, found: String },
    #[error("ip={value}: netmask is {found:?}, neither a mask nor a prefix length")]
    Netmask { value: String, found: String },
    #[error("ip={value}: {found:?} is neither an address nor a method such as dhcp")]
    Method { value: String, found: String },
    #[error("ip={value}: has {found} fields, at most 10 are known")]
    Fields { value: String, found: usize },
}

/// Reads the value of `ip=`; without one it is DHCP on every link. `off` and `none` without an address mean DHCP,
/// too: an agent without a network is of no use.
pub fn parse_ip_setting(value: Option<&str>) -> Result<IpSetting, IpSettingError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(IpSetting::Dhcp { device: None }) };
    let fields: Vec<&str> = value.split(':').collect();
    match fields.as_slice() {
        [method] if is_method(method) => Ok(IpSetting::Dhcp { device: None }),
        // dracut's form, which names only a link.
        [device, method] if method_asks(method) && device.parse::<Ipv4Addr>().is_err() => {
            Ok(IpSetting::Dhcp { device: text(device) })
        }
        _ if fields.len() > 10 => Err(IpSettingError::Fields { value: value.to_owned(), found: fields.len() }),
        _ => parse_fields(value, &fields),
    }
}

fn parse_fields(value: &str, fields: &[&str]) -> Result<IpSetting, IpSettingError> {
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let address_at = |at: usize, field_name: &'static str| match field(at) {
        "" => Ok(None),
        found => found.parse::<Ipv4Addr>().map(Some).map_err(|_| IpSettingError::Address {
            value: value.to_owned(),
            field: field_name,
            found: found.to_owned(),
        }),
    };
    let method = field(6);
    if !method.is_empty() && !is_method(method) {
        return Err(IpSettingError::Method { value: value.to_owned(), found: method.to_owned() });
    }
    let device = text(field(5));
    let Some(client) = address_at(0, "client")?.filter(|client| !client.is_unspecified()) else {
        return Ok(IpSetting::Dhcp { device });
    };
    let prefix = parse_netmask(field(3), client)
        .ok_or_else(|| IpSettingError::Netmask { value: value.to_owned(), found: field(3).to_owned() })?;
    let servers = |addresses: Vec<Option<Ipv4Addr>>| -> Vec<Ipv4Addr> {
        addresses.into_iter().flatten().filter(|address| !address.is_unspecified()).collect()
    };
    Ok(IpSetting::Static(StaticIp {
        address: Ipv4Net::new_assert(client, prefix),
        gateway: address_at(2, "gateway")?.filter(|gateway| !gateway.is_unspecified()),
        host_name: text(field(4)),
        device,
        dns: servers(vec![address_at(7, "first DNS server")?, address_at(8, "second DNS server")?]),
        ntp: servers(vec![address_at(9, "NTP server")?]),
    }))
}

/// A mask, a prefix length, or nothing: the prefix of the address' class, as the kernel guesses.
fn parse_netmask(found: &str, client: Ipv4Addr) -> Option<u8> {
    if found.is_empty() {
        return Some(class_prefix(client));
    }
    if let Ok(mask) = found.parse::<Ipv4Addr>() {
        return ipnet::ipv4_mask_to_prefix(mask).ok();
    }
    found.parse::<u8>().ok().filter(|prefix| *prefix <= 32)
}

fn text(field: &str) -> Option<String> {
    (!field.is_empty()).then(|| field.to_owned())
}

fn method_asks(method: &str) -> bool {
    ["dhcp", "on", "any", "both", "bootp", "rarp"].contains(&method)
}

fn is_method(method: &str) -> bool {
    method_asks(method) || ["off", "none", "static"].contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DHCP_EVERYWHERE: Result<IpSetting, IpSettingError> = Ok(IpSetting::Dhcp { device: None });

    #[test]
    fn dhcp_is_asked_for_in_many_words() {
        for value in
            [None, Some(""), Some("dhcp"), Some("on"), Some("any"), Some("none"), Some("off"), Some("::::::dhcp")]
        {
            assert_eq!(parse_ip_setting(value), DHCP_EVERYWHERE, "{value:?}");
        }
        for value in ["eth1:dhcp", ":::::eth1:dhcp", ":::::eth1"] {
            assert_eq!(parse_ip_setting(Some(value)), Ok(IpSetting::Dhcp { device: Some("eth1".into()) }), "{value}");
        }
    }

    #[test]
    fn a_full_static_address_is_read() {
        let value = "10.1.0.9::10.1.0.1:255.255.255.0:node9:eth1:none:10.1.0.53:0.0.0.0:10.1.0.4";
        let expected = StaticIp {
            address: "10.1.0.9/24".parse().unwrap(),
            gateway: Some(Ipv4Addr::new(10, 1, 0, 1)),
            host_name: Some("node9".into()),
            device: Some("eth1".into()),
            dns: vec![Ipv4Addr::new(10, 1, 0, 53)],
            ntp: vec![Ipv4Addr::new(10, 1, 0, 4)],
        };
        assert_eq!(parse_ip_setting(Some(value)), Ok(IpSetting::Static(expected)));
    }

    #[test]
    fn the_mask_may_be_a_length_or_left_out() {
        for (value, expected) in
            [("10.1.0.9:::20", "10.1.0.9/20"), ("192.0.2.9", "192.0.2.9/24"), ("10.1.0.9", "10.1.0.9/8")]
        {
            let Ok(IpSetting::Static(setting)) = parse_ip_setting(Some(value)) else { panic!("{value} is static") };
            assert_eq!(setting.address.to_string(), expected);
            assert_eq!((setting.gateway, setting.device), (None, None));
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let error = |value: &str| parse_ip_setting(Some(value)).unwrap_err().to_string();
        assert_eq!(error("dhpc"), "ip=dhpc: client is \"dhpc\", not an IPv4 address");
        assert_eq!(error("10.1.0.9::x"), "ip=10.1.0.9::x: gateway is \"x\", not an IPv4 address");
        assert_eq!(
            error("10.1.0.9:::255.0.255.0"),
            "ip=10.1.0.9:::255.0.255.0: netmask is \"255.0.255.0\", neither a mask nor a prefix length"
        );
        assert_eq!(
            error("10.1.0.9::::::dhpc"),
            "ip=10.1.0.9::::::dhpc: \"dhpc\" is neither an address nor a method such as dhcp"
        );
        assert_eq!(error("a:b:c:d:e:f:g:h:i:j:k"), "ip=a:b:c:d:e:f:g:h:i:j:k: has 11 fields, at most 10 are known");
    }
}
