//! Secrets that must not be in anything that is shown, whoever says them: our own lines hold none, but an image's
//! installer, or a tool that prints what it was given, may.
//!
//! What is secret is told here when it is learnt; the console, the remote log and the events ask before they show a line.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

/// Shorter texts are found by chance, in words and numbers.
const SHORTEST: usize = 8;
/// Far more than there are; what goes on for ever must not eat the memory.
const MOST: usize = 256;

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on this is not shown. Of a text of several lines (a key in PEM) each line, but for its frame.
pub fn hide(secret: &str) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for line in secret.lines().map(str::trim) {
        let is_frame = line.starts_with("-----");
        if line.len() >= SHORTEST && !is_frame && secrets.len() < MOST && !secrets.iter().any(|known| known == line) {
            secrets.push(line.to_owned());
        }
    }
}

/// The text with `***` in the place of every secret.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut shown = Cow::Borrowed(text);
    for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
        shown = Cow::Owned(shown.replace(secret, "***"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_shown_and_nothing_else_is_lost() {
        assert!(matches!(redacted("a line"), Cow::Borrowed("a line")));
        hide("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n");
        hide("hunter2-hunter2");
        hide("short");
        let text = "short: hunter2-hunter2, hunter2-hunter2 and MIGHAgEAMBMGByqGSM49 of -----BEGIN PRIVATE KEY-----";
        assert_eq!(redacted(text), "short: ***, *** and *** of -----BEGIN PRIVATE KEY-----");
        assert_eq!(redacted("AgEGCCqGSM49AwEHBG0w"), "***");
    }
}
