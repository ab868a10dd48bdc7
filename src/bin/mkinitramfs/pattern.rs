//! Shell patterns with `*` and `?`, enough for module names and paths. `*` also matches `/`.

/// Whether `text` as a whole matches `pattern`.
pub fn matches(pattern: &str, text: &str) -> bool {
    match_bytes(pattern.as_bytes(), text.as_bytes())
}

/// On a mismatch only the last `*` needs to be tried again, so the work is bounded by the product of the lengths.
fn match_bytes(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        for (pattern, text) in [
            ("virtio_*", "virtio_net"),
            ("*", ""),
            ("a*b*c", "aXbXbc"),
            ("nls_cp43?", "nls_cp437"),
            ("e1000e", "e1000e"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("virtio", "virtio_net"), ("a*b", "ac"), ("?", ""), ("e1000", "e1000e")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
