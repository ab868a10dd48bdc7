//! User data of the allocation: what it is, and how it reaches the installed system.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What user data is for, seen from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `#cloud-config` in one of the first three lines: the image's cloud-init takes it at first boot.
    CloudConfig,
    /// A JSON object: applied once by the image's `ignition`.
    Ignition,
    /// For somebody else; it only lies in `/etc/metal/userdata`.
    Unknown,
}

/// The bytes of `allocation.user_data`: standard base64, else the text as it stands. `None`: there is none.
pub fn decode(user_data: &str) -> Option<Vec<u8>> {
    if user_data.is_empty() {
        return None;
    }
    Some(STANDARD.decode(user_data).unwrap_or_else(|_| user_data.as_bytes().to_owned()))
}

pub fn kind(content: &[u8]) -> Kind {
    let text = String::from_utf8_lossy(content);
    if text.lines().take(3).any(|line| line.contains("#cloud-config")) {
        Kind::CloudConfig
    } else if text.trim_start().starts_with('{') {
        Kind::Ignition
    } else {
        Kind::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_and_plain_text_stays() {
        assert_eq!(decode(""), None);
        assert_eq!(decode("I2Nsb3VkLWNvbmZpZwo=").unwrap(), b"#cloud-config\n");
        assert_eq!(decode("#cloud-config\n").unwrap(), b"#cloud-config\n");
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(b"## template: jinja\n#cloud-config\nusers: []\n"), Kind::CloudConfig);
        assert_eq!(kind(b"a\nb\nc\n#cloud-config\n"), Kind::Unknown);
        assert_eq!(kind(br#" {"ignition":{"version":"2.3.0"}}"#), Kind::Ignition);
        assert_eq!(kind(b"#!/bin/sh\n"), Kind::Unknown);
        assert_eq!(kind(b"\xff\xfe"), Kind::Unknown);
    }
}
