//! The raw options of a DHCP message: found, joined, and read as values.
//!
//! By hand, since a decoder that stops at the first odd option loses the rest, and one that overwrites repeated
//! options breaks RFC 3396.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const PAD: u8 = 0;
const END: u8 = 255;
const OVERLOAD: u8 = 52;

/// Option bytes by code, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct RawOptions {
    values: BTreeMap<u8, Vec<u8>>,
    faults: Vec<String>,
}

impl RawOptions {
    /// Reads the option field and, when option 52 says so, the file and server name fields behind it, in the order
    /// in which RFC 3396 joins the pieces of a long option.
    pub(super) fn scan(options: &[u8], file: &[u8], server_name: &[u8]) -> Self {
        let mut found = Self::default();
        found.scan_field("options", options);
        let overload = found.values.get(&OVERLOAD).and_then(|value| value.first()).copied().unwrap_or(0);
        if overload & 1 != 0 {
            found.scan_field("file", file);
        }
        if overload & 2 != 0 {
            found.scan_field("server name", server_name);
        }
        found
    }

    fn scan_field(&mut self, field: &str, mut rest: &[u8]) {
        while let Some((&code, after_code)) = rest.split_first() {
            match code {
                PAD => rest = after_code,
                END => return,
                _ => {
                    let Some((&len, after_len)) = after_code.split_first() else {
                        return self.fault(format!("option {code} in the {field} field has no length"));
                    };
                    let Some((value, after)) = after_len.split_at_checked(usize::from(len)) else {
                        let left = after_len.len();
                        return self
                            .fault(format!("option {code} in the {field} field has {left} bytes, promised {len}"));
                    };
                    self.values.entry(code).or_default().extend(value);
                    rest = after;
                }
            }
        }
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    pub(super) fn into_faults(self) -> Vec<String> {
        self.faults
    }

    pub(super) fn bytes(&self, code: u8) -> Option<&[u8]> {
        self.values.get(&code).map(Vec::as_slice)
    }

    /// The first `N` bytes. A longer value (a server that sends the option twice) is noted, a shorter one dropped.
    fn fixed<const N: usize>(&mut self, code: u8) -> Option<[u8; N]> {
        let value = self.bytes(code)?;
        let len = value.len();
        let first = value.first_chunk::<N>().copied();
        if len != N {
            self.fault(format!("option {code} has {len} bytes, expected {N}"));
        }
        first
    }

    pub(super) fn byte(&mut self, code: u8) -> Option<u8> {
        self.fixed::<1>(code).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, code: u8) -> Option<u16> {
        self.fixed(code).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, code: u8) -> Option<u32> {
        self.fixed(code).map(u32::from_be_bytes)
    }

    pub(super) fn address(&mut self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// Host addresses without repetition; what can be no host's address is left out and noted.
    pub(super) fn hosts(&mut self, code: u8) -> Vec<Ipv4Addr> {
        let Some(value) = self.bytes(code).map(<[u8]>::to_vec) else { return Vec::new() };
        if value.is_empty() || value.len() % 4 != 0 {
            self.fault(format!("option {code} has {} bytes, expected a multiple of 4", value.len()));
        }
        let mut hosts = Vec::new();
        for octets in value.as_chunks::<4>().0 {
            let host = Ipv4Addr::from(*octets);
            if !is_host(host) {
                self.fault(format!("option {code} names {host}, which is no host's address"));
            } else if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

/// Could be somebody's address: neither unspecified, broadcast nor multicast.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_options_are_joined_across_all_fields() {
        // Option 52 = 3: file and server name carry options, too; file comes first.
        let options = [52, 1, 3, 0, 6, 4, 10, 0, 0, 1, 255, 6, 4, 9, 9, 9, 9];
        let mut raw = RawOptions::scan(&options, &[6, 4, 10, 0, 0, 2, 255], &[6, 4, 10, 0, 0, 3]);
        assert_eq!(raw.hosts(6), [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]);
        assert!(raw.into_faults().is_empty());
    }

    #[test]
    fn the_other_fields_are_left_alone_without_option_52() {
        let raw = RawOptions::scan(&[255], &[6, 4, 10, 0, 0, 2], &[6, 4, 10, 0, 0, 3]);
        assert_eq!(raw.bytes(6), None);
    }

    #[test]
    fn an_option_cut_off_keeps_what_came_before_it() {
        let mut raw = RawOptions::scan(&[1, 4, 255, 255, 255, 0, 6, 8, 10, 0], &[], &[]);
        assert_eq!(raw.address(1), Some(Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!(raw.bytes(6), None);
        assert_eq!(raw.into_faults(), ["option 6 in the options field has 2 bytes, promised 8"]);
    }

    #[test]
    fn a_value_of_the_wrong_length_is_noted() {
        let mut raw = RawOptions::scan(&[26, 1, 5, 51, 8, 0, 0, 0, 9, 0, 0, 0, 9, 6, 3, 1, 2, 3], &[], &[]);
        assert_eq!(raw.u16(26), None);
        assert_eq!(raw.u32(51), Some(9));
        assert!(raw.hosts(6).is_empty());
        assert_eq!(
            raw.into_faults(),
            [
                "option 26 has 1 bytes, expected 2",
                "option 51 has 8 bytes, expected 4",
                "option 6 has 3 bytes, expected a multiple of 4"
            ]
        );
    }

    #[test]
    fn addresses_of_no_host_and_repetitions_are_left_out() {
        let mut raw = RawOptions::scan(&[42, 16, 0, 0, 0, 0, 224, 0, 0, 1, 10, 0, 0, 1, 10, 0, 0, 1], &[], &[]);
        assert_eq!(raw.hosts(42), [Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(raw.into_faults().len(), 2);
    }
}
