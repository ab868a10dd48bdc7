//! Putting a driver into the running kernel.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module, init_module};

/// No module of any distribution is as large; a damaged archive must not fill the memory.
const LARGEST_MODULE_BYTES: u64 = 256 << 20;

/// Why a module is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    #[error("reading the module's file")]
    Read(#[source] io::Error),
    #[error("the module's parameters have a zero byte")]
    Parameters,
    /// The kernel's word: `ENOEXEC` for a module of another kernel, `ENOENT` for a missing symbol, `ENODEV` when the
    /// hardware is not there.
    #[error("the kernel refuses it")]
    Kernel(#[source] Errno),
}

/// Loads the module in `path` with `parameters` (`name=value …`). Already loaded is done.
///
/// `.ko.xz`, `.ko.zst` and `.ko.gz` are decompressed here: kernels that can do it themselves (since Linux 5.17) know
/// one method only, and Debian's know none.
pub fn insert(path: &Path, parameters: &str) -> Result<(), InsertError> {
    let parameters = CString::new(parameters).map_err(|_| InsertError::Parameters)?;
    let file = File::open(path).map_err(InsertError::Read)?;
    let inserted = match decompressor(path, &file).map_err(InsertError::Read)? {
        None => finit_module(&file, &parameters, ModuleInitFlags::empty()),
        Some(reader) => {
            let image = read_image(reader).map_err(InsertError::Read)?;
            init_module(&image, &parameters)
        }
    };
    match inserted {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(InsertError::Kernel(errno)),
    }
}

/// By the file's name; `None` for a plain `.ko`.
fn decompressor<'a>(path: &Path, file: &'a File) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Some(Box::new(liblzma::read::XzDecoder::new_multi_decoder(file))),
        Some("zst") => Some(Box::new(zstd::Decoder::new(file)?)),
        Some("gz") => Some(Box::new(flate2::read::MultiGzDecoder::new(file))),
        _ => None,
    })
}

fn read_image(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut image = Vec::new();
    reader.take(LARGEST_MODULE_BYTES + 1).read_to_end(&mut image)?;
    if image.len() as u64 > LARGEST_MODULE_BYTES {
        return Err(io::Error::other(format!("longer than {LARGEST_MODULE_BYTES} bytes when decompressed")));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The kernel looks for permission before it looks at the module, so this shows only what comes before it.
    fn decompressed(name: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        let file = File::open(&path)?;
        decompressor(&path, &file)?.map_or_else(|| Ok(Vec::new()), read_image)
    }

    #[test]
    fn compressed_modules_are_decompressed_whatever_the_method() {
        let module = b"\x7fELF module".repeat(1000);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&module).expect("compressing");
        assert_eq!(decompressed("a.ko.xz", &xz.finish().expect("compressing")).expect("xz"), module);
        let zst = zstd::encode_all(module.as_slice(), 3).expect("compressing");
        assert_eq!(decompressed("a.ko.zst", &zst).expect("zst"), module);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&module).expect("compressing");
        assert_eq!(decompressed("a.ko.gz", &gz.finish().expect("compressing")).expect("gz"), module);
    }

    #[test]
    fn a_damaged_compressed_module_is_an_error_of_reading() {
        let path = tempfile::Builder::new().suffix(".ko.zst").tempfile().expect("temporary file");
        std::fs::write(path.path(), b"not zstd").expect("writing");
        assert!(matches!(insert(path.path(), ""), Err(InsertError::Read(_))));
    }
}
