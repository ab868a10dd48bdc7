//! What a program needs to run: its dynamic loader and shared libraries, found as the loader would find them.
//!
//! What a program loads by itself later (`dlopen`) can't be seen here; such files go into `files.list`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use super::archive::Archive;

/// Where Debian's loader looks when the program names no directory of its own (`/etc/ld.so.conf.d`, then built in).
const LIBRARY_DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The dynamic loader; absent in a static program and in a library.
    pub interpreter: Option<String>,
    /// Names of libraries, as the program spells them.
    pub libraries: Vec<String>,
    /// Directories to look in first; `$ORIGIN` stands for the program's own.
    pub run_paths: Vec<String>,
}

pub fn read_needs(data: &[u8]) -> Result<Needs> {
    let header = FileHeader64::<Endianness>::parse(data).context("not a 64-bit ELF file")?;
    let endian = header.endian().context("reading the byte order")?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, data).context("reading the program headers")? {
        if let Some(path) = segment.interpreter(endian, data).context("reading the interpreter")? {
            needs.interpreter = Some(text(path)?);
        }
    }
    let sections = header.sections(endian, data).context("reading the section headers")?;
    let table = sections.dynamic_table(endian, data).context("reading the dynamic section")?;
    for entry in table.iter() {
        match entry.tag {
            DT_NEEDED => needs.libraries.push(text(table.string(entry).context("reading a library's name")?)?),
            DT_RPATH | DT_RUNPATH => {
                let paths = text(table.string(entry).context("reading the run path")?)?;
                needs.run_paths.extend(paths.split(':').filter(|path| !path.is_empty()).map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(needs)
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).context("a path in the ELF file is no UTF-8")
}

/// Packs the program (or library) at `path`, and all it needs.
pub fn pack_program(archive: &mut Archive, path: &str) -> Result<()> {
    if archive.contains(path) {
        return Ok(());
    }
    let data = fs::read(path).with_context(|| format!("reading {path}"))?;
    if !data.starts_with(b"\x7fELF") {
        return archive.add_file(path, 0o755, data); // a script: its interpreter has a line of its own in the list
    }
    let needs = read_needs(&data).with_context(|| format!("reading the ELF header of {path}"))?;
    archive.add_file(path, 0o755, data)?;
    if let Some(interpreter) = &needs.interpreter {
        pack_program(archive, interpreter)?;
    }
    for library in &needs.libraries {
        let found = find_library(library, &needs.run_paths, Path::new(path))?;
        pack_program(archive, &found).with_context(|| format!("packing {library}, which {path} needs"))?;
    }
    Ok(())
}

fn find_library(name: &str, run_paths: &[String], program: &Path) -> Result<String> {
    let origin = program.parent().unwrap_or(Path::new("/")).display().to_string();
    let own = run_paths.iter().map(|path| path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin));
    let places = own.chain(LIBRARY_DIRECTORIES.map(str::to_owned));
    for directory in places {
        let path = PathBuf::from(&directory).join(name);
        if path.exists() {
            return Ok(path.display().to_string());
        }
    }
    bail!("library {name} is nowhere in {}", LIBRARY_DIRECTORIES.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader_and_libraries() {
        let data = fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = read_needs(&data).unwrap();
        assert_eq!(needs.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"), "{needs:?}");
    }

    #[test]
    fn another_file_is_no_program() {
        assert_eq!(read_needs(b"#!/bin/sh\n").unwrap_err().to_string(), "not a 64-bit ELF file");
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = find_library("libnowhere.so.1", &[], Path::new("/bin/x")).unwrap_err();
        assert!(error.to_string().starts_with("library libnowhere.so.1 is nowhere in /lib/"), "{error}");
    }
}
