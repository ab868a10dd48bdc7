//! The console of the installed system: `console=` as the kernel spells it.

use std::fmt;

/// What the agent itself has, completed: boot loaders need a speed, and installers in images insist on `n8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// `ttyS<unit>,<speed>n8`
    Serial { unit: u8, speed_baud: u32 },
    /// Anything else, e.g. `tty0` or `hvc0`, as it stands.
    Other(String),
}

impl Console {
    /// For a machine whose command line says nothing (metal-hammer's bare `ttyS0` breaks its own images).
    pub const DEFAULT: Self = Self::Serial { unit: 0, speed_baud: 115_200 };

    /// `None`, the empty word, and a serial port without a speed get 115200 baud. Parity and word length become `n8`.
    pub fn parse(word: Option<&str>) -> Self {
        let Some(word) = word.filter(|word| !word.is_empty()) else { return Self::DEFAULT };
        Self::parse_serial(word).unwrap_or_else(|| Self::Other(word.to_owned()))
    }

    fn parse_serial(word: &str) -> Option<Self> {
        let (unit, options) = match word.strip_prefix("ttyS")?.split_once(',') {
            Some((unit, options)) => (unit, options),
            None => (word.strip_prefix("ttyS")?, ""),
        };
        let unit = unit.parse().ok()?;
        let digits = options.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let speed_baud = if options.is_empty() { 115_200 } else { digits.parse().ok()? };
        Some(Self::Serial { unit, speed_baud })
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { unit, speed_baud } => write!(f, "ttyS{unit},{speed_baud}n8"),
            Self::Other(word) => f.write_str(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_consoles_get_a_speed_and_others_stay() {
        let cases = [
            (None, "ttyS0,115200n8"),
            (Some(""), "ttyS0,115200n8"),
            (Some("ttyS1"), "ttyS1,115200n8"),
            (Some("ttyS1,57600"), "ttyS1,57600n8"),
            (Some("ttyS2,9600e7r"), "ttyS2,9600n8"),
            (Some("tty0"), "tty0"),
            (Some("ttyS"), "ttyS"),
            (Some("ttyS0,fast"), "ttyS0,fast"),
            (Some("hvc0"), "hvc0"),
        ];
        for (word, expected) in cases {
            assert_eq!(Console::parse(word).to_string(), expected, "{word:?}");
        }
    }
}
