//! `/proc/cpuinfo`: one paragraph a logical CPU that is online.

use std::collections::BTreeMap;

/// What tells one machine from another for those who place workloads on them; the other two hundred flags are the
/// model's.
const FLAGS_THAT_MATTER: [&str; 10] = [
    // Virtual machines with hardware support: absent when the firmware has switched it off.
    "vmx",
    "svm",
    // Enclaves, with keys of the owner's choice.
    "sgx",
    "sgx_lc",
    // Encrypted virtual machines: AMD's three generations, and Intel's.
    "sev",
    "sev_es",
    "sev_snp",
    "tdx_host_platform",
    // This is a virtual machine itself, an encrypted one.
    "tdx_guest",
    "hypervisor",
];

/// One paragraph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo<'a> {
    /// `vendor_id`; ARM has none.
    pub vendor: Option<&'a str>,
    /// `model name`; ARM has none.
    pub model: Option<&'a str>,
    pub microcode: Option<&'a str>,
    pub physical_id: Option<u32>,
    pub core_id: Option<u32>,
    flags: &'a str,
}

impl CpuInfo<'_> {
    /// Those of [`FLAGS_THAT_MATTER`] that it has.
    pub fn flags(&self) -> Vec<&'static str> {
        let has = |wanted: &&str| self.flags.split_ascii_whitespace().any(|flag| flag == *wanted);
        FLAGS_THAT_MATTER.into_iter().filter(has).collect()
    }
}

/// By the number of the CPU (`processor`).
pub fn parse_cpuinfo(text: &str) -> BTreeMap<u32, CpuInfo<'_>> {
    let mut cpus = BTreeMap::new();
    let mut current: Option<u32> = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key == "processor" {
            current = value.parse().ok();
        }
        let Some(number) = current else { continue };
        let info: &mut CpuInfo<'_> = cpus.entry(number).or_default();
        let text = Some(value).filter(|value| !value.is_empty());
        match key {
            "vendor_id" => info.vendor = text,
            "model name" => info.model = text,
            "microcode" => info.microcode = text,
            "physical id" => info.physical_id = value.parse().ok(),
            "core id" => info.core_id = value.parse().ok(),
            "flags" => info.flags = value,
            _ => {}
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_read_and_only_whole_flags_that_matter_count() {
        let text = "processor\t: 3\nvendor_id\t: AuthenticAMD\nmodel name\t: Fast: very\nmicrocode\t: 0xa101148\n\
            physical id\t: 1\ncore id\t\t: 7\nflags\t\t: fpu svm svm_lock sev sev_es vmxx\nbugs\t\t: vmx\n\n";
        let cpus = parse_cpuinfo(text);
        let cpu = cpus.get(&3).expect("CPU 3");
        assert_eq!(
            (cpu.vendor, cpu.model, cpu.microcode),
            (Some("AuthenticAMD"), Some("Fast: very"), Some("0xa101148"))
        );
        assert_eq!((cpu.physical_id, cpu.core_id), (Some(1), Some(7)));
        assert_eq!(cpu.flags(), ["svm", "sev", "sev_es"]);
    }

    #[test]
    fn what_belongs_to_no_cpu_is_left_out() {
        assert!(parse_cpuinfo("Hardware: board\nprocessor: many\nflags: vmx\n: \0 :::").is_empty());
    }
}
