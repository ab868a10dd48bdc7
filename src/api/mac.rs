//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An Ethernet address; shown lower case, colon separated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// `None` unless there are six bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not six pairs of hex digits with `:` or `-` between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as 02:00:00:00:00:01")]
pub struct NotAMac(String);

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let wrong = || NotAMac(text.chars().take(32).collect());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut bytes {
            // Not by `from_str_radix`, which takes a sign for a digit.
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(wrong)?;
            hex::decode_to_slice(pair, std::slice::from_mut(byte)).map_err(|_| wrong())?;
        }
        if pairs.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_shown_as_it_is_read() {
        for text in ["02:00:00:AB:cd:0f", "02-00-00-ab-CD-0F"] {
            let mac: Mac = text.parse().unwrap();
            assert_eq!(mac, Mac([2, 0, 0, 0xab, 0xcd, 0x0f]));
            assert_eq!(mac.to_string(), "02:00:00:ab:cd:0f");
        }
    }

    #[test]
    fn refuses_what_is_no_mac() {
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "0200.0000.0001", "02:00:00:00:00:+1"]
        {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac(text.to_owned())), "{text}");
        }
    }
}
