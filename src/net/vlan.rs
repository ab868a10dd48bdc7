//! Tagged links: `vlan=NAME:PHYS` of the kernel command line, in dracut's syntax (dracut.cmdline(7)).

use anyhow::{Context, Result, bail};
use rtnetlink::LinkVlan;
use thiserror::Error;

use super::links::{LinkKind, Netlink};

/// An 802.1Q VLAN id, 1 to 4094 (0 and 4095 are reserved by the standard).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanId(u16);

/// A tagged link that the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSetting {
    pub name: String,
    pub id: VlanId,
    /// The name or MAC of the port, or the name of the bond, that it stands on.
    pub parent: String,
}

/// What is wrong with a `vlan=`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VlanError {
    #[error("vlan={value}: expected NAME:PHYS, such as vlan5:eth0")]
    Shape { value: String },
    #[error("vlan={value}: {name:?} can't be the name of a link (1 to 15 characters, without `/`)")]
    Name { value: String, name: String },
    #[error("vlan={value}: {name:?} ends in no VLAN id from 1 to 4094, as vlan5, vlan0005, eth0.5 and eth0.0005 do")]
    Id { value: String, name: String },
}

/// Reads one `vlan=`. The id is in the name, in the four forms that dracut knows.
pub fn parse_vlan(value: &str) -> Result<VlanSetting, VlanError> {
    let parts: Vec<&str> = value.split(':').collect();
    let [name, parent] = parts.as_slice() else { return Err(VlanError::Shape { value: value.to_owned() }) };
    for name in [name, parent] {
        // A MAC is longer than a name.
        if !is_link_name(name) && super::links::parse_boot_mac(name).is_none() {
            return Err(VlanError::Name { value: value.to_owned(), name: (*name).to_owned() });
        }
    }
    let id = parse_id(name).ok_or_else(|| VlanError::Id { value: value.to_owned(), name: (*name).to_owned() })?;
    Ok(VlanSetting { name: (*name).to_owned(), id, parent: (*parent).to_owned() })
}

fn parse_id(name: &str) -> Option<VlanId> {
    let digits = match name.rsplit_once('.') {
        Some((_, digits)) => digits,
        None => name.strip_prefix("vlan")?,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.parse::<u16>().ok().filter(|_| is_number)?;
    (1..=4094).contains(&id).then_some(VlanId(id))
}

/// What the kernel takes for the name of a link (`dev_valid_name` in net/core/dev.c).
pub(super) fn is_link_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && ![".", ".."].contains(&name)
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// Makes the link if it is not there, and sets it and its parent up. `Some` names what is missing for it.
pub(super) async fn apply_vlan(netlink: &Netlink, setting: &VlanSetting) -> Result<Option<String>> {
    let links = netlink.read_links().await?;
    let Some(parent) = links.iter().find(|link| link.name != setting.name && link.is_called(&setting.parent)) else {
        return Ok(Some(format!("{} for {}", setting.parent, setting.name)));
    };
    if !parent.up {
        netlink.apply_up(parent.index).await?;
    }
    match links.iter().find(|link| link.name == setting.name) {
        None => netlink.add_vlan(setting, parent.index).await?,
        Some(link) if link.kind != LinkKind::Vlan => bail!("{} is a link already, and no VLAN", link.name),
        Some(link) if !link.up => netlink.apply_up(link.index).await?,
        Some(_) => {}
    }
    Ok(None)
}

impl Netlink {
    async fn add_vlan(&self, setting: &VlanSetting, parent_index: u32) -> Result<()> {
        let VlanSetting { name, id: VlanId(id), parent } = setting;
        let message = LinkVlan::new(name, parent_index, *id).up().build();
        let done = self.handle().link().add(message).execute().await;
        done.with_context(|| format!("making link {name} for VLAN {id} on {parent}"))?;
        tracing::info!(link = %name, vlan = id, on = %parent, "VLAN link made");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dracuts_four_kinds_of_names_have_their_id() {
        for (value, name, id, parent) in [
            ("vlan0005:eth0", "vlan0005", 5, "eth0"),
            ("vlan5:eth0", "vlan5", 5, "eth0"),
            ("eth0.0005:eth0", "eth0.0005", 5, "eth0"),
            ("bond0.4094:bond0", "bond0.4094", 4094, "bond0"),
            ("vlan7:aa-bb-cc-dd-ee-ff", "vlan7", 7, "aa-bb-cc-dd-ee-ff"),
        ] {
            let expected = VlanSetting { name: name.into(), id: VlanId(id), parent: parent.into() };
            assert_eq!(parse_vlan(value), Ok(expected));
        }
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let shape = |value: &str| Err(VlanError::Shape { value: value.into() });
        assert_eq!(parse_vlan(""), shape(""));
        assert_eq!(parse_vlan("vlan5"), shape("vlan5"));
        assert_eq!(parse_vlan("vlan5:eth0:x"), shape("vlan5:eth0:x"));
        for name in ["prov", "vlan", "vlan0", "vlan4095", "eth0.+5", "vlan5x", "eth0."] {
            let value = format!("{name}:eth0");
            assert_eq!(parse_vlan(&value), Err(VlanError::Id { value: value.clone(), name: name.into() }));
        }
        for name in ["", "vlan/5", "vlan00000000000005"] {
            let value = format!("{name}:eth0");
            assert_eq!(parse_vlan(&value), Err(VlanError::Name { value: value.clone(), name: name.into() }));
        }
    }
}
