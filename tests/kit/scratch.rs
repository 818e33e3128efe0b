//! Directories and files that only one test uses.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty directory. It is removed when this is dropped.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
}

impl ScratchFolder {
    /// A directory in the system's directory for temporary files. Its name says which test it is for. It is
    /// unique among all processes and calls.
    ///
    /// # Panics
    /// If it can't be created.
    pub fn new(name: &str) -> ScratchFolder {
        ScratchFolder::below(&std::env::temp_dir(), name)
    }

    /// The same in another directory. Broker tests that keep state use cargo's directory for tests, because
    /// the system's may be in memory.
    ///
    /// # Panics
    /// If it can't be created.
    pub fn below(parent: &Path, name: &str) -> ScratchFolder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(format!("midge-{process}-{count}-{name}"));
        // An earlier process with the same number may have left it.
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
