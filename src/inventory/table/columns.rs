//! Columns that fit the page, lines that are cut or wrapped.

use std::fmt::{self, Write};

/// A serial console's usual width and a bit; longer cells are cut with `…`.
pub(super) const WIDTH: usize = 100;
/// No column is made narrower than this.
const NARROWEST: usize = 6;
/// In place of what is not known.
pub(super) const ABSENT: &str = "-";

pub(super) fn text(value: Option<&str>) -> String {
    value.unwrap_or(ABSENT).to_owned()
}

/// What is known of several parts, in one cell.
pub(super) fn joined(parts: impl IntoIterator<Item = Option<String>>, separator: &str) -> String {
    let known: Vec<String> = parts.into_iter().flatten().collect();
    if known.is_empty() { ABSENT.to_owned() } else { known.join(separator) }
}

/// A heading and its rows with an empty line before; nothing at all without rows. A column that nothing is known for
/// is left out.
pub(super) fn write_columns(f: &mut fmt::Formatter<'_>, headings: &[&str], rows: Vec<Vec<String>>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let is_known = |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|c| !c.is_empty() && c != ABSENT));
    let kept: Vec<usize> = (0..headings.len()).filter(|&column| is_known(column)).collect();
    let pick = |row: &[String]| kept.iter().filter_map(|&column| row.get(column).cloned()).collect::<Vec<String>>();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| pick(row)).collect();
    let headings = pick(&headings.iter().map(|&heading| heading.to_owned()).collect::<Vec<String>>());
    let widths = column_widths(&headings, &rows);
    writeln!(f)?;
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            write!(line, "{:<width$}  ", cut(cell, width))?;
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// As wide as the longest cell; when that is too much for the page, the widest columns give way.
fn column_widths(headings: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let longest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(headings.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..headings.len()).map(longest).collect();
    let gaps = 2 * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(WIDTH);
    while excess > 0 {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > NARROWEST) else { break };
        *widest -= 1;
        excess -= 1;
    }
    widths
}

/// Sentences are wrapped between words, not cut; a word longer than a line is.
pub(super) fn write_wrapped(f: &mut fmt::Formatter<'_>, sentence: &str) -> fmt::Result {
    let mut line = String::new();
    for word in sentence.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(f, "{}", cut(&line, WIDTH))?;
            line = "     ".to_owned();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(f, "{}", cut(&line, WIDTH))
}

/// At most `width` characters; control characters of a vendor's string must not reach a terminal.
pub(super) fn cut(text: &str, width: usize) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(visible).collect();
    }
    text.chars().take(width.saturating_sub(1)).map(visible).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_cut_so_that_the_page_holds() {
        let rows = vec![vec!["a".repeat(90), "b".repeat(90), "c".to_owned()]];
        let widths = column_widths(&["A".to_owned(), "B".to_owned(), "C".to_owned()], &rows);
        assert_eq!(widths.iter().sum::<usize>() + 4, WIDTH);
        assert_eq!(widths[2], 1);
        assert_eq!(cut("Micron_7450", 6), "Micro…");
        assert_eq!(cut("\x1b[2J", 9), "\u{fffd}[2J");
    }
}
