//! When this program was built.

use std::time::Duration;

/// 2026-01-01T00:00:00Z: where the build did not say.
const EARLIEST_S: u64 = 1_767_225_600;

/// Since 1970. A clock that says less is wrong, whoever set it. `SOURCE_DATE_EPOCH` of the build, which scripts/build takes
/// from the commit, so that the same sources make the same program.
pub const BUILD_TIME: Duration = Duration::from_secs(match option_env!("SOURCE_DATE_EPOCH") {
    Some(seconds) => later(parse(seconds), EARLIEST_S),
    None => EARLIEST_S,
});

/// Decimal digits; 0 for anything else.
const fn parse(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

const fn later(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_younger_than_the_first_line_of_its_sources() {
        assert!(BUILD_TIME >= Duration::from_secs(EARLIEST_S));
        assert_eq!((parse("1795412345"), parse(""), parse("-1"), parse("x")), (1_795_412_345, 0, 0, 0));
    }
}
