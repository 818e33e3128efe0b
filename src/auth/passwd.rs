//! `midge passwd`: sets the password of a user in a password file, or removes the user.
//!
//! The inputs are the arguments, and the password from the terminal (asked twice, not shown), from a line of
//! standard input, or from the arguments. The outputs are the changed file and words for the operator.
//! [`super::password_edit`] changes the file. `-b`, `-c`, `-D`, `-H` and `-I` are those of
//! `mosquitto_passwd`, but `-c` does not overwrite a file that has lines. A running broker uses the new file
//! when it reads its configuration again.

use std::fmt;
use std::io::{self, BufRead, IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::hash::{Argon2Cost, HashError, ITERATIONS_MAX, MEMORY_KIB_MAX, SCRAM_ITERATIONS_MIN, Scheme};
use super::password_edit::{Create, EditError, Edited, delete_user, is_readable_by_others, set_password};
use super::password_file::{PasswordFile, UserNameError, check_user};

/// The longest password, in bytes. CONNECT can't carry a longer one. `[MQTT5-1.5.6]`
pub const PASSWORD_BYTES_MAX: usize = 65_535;

/// The arguments of `midge passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PasswdArgs {
    /// The password file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The user
    #[arg(value_name = "USER")]
    pub user: String,

    /// With --batch: the password. Others on this machine can see it while the command runs
    #[arg(value_name = "PASSWORD", requires = "batch")]
    pub password: Option<Secret>,

    /// Make a new file; one that has lines already is left alone
    #[arg(short, long)]
    pub create: bool,

    /// Take the user out of the file
    #[arg(
        short = 'D',
        long,
        conflicts_with_all = ["create", "batch", "stdin", "scram", "hash", "memory_kib", "iterations"]
    )]
    pub delete: bool,

    /// Take the password from the command line
    #[arg(short, long, requires = "password", conflicts_with = "stdin")]
    pub batch: bool,

    /// Read the password from one line of standard input, as is also done when that is no terminal
    #[arg(long)]
    pub stdin: bool,

    /// Let the user log in by SCRAM-SHA-256 too: short for --hash scram-sha-256
    #[arg(long, conflicts_with = "hash")]
    pub scram: bool,

    /// The kind of hash
    #[arg(short = 'H', long, value_enum, value_name = "KIND", default_value_t = HashKind::Argon2id)]
    pub hash: HashKind,

    /// Memory of one Argon2id verification, in KiB; 2048 if not given. More resists guessing better and admits
    /// fewer logins a second: 2048 takes about 0.8 ms, 19456 with 2 iterations about 60 ms
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(8..=i64::from(MEMORY_KIB_MAX)))]
    pub memory_kib: Option<u32>,

    /// Passes over that memory, 1 if not given; with SCRAM the iterations, 4096 if not given, which cost
    /// the client as much as the broker
    #[arg(short = 'I', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ITERATIONS_MAX)))]
    pub iterations: Option<u32>,
}

impl PasswdArgs {
    fn scheme(&self) -> Result<Scheme, PasswdError> {
        if self.scram || self.hash == HashKind::ScramSha256 {
            if self.memory_kib.is_some() {
                return Err(PasswdError::MemoryOfScram);
            }
            return Ok(Scheme::ScramSha256 { iterations: self.iterations.unwrap_or(SCRAM_ITERATIONS_MIN) });
        }
        let memory_kib = self.memory_kib.unwrap_or(Argon2Cost::DEFAULT.memory_kib);
        let passes = self.iterations.unwrap_or(Argon2Cost::DEFAULT.passes);
        let cost = Argon2Cost { memory_kib, passes, lanes: 1 };
        cost.check().map_err(PasswdError::Cost)?;
        Ok(Scheme::Argon2id(cost))
    }
}

/// The kinds of hash that `midge passwd` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HashKind {
    /// Argon2id
    Argon2id,
    /// The keys of SCRAM-SHA-256, which plain passwords are checked against too
    #[value(name = "scram-sha-256")]
    ScramSha256,
}

