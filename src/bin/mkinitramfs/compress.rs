//! What the archive is compressed with. The kernel must be able to undo it (`CONFIG_RD_ZSTD`, `CONFIG_RD_XZ`).

use std::io::Write;

use anyhow::{Context, Result};
use clap::ValueEnum;
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// For tests: nothing to pack, nothing to unpack.
    None,
    Zstd,
    Xz,
}

/// Window and dictionary, in bytes: what the kernel has to hold beside the archive while it unpacks, and most of what
/// compression gains on 50 MB of drivers.
const WINDOW_LOG: u32 = 24;

pub fn write(compression: Compression, plain: &[u8], writer: impl Write) -> Result<()> {
    match compression {
        Compression::None => write_plain(plain, writer),
        Compression::Zstd => write_zstd(plain, writer),
        Compression::Xz => write_xz(plain, writer),
    }
}

fn write_plain(plain: &[u8], mut writer: impl Write) -> Result<()> {
    writer.write_all(plain).context("writing the archive")
}

fn write_zstd(plain: &[u8], writer: impl Write) -> Result<()> {
    let mut encoder = zstd::Encoder::new(writer, 19).context("setting up zstd")?;
    encoder.window_log(WINDOW_LOG).context("setting zstd's window")?;
    encoder.write_all(plain).context("compressing with zstd")?;
    encoder.finish().context("ending the zstd frame")?;
    Ok(())
}

/// The kernel's decoder knows no check but CRC32, and its BCJ filter for x86 gains a few per cent on code.
fn write_xz(plain: &[u8], writer: impl Write) -> Result<()> {
    let mut options = LzmaOptions::new_preset(9).context("setting up xz")?;
    options.dict_size(1 << WINDOW_LOG);
    let mut filters = Filters::new();
    filters.x86().lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).context("setting up xz")?;
    let mut encoder = XzEncoder::new_stream(writer, stream);
    encoder.write_all(plain).context("compressing with xz")?;
    encoder.finish().context("ending the xz stream")?;
    Ok(())
}
