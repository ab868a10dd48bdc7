//! Domain names in options 15 and 119.

/// A name that may be written into `/etc/resolv.conf`: labels of letters, digits, `-` and `_`, 1 to 63 each, 253 in
/// all; one dot at the end is dropped.
pub(super) fn parse_domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = name.len() <= 253 && name.split('.').all(is_label);
    fits.then(|| name.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(allowed)
}

/// Option 119 (RFC 3397): names in DNS wire format, compressed within the option. What is readable is returned, with
/// a sentence about the first thing that is not.
pub(super) fn parse_search_list(bytes: &[u8]) -> (Vec<String>, Option<String>) {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match read_name(bytes, at) {
            Some((name, next)) => {
                if let Some(name) = parse_domain(&name).filter(|name| !names.contains(name)) {
                    names.push(name);
                }
                at = next;
            }
            None => return (names, Some(format!("option 119 is no list of names at byte {at}"))),
        }
    }
    (names, None)
}

/// The name that begins at `start`, and where the next one begins.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = start;
    let mut next = None;
    // A pointer must point before the name or label it continues: that alone ends every loop.
    let mut lowest = start;
    loop {
        let len = *bytes.get(at)?;
        match len >> 6 {
            0 if len == 0 => return Some((name, next.unwrap_or(at + 1))),
            0 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(len))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(std::str::from_utf8(label).ok()?);
                if name.len() > 255 {
                    return None;
                }
                at += 1 + usize::from(len);
            }
            3 => {
                let target = usize::from(len & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                if target >= lowest {
                    return None;
                }
                next.get_or_insert(at + 2);
                lowest = target;
                at = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_names_of_rfc_3397_are_read() {
        let bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(parse_search_list(bytes), (vec!["eng.apple.com".into(), "marketing.apple.com".into()], None));
    }

    #[test]
    fn pointers_in_a_circle_end() {
        for bytes in [&b"\xc0\x00"[..], b"\x01a\xc0\x00", b"\x01a\x00\xc0\x05\xc0\x03"] {
            let (_, fault) = parse_search_list(bytes);
            assert!(fault.is_some(), "{bytes:?}");
        }
    }

    #[test]
    fn names_that_could_break_a_configuration_file_are_refused() {
        for text in ["", ".", "a..b", "lab example", "lab\nnameserver 10.9.9.9", "lab\0", &"a".repeat(64), "ümlaut"] {
            assert_eq!(parse_domain(text), None, "{text:?}");
        }
        assert_eq!(parse_domain("Lab.Example."), Some("lab.example".to_owned()));
    }
}
