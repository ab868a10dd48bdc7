//! Damage, the same for the same seed.

/// Values at which formats turn.
const WORDS: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

pub struct Mutator {
    /// Of a generator by Marsaglia (xorshift64); never 0.
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        let mut mutator = Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 };
        for _ in 0..4 {
            mutator.next();
        }
        mutator
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// 0 to `limit` - 1; 0 for a limit of 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit.max(1)
    }

    /// One of the inputs, damaged in a few places.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            // headers are where most is decided
            let at = if self.below(2) == 0 { at.min(self.below(24)) } else { at };
            let length = self.below(40).min(bytes.len() - at.min(bytes.len()));
            self.damage(&mut bytes, at, length, corpus);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, at: usize, length: usize, corpus: &[Vec<u8>]) {
        if bytes.is_empty() {
            return;
        }
        match self.below(8) {
            0 | 1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = self.next().to_le_bytes()[3],
            3 => {
                let word = WORDS[self.below(WORDS.len())].to_le_bytes();
                for (byte, new) in bytes[at..].iter_mut().zip(&word[..1 << self.below(4)]) {
                    *byte = *new;
                }
            }
            4 => drop(bytes.drain(at..at + length)),
            5 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            6 => bytes.truncate(at),
            _ => {
                let other = &corpus[self.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[self.below(other.len())..]);
            }
        }
    }
}
