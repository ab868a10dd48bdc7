//! Maps of sparse files.

use super::{SEGMENTS_MAX, Segment, TarFault};

/// Pieces must go forwards, lie within the file, and hold exactly the bytes stored.
pub(super) fn check(segments: &[Segment], stored: u64, real_size: u64) -> Result<(), TarFault> {
    let mut end: u64 = 0;
    let mut sum: u64 = 0;
    for segment in segments {
        if segment.offset < end {
            return Err(TarFault::SparseMap("pieces overlap or go backwards"));
        }
        end = segment.offset.checked_add(segment.bytes).ok_or(TarFault::SparseMap("a piece ends nowhere"))?;
        sum = sum.saturating_add(segment.bytes);
    }
    if end > real_size {
        return Err(TarFault::SparseMap("a piece lies behind the file's end"));
    }
    if sum != stored {
        return Err(TarFault::SparseMap("pieces and stored bytes differ in length"));
    }
    Ok(())
}

/// The map of format 1.0, which stands before the content: decimal numbers, one a line, the count of pieces first.
/// Fed block by block, as it ends somewhere inside one.
#[derive(Default)]
pub(super) struct MapParser {
    number: Option<u64>,
    count: Option<usize>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl MapParser {
    /// True when the map is complete; what is left of the block is padding.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<bool, TarFault> {
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let grown =
                        self.number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add((byte - b'0').into()));
                    self.number = Some(grown.ok_or(TarFault::SparseMap("a number is too large"))?);
                }
                b'\n' => {
                    let number = self.number.take().ok_or(TarFault::SparseMap("a line is empty"))?;
                    if self.take(number)? {
                        return Ok(true);
                    }
                }
                _ => return Err(TarFault::SparseMap("a line is no number")),
            }
        }
        Ok(false)
    }

    fn take(&mut self, number: u64) -> Result<bool, TarFault> {
        let Some(count) = self.count else {
            let count = usize::try_from(number).ok().filter(|count| *count <= SEGMENTS_MAX);
            self.count = Some(count.ok_or(TarFault::TooManySegments)?);
            return Ok(number == 0);
        };
        match self.offset.take() {
            None => self.offset = Some(number),
            Some(offset) => self.segments.push(Segment { offset, bytes: number }),
        }
        Ok(self.segments.len() == count)
    }

    pub(super) fn finish(self) -> Vec<Segment> {
        self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, bytes: u64) -> Segment {
        Segment { offset, bytes }
    }

    #[test]
    fn a_map_may_be_cut_anywhere() {
        let text = b"2\n0\n512\n1048576\n13\n\0\0\0";
        for cut in 0..text.len() - 4 {
            let mut parser = MapParser::default();
            assert!(!parser.feed(&text[..cut]).unwrap());
            assert!(parser.feed(&text[cut..]).unwrap());
            assert_eq!(parser.finish(), [segment(0, 512), segment(1_048_576, 13)]);
        }
    }

    #[test]
    fn bad_maps_are_refused() {
        for text in ["\n", "1\nx\n", "99999999999999999999\n", "300000\n"] {
            assert!(MapParser::default().feed(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn pieces_must_fit_the_file_and_what_is_stored() {
        let check = |segments: &[Segment], stored| check(segments, stored, 100);
        assert_eq!(check(&[segment(0, 10), segment(50, 50)], 60), Ok(()));
        assert_eq!(check(&[segment(100, 0)], 0), Ok(()));
        for (segments, stored) in [
            (vec![segment(0, 10), segment(5, 5)], 15),
            (vec![segment(50, 51)], 51),
            (vec![segment(0, 10)], 11),
            (vec![segment(u64::MAX, 1)], 1),
        ] {
            assert!(check(&segments, stored).is_err(), "{segments:?}");
        }
    }
}
