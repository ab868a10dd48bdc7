//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// Shown lower-case with colons, as the protocols here want it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address such as 02:00:00:00:00:01")]
pub struct NotAMacAddress(String);

/// Six groups of two hexadecimal digits with `:` or `-` between them.
impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, NotAMacAddress> {
        let wrong = || NotAMacAddress(text.chars().take(32).collect());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut groups = text.split(separator);
        for byte in &mut bytes {
            let group = groups.next().ok_or_else(wrong)?;
            if group.len() != 2 {
                return Err(wrong());
            }
            hex::decode_to_slice(group, std::slice::from_mut(byte)).map_err(|_| wrong())?;
        }
        if groups.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_in_any_case_and_shown_in_lower_case() {
        for text in ["02:AB:00:00:00:01", "02-ab-00-00-00-01"] {
            assert_eq!(text.parse::<MacAddress>().unwrap().to_string(), "02:ab:00:00:00:01");
        }
    }

    #[test]
    fn refuses_what_is_not_one() {
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "0200.0000.0001", "02:00:00:00:00:+1", "2:0:0:0:0:1"]
        {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAMacAddress(text.to_owned())), "{text}");
        }
    }
}
