//! Image ids, their versions, and the version constraints of layouts.
//!
//! The grammar of constraints is that of the semver library metal-api uses: an operator and a version whose missing
//! parts are open.

use std::fmt;

use super::refusal::Refusal;

/// A version of one to three numbers. Leading zeros are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    /// How many of them were written: 1 to 3.
    written: usize,
}

impl Version {
    /// `24.04.20260701`, `12`; absent when it is no such text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = [0; 3];
        let mut written = 0;
        for part in text.split('.') {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            *numbers.get_mut(written)? = part.parse().ok()?;
            written += 1;
        }
        Some(Self { numbers, written })
    }

    /// The numbers as written.
    fn prefix(&self) -> &[u64] {
        &self.numbers[..self.written]
    }

    /// Whether the third number was written, so that the id names one exact image.
    pub fn is_exact(&self) -> bool {
        self.written == 3
    }

    /// Major, minor and patch; what was not written is 0.
    pub fn numbers(&self) -> [u64; 3] {
        self.numbers
    }
}

/// `<os>-<major>.<minor>[.<patch>]`: the os is all before the last `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageId<'i> {
    pub os: &'i str,
    pub version: Version,
}

impl<'i> ImageId<'i> {
    pub fn parse(id: &'i str) -> Result<Self, Refusal> {
        let fault = || {
            Refusal::BadRequest(format!(
                "image id: expected <os>-<major>.<minor>.<patch>, such as debian-12.0.20260701; found {id:?}"
            ))
        };
        let (os, version) = id.rsplit_once('-').ok_or_else(fault)?;
        let version = Version::parse(version).ok_or_else(fault)?;
        if os.is_empty() {
            return Err(fault());
        }
        Ok(Self { os, version })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    Tilde,
    Caret,
}

/// `*`, a version alone, or `<operator> <version>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionConstraint {
    Any,
    Compared(Comparison),
}

/// An operator and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    operator: Operator,
    version: Version,
}

/// The text is no version constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version constraint: expected \"*\", a version, or an operator, one blank and a version; found {0:?}")]
pub struct BadConstraint(pub String);

impl VersionConstraint {
    pub fn parse(text: &str) -> Result<Self, BadConstraint> {
        let fault = || BadConstraint(text.to_owned());
        if text == "*" {
            return Ok(Self::Any);
        }
        let (operator, version) = text.split_once(' ').unwrap_or(("=", text));
        let operator = match operator {
            "=" => Operator::Equal,
            "!=" => Operator::NotEqual,
            ">" => Operator::Greater,
            "<" => Operator::Less,
            ">=" | "=>" => Operator::GreaterOrEqual,
            "<=" | "=<" => Operator::LessOrEqual,
            "~" | "~>" => Operator::Tilde,
            "^" => Operator::Caret,
            _ => return Err(fault()),
        };
        let version = Version::parse(version).ok_or_else(fault)?;
        Ok(Self::Compared(Comparison { operator, version }))
    }

    pub fn accepts(&self, version: &Version) -> bool {
        match self {
            Self::Any => true,
            Self::Compared(comparison) => comparison.accepts(version),
        }
    }

    /// The version it compares with; `*` has none.
    pub fn version(&self) -> Option<&Version> {
        match self {
            Self::Any => None,
            Self::Compared(comparison) => Some(&comparison.version),
        }
    }
}

impl Comparison {
    fn accepts(&self, version: &Version) -> bool {
        let wanted = self.version.prefix();
        // Only the numbers that the constraint wrote are compared, where a missing one leaves the choice open.
        let found = &version.numbers[..wanted.len()];
        match self.operator {
            Operator::Equal => found == wanted,
            Operator::NotEqual => found != wanted,
            Operator::Greater => found > wanted,
            Operator::LessOrEqual => found <= wanted,
            Operator::Less => version.numbers < self.version.numbers,
            Operator::GreaterOrEqual => version.numbers >= self.version.numbers,
            Operator::Tilde => {
                let fixed = wanted.len().min(2);
                version.numbers >= self.version.numbers && version.numbers[..fixed] == wanted[..fixed]
            }
            Operator::Caret => {
                // All up to the first number that is not 0 must stay.
                let fixed = wanted.iter().position(|n| *n != 0).map_or(wanted.len(), |first| first + 1);
                version.numbers >= self.version.numbers && version.numbers[..fixed] == wanted[..fixed]
            }
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.prefix().iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_split_at_the_last_dash() {
        let id = ImageId::parse("ubuntu-24.04.20260701").unwrap();
        assert_eq!((id.os, id.version.numbers(), id.version.is_exact()), ("ubuntu", [24, 4, 20_260_701], true));
        let id = ImageId::parse("firewall-ubuntu-3.0").unwrap();
        assert_eq!((id.os, id.version.numbers(), id.version.is_exact()), ("firewall-ubuntu", [3, 0, 0], false));
        for bad in ["ubuntu", "-1.2", "ubuntu-", "ubuntu-a.b", "ubuntu-1.2.3.4", "ubuntu-1..2", "ubuntu-1.+2"] {
            assert!(matches!(ImageId::parse(bad), Err(Refusal::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn constraints_accept_what_their_operator_says() {
        let cases = [
            ("*", "1.2.3", true),
            ("1.2.3", "1.2.3", true),
            ("1.2.3", "1.2.4", false),
            ("1.2", "1.2.4", true),
            ("= 24.4.1", "24.04.1", true),
            ("!= 1.2", "1.2.9", false),
            ("!= 1.2", "1.3.0", true),
            ("> 1.2", "1.2.9", false),
            ("> 1.2", "1.3.0", true),
            ("> 1.2.3", "1.2.4", true),
            ("< 1.2", "1.1.9", true),
            ("< 1.2", "1.2.0", false),
            (">= 24.4.20260101", "24.4.20260701", true),
            ("=> 24.4.20260101", "24.4.20251231", false),
            ("<= 1.2", "1.2.9", true),
            ("=< 1.2.3", "1.2.4", false),
            ("~ 1.2.3", "1.2.9", true),
            ("~ 1.2.3", "1.3.0", false),
            ("~> 1", "1.9.9", true),
            ("~ 1", "2.0.0", false),
            ("^ 1.2.3", "1.9.0", true),
            ("^ 1.2.3", "2.0.0", false),
            ("^ 0.2.3", "0.2.4", true),
            ("^ 0.2.3", "0.3.0", false),
            ("^ 0.0", "0.0.7", true),
            ("^ 0.0", "0.1.0", false),
        ];
        for (constraint, version, expected) in cases {
            let constraint = VersionConstraint::parse(constraint).unwrap();
            assert_eq!(constraint.accepts(&Version::parse(version).unwrap()), expected, "{constraint:?} {version}");
        }
    }

    #[test]
    fn other_texts_are_no_constraints() {
        for bad in ["", "**", "> ", ">1.2", "> 1.2 ", ">  1.2", "1.x", "== 1.2", "a"] {
            assert_eq!(VersionConstraint::parse(bad), Err(BadConstraint(bad.to_owned())));
        }
    }
}
