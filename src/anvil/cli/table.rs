//! Tables for people: columns as wide as their widest cell.

use anyhow::Result;

/// Prints a heading and rows, two blanks between columns.
pub(super) fn print(heading: &[&str], rows: &[Vec<String>]) -> Result<()> {
    super::print(render(heading, rows).trim_end())
}

fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&heading).chain(rows).collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints names and values, one pair a line; empty values are left out.
pub(super) fn print_pairs(pairs: &[(&str, String)]) -> Result<()> {
    let pairs: Vec<&(&str, String)> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in pairs {
        super::print(&format!("{name:<width$}  {value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_blanks_at_the_end() {
        let rows = vec![vec!["a".to_owned(), "long value".to_owned()], vec!["bcd".to_owned(), "x".to_owned()]];
        assert_eq!(render(&["ID", "VALUE"], &rows), "ID   VALUE\na    long value\nbcd  x\n");
    }
}
