//! Link groups: `bond=NAME[:PORTS[:OPTIONS[:MTU]]]` of the kernel command line, in dracut's syntax (dracut.cmdline(7)).
//!
//! Options are those of the kernel's module (Documentation/networking/bonding.rst), by their names and values there.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use rtnetlink::packet_route::link::{
    BondAdSelect, BondFailOverMac, BondLacpRate, BondMode, BondPrimaryReselect, BondXmitHashPolicy, InfoBond,
};
use rtnetlink::{LinkBond, LinkUnspec};
use thiserror::Error;
use tracing::{info, warn};

use super::links::{Link, LinkKind, Netlink, parse_boot_mac};
use super::mtu;
use super::vlan::is_link_name;

/// How often the kernel looks at the carriers when nothing was said: its own default is never.
const DEFAULT_MIIMON_MS: u32 = 100;

/// A link group that the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondSetting {
    pub name: String,
    /// Names or MACs, at least one. The bond takes the MAC of the first.
    pub ports: Vec<String>,
    pub options: Vec<InfoBond>,
    /// Option `primary`, which the kernel wants as a number that is not known before the port is there.
    pub primary: Option<String>,
    pub mtu_bytes: Option<u32>,
}

/// What is wrong with a `bond=`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BondError {
    #[error("bond={value}: {name:?} can't be the name of a link (1 to 15 characters, without `/`)")]
    Name { value: String, name: String },
    #[error("bond={value}: option {option:?} is not known, or its value is none that it takes")]
    Option { value: String, option: String },
    #[error("bond={value}: MTU is {found:?}, expected 576 to 65535")]
    Mtu { value: String, found: String },
    #[error("bond={value}: has more than the four parts NAME:PORTS:OPTIONS:MTU")]
    Shape { value: String },
}

/// Reads one `bond=`. Without ports they are eth0 and eth1, without a mode it is balance-rr: dracut's and the kernel's.
pub fn parse_bond(value: &str) -> Result<BondSetting, BondError> {
    let parts: Vec<&str> = value.split(':').collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    if parts.len() > 4 {
        return Err(BondError::Shape { value: value.to_owned() });
    }
    let name = if part(0).is_empty() { "bond0" } else { part(0) };
    let mut ports: Vec<String> = list(part(1)).map(str::to_owned).collect();
    if ports.is_empty() {
        ports = vec!["eth0".to_owned(), "eth1".to_owned()];
    }
    // A MAC is longer than a name.
    let wrong = |name: &&str| !is_link_name(name) && parse_boot_mac(name).is_none();
    if let Some(name) = std::iter::once(name).chain(ports.iter().map(String::as_str)).find(wrong) {
        return Err(BondError::Name { value: value.to_owned(), name: name.to_owned() });
    }
    let mut setting = BondSetting { name: name.to_owned(), ports, options: Vec::new(), primary: None, mtu_bytes: None };
    for option in list(part(2)) {
        let wrong = || BondError::Option { value: value.to_owned(), option: option.to_owned() };
        // initscripts' way of writing the mode alone.
        let (key, text) = option.split_once('=').unwrap_or(("mode", option));
        if key == "primary" {
            setting.primary = Some(text.to_owned()).filter(|name| is_link_name(name));
            setting.primary.as_ref().ok_or_else(wrong)?;
        } else {
            setting.options.push(parse_option(key, text).ok_or_else(wrong)?);
        }
    }
    let watches = |option: &InfoBond| matches!(option, InfoBond::MiiMon(_) | InfoBond::ArpInterval(_));
    if !setting.options.iter().any(watches) {
        setting.options.push(InfoBond::MiiMon(DEFAULT_MIIMON_MS));
    }
    if !part(3).is_empty() {
        let mtu = part(3).parse().ok().filter(|mtu| (576..=65_535).contains(mtu));
        setting.mtu_bytes =
            Some(mtu.ok_or_else(|| BondError::Mtu { value: value.to_owned(), found: part(3).to_owned() })?);
    }
    Ok(setting)
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// By the word, or by its number: the place in the table, in the kernel's order.
fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    let by_number = || words.get(text.parse::<usize>().ok()?);
    words.iter().find(|(word, _)| *word == text).or_else(by_number).map(|(_, value)| *value)
}

