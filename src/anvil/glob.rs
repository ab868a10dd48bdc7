//! Go's `path/filepath.Match` as it works on Unix, which metal-api uses for size constraints.
//!
//! Anchored at both ends, case-sensitive, `*` and `?` stop at `/`, negation is `^`. Characters are Unicode code points.

/// The pattern breaks the syntax, noticed where the scan reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether `text` as a whole fits `pattern`.
pub fn matches(pattern: &str, text: &str) -> Result<bool, BadPattern> {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    match_all(&pattern, &text)
}

/// Whether the whole pattern is well formed. Go has no such function; trying a pattern on the empty text, as metal-api
/// does, overlooks what is wrong behind the first star.
pub fn check(pattern: &str) -> Result<(), BadPattern> {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut left = pattern.as_slice();
    while !left.is_empty() {
        let (_, chunk, rest) = scan_chunk(left);
        match_chunk(chunk, &[])?;
        left = rest;
    }
    Ok(())
}

/// A run of stars (or none) and the chunk up to the next star.
fn scan_chunk(pattern: &[char]) -> (bool, &[char], &[char]) {
    let stars = pattern.iter().take_while(|c| **c == '*').count();
    let rest = &pattern[stars..];
    let mut in_set = false;
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            '\\' if at + 1 < rest.len() => at += 1,
            '[' => in_set = true,
            ']' => in_set = false,
            '*' if !in_set => break,
            _ => {}
        }
        at += 1;
    }
    (stars > 0, &rest[..at], &rest[at..])
}

fn match_all(mut pattern: &[char], mut text: &[char]) -> Result<bool, BadPattern> {
    'chunks: while !pattern.is_empty() {
        let (star, chunk, rest) = scan_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            return Ok(!text.contains(&'/'));
        }
        // The last chunk must use up the text; an earlier one may leave some.
        if let Some(left) = match_chunk(chunk, text)?
            && (left.is_empty() || !pattern.is_empty())
        {
            text = left;
            continue;
        }
        if star {
            let mut skipped = 0;
            while skipped < text.len() && text[skipped] != '/' {
                skipped += 1;
                if let Some(left) = match_chunk(chunk, &text[skipped..])?
                    && (!pattern.is_empty() || left.is_empty())
                {
                    text = left;
                    continue 'chunks;
                }
            }
        }
        // Whatever is wrong behind this chunk goes unnoticed.
        return Ok(false);
    }
    Ok(text.is_empty())
}

/// Fits a chunk without stars to the beginning of `text`: what is left of it, or `None`. The chunk is scanned to its
/// end even after a mismatch, so that its syntax is judged whole.
fn match_chunk<'t>(mut chunk: &[char], mut text: &'t [char]) -> Result<Option<&'t [char]>, BadPattern> {
    let mut failed = false;
    while let Some((&first, after)) = chunk.split_first() {
        failed = failed || text.is_empty();
        match first {
            '[' => {
                let mut candidate = None;
                if !failed {
                    candidate = text.first().copied();
                    text = &text[1..];
                }
                let (found, rest) = match_set(after, candidate)?;
                failed = failed || !found;
                chunk = rest;
            }
            '?' => {
                if !failed {
                    failed = text[0] == '/';
                    text = &text[1..];
                }
                chunk = after;
            }
            '\\' => {
                let (&literal, rest) = after.split_first().ok_or(BadPattern)?;
                if !failed {
                    failed = text[0] != literal;
                    text = &text[1..];
                }
                chunk = rest;
            }
            literal => {
                if !failed {
                    failed = text[0] != literal;
                    text = &text[1..];
                }
                chunk = after;
            }
        }
    }
    Ok((!failed).then_some(text))
}

/// A set after its `[`: whether the candidate is in it, and the pattern after its `]`.
fn match_set(mut set: &[char], candidate: Option<char>) -> Result<(bool, &[char]), BadPattern> {
    let negated = set.first() == Some(&'^');
    if negated {
        set = &set[1..];
    }
    let mut found = false;
    let mut ranges = 0;
    loop {
        if ranges > 0 && set.first() == Some(&']') {
            return Ok((found != negated, &set[1..]));
        }
        let (low, rest) = set_character(set)?;
        let (high, rest) = match rest.split_first() {
            Some(('-', after)) => set_character(after)?,
            _ => (low, rest),
        };
        found = found || candidate.is_some_and(|c| low <= c && c <= high);
        set = rest;
        ranges += 1;
    }
}

