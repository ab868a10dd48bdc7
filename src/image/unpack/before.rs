//! What was below the target before anything was unpacked, so that an image can start over.

use std::collections::HashSet;
use std::fs::read_dir;
use std::io;
use std::path::{Path, PathBuf};

use crate::image::error::ImageError;

/// New file systems hold a few directories: mount points and `lost+found`.
const DIRECTORIES_MAX: usize = 256;

/// The directories that were there; `None` if there was anything else, or what there was can't be told.
pub(super) struct Before(Option<HashSet<PathBuf>>);

impl Before {
    pub(super) fn read(target: &Path) -> Self {
        Self(find_directories(target).ok().flatten())
    }

    /// There were no files.
    pub(super) fn is_clear(&self) -> bool {
        self.0.is_some()
    }

    /// Removes everything that was not there. Must only be called if there were no files.
    pub(super) fn restore(&self, target: &Path) -> Result<(), ImageError> {
        self.clear(target).map_err(|source| ImageError::OpenTarget { path: target.to_owned(), source })
    }

    fn clear(&self, dir: &Path) -> io::Result<()> {
        for entry in read_dir(dir)? {
            let entry = entry?;
            let (path, is_dir) = (entry.path(), entry.file_type()?.is_dir());
            if is_dir && self.0.as_ref().is_none_or(|before| before.contains(&path)) {
                self.clear(&path)?;
            } else if is_dir {
                std::fs::remove_dir_all(&path)?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn find_directories(target: &Path) -> io::Result<Option<HashSet<PathBuf>>> {
    let mut found = HashSet::new();
    let mut waiting = vec![target.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() || found.len() >= DIRECTORIES_MAX {
                return Ok(None);
            }
            found.insert(entry.path());
            waiting.push(entry.path());
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_unpacked_goes_and_what_was_there_stays() {
        let target = tempfile::tempdir().unwrap();
        let path = |name: &str| target.path().join(name);
        std::fs::create_dir_all(path("boot/efi")).unwrap();
        std::fs::create_dir(path("lost+found")).unwrap();
        let before = Before::read(target.path());
        std::fs::create_dir_all(path("etc/deep/er")).unwrap();
        std::fs::write(path("etc/deep/er/file"), "x").unwrap();
        std::fs::write(path("boot/efi/file"), "x").unwrap();
        std::os::unix::fs::symlink("boot", path("link")).unwrap();
        before.restore(target.path()).unwrap();
        let mut left: Vec<_> = Before::read(target.path()).0.unwrap().into_iter().collect();
        left.sort();
        assert_eq!(left, [path("boot"), path("boot/efi"), path("lost+found")]);
    }

    #[test]
    fn a_target_with_files_is_told() {
        let target = tempfile::tempdir().unwrap();
        assert!(Before::read(target.path()).is_clear());
        std::fs::write(target.path().join("file"), "x").unwrap();
        assert!(!Before::read(target.path()).is_clear());
    }
}
