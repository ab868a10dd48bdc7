//! Module parameters and blacklists on the kernel command line, as modprobe takes them from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::db::module_name;
use crate::inventory::attribute::read_text;

/// What the operator said about modules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleParameters {
    /// `name=value …` by module.
    parameters: BTreeMap<String, String>,
    blacklist: BTreeSet<String>,
}

impl ModuleParameters {
    /// Of `/proc/cmdline`; without it there are none.
    pub fn read(proc: &Path) -> Self {
        read_text(&proc.join("cmdline")).map(|line| Self::parse(&line)).unwrap_or_default()
    }

    /// `softdog.soft_margin=30` for a module, `modprobe.blacklist=a,b` and `module_blacklist=c` against some.
    pub fn parse(cmdline: &str) -> Self {
        let mut found = Self::default();
        for word in cmdline.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key.split_once('.') {
                Some(("modprobe", "blacklist")) => found.blacklist.extend(value.split(',').map(module_name)),
                None if key == "module_blacklist" => found.blacklist.extend(value.split(',').map(module_name)),
                Some((module, parameter)) if !module.is_empty() && !parameter.is_empty() => {
                    let parameters = found.parameters.entry(module_name(module)).or_default();
                    if !parameters.is_empty() {
                        parameters.push(' ');
                    }
                    parameters.push_str(word.get(module.len() + 1..).unwrap_or_default());
                }
                _ => {}
            }
        }
        found
    }

    /// As `finit_module` wants them; empty when there are none.
    pub fn of(&self, module: &str) -> &str {
        self.parameters.get(module).map_or("", String::as_str)
    }

    pub fn is_blacklisted(&self, module: &str) -> bool {
        self.blacklist.contains(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_to_their_module_in_order() {
        let line =
            "console=ttyS0 nvme-core.multipath=N softdog.soft_margin=30 softdog.nowayout i.p= drophammer.debug=1";
        let parameters = ModuleParameters::parse(line);
        assert_eq!(parameters.of("nvme_core"), "multipath=N");
        assert_eq!(parameters.of("softdog"), "soft_margin=30 nowayout");
        assert_eq!(parameters.of("console"), "");
    }

    #[test]
    fn blacklisted_modules_are_known_by_either_spelling() {
        let parameters = ModuleParameters::parse("modprobe.blacklist=mlx5-core,igb module_blacklist=e1000e");
        assert!(["mlx5_core", "igb", "e1000e"].iter().all(|module| parameters.is_blacklisted(module)));
        assert!(!parameters.is_blacklisted("ixgbe"));
    }
}
