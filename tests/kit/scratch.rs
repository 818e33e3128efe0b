//! Folders and files that a test has for itself.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty folder, removed with this value.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
}

impl ScratchFolder {
    /// A folder below the system's folder for temporary files, whose name says which test it is for. No other
    /// process, and no other call, has the same.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(name: &str) -> ScratchFolder {
        ScratchFolder::below(&std::env::temp_dir(), name)
    }

    /// The same below another folder. For what a broker keeps that is cargo's folder for tests, since the system's may
    /// lie in memory.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn below(parent: &Path, name: &str) -> ScratchFolder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(format!("midge-{process}-{count}-{name}"));
        // A process of the same number may have ended without a word.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the folder above it can be written");
        ScratchFolder { path }
    }
}

impl Deref for ScratchFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for ScratchFolder {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::ScratchFolder;

    #[test]
    fn a_folder_is_there_as_long_as_its_value_and_no_other_has_it() {
        let (first, second) = (ScratchFolder::new("kit"), ScratchFolder::new("kit"));
        assert_ne!(first.path, second.path);
        std::fs::write(first.join("file"), "x").unwrap();
        let path = first.path.clone();
        drop(first);
        assert!(!path.exists() && second.exists());
    }
}
