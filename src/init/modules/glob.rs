//! Patterns of `modules.alias`: `*`, `?` and sets, matched as `fnmatch(3)` without flags does.

/// Whether `text` as a whole matches `pattern`.
///
/// Runs in time pattern × text at worst, whatever the pattern: only the last `*` is ever tried again.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when it does not fit: after the last `*`, with one more byte of the text in it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(p..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        match (text.get(t), match_one(rest, text.get(t).copied())) {
            (None, _) if rest.is_empty() => return true,
            (Some(_), Some(length)) => {
                p += length;
                t += 1;
            }
            _ => match retry {
                Some((after_star, taken)) if taken < text.len() => {
                    p = after_star;
                    t = taken + 1;
                    retry = Some((after_star, t));
                }
                _ => return false,
            },
        }
    }
}

/// Matches one byte against the first element of a pattern: the element's length, or `None`.
fn match_one(pattern: &[u8], byte: Option<u8>) -> Option<usize> {
    let byte = byte?;
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => match set_end(set) {
            Some(end) => in_set(set.get(..end)?, byte).then_some(end + 2),
            // No end: an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (byte == *escaped).then_some(2),
        [literal, ..] => (byte == *literal).then_some(1),
        [] => None,
    }
}

/// Where the `]` of a set is. One at its very beginning belongs to the set.
fn set_end(set: &[u8]) -> Option<usize> {
    let first = usize::from(matches!(set.first(), Some(b'!' | b'^')));
    let after_first = first + 1;
    set.get(after_first..)?.iter().position(|byte| *byte == b']').map(|end| end + after_first)
}

/// Single characters and ranges; `!` or `^` at the beginning turns the set around.
fn in_set(set: &[u8], byte: u8) -> bool {
    let (negated, mut members) = match set {
        [b'!' | b'^', members @ ..] => (true, members),
        members => (false, members),
    };
    let mut found = false;
    loop {
        members = match members {
            [low, b'-', high, rest @ ..] => {
                found |= (*low..=*high).contains(&byte);
                rest
            }
            [member, rest @ ..] => {
                found |= *member == byte;
                rest
            }
            [] => return found != negated,
        };
    }
}

/// The text before the first special character: what any match begins with.
pub fn literal_prefix(pattern: &str) -> &str {
    let end = pattern.find(['*', '?', '[', '\\']).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or(pattern)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, by recursion over the pattern.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            [b'?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            [b'[', b'!', low, b'-', high, b']', rest @ ..] => {
                !text.is_empty() && !(*low..=*high).contains(&text[0]) && naive(rest, &text[1..])
            }
            [b'[', low, b'-', high, b']', rest @ ..] => {
                !text.is_empty() && (*low..=*high).contains(&text[0]) && naive(rest, &text[1..])
            }
            [literal, rest @ ..] => text.first() == Some(literal) && naive(rest, &text[1..]),
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let element = prop_oneof![
            3 => Just("*".to_owned()),
            1 => Just("?".to_owned()),
            1 => Just("[a-b]".to_owned()),
            1 => Just("[!b-c]".to_owned()),
            6 => "[abc]",
        ];
        proptest::collection::vec(element, 0..10).prop_map(|elements| elements.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_the_definition(pattern in pattern(), text in "[abc]{0,12}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn no_pattern_makes_it_panic(pattern in "[-\\[\\]!^*?\\\\ab]{0,12}", text in "[-\\]ab]{0,12}") {
            matches(&pattern, &text);
            prop_assert!(pattern.starts_with(literal_prefix(&pattern)));
        }
    }

    #[test]
    fn patterns_of_real_modules() {
        let cases = [
            ("pci:v00008086d00001521sv*sd*bc*sc*i*", "pci:v00008086d00001521sv00008086sd00000001bc02sc00i00", true),
            ("pci:v00008086d00001521sv*sd*bc*sc*i*", "pci:v00008086d00001522sv00008086sd00000001bc02sc00i00", false),
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02", true),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02", false),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("acpi*:IPI0001:*", "acpi:IPI0001:", true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5567d0100dc00dsc00dp00ic08isc06ip50in00", true),
            ("usb:v05ACp8[0-9]42d*", "usb:v05ACp8242d0107dc", true),
            ("scsi:t-0x00*", "scsi:t-0x00", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0081*",
                "cpu:type:x86,ven0000fam0006mod002A:feature:,0000,0081,0082",
                true,
            ),
            ("[]a]", "]", true),
            ("[a", "[a", true),
            ("a\\*", "a*", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
