//! Checksum files beside an image, in all forms that the usual tools write.

use super::digest::{Algorithm, Digest};

/// Suffixes tried, strongest first.
pub(super) const SUFFIXES: [(&str, Algorithm); 6] = [
    (".sha512", Algorithm::Sha512),
    (".sha512sum", Algorithm::Sha512),
    (".sha256", Algorithm::Sha256),
    (".sha256sum", Algorithm::Sha256),
    (".md5", Algorithm::Md5),
    (".md5sum", Algorithm::Md5),
];

/// The digest of `file_name` in the text of a checksum file, `None` if it holds none.
///
/// Understood: `HEX  name`, `HEX *name` (coreutils, with `\` before lines that escape the name), a bare `HEX`, and
/// `SHA256 (name) = HEX` (BSD, `--tag`, openssl). Lines of another kind are passed over. Among several lines the one
/// with the file's name counts; a single line counts whatever its name, as images are often renamed after summing.
pub fn parse_sidecar(text: &str, algorithm: Algorithm, file_name: &str) -> Option<Digest> {
    let lines: Vec<Line<'_>> = text.lines().filter_map(|line| parse_line(line, algorithm)).collect();
    let named = lines.iter().find(|line| line.name.is_some_and(|name| base_name(name) == file_name));
    match (named, lines.as_slice()) {
        (Some(line), _) | (None, [line]) => Some(line.digest.clone()),
        (None, _) => None,
    }
}

struct Line<'a> {
    digest: Digest,
    name: Option<&'a str>,
}

fn parse_line(line: &str, algorithm: Algorithm) -> Option<Line<'_>> {
    let line = line.trim();
    let line = line.strip_prefix('\\').unwrap_or(line);
    parse_coreutils(line, algorithm).or_else(|| parse_bsd(line, algorithm))
}

fn parse_coreutils(line: &str, algorithm: Algorithm) -> Option<Line<'_>> {
    let (digits, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let digest = Digest::from_hex(algorithm, digits).ok()?;
    let name = name.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    Some(Line { digest, name: (!name.is_empty()).then_some(name) })
}

fn parse_bsd(line: &str, algorithm: Algorithm) -> Option<Line<'_>> {
    let (head, digits) = line.rsplit_once('=')?;
    let digest = Digest::from_hex(algorithm, digits.trim()).ok()?;
    let (label, name) = head.trim_end().strip_suffix(')')?.split_once('(')?;
    let label: String = label.chars().filter(char::is_ascii_alphanumeric).collect();
    // openssl 3 says SHA2-256 where others say SHA256
    let label = label.to_ascii_lowercase().replace("sha2256", "sha256").replace("sha2512", "sha512");
    (label == algorithm.as_str()).then_some(Line { digest, name: Some(name) })
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "900150983cd24fb0d6963f7d28e17f72";
    const B: &str = "d41d8cd98f00b204e9800998ecf8427e";

    fn found(text: &str) -> Option<String> {
        parse_sidecar(text, Algorithm::Md5, "img.tar.lz4").map(|digest| hex::encode(digest.bytes()))
    }

    #[test]
    fn understands_what_tools_write() {
        for text in [
            format!("{A}  img.tar.lz4\n"),
            format!("{A} *img.tar.lz4\n"),
            format!("{A}\n"),
            A.to_owned(),
            format!("{A}\r\n"),
            format!("{}  img.tar.lz4", A.to_uppercase()),
            format!("{A}  /build/output/other-name.tar.lz4\n"),
            format!("\\{A}  odd\\nname\n"),
            format!("MD5 (img.tar.lz4) = {A}\n"),
            format!("MD5(img.tar.lz4)= {A}\n"),
            format!("# made by a robot\n\n{A}\timg.tar.lz4\n"),
        ] {
            assert_eq!(found(&text).as_deref(), Some(A), "{text:?}");
        }
    }

    #[test]
    fn openssl_labels_are_known() {
        let digits = "ab".repeat(32);
        let text = format!("SHA2-256(img)= {digits}");
        assert_eq!(parse_sidecar(&text, Algorithm::Sha256, "img").unwrap().to_string(), format!("sha256:{digits}"));
    }

    #[test]
    fn of_several_lines_the_named_one_counts() {
        let text = format!("{B}  packages.txt\n{A}  ./sub/img.tar.lz4\n{B}  img.tar.lz4.sig\n");
        assert_eq!(found(&text).as_deref(), Some(A));
        assert_eq!(found(&format!("{B}  one\n{A}  two\n")), None);
    }

    #[test]
    fn other_text_holds_no_digest() {
        for text in ["", "<html>not found</html>", "900150983cd24fb0", &format!("SHA256 (img.tar.lz4) = {A}"), "(=)"] {
            assert_eq!(found(text), None, "{text:?}");
        }
    }
}
