//! The image engine: source, digest, decompression, unpacking, raw writing.
