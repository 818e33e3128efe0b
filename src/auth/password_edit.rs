//! Reads a password file from the disk, and changes one line of it.
//!
//! A change writes a new file beside the old one, with the mode and owner of the old one (0600 for a new
//! file). It flushes the new file to the disk and renames it over the old one. A broker that reads at the
//! same time sees the complete old file or the complete new one. Comments, blank lines and wrong lines stay
//! unchanged and in order. Concurrent changes wait for each other (`flock` of the old file). Access control
//! lists and extended attributes are not kept.

#![allow(clippy::disallowed_methods, reason = "the one place that reads and writes the password file")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::hash::{HashError, PasswordHash, SALT_BYTES, Scheme};
use super::password_file::{
    LineError, PasswordFile, PasswordFileErrors, UserNameError, check_scram_user, check_user, has_secret,
    secret_line, user_of_line,
};
use crate::files::open;

/// The largest file that is read, in bytes: some millions of users.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// How often a change starts again because another one has replaced the file.
const TRIES_MAX: u32 = 100;
/// The mode of a new file: only its owner can read it.
const NEW_MODE: u32 = 0o600;

impl PasswordFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The system's message if the file can't be read, otherwise every wrong line.
    pub fn load(path: &Path) -> Result<PasswordFile, PasswordFileErrors> {
        let name = path.display().to_string();
        match open(path).and_then(|file| read(&file)) {
            Ok(bytes) => PasswordFile::parse_bytes(&bytes, &name),
            Err(error) => Err(PasswordFileErrors::unreadable(&name, error)),
        }
    }

    /// Reads a file as mosquitto does: it skips lines that can't be used. Returns the users of the other
    /// lines, and the errors of the skipped lines.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn load_lines(path: &Path) -> Result<(PasswordFile, Option<PasswordFileErrors>), PasswordFileErrors> {
        let name = path.display().to_string();
        let bytes = open(path).and_then(|file| read(&file));
        let bytes = bytes.map_err(|error| PasswordFileErrors::unreadable(&name, error))?;
        Ok(PasswordFile::parse_lines(&bytes, &name))
    }
}

/// Whether the file's mode lets every user of this machine read it. False if there is no file.
pub fn is_readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no file, and none was to be made.
    #[error("{}: there is no such file; --create makes one", .0.display())]
    NoFile(PathBuf),
    /// There is a file, and a new one was to be made.
    #[error("{}: the file exists and has lines; without --create the user is added to it", .0.display())]
    Exists(PathBuf),
    /// The name is not allowed.
    #[error(transparent)]
    User(UserNameError),
    /// SCRAM can't use the name.
    #[error(transparent)]
    ScramUser(LineError),
    /// The password or the cost is not allowed.
    #[error(transparent)]
    Hash(HashError),
    /// The user to be deleted is not in the file.
    #[error("there is no user {0:?} in the file")]
    NoUser(String),
    /// Other processes keep changing the file.
    #[error("{}: others keep changing the file", .0.display())]
    Busy(PathBuf),
    /// The new file can't get the owner of the old one.
    #[error("{}: can't keep the file's owner: {}; run as root or as that owner", .0.display(), .1)]
    Owner(PathBuf, io::Error),
    /// The system refused.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

/// Whether a change may make the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// The file must exist.
    No,
    /// The file must not exist, or must be empty.
    Yes,
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    /// The user is new.
    Added,
    /// The user has another password now.
    Changed,
    /// The user is gone.
    Deleted,
}

/// Sets the password of a user, hashed with a new random salt.
///
/// # Errors
/// [`EditError`]. In this case the file is unchanged.
pub fn set_password(
    path: &Path,
    user: &str,
    password: &[u8],
    scheme: Scheme,
    create: Create,
) -> Result<Edited, EditError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|error| EditError::Io(path.to_owned(), io::Error::other(error)))?;
    let hash = PasswordHash::new(scheme, password, &salt).map_err(EditError::Hash)?;
    set_hash(path, user, &hash, create)
}