/// A password among the arguments. It is wiped when dropped, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why nothing was done. In this case the file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    /// The user's name is not allowed.
    #[error(transparent)]
    User(UserNameError),
    /// The Argon2id cost is not allowed.
    #[error(transparent)]
    Cost(HashError),
    /// `--memory-kib` was given with SCRAM.
    #[error("--memory-kib is an option of argon2id alone")]
    MemoryOfScram,
    /// The two typed passwords differ.
    #[error("the two passwords differ")]
    Differ,
    /// The password is empty, most likely by mistake.
    #[error("an empty password")]
    Empty,
    /// The password has more than [`PASSWORD_BYTES_MAX`] bytes.
    #[error("a password of more than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// The password could not be read.
    #[error("can't read the password: {0}")]
    Read(io::Error),
    /// The file could not be changed.
    #[error(transparent)]
    Edit(EditError),
}

/// The result, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdDone {
    /// For standard output.
    pub words: String,
    /// For standard error: others can read the file, or it has lines that the broker would refuse.
    pub warnings: Vec<String>,
}

/// Carries out the arguments, with the process's own terminal and standard input.
///
/// # Errors
/// [`PasswdError`]. In this case the file is unchanged.
pub fn run(args: &PasswdArgs) -> Result<PasswdDone, PasswdError> {
    let is_terminal = io::stdin().is_terminal();
    run_with(args, is_terminal, |words| rpassword::prompt_password(words), &mut io::stdin().lock())
}

fn run_with(
    args: &PasswdArgs,
    is_terminal: bool,
    prompt: impl FnMut(&str) -> io::Result<String>,
    stdin: &mut impl BufRead,
) -> Result<PasswdDone, PasswdError> {
    check_user(&args.user).map_err(PasswdError::User)?;
    let edited = if args.delete {
        delete_user(&args.file, &args.user)
    } else {
        let scheme = args.scheme()?;
        let password = password(args, is_terminal, prompt, stdin)?;
        let create = if args.create { Create::Yes } else { Create::No };
        set_password(&args.file, &args.user, &password, scheme, create)
    };
    let (user, file) = (&args.user, args.file.display());
    let words = match edited.map_err(PasswdError::Edit)? {
        Edited::Added => format!("added user {user} to {file}"),
        Edited::Changed => format!("changed the password of user {user} in {file}"),
        Edited::Deleted => format!("deleted user {user} from {file}"),
    };
    Ok(PasswdDone { words, warnings: warnings(args) })
}

fn password(
    args: &PasswdArgs,
    is_terminal: bool,
    mut prompt: impl FnMut(&str) -> io::Result<String>,
    stdin: &mut impl BufRead,
) -> Result<Zeroizing<Vec<u8>>, PasswdError> {
    let password = match &args.password {
        Some(secret) => Zeroizing::new(secret.0.as_bytes().to_vec()),
        None if is_terminal && !args.stdin => {
            let mut ask = |words| prompt(words).map(Zeroizing::new).map_err(PasswdError::Read);
            let first = ask("Password: ")?;
            if ask("Password again: ")? != first {
                return Err(PasswdError::Differ);
            }
            Zeroizing::new(first.as_bytes().to_vec())
        }
        None => line(stdin).map_err(PasswdError::Read)?,
    };
    match password.len() {
        0 => Err(PasswdError::Empty),
        1..=PASSWORD_BYTES_MAX => Ok(password),
        _ => Err(PasswdError::TooLong),
    }
}

/// One line without its line end. The full capacity is reserved at once, so that no partial copy stays in
/// memory.
fn line(stdin: &mut impl BufRead) -> io::Result<Zeroizing<Vec<u8>>> {
    let bytes_max = PASSWORD_BYTES_MAX + 3;
    let mut line = Zeroizing::new(Vec::with_capacity(bytes_max));
    stdin.take(bytes_max as u64).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    Ok(line)
}

