//! Private flags of network drivers, by ioctl (`include/uapi/linux/ethtool.h`): switches that only one driver knows.

use std::io;
use std::os::fd::AsFd;

use super::ethtool::{ask, open, text};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GPFLAGS: u32 = 0x27;
const ETHTOOL_SPFLAGS: u32 = 0x28;
const ETHTOOL_GSSET_INFO: u32 = 0x37;

const ETH_SS_PRIV_FLAGS: u32 = 2;
const ETH_GSTRING_BYTES: usize = 32;
/// The kernel writes all strings of a set, whatever room there is: far more than any driver has.
const MOST_STRINGS: usize = 4096;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_sset_info` with room for the length of one set.
#[repr(C)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    length: u32,
}

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Strings {
    command: u32,
    set: u32,
    length: u32,
    data: [[u8; ETH_GSTRING_BYTES]; MOST_STRINGS],
}

/// The private flags of a link in the kernel's order; empty when the driver has none.
pub fn read_private_flags(link: &str) -> io::Result<Vec<(String, bool)>> {
    let names = read_strings(link, ETH_SS_PRIV_FLAGS)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let bits = read_bits(link)?;
    Ok(names.into_iter().enumerate().map(|(bit, name)| (name, is_set(bits, bit))).collect())
}

/// Sets one private flag, leaving the others as they are. ENOENT when the driver has none of this name.
pub fn apply_private_flag(link: &str, flag: &str, on: bool) -> io::Result<()> {
    let names = read_strings(link, ETH_SS_PRIV_FLAGS)?;
    let mask = names.iter().position(|name| name == flag).and_then(|bit| 1_u32.checked_shl(u32::try_from(bit).ok()?));
    let Some(mask) = mask else { return Err(io::Error::from_raw_os_error(libc::ENOENT)) };
    let bits = read_bits(link)?;
    let mut value = Value { command: ETHTOOL_SPFLAGS, data: if on { bits | mask } else { bits & !mask } };
    call(link, &mut value)
}

fn is_set(bits: u32, bit: usize) -> bool {
    u32::try_from(bit).ok().and_then(|bit| bits.checked_shr(bit)).is_some_and(|bits| bits & 1 == 1)
}

fn read_bits(link: &str) -> io::Result<u32> {
    let mut value = Value { command: ETHTOOL_GPFLAGS, data: 0 };
    call(link, &mut value)?;
    Ok(value.data)
}

/// All strings of one set (`enum ethtool_stringset`); empty when the link has no such set.
fn read_strings(link: &str, set: u32) -> io::Result<Vec<String>> {
    let mut info = SetInfo { command: ETHTOOL_GSSET_INFO, reserved: 0, mask: 1 << set, length: 0 };
    call(link, &mut info)?;
    // The kernel clears the bits of the sets that it does not know.
    let length = if info.mask == 0 { 0 } else { info.length as usize };
    if length == 0 {
        return Ok(Vec::new());
    }
    if length > MOST_STRINGS {
        return Err(io::Error::other(format!("{length} strings in set {set}, expected at most {MOST_STRINGS}")));
    }
    let data = [[0; ETH_GSTRING_BYTES]; MOST_STRINGS];
    let mut strings = Box::new(Strings { command: ETHTOOL_GSTRINGS, set, length: info.length, data });
    call(link, strings.as_mut())?;
    let length = (strings.length as usize).min(length);
    Ok(strings.data.iter().take(length).map(|name| text(name)).collect())
}

fn call<T>(link: &str, command: &mut T) -> io::Result<()> {
    ask(open()?.as_fd(), link, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH_SS_FEATURES: u32 = 4;

    /// Every link has features; their names come by the same way as those of private flags.
    #[test]
    fn names_come_whole_and_in_order() {
        let names = read_strings("lo", ETH_SS_FEATURES).unwrap();
        assert_eq!(names.first().map(String::as_str), Some("tx-scatter-gather"));
        assert!(names.iter().all(|name| name.is_ascii()), "{names:?}");
    }

    #[test]
    fn a_link_without_private_flags_has_none() {
        assert_eq!(read_private_flags("lo").unwrap(), []);
        let error = apply_private_flag("lo", "disable-fw-lldp", true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error() {
        assert_eq!(read_private_flags("no-such-link").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(read_private_flags("a-name-of-16-bytes").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn bits_are_counted_from_the_lowest() {
        assert_eq!(
            [is_set(0b10, 0), is_set(0b10, 1), is_set(1 << 31, 31), is_set(u32::MAX, 32)],
            [false, true, true, false]
        );
    }
}