/// Sets the hash of a user: it replaces the old line, or adds a line at the end. With the first SCRAM user,
/// the file also gets a random SCRAM secret.
///
/// # Errors
/// [`EditError`]. In this case the file is unchanged.
pub fn set_hash(path: &Path, user: &str, hash: &PasswordHash, create: Create) -> Result<Edited, EditError> {
    check_user(user).map_err(EditError::User)?;
    check_scram_user(user, hash.scheme()).map_err(EditError::ScramUser)?;
    let line = Zeroizing::new(format!("{user}:{}\n", *hash.to_text()));
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|error| EditError::Io(path.to_owned(), io::Error::other(error)))?;
    let is_scram = matches!(hash.scheme(), Scheme::ScramSha256 { .. });
    edit(path, create, |old| {
        let (mut new, found) = replace_line(old, user, Some(line.as_bytes()));
        if !found {
            append(&mut new, line.as_bytes());
        }
        if is_scram && !has_secret(&new) {
            append(&mut new, &secret_line(&secret));
        }
        Ok((new, if found { Edited::Changed } else { Edited::Added }))
    })
}

/// Adds a line. The line before it may lack its line end.
fn append(text: &mut Vec<u8>, line: &[u8]) {
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(line);
}

/// Removes a user from the file.
///
/// # Errors
/// [`EditError::NoUser`] and others. In this case the file is unchanged.
pub fn delete_user(path: &Path, user: &str) -> Result<Edited, EditError> {
    edit(path, Create::No, |old| match replace_line(old, user, None) {
        (new, true) => Ok((new, Edited::Deleted)),
        (_, false) => Err(EditError::NoUser(user.to_owned())),
    })
}

/// Replaces the user's first line and removes further ones, which no file should have. Also returns whether
/// there was one. `line` includes its line end.
fn replace_line(old: &[u8], user: &str, line: Option<&[u8]>) -> (Vec<u8>, bool) {
    let mut new = Vec::with_capacity(old.len() + line.map_or(0, <[u8]>::len) + 2);
    let mut found = false;
    let mut rest = old;
    if let Some(after_mark) = old.strip_prefix(b"\xef\xbb\xbf") {
        new.extend_from_slice(b"\xef\xbb\xbf");
        rest = after_mark;
    }
    for whole in rest.split_inclusive(|&byte| byte == b'\n') {
        if user_of_line(whole) != Some(user) {
            new.extend_from_slice(whole);
            continue;
        }
        if let Some(line) = line
            && !found
        {
            new.extend_from_slice(line);
        }
        found = true;
    }
    (new, found)
}

fn edit(
    path: &Path,
    create: Create,
    change: impl Fn(&[u8]) -> Result<(Vec<u8>, Edited), EditError>,
) -> Result<Edited, EditError> {
    let failed = |error| EditError::Io(path.to_owned(), error);
    if create == Create::Yes {
        // A broker that reads the empty file admits nobody, just as it does without a file.
        match OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    // For a symbolic link, the target is replaced and not the link.
    let target = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(EditError::NoFile(path.to_owned()));
        }
        other => other.map_err(failed)?,
    };
    let old = lock(&target)?;
    let bytes = read(&old).map_err(failed)?;
    if create == Create::Yes && !bytes.is_empty() {
        return Err(EditError::Exists(path.to_owned()));
    }
    let (new, edited) = change(&bytes)?;
    replace(&target, &old, &Zeroizing::new(new))?;
    Ok(edited)
}

/// Opens and locks the file with this name. Dropping the result unlocks it.
fn lock(target: &Path) -> Result<File, EditError> {
    let failed = |error| EditError::Io(target.to_owned(), error);
    for _ in 0..TRIES_MAX {
        let file = open(target).map_err(failed)?;
        file.lock().map_err(failed)?;
        // While this waited, another change may have replaced the file.
        let (ours, theirs) = (file.metadata().map_err(failed)?, fs::metadata(target).map_err(failed)?);
        if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
            return Ok(file);
        }
    }
    Err(EditError::Busy(target.to_owned()))
}

