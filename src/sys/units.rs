//! Amounts with their unit in the type.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

/// For people: decimal units as disks are sold, one digit after the point below 10.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
        let mut scale: u64 = 1;
        let mut unit = 0;
        while unit + 1 < UNITS.len() && self.0 / scale >= 1000 {
            scale *= 1000;
            unit += 1;
        }
        let tenths = u128::from(self.0) * 10 / u128::from(scale);
        let text = if unit == 0 || tenths >= 100 {
            format!("{} {}", tenths / 10, UNITS[unit])
        } else {
            format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_like_the_label_of_a_disk() {
        let shown: Vec<String> = [0, 999, 1000, 960_197_124_096, 3_840_755_982_336, u64::MAX]
            .into_iter()
            .map(|n| Bytes(n).to_string())
            .collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "960 GB", "3.8 TB", "18446 PB"]);
    }
}