const MODES: [(&str, BondMode); 7] = [
    ("balance-rr", BondMode::BalanceRr),
    ("active-backup", BondMode::ActiveBackup),
    ("balance-xor", BondMode::BalanceXor),
    ("broadcast", BondMode::Broadcast),
    ("802.3ad", BondMode::Ieee8023Ad),
    ("balance-tlb", BondMode::BalanceTlb),
    ("balance-alb", BondMode::BalanceAlb),
];
const LACP_RATES: [(&str, BondLacpRate); 2] = [("slow", BondLacpRate::Slow), ("fast", BondLacpRate::Fast)];
const HASH_POLICIES: [(&str, BondXmitHashPolicy); 6] = [
    ("layer2", BondXmitHashPolicy::Layer2),
    ("layer3+4", BondXmitHashPolicy::Layer34),
    ("layer2+3", BondXmitHashPolicy::Layer23),
    ("encap2+3", BondXmitHashPolicy::Encap23),
    ("encap3+4", BondXmitHashPolicy::Encap34),
    ("vlan+srcmac", BondXmitHashPolicy::VlanSrcMac),
];
const MAC_POLICIES: [(&str, BondFailOverMac); 3] =
    [("none", BondFailOverMac::None), ("active", BondFailOverMac::Active), ("follow", BondFailOverMac::Follow)];
const SELECTIONS: [(&str, BondAdSelect); 3] =
    [("stable", BondAdSelect::Stable), ("bandwidth", BondAdSelect::Bandwidth), ("count", BondAdSelect::Count)];
const RESELECTIONS: [(&str, BondPrimaryReselect); 3] = [
    ("always", BondPrimaryReselect::Always),
    ("better", BondPrimaryReselect::Better),
    ("failure", BondPrimaryReselect::Failure),
];