fn read(file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = file.metadata()?.len();
    // The file may grow while it is being read.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(length.min(FILE_BYTES_MAX)).unwrap_or(0)));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

fn replace(target: &Path, old: &File, bytes: &[u8]) -> Result<(), EditError> {
    let failed = |error| EditError::Io(target.to_owned(), error);
    let directory = target.parent().unwrap_or(Path::new("/"));
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".new");
    let beside = directory.join(name);
    // The lock on the old file excludes other changes. An existing file is a leftover of a process that was
    // killed.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let written =
        write_beside(&beside, old, bytes, target).and_then(|()| fs::rename(&beside, target).map_err(failed));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    // The rename is durable after the directory is flushed.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn write_beside(beside: &Path, old: &File, bytes: &[u8], target: &Path) -> Result<(), EditError> {
    let failed = |error| EditError::Io(beside.to_owned(), error);
    let mut new =
        OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(beside).map_err(failed)?;
    let was = old.metadata().map_err(failed)?;
    let is = new.metadata().map_err(failed)?;
    if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
        fchown(&new, Some(was.uid()), Some(was.gid()))
            .map_err(|error| EditError::Owner(target.to_owned(), error))?;
    }
    new.set_permissions(Permissions::from_mode(was.mode() & 0o777)).map_err(failed)?;
    new.write_all(bytes).map_err(failed)?;
    new.sync_all().map_err(failed)
}

/// A directory for one test, removed at the end.
#[cfg(test)]
pub(super) struct Folder(PathBuf);

#[cfg(test)]
impl Folder {
    pub(super) fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("midge-passwords-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hash::Argon2Cost;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn file_in(folder: &Folder, text: &str) -> PathBuf {
        let path = folder.path().join("passwords");
        fs::write(&path, text).unwrap();
        path
    }

