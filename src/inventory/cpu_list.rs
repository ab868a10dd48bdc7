//! Sets of CPUs as the kernel writes them: `0-55,112-167`.

use std::fmt;
use std::ops::RangeInclusive;

/// Ranges in order, without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<RangeInclusive<u32>>);

impl CpuList {
    /// `None` for what is no such list. An empty text is an empty list.
    pub fn parse(text: &str) -> Option<Self> {
        let parse_range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
            (!range.is_empty()).then_some(range)
        };
        let parts = text.trim().split(',').filter(|part| !part.is_empty());
        let mut ranges: Vec<RangeInclusive<u32>> = parts.map(parse_range).collect::<Option<_>>()?;
        ranges.sort_by_key(|range| *range.start());
        Some(Self(ranges.into_iter().fold(Vec::new(), join)))
    }

    pub fn contains(&self, cpu: u32) -> bool {
        let next = self.0.partition_point(|range| *range.start() <= cpu);
        next.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|range| range.contains(&cpu))
    }

    pub fn ranges(&self) -> &[RangeInclusive<u32>] {
        &self.0
    }
}

/// Appends a range, to the last one where it touches it.
fn join(mut ranges: Vec<RangeInclusive<u32>>, range: RangeInclusive<u32>) -> Vec<RangeInclusive<u32>> {
    match ranges.last_mut() {
        Some(last) if *range.start() <= last.end().saturating_add(1) => {
            *last = *last.start()..=*last.end().max(range.end());
        }
        _ => ranges.push(range),
    }
    ranges
}

impl FromIterator<u32> for CpuList {
    /// Of numbers in order.
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().map(|cpu| cpu..=cpu).fold(Vec::new(), join))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read_and_written() {
        let list = CpuList::parse("0-3,8,10-4294967295\n").expect("a list");
        assert_eq!(list.to_string(), "0-3,8,10-4294967295");
        let inside: Vec<u32> = [0, 3, 4, 7, 8, 9, 10, u32::MAX].into_iter().filter(|cpu| list.contains(*cpu)).collect();
        assert_eq!(inside, [0, 3, 8, 10, u32::MAX]);
        assert_eq!(CpuList::parse("5,1-2,0,2-3").expect("a list").to_string(), "0-3,5");
        assert_eq!(CpuList::from_iter([1, 2, 3, 7]).to_string(), "1-3,7");
        assert!(CpuList::parse(" \n").expect("a list").ranges().is_empty());
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in ["a", "3-1", "1-2-3", "-1", "4294967296", "ff,00000000,ff"] {
            assert_eq!(CpuList::parse(text), None, "{text}");
        }
    }
}