/// One character of a set, possibly escaped. Something (at least the `]`) must follow it.
fn set_character(set: &[char]) -> Result<(char, &[char]), BadPattern> {
    let (&first, mut rest) = set.split_first().ok_or(BadPattern)?;
    let character = match first {
        '-' | ']' => return Err(BadPattern),
        '\\' => {
            let (&escaped, after) = rest.split_first().ok_or(BadPattern)?;
            rest = after;
            escaped
        }
        other => other,
    };
    if rest.is_empty() { Err(BadPattern) } else { Ok((character, rest)) }
}

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::*;

    const H100: &str = "GH100 [H100 SXM5 80GB]";

    #[test]
    fn agrees_with_the_table_of_the_contract() {
        let cases = [
            ("H100*", H100, false),
            ("GH100*", H100, true),
            ("*H100*", H100, true),
            (H100, H100, false),
            (r"GH100 \[H100 SXM5 80GB\]", H100, true),
            ("GH100 ?H100 SXM5 80GB?", H100, true),
            ("GH100*", "GH100 [GH200 120GB / 480GB]", false),
            ("TU102GL*", "TU102GL [Quadro RTX 6000/8000]", false),
            ("TU102GL*/*", "TU102GL [Quadro RTX 6000/8000]", true),
            ("GA100*", "GA100 [A100 SXM4 80GB]", true),
            ("h100*", "H100", false),
            ("/dev/nvme*", "/dev/nvme0n1", true),
            ("/dev/nvme?n1", "/dev/nvme10n1", false),
            ("nvme*", "/dev/nvme0n1", false),
            ("*", "/dev/nvme0n1", false),
            ("/dev/*", "/dev/sda", true),
            ("/dev/[sv]d?", "/dev/sda", true),
            ("/dev/sd[!a]", "/dev/sda", true),
            ("/dev/sd[^a]", "/dev/sda", false),
            ("Intel Xeon*", "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", false),
            ("Intel(R) Xeon(R)*", "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", true),
            ("*w*", "AMD Ryzen 7 PRO 7840U w/ Radeon 780M Graphics", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), Ok(expected), "{pattern} on {text}");
        }
    }

    #[test]
    fn bad_patterns_are_errors_on_any_text() {
        for pattern in ["a[", "[]a]", "[-x]", "\\"] {
            for text in ["a", "", "GH100 [H100 PCIe]", "/dev/sda"] {
                // Noticed where the scan reaches it, and it reaches all of a pattern without a star.
                assert_eq!(matches(pattern, text), Err(BadPattern), "{pattern} on {text}");
            }
        }
    }

    #[test]
    fn bad_patterns_are_errors() {
        for pattern in ["a[", "[]a]", "[-x]", "\\", "[", "[^", "[^]", "[a-", "[a-]", "a[b", "x*[", "[\\"] {
            assert_eq!(check(pattern), Err(BadPattern), "{pattern}");
        }
        assert_eq!(matches("a[", "a"), Err(BadPattern));
        assert_eq!(matches("a[", "b"), Err(BadPattern));
    }

    /// Made by Go itself, see generate.go beside the file.
    #[test]
    fn agrees_with_go() {
        let table = include_str!("../../tests/fixtures/glob/go.tsv");
        for line in table.lines() {
            let [pattern, text, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let found = match matches(pattern, text) {
                Ok(matched) => matched.to_string(),
                Err(BadPattern) => "error".to_owned(),
            };
            assert_eq!(found, expected, "{pattern} on {text}");
        }
        assert!(table.lines().count() > 1000, "the table is there");
    }

    #[test]
    fn agrees_with_cases_of_go() {
        let cases = [
            ("", "", true),
            ("abc", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a]b", "a\u{263a}b", true),
            ("a???b", "a\u{263a}b", false),
            ("[a-\u{3b6}]*", "\u{3b1}", true),
            ("*[a-\u{3b6}]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("a[/]b", "a/b", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), Ok(expected), "{pattern} on {text}");
        }
    }

    proptest::proptest! {
        #![proptest_config(Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(405),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn no_input_panics(pattern in r"[\[\]\\*?^a/-]{0,12}", text in "[a/b]{0,12}") {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_its_escaped_self(text in ".{0,20}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            proptest::prop_assert_eq!(matches(&escaped, &text), Ok(true));
        }
    }
}
