//! How thorough an erasure is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// From weak to strong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Signatures, tables and both ends of disk and partitions: nothing finds what was there. The data stays.
    Quick,
    /// No data can be read any more through the disk's interface.
    #[default]
    Clear,
    /// By the disk's own commands only, which also reach what its interface does not show.
    Purge,
}

impl Level {
    /// The level in `drophammer.erase=`. A word that is none means `clear`, with a warning: a slip of the pen must not
    /// erase less than nothing said at all.
    pub fn from_word(word: Option<&str>) -> Self {
        match word {
            None | Some("clear") => Self::Clear,
            Some("quick") => Self::Quick,
            Some("purge") => Self::Purge,
            Some(other) => {
                tracing::warn!("drophammer.erase={other} is none of quick, clear, purge: disks are cleared");
                Self::Clear
            }
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Quick => "quick",
            Self::Clear => "clear",
            Self::Purge => "purge",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_none_never_weakens() {
        let words = [None, Some("quick"), Some("clear"), Some("purge"), Some("Quick"), Some("quick,"), Some("")];
        let expected =
            [Level::Clear, Level::Quick, Level::Clear, Level::Purge, Level::Clear, Level::Clear, Level::Clear];
        assert_eq!(words.map(Level::from_word), expected);
    }
}
