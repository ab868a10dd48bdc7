//! LZ4 frames, one or several, with skippable frames between them.
//!
//! The frame decoder of `lz4_flex` takes an end of input between two blocks for the end of the frame, so a cut-off
//! image would pass. Here the input is watched: a frame that ends because its input did is an error.

use std::io::{self, BufRead, Read};

use lz4_flex::frame::FrameDecoder;

use super::{LZ4_MAGIC, is_skippable};

pub(super) struct Lz4Reader<R: BufRead> {
    state: State<Watched<R>>,
}

enum State<R: Read> {
    BetweenFrames(R),
    /// A decoder of its own for each frame: `lz4_flex` sizes its buffers for the first and expects them so for all.
    InFrame(FrameDecoder<R>),
    /// After an error, and between two states.
    Broken,
}

impl<R: BufRead> Lz4Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { state: State::BetweenFrames(Watched { input, ended: false, magic: &[] }) }
    }
}

impl<R: BufRead> Read for Lz4Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::BetweenFrames(mut input) => {
                    if !input.find_frame()? {
                        self.state = State::BetweenFrames(input);
                        return Ok(0);
                    }
                    self.state = State::InFrame(FrameDecoder::new(input));
                }
                State::InFrame(mut decoder) => {
                    let count = decoder.read(buf)?;
                    if count > 0 {
                        self.state = State::InFrame(decoder);
                        return Ok(count);
                    }
                    if decoder.get_ref().ended {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "stream ends inside an lz4 frame"));
                    }
                    self.state = State::BetweenFrames(decoder.into_inner());
                }
                State::Broken => return Err(io::Error::other("read again after an error")),
            }
        }
    }
}

struct Watched<R> {
    input: R,
    /// The input gave its end to someone who wanted bytes.
    ended: bool,
    /// What [`Watched::find_frame`] took and the decoder still needs.
    magic: &'static [u8],
}

impl<R: BufRead> Watched<R> {
    /// Goes to the next frame with content. False at the end of the input.
    fn find_frame(&mut self) -> io::Result<bool> {
        static MAGIC: [u8; 4] = LZ4_MAGIC;
        while !self.input.fill_buf()?.is_empty() {
            let mut magic = [0; 4];
            self.input.read_exact(&mut magic)?;
            if magic == LZ4_MAGIC {
                self.magic = &MAGIC;
                return Ok(true);
            }
            if !is_skippable(magic) {
                let text = format!("no lz4 frame where one should follow: found {}", hex::encode(magic));
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.skip_frame()?;
        }
        Ok(false)
    }

    fn skip_frame(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "stream ends inside a skippable frame"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.magic.is_empty() {
            return self.magic.read(buf);
        }
        let count = self.input.read(buf)?;
        self.ended |= count == 0 && !buf.is_empty();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn frame(content: &[u8], mode: BlockMode) -> Vec<u8> {
        let info = FrameInfo::new().block_mode(mode).block_size(BlockSize::Max64KB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        Lz4Reader::new(input).read_to_end(&mut output)?;
        Ok(output)
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn frames_and_skippable_frames_are_one_stream() {
        let skippable = [0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let (one, two) = (content(), b"two".to_vec());
        let input = [&skippable[..], &frame(&one, BlockMode::Linked), &skippable, &frame(&two, BlockMode::Independent)]
            .concat();
        assert!(read(&input).unwrap() == [one, two].concat());
    }

    #[test]
    fn every_cut_but_those_between_frames_is_an_error() {
        let one = frame(&content(), BlockMode::Independent);
        let input = [&one[..], &frame(b"two", BlockMode::Independent)].concat();
        for cut in (1..input.len()).filter(|cut| *cut != one.len()).step_by(97).chain([one.len() + 1, input.len() - 1])
        {
            assert_eq!(read(&input[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
        // what lz4_flex alone would take for an end: right between two blocks
        let mut between = 7;
        while between + 4 < one.len() {
            let size = u32::from_le_bytes(one[between..between + 4].try_into().unwrap()) & 0x7fff_ffff;
            assert!(read(&one[..between]).is_err(), "cut at block {between}");
            between += 4 + size as usize;
        }
    }

    #[test]
    fn garbage_behind_a_frame_is_an_error() {
        let input = [&frame(b"x", BlockMode::Linked)[..], b"garbage"].concat();
        assert_eq!(read(&input).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