    fn small() -> Scheme {
        Scheme::Argon2id(Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 })
    }

    fn set(path: &Path, user: &str, password: &str, create: Create) -> Result<Edited, EditError> {
        set_password(path, user, password.as_bytes(), small(), create)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let folder = Folder::new();
        let path = folder.path().join("passwords");
        assert!(matches!(set(&path, "alice", "x", Create::No), Err(EditError::NoFile(_))));
        assert!(!path.exists());
        assert_eq!(set(&path, "alice", "x", Create::Yes).unwrap(), Edited::Added);
        assert_eq!(mode(&path), 0o600);
        assert!(PasswordFile::load(&path).unwrap().verify("alice", b"x"));
        assert!(matches!(set(&path, "bob", "x", Create::Yes), Err(EditError::Exists(_))));
        assert_eq!(set(&path, "bob", "y", Create::No).unwrap(), Edited::Added);
        let file = PasswordFile::load(&path).unwrap();
        assert!(file.verify("alice", b"x") && file.verify("bob", b"y"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn other_lines_and_their_order_are_kept_and_so_is_the_mode() {
        let folder = Folder::new();
        let before = "# head\r\n\nplain:secret\r\n alice :old\n#alice:commented\nlast line";
        let path = file_in(&folder, before);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(set(&path, "alice", "x", Create::No).unwrap(), Edited::Changed);
        let after = fs::read_to_string(&path).unwrap();
        let (head, rest) = after.split_once("alice:$argon2id$").unwrap();
        let (_, tail) = rest.split_once('\n').unwrap();
        assert_eq!(head, "# head\r\n\nplain:secret\r\n");
        assert_eq!(tail, "#alice:commented\nlast line");
        assert_eq!(mode(&path), 0o640);
        assert_eq!(set(&path, "bob", "x", Create::No).unwrap(), Edited::Added);
        let after = fs::read_to_string(&path).unwrap();
        assert!(after.contains("\nlast line\nbob:$argon2id$") && after.ends_with('\n'), "{after}");
        assert_eq!(delete_user(&path, "bob").unwrap(), Edited::Deleted);
        assert_eq!(delete_user(&path, "alice").unwrap(), Edited::Deleted);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# head\r\n\nplain:secret\r\n#alice:commented\nlast line\n"
        );
        assert!(matches!(delete_user(&path, "alice"), Err(EditError::NoUser(_))));
    }

    #[test]
    fn the_owner_is_kept() {
        let folder = Folder::new();
        let path = file_in(&folder, "");
        // Only root can change the owner of a file. Other users keep their own.
        let is_root = std::os::unix::fs::chown(&path, Some(12), Some(34)).is_ok();
        set(&path, "alice", "x", Create::No).unwrap();
        let owner = fs::metadata(&path).unwrap();
        assert!(!is_root || (owner.uid(), owner.gid()) == (12, 34));
    }

    #[test]
    fn the_first_scram_user_brings_the_secret_that_stays() {
        let folder = Folder::new();
        let path = file_in(&folder, "");
        let secrets = || {
            let text = fs::read_to_string(&path).unwrap();
            text.lines().filter(|line| line.starts_with("#midge-scram-secret:")).map(str::to_owned).collect()
        };
        let scram = |user: &str| {
            set_password(&path, user, b"x", Scheme::ScramSha256 { iterations: 4096 }, Create::No).unwrap()
        };
        set(&path, "alice", "x", Create::No).unwrap();
        assert_eq!(secrets(), Vec::<String>::new());
        // The first replaces the old line, the second gets a line of its own.
        assert_eq!(scram("alice"), Edited::Changed);
        let first: Vec<String> = secrets();
        assert_eq!(first.len(), 1);
        assert_eq!(scram("bob"), Edited::Added);
        delete_user(&path, "alice").unwrap();
        assert_eq!(secrets(), first);
        assert!(PasswordFile::load(&path).unwrap().fake_users().is_some());
    }

    #[test]
    fn a_second_line_of_the_user_goes_with_the_first() {
        let (text, found) = replace_line(b"a:1\nb:2\na:3\n", "a", Some(b"a:4\n"));
        assert!(found);
        assert_eq!(text, b"a:4\nb:2\n");
        assert_eq!(replace_line(b"a:1\nb:2\na:3\n", "a", None).0, b"b:2\n");
        assert_eq!(replace_line(b"\xef\xbb\xbfa:1\n", "a", Some(b"a:4\n")).0, b"\xef\xbb\xbfa:4\n");
    }

    #[test]
    fn a_link_stays_and_its_file_is_changed() {
        let folder = Folder::new();
        let path = file_in(&folder, "");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        set(&link, "alice", "x", Create::No).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(PasswordFile::load(&path).unwrap().verify("alice", b"x"));
    }

    #[test]
    fn what_a_killed_change_left_does_not_matter() {
        let folder = Folder::new();
        let path = file_in(&folder, "");
        fs::write(folder.path().join(".passwords.new"), "half a li").unwrap();
        set(&path, "alice", "x", Create::No).unwrap();
        assert_eq!(PasswordFile::load(&path).unwrap().len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_no_file_can_hold_change_nothing() {
        let folder = Folder::new();
        let path = file_in(&folder, "# head\n");
        for user in ["", "a:b", "a\nroot", "#a", " a"] {
            assert!(matches!(set(&path, user, "x", Create::No), Err(EditError::User(_))), "{user}");
        }
        let scram = Scheme::ScramSha256 { iterations: 4096 };
        let done = set_password(&path, "\u{2168}", b"x", scram, Create::No);
        assert!(matches!(done, Err(EditError::ScramUser(_))));
        let done = set_password(&path, "user", b"\xff", scram, Create::No);
        assert!(matches!(done, Err(EditError::Hash(HashError::ScramPassword))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "# head\n");
    }

    #[test]
    fn a_file_that_can_not_be_read_is_told_by_its_name() {
        let folder = Folder::new();
        let path = folder.path().join("nothing");
        let told = PasswordFile::load(&path).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{}: ", path.display())), "{told}");
        assert!(PasswordFile::load(folder.path()).is_err());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the reader of this test is a thread")]
    fn a_reader_sees_the_old_file_or_the_new_one() {
        let folder = Folder::new();
        let path = file_in(&folder, "# head\n");
        set(&path, "alice", "x", Create::No).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut loads = 0;
                while !done.load(Ordering::Acquire) {
                    let file = PasswordFile::load(&path).expect("a whole file");
                    assert!(file.verify("alice", b"x"));
                    loads += 1;
                }
                loads
            });
            let writers: Vec<_> = ["bob", "carol"]
                .map(|user| {
                    let path = &path;
                    scope.spawn(move || {
                        for _ in 0..20 {
                            set(path, user, "y", Create::No).unwrap();
                        }
                    })
                })
                .into_iter()
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Release);
            assert!(reader.join().unwrap() > 0);
        });
        let file = PasswordFile::load(&path).unwrap();
        assert_eq!(file.len(), 3, "no change was lost to the other writer");
        assert!(file.verify("bob", b"y") && file.verify("carol", b"y"));
    }
}
