//! Configuration files of one directive a line.

/// A file that was read.
pub(super) struct Conf {
    pub path: String,
    pub text: String,
}

/// Marks a line of the image's that does not count any more.
const MUTED: &str = "# not asked since the installation: ";

/// The first argument, options left out, of every line that begins with one of `keys`, whatever its case.
pub(super) fn directive_values(text: &str, keys: &[&str]) -> Vec<String> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let value = |words: Vec<&str>| {
        let (first, rest) = words.split_first()?;
        let arguments = rest.iter().filter(|word| !word.starts_with('-'));
        is_one_of(first, keys).then(|| arguments.map(|word| word.trim_matches('"')).next())?.map(str::to_owned)
    };
    lines.filter_map(value).collect()
}

/// Whether a line is one of these directives, with or without arguments.
pub(super) fn is_directive(line: &str, keys: &[&str]) -> bool {
    line.split_whitespace().next().is_some_and(|word| is_one_of(word, keys))
}

/// `text` with some lines made comments. `None` when there is nothing to change.
pub(super) fn mute(text: &str, is_muted: impl Fn(&str) -> bool) -> Option<String> {
    let render = |line: &str| if is_muted(line) { format!("{MUTED}{line}\n") } else { format!("{line}\n") };
    text.lines().any(&is_muted).then(|| text.lines().map(render).collect())
}

fn is_one_of(word: &str, keys: &[&str]) -> bool {
    keys.iter().any(|key| word.eq_ignore_ascii_case(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_found_at_the_beginning_of_lines_only() {
        let text = "# server 192.0.2.9\n  Server -4 192.0.2.1 iburst\nserverstats 192.0.2.8\nrestrict server\nserver\npool \"a.example\"\n";
        assert_eq!(directive_values(text, &["server", "pool"]), ["192.0.2.1", "a.example"]);
    }

    #[test]
    fn muted_lines_are_comments_and_the_rest_stays() {
        let text = "driftfile /a\n\n  pool 0.example iburst\nserverstats x";
        let asks = |line: &str| is_directive(line, &["pool", "server"]);
        let muted = mute(text, asks).unwrap();
        assert_eq!(muted, format!("driftfile /a\n\n{MUTED}  pool 0.example iburst\nserverstats x\n"));
        assert_eq!(directive_values(&muted, &["pool", "server"]), Vec::<String>::new());
        assert_eq!(mute(&muted, asks), None);
    }
}