fn parse_option(key: &str, text: &str) -> Option<InfoBond> {
    let number = || text.parse::<u32>().ok();
    Some(match key {
        "mode" => InfoBond::Mode(word(text, &MODES)?),
        "miimon" => InfoBond::MiiMon(number()?),
        "updelay" => InfoBond::UpDelay(number()?),
        "downdelay" => InfoBond::DownDelay(number()?),
        "lacp_rate" => InfoBond::AdLacpRate(word(text, &LACP_RATES)?),
        "ad_select" => InfoBond::AdSelect(word(text, &SELECTIONS)?),
        "xmit_hash_policy" => InfoBond::XmitHashPolicy(word(text, &HASH_POLICIES)?),
        "fail_over_mac" => InfoBond::FailOverMac(word(text, &MAC_POLICIES)?),
        "primary_reselect" => InfoBond::PrimaryReselect(word(text, &RESELECTIONS)?),
        "min_links" => InfoBond::MinLinks(number()?),
        "resend_igmp" => InfoBond::ResendIgmp(number()?),
        "num_grat_arp" | "num_unsol_na" => InfoBond::NumPeerNotif(text.parse().ok()?),
        "arp_interval" => InfoBond::ArpInterval(number()?),
        // dracut parts them by `;`, since `,` parts the options.
        "arp_ip_target" => InfoBond::ArpIpTarget(
            text.split(';').map(|address| address.parse::<Ipv4Addr>().ok()).collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}

/// Makes the bond if it is not there, takes its ports in, and sets it up. Answers the ports that are missing;
/// `wait_for_all` makes no bond before they are all there, so that its MAC is the first one's.
pub(super) async fn apply_bond(netlink: &Netlink, setting: &BondSetting, wait_for_all: bool) -> Result<Vec<String>> {
    let links = netlink.read_links().await?;
    let find = |name: &String| links.iter().find(|link| link.kind == LinkKind::Port && link.is_called(name));
    let missing: Vec<String> = setting.ports.iter().filter(|name| find(name).is_none()).cloned().collect();
    let ports: Vec<&Link> = setting.ports.iter().filter_map(find).collect();
    let old = links.iter().find(|link| link.name == setting.name);
    if let Some(other) = old.filter(|link| link.kind != LinkKind::Bond) {
        bail!("{} is a link already, and no bond", other.name);
    }
    let has_ports = |bond: &&Link| links.iter().any(|link| link.controller == Some(bond.index));
    let index = match old.filter(has_ports) {
        Some(bond) => bond.index,
        None if ports.is_empty() || (wait_for_all && !missing.is_empty()) => return Ok(missing),
        None => {
            // The kernel's module makes a bond0 of its own when it is loaded, of the wrong mode.
            if let Some(empty) = old {
                netlink.remove_link(empty.index).await?;
            }
            let primary = setting.primary.as_ref().and_then(find).map(|port| port.index);
            netlink.add_bond(setting, primary).await?
        }
    };
    for port in ports.into_iter().filter(|port| port.controller != Some(index)) {
        netlink.apply_port(port, index, &setting.name).await?;
    }
    if old.is_none_or(|bond| bond.index != index || !bond.up) {
        if let Some(mtu) = setting.mtu_bytes {
            mtu::apply_mtu(netlink, index, &setting.name, mtu).await;
        }
        netlink.apply_up(index).await?;
    }
    Ok(missing)
}

impl Netlink {
    async fn add_bond(&self, setting: &BondSetting, primary_index: Option<u32>) -> Result<u32> {
        let BondSetting { name, options, .. } = setting;
        let primary = primary_index.map(InfoBond::Primary);
        let message = options
            .iter()
            .cloned()
            .chain(primary)
            .fold(LinkBond::new(name), |message, option| message.append_info_data(option))
            .build();
        let done = self.handle().link().add(message).execute().await;
        done.with_context(|| format!("making bond {name} with options {options:?}"))?;
        let links = self.read_links().await?;
        let made = links.iter().find(|link| link.name == *name);
        info!(bond = %name, ports = setting.ports.join(","), "bond made");
        made.map(|link| link.index).with_context(|| format!("bond {name} is gone as soon as it was made"))
    }

    /// The kernel takes in only ports that are down, and sets them up itself. Addresses of a port go: they would
    /// answer for the bond's.
    async fn apply_port(&self, port: &Link, bond_index: u32, bond: &str) -> Result<()> {
        let context = || format!("taking {} into bond {bond}", port.name);
        for (_, address) in self.read_addresses().await?.into_iter().filter(|(index, _)| *index == port.index) {
            warn!(link = %port.name, %address, %bond, "address removed: its link goes into a bond");
            self.remove_address(port.index, address).await?;
        }
        self.apply_down(port.index).await?;
        let message = LinkUnspec::new_with_index(port.index).controller(bond_index).build();
        self.handle().link().set(message).execute().await.with_context(context)?;
        info!(link = %port.name, %bond, "link is in the bond");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_with_everything_is_read() {
        let setting =
            parse_bond("bond0:eth0,eth1:mode=802.3ad,miimon=50,lacp_rate=fast,xmit_hash_policy=layer3+4:9000");
        let expected = BondSetting {
            name: "bond0".into(),
            ports: vec!["eth0".into(), "eth1".into()],
            options: vec![
                InfoBond::Mode(BondMode::Ieee8023Ad),
                InfoBond::MiiMon(50),
                InfoBond::AdLacpRate(BondLacpRate::Fast),
                InfoBond::XmitHashPolicy(BondXmitHashPolicy::Layer34),
            ],
            primary: None,
            mtu_bytes: Some(9000),
        };
        assert_eq!(setting, Ok(expected));
    }

    #[test]
    fn what_is_left_out_is_dracuts_default_and_carriers_are_looked_at() {
        for value in ["", "bond0", "bond0:", "bond0:eth0,eth1"] {
            let setting = parse_bond(value).unwrap();
            assert_eq!((setting.name.as_str(), setting.ports.join(",").as_str()), ("bond0", "eth0,eth1"), "{value:?}");
            assert_eq!(setting.options, [InfoBond::MiiMon(100)]);
        }
    }

    #[test]
    fn modes_go_by_word_and_by_number() {
        for value in ["b:eth0:mode=active-backup", "b:eth0:mode=1", "b:eth0:active-backup"] {
            let options = parse_bond(value).unwrap().options;
            assert_eq!(options, [InfoBond::Mode(BondMode::ActiveBackup), InfoBond::MiiMon(100)], "{value}");
        }
        let arp =
            parse_bond("b:eth0,eth1:mode=1,arp_interval=200,arp_ip_target=10.1.0.1;10.1.0.2,primary=eth1").unwrap();
        assert_eq!(arp.primary.as_deref(), Some("eth1"));
        let targets = vec![Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2)];
        assert_eq!(arp.options[1..], [InfoBond::ArpInterval(200), InfoBond::ArpIpTarget(targets)]);
    }

    #[test]
    fn ports_may_be_named_by_their_macs() {
        let ports = parse_bond("bond0:aa-bb-cc-dd-ee-01,aa-bb-cc-dd-ee-02:mode=4").unwrap().ports;
        assert_eq!(ports, ["aa-bb-cc-dd-ee-01", "aa-bb-cc-dd-ee-02"]);
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let option = |value: &str, option: &str| {
            assert_eq!(parse_bond(value), Err(BondError::Option { value: value.into(), option: option.into() }));
        };
        option("bond0:eth0:mode=fast", "mode=fast");
        option("bond0:eth0:mode=7", "mode=7");
        option("bond0:eth0:miimon=x", "miimon=x");
        option("bond0:eth0:wings=2", "wings=2");
        option("bond0:eth0:arp_ip_target=10.1.0.1;x", "arp_ip_target=10.1.0.1;x");
        let error = |value: &str| parse_bond(value).unwrap_err().to_string();
        assert_eq!(error("bond0:eth0::500"), "bond=bond0:eth0::500: MTU is \"500\", expected 576 to 65535");
        assert_eq!(error("a:b:c=1:9000:x"), "bond=a:b:c=1:9000:x: has more than the four parts NAME:PORTS:OPTIONS:MTU");
        assert!(error("bond/0").contains("can't be the name of a link"));
    }
}
