//! The lists of what is packed: one thing a line, `#` begins a comment.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A program of this machine and the further names it is to have.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// Absolute path.
    pub program: String,
    /// Absolute paths of symbolic links to it.
    pub links: Vec<String>,
    /// `?` before the path: fine when it is not there.
    pub optional: bool,
}

/// A file of this machine, packed under its own path.
#[derive(Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Absolute path.
    pub path: String,
    /// `?` before the path: fine when it is not there.
    pub optional: bool,
}

/// Patterns of module names, or of module paths when they hold a `/`.
pub fn read_drivers(path: &Path) -> Result<Vec<String>> {
    Ok(parse_lines(&read(path)?).into_iter().flatten().map(str::to_owned).collect())
}

pub fn read_tools(path: &Path) -> Result<Vec<Tool>> {
    parse_tools(&read(path)?).with_context(|| format!("parsing {}", path.display()))
}

pub fn read_files(path: &Path) -> Result<Vec<ListedFile>> {
    parse_files(&read(path)?).with_context(|| format!("parsing {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The words of every line that has any, comments removed.
fn parse_lines(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect()
}

fn parse_tools(text: &str) -> Result<Vec<Tool>> {
    let mut tools = Vec::new();
    for mut words in parse_lines(text) {
        let stripped = words.first().and_then(|word| word.strip_prefix('?'));
        let optional = stripped.is_some();
        if let (Some(path), Some(first)) = (stripped, words.first_mut()) {
            *first = path;
        }
        for word in &words {
            ensure!(word.starts_with('/'), "{word:?} is not an absolute path");
        }
        let mut words = words.into_iter().map(str::to_owned);
        if let Some(program) = words.next() {
            tools.push(Tool { program, links: words.collect(), optional });
        }
    }
    Ok(tools)
}

fn parse_files(text: &str) -> Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    for word in parse_lines(text).into_iter().flatten() {
        let (path, optional) = match word.strip_prefix('?') {
            Some(path) => (path, true),
            None => (word, false),
        };
        ensure!(path.starts_with('/'), "{path:?} is not an absolute path");
        files.push(ListedFile { path: path.to_owned(), optional });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        assert_eq!(parse_lines("# all\n\nnvme  ahci # disks\n  \nsd_mod#x\n"), [vec!["nvme", "ahci"], vec!["sd_mod"]]);
    }

    #[test]
    fn a_tool_has_further_names() {
        let tools = parse_tools("/sbin/mke2fs /sbin/mkfs.ext4 /sbin/mkfs.ext3\n").unwrap();
        assert_eq!(tools.len(), 1);
        assert_eq!(tools[0].program, "/sbin/mke2fs");
        assert_eq!(tools[0].links, ["/sbin/mkfs.ext4", "/sbin/mkfs.ext3"]);
        let tools = parse_tools("?/sbin/mkfs.xfs /sbin/x\n/sbin/lvm").unwrap();
        let optional: Vec<_> = tools.iter().map(|tool| (tool.program.as_str(), tool.optional)).collect();
        assert_eq!(optional, [("/sbin/mkfs.xfs", true), ("/sbin/lvm", false)]);
        assert_eq!(parse_tools("mke2fs").unwrap_err().to_string(), "\"mke2fs\" is not an absolute path");
    }

    #[test]
    fn a_question_mark_makes_a_file_optional() {
        let files = parse_files("/a\n?/b\n").unwrap();
        assert_eq!(
            files,
            [ListedFile { path: "/a".into(), optional: false }, ListedFile { path: "/b".into(), optional: true }]
        );
    }
}
