//! Opens the files that an operator names. Files are read completely, and nothing that could block is opened.
//!
//! Only regular files are accepted, and `/dev/null`, which means an empty file. A named pipe without a
//! writer, a terminal or a device would block its reader forever, and `/dev/zero` has no end. A regular file
//! of a broken network file system can still block. For this reason the files are read before the broker
//! serves, and later by a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `/dev/null`, by any name. Reading it ends at once.
const NULL_DEVICE: u64 = libc::makedev(1, 3);

/// Opens a regular file, or a symbolic link to one.
///
/// # Errors
/// The system's error, or the kind of file that it is instead.
#[allow(clippy::disallowed_methods, reason = "the one place that opens the files that an operator names")]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a named pipe waits for its writer. It has no effect on a regular file.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_file() || (kind.is_char_device() && metadata.rdev() == NULL_DEVICE) {
        return Ok(file);
    }
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let what = match () {
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "no file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; a regular file is needed")))
}

/// The bytes of a regular file, at most one more than `bytes_max`. The caller reports a file that is too
/// large.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files of a directory, without its directories, sorted by name, at most `count_max`.
///
/// # Errors
/// The system's error, or that there are more files.
pub(crate) fn files_in(directory: &Path, count_max: usize) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        if files.len() == count_max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("there are more than {count_max} files in it"),
            ));
        }
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What every user of this machine can do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenToAll {
    pub(crate) reading: bool,
    pub(crate) writing: bool,
    /// The permission bits of the file, for the warning.
    pub(crate) mode: u32,
}

/// Whether the permissions of a file, and of every directory on its path, give access to every user. A file
/// that does not exist is open to nobody.
pub(crate) fn open_to_all(path: &Path) -> OpenToAll {
    let closed = OpenToAll { reading: false, writing: false, mode: 0 };
    let Ok(path) = std::fs::canonicalize(path) else { return closed };
    let Ok(mode) = std::fs::metadata(&path).map(|metadata| metadata.mode() & 0o7777) else { return closed };
    let mut folders = path.ancestors().skip(1);
    let is_reachable =
        folders.all(|folder| std::fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0));
    OpenToAll { reading: is_reachable && mode & 0o004 != 0, writing: is_reachable && mode & 0o002 != 0, mode }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests write the files that are read")]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("midge-file-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let folder = folder("kinds");
        let (regular, link, pipe) = (folder.join("regular"), folder.join("link"), folder.join("pipe"));
        fs::write(&regular, "12345").unwrap();
        symlink(&regular, &link).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&regular, 100).unwrap(), b"12345");
        assert_eq!(read(&link, 100).unwrap(), b"12345");
        assert_eq!(read(&regular, 3).unwrap(), b"1234", "one more than the bound shows that it is passed");
        let refused = |path: &Path| read(path, 100).expect_err("no regular file").to_string();
        assert_eq!(refused(&pipe), "it is a named pipe; a regular file is needed");
        assert_eq!(read(Path::new("/dev/null"), 100).unwrap(), b"", "as good as an empty file");
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device; a regular file is needed");
        assert!(refused(&folder).contains("directory"), "{}", refused(&folder));
        assert_eq!(read(&folder.join("none"), 1).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_is_open_to_all_when_its_folders_are_too() {
        let folder = folder("modes");
        let file = folder.join("key");
        fs::write(&file, "x").unwrap();
        for (mode, reading, writing) in
            [(0o600, false, false), (0o640, false, false), (0o644, true, false), (0o666, true, true)]
        {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_all(&file), OpenToAll { reading, writing, mode }, "{mode:o}");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o750)).unwrap();
        let closed = open_to_all(&file);
        assert!(!closed.reading && !closed.writing, "the file is not for others");
        assert_eq!(open_to_all(&folder.join("none")).mode, 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
