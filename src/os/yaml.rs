//! Writing YAML, in the look of the Go library that metal-stack's own files come from.

/// What the files under `/etc/metal` are made of. Keys keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yaml {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(&'static str, Yaml)>),
}

impl Yaml {
    pub fn text(value: &str) -> Self {
        Self::Text(value.to_owned())
    }

    pub fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::List(values.into_iter().map(Self::text).collect())
    }

    /// One document with a newline at its end.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.append(&mut out, 0);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }

    /// Appends a value whose own lines, if it has any, begin at `column`.
    fn append(&self, out: &mut String, column: usize) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => out.push_str(&value.to_string()),
            Self::Text(text) => out.push_str(&scalar(text)),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::List(items) => {
                for item in items {
                    indent(out, column);
                    out.push_str("- ");
                    item.append(out, column + 2);
                    end_line(out);
                }
            }
            Self::Map(entries) if entries.is_empty() => out.push_str("{}"),
            Self::Map(entries) => {
                for (number, (key, value)) in entries.iter().enumerate() {
                    // The first key of a list's item stands behind the dash.
                    if number > 0 || !out.ends_with("- ") {
                        indent(out, column);
                    }
                    out.push_str(key);
                    out.push(':');
                    out.push_str(if value.is_block() { "\n" } else { " " });
                    value.append(out, next_stop(column));
                    end_line(out);
                }
            }
        }
    }

    /// Whether it is written on lines of its own.
    fn is_block(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Text(_) => false,
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
        }
    }
}

/// Go's library indents to the next multiple of four: by 4, but in a list's item by 2.
fn next_stop(column: usize) -> usize {
    (column + 4) / 4 * 4
}

fn indent(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn end_line(out: &mut String) {
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Whether `text` can stand without quotes and is then a string to every reader of YAML 1.1 or 1.2.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "inf", "nan"];
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._/@+=,:- ".contains(c);
    let Some(first) = text.chars().next() else { return false };
    let count = |c: char| text.chars().filter(|found| *found == c).count();
    // Digits first could be a number, a date, a time or base 60, unless they are an address, a prefix or a UUID.
    let starts_well = first.is_ascii_alphabetic()
        || first == '/'
        || first.is_ascii_digit() && !text.contains(':') && (count('/') > 0 || count('.') > 2 || count('-') > 3);
    let ends_well = !text.ends_with([' ', ':']);
    let is_word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    text.chars().all(allowed) && starts_well && ends_well && !text.contains(": ") && !is_word
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line separators and the byte order mark are not printable in YAML.
            c if c.is_control() || ['\u{2028}', '\u{2029}', '\u{feff}'].contains(&c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_be_read_as_something_else_is_quoted() {
        for text in [
            "",
            "true",
            "No",
            "~",
            "12",
            "1.5",
            "02:00:00:00:00:01",
            "2026-08-20",
            "0x10",
            ".inf",
            "-",
            "a: b",
            "a:",
            "#a",
        ] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
        for text in ["web-1", "10.0.4.7", "10.0.4.0/22", "/boot/vmlinuz", "ttyS0,115200n8", "ssh-ed25519 AAAA me@x"] {
            assert_eq!(scalar(text), text);
        }
    }

    proptest! {
        #[test]
        fn every_string_is_read_back_as_it_was(text in any::<String>()) {
            let document = Yaml::Map(vec![("key", Yaml::List(vec![Yaml::text(&text)]))]).render();
            let back: std::collections::BTreeMap<String, Vec<String>> = serde_saphyr::from_str(&document).unwrap();
            prop_assert_eq!(&back["key"][0], &text);
        }

        #[test]
        fn so_is_what_looks_like_something_else(text in "[-+0-9.:_eExnNyY/ ]{0,8}") {
            let document = Yaml::Map(vec![("key", Yaml::text(&text))]).render();
            let back: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
            prop_assert_eq!(&back["key"], &serde_json::Value::String(text));
        }
    }
}