fn warnings(args: &PasswdArgs) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_readable_by_others(&args.file) {
        warnings.push(format!("{}: others can read this file; chmod o= helps", args.file.display()));
    }
    if let Err(errors) = PasswordFile::load(&args.file) {
        warnings.push(errors.to_string());
    }
    warnings
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests look at the file")]
mod tests {
    use super::*;
    use crate::auth::password_edit::Folder;
    use clap::Parser;
    use std::fs;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PasswdArgs,
    }

    fn parse(line: &[&str]) -> Result<PasswdArgs, clap::Error> {
        Line::try_parse_from([&["passwd"], line].concat()).map(|line| line.args)
    }

    /// A file that does not exist yet, its name, and commands about it.
    struct Scene {
        folder: Folder,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { folder: Folder::new() }
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("passwords")
        }

        fn run(&self, line: &str, stdin: &str) -> Result<String, PasswdError> {
            let file = self.file();
            let line: Vec<&str> = line
                .split(' ')
                .map(|word| if word == "FILE" { file.to_str().unwrap() } else { word })
                .collect();
            let args = parse(&line).unwrap();
            let unasked = |_: &str| -> io::Result<String> { panic!("there is no terminal") };
            let done = run_with(&args, false, unasked, &mut stdin.as_bytes())?;
            assert!(done.warnings.is_empty(), "{:?}", done.warnings);
            Ok(done.words.replace(file.to_str().unwrap(), "FILE"))
        }

        fn verify(&self, user: &str, password: &[u8]) -> bool {
            PasswordFile::load(&self.file()).unwrap().verify(user, password)
        }
    }

    #[test]
    fn the_habits_of_mosquitto_passwd_work() {
        let scene = Scene::new();
        assert_eq!(scene.run("-c -b FILE alice one", "").unwrap(), "added user alice to FILE");
        assert_eq!(scene.run("-b FILE bob two", "").unwrap(), "added user bob to FILE");
        assert_eq!(
            scene.run("-H argon2id -b FILE bob deux", "").unwrap(),
            "changed the password of user bob in FILE"
        );
        assert!(
            scene.verify("alice", b"one") && scene.verify("bob", b"deux") && !scene.verify("bob", b"two")
        );
        assert_eq!(scene.run("-D FILE alice", "").unwrap(), "deleted user alice from FILE");
        assert!(!scene.verify("alice", b"one"));
        let refused = scene.run("-c -b FILE carol three", "");
        assert!(matches!(refused, Err(PasswdError::Edit(EditError::Exists(_)))));
        assert!(scene.verify("bob", b"deux"));
    }

    #[test]
    fn a_password_comes_from_a_line_of_standard_input() {
        let scene = Scene::new();
        scene.run("FILE alice --create --stdin", "päss wörd \r\nsecond line\n").unwrap();
        assert!(scene.verify("alice", "päss wörd ".as_bytes()));
        scene.run("FILE alice", "no end of line").unwrap();
        assert!(scene.verify("alice", b"no end of line"));
        for stdin in ["", "\n", "\r\n"] {
            assert!(matches!(scene.run("FILE alice", stdin), Err(PasswdError::Empty)));
        }
        let longest = "x".repeat(PASSWORD_BYTES_MAX);
        scene.run("FILE alice", &format!("{longest}\r\n")).unwrap();
        assert!(scene.verify("alice", longest.as_bytes()));
        assert!(matches!(scene.run("FILE alice", &format!("{longest}x\n")), Err(PasswdError::TooLong)));
    }

    #[test]
    fn a_terminal_is_asked_twice() {
        let scene = Scene::new();
        let file = scene.file();
        let args = parse(&["-c", file.to_str().unwrap(), "alice"]).unwrap();
        let run = |answers: [&str; 2]| {
            let mut answers = answers.into_iter();
            run_with(&args, true, |_| Ok(answers.next().unwrap().to_owned()), &mut "unread".as_bytes())
        };
        assert!(matches!(run(["one", "two"]), Err(PasswdError::Differ)));
        assert!(matches!(run(["", ""]), Err(PasswdError::Empty)));
        assert!(!file.exists());
        run(["one", "one"]).unwrap();
        assert!(scene.verify("alice", b"one"));
        let gone = || run_with(&args, true, |_| Err(io::ErrorKind::UnexpectedEof.into()), &mut "".as_bytes());
        assert!(matches!(gone(), Err(PasswdError::Read(_))));
    }

    #[test]
    fn kind_and_cost_are_chosen() {
        let scene = Scene::new();
        scene.run("-c FILE alice --memory-kib 64 --iterations 3", "x").unwrap();
        scene.run("FILE bob --scram", "x").unwrap();
        scene.run("FILE carol -H scram-sha-256 -I 5000", "x").unwrap();
        scene.run("FILE dave", "x").unwrap();
        let text = fs::read_to_string(scene.file()).unwrap();
        let is_secret = |line: &&str| line.starts_with("#midge-scram-secret:");
        assert_eq!(text.lines().filter(is_secret).count(), 1, "{text}");
        let lines = || text.lines().filter(|line| !is_secret(line));
        let begins = [
            "alice:$argon2id$v=19$m=64,t=3,p=1$",
            "bob:$scram-sha-256$4096$",
            "carol:$scram-sha-256$5000$",
            "dave:$argon2id$v=19$m=2048,t=1,p=1$",
        ];
        assert_eq!(lines().count(), begins.len());
        assert!(lines().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{text}");
        assert!(scene.verify("bob", b"x"));
        assert!(matches!(scene.run("FILE a --scram --memory-kib 64", "x"), Err(PasswdError::MemoryOfScram)));
        assert!(matches!(scene.run("FILE a -I 65", "x"), Err(PasswdError::Cost(_))));
        assert!(matches!(
            scene.run("FILE a --scram -I 4095", "x"),
            Err(PasswdError::Edit(EditError::Hash(_)))
        ));
        assert!(matches!(scene.run("FILE a:b", "x"), Err(PasswdError::User(_))));
    }

    #[test]
    fn contradictions_are_bad_usage() {
        for line in [
            &["f"][..],
            &["f", "u", "password"],
            &["-b", "f", "u"],
            &["-b", "--stdin", "f", "u", "p"],
            &["-c", "-D", "f", "u"],
            &["-b", "-D", "f", "u", "p"],
            &["-D", "--scram", "f", "u"],
            &["--scram", "-H", "argon2id", "f", "u"],
            &["-H", "sha512", "f", "u"],
            &["--memory-kib", "262145", "f", "u"],
            &["--memory-kib", "7", "f", "u"],
            &["-I", "0", "f", "u"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        let same = parse(&["f", "u", "--batch", "p"]).unwrap();
        assert_eq!(same, parse(&["-b", "f", "u", "p"]).unwrap());
    }

    #[test]
    fn others_lines_that_are_wrong_and_open_modes_are_warned_of() {
        use std::os::unix::fs::PermissionsExt as _;
        let scene = Scene::new();
        fs::write(scene.file(), "plain:secret\n").unwrap();
        fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o644)).unwrap();
        let args = parse(&["-b", scene.file().to_str().unwrap(), "alice", "x"]).unwrap();
        let done = run_with(&args, true, |_| Err(io::ErrorKind::Other.into()), &mut "".as_bytes()).unwrap();
        assert!(done.warnings[0].contains("others can read"), "{done:?}");
        assert!(done.warnings[1].contains("passwords:1: a password in the clear"), "{done:?}");
    }

    #[test]
    fn debug_output_shows_no_password() {
        let args = parse(&["-b", "f", "u", "hunter2"]).unwrap();
        let shown = format!("{args:?} {:?}", args.password);
        assert!(shown.contains("Secret(..)") && !shown.contains("hunter2"), "{shown}");
    }
}
