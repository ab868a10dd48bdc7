//! SSH public keys as lines of `authorized_keys`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Checks one line: options if any, type, key in base64 whose own type agrees, comment. The text never shows up in the
/// error, since somebody may have pasted a private key.
pub fn check(line: &str) -> Result<(), &'static str> {
    let line = line.trim();
    if line.is_empty() {
        return Err("is empty");
    }
    if line.contains(['\n', '\r']) {
        return Err("has more than one line");
    }
    if line.contains("PRIVATE KEY") {
        return Err("is a private key");
    }
    let key = if starts_with_type(line) { line } else { skip_options(line).trim_start() };
    if !starts_with_type(key) {
        return Err("does not begin with a known key type, such as ssh-ed25519");
    }
    let mut words = key.split_whitespace();
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err("has no key after its type");
    };
    let blob = STANDARD.decode(encoded).map_err(|_| "holds no valid base64 after its type")?;
    match inner_type(&blob) {
        Some(inner) if inner == kind.as_bytes() && blob.len() > 4 + inner.len() => Ok(()),
        _ => Err("holds a key of another type than it says, or a cut one"),
    }
}

fn starts_with_type(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    let plain = word.replace("-cert-v01@openssh.com", "");
    TYPES.iter().any(|kind| *kind == word || *kind == plain || kind.trim_end_matches("@openssh.com") == plain)
}

/// What follows the options: they end at the first blank outside double quotes.
fn skip_options(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return &line[at..],
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    ""
}

/// The first string of a key blob: a length of four bytes, big-endian, and the text.
fn inner_type(blob: &[u8]) -> Option<&[u8]> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGK0dqYyXq5ZcVxTsIvp0yR8yBCKzYdN0v5nCkD1lOWJ";

    #[test]
    fn accepts_plain_lines_and_lines_with_options() {
        for line in [
            format!("ssh-ed25519 {ED25519} me@host"),
            format!("ssh-ed25519 {ED25519}\n"),
            format!("no-pty,command=\"echo \\\"a b\\\"\" ssh-ed25519 {ED25519}"),
        ] {
            assert_eq!(check(&line), Ok(()), "{line}");
        }
    }

    #[test]
    fn refuses_what_is_no_public_key() {
        let cases = [
            (String::new(), "is empty"),
            ("hello".to_owned(), "does not begin with a known key type"),
            ("ssh-ed25519".to_owned(), "has no key"),
            ("ssh-ed25519 !!!".to_owned(), "no valid base64"),
            (format!("ssh-rsa {ED25519}"), "another type"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".to_owned(), "cut one"),
            (format!("ssh-ed25519 {ED25519}\nssh-ed25519 {ED25519}"), "more than one line"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(), "private key"),
        ];
        for (line, expected) in cases {
            assert!(check(&line).unwrap_err().contains(expected), "{line}");
        }
    }
}
