//! A machine that refuses io_uring: midge ends at once and says what has to be changed.

use crate::running::PATIENCE;
use crate::{Running, config_file, stderr};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Refuses one system call to itself, by number and errno, and becomes the program that follows. The calls
/// of io_uring have the same numbers on every processor, so the filter need not look at it.
const REFUSE: &str = r#"
import ctypes, os, struct, sys
call, errno, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
load, equal, give = 0x20, 0x15, 0x06
allowed, refused = 0x7FFF0000, 0x00050000 | errno
rules = b"".join(struct.pack("HBBI", *rule) for rule in [
    (load, 0, 0, 0), (equal, 0, 1, call), (give, 0, 0, refused), (give, 0, 0, allowed)])
held = ctypes.create_string_buffer(rules, len(rules))
filter = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(held)))
libc = ctypes.CDLL(None, use_errno=True)
no_new_privileges, seccomp, by_filter = 38, 22, 2
if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, by_filter, filter, 0, 0):
    print("no seccomp:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(77)
os.execv(program[0], program)
"#;

const SETUP: i32 = 425;
const ENTER: i32 = 426;
const REGISTER: i32 = 427;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
const NO_SECCOMP: i32 = 77;

/// Runs midge where a call is refused; none where that can't be arranged.
fn run_refused(call: i32, errno: i32) -> Option<Output> {
    let file = config_file(
        &format!("uring-{call}-{errno}"),
        "[runtime]\nshards = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n",
    );
    let mut command = Command::new("python3");
    command.args(["-c", REFUSE, &call.to_string(), &errno.to_string()]);
    finish(command.arg(env!("CARGO_BIN_EXE_midge")).arg("--config").arg(file))
}

/// What a command says that ends soon; none where python3, or what it is to arrange, is not there.
fn finish(command: &mut Command) -> Option<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: no python3: {error}");
            return None;
        }
    };
    let until = Instant::now() + PATIENCE;
    while child.try_wait().expect("our child").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it runs on: {}", stderr(&child.wait_with_output().expect("our child")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("our child");
    if output.status.code() == Some(NO_SECCOMP) {
        eprintln!("skipped: {}", stderr(&output));
        return None;
    }
    Some(output)
}

#[test]
fn refused_io_uring_ends_the_start_with_what_to_do() {
    // Where it is refused anyway, the words are about that.
    drop(Running::start("uring-works", "[runtime]\nshards = 1\n"));
    for (call, errno, words) in [
        (SETUP, EPERM, &["io_uring", "seccomp", "Allow io_uring_setup", "--security-opt seccomp="][..]),
        (ENTER, EPERM, &["io_uring", "seccomp", "io_uring_enter"]),
        (REGISTER, EPERM, &["io_uring", "seccomp", "io_uring_register"]),
        (SETUP, ENOSYS, &["io_uring", "seccomp", "Linux 6.1 or later"]),
    ] {
        let Some(output) = run_refused(call, errno) else { return };
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "{word} in {said}");
        }
        assert!(!said.contains("Listening") && !said.contains("panicked"), "{said}");
    }
}

/// Becomes the program that follows, without the right to lock more memory than is allowed (CAP_IPC_LOCK), and with
/// so many bytes of that.
const LOCK_LITTLE: &str = r#"
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
drop_from_bounding_set, ipc_lock = 24, 14
if libc.prctl(drop_from_bounding_set, ipc_lock, 0, 0, 0) and os.geteuid() == 0:
    print("no capabilities:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(77)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[test]
fn too_little_locked_memory_for_all_shards_is_named_with_what_they_need() {
    // Enough for one shard, and far from enough for all.
    let file = config_file("memlock", "[runtime]\nshards = 24\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    let mut command = Command::new("python3");
    command.args(["-c", LOCK_LITTLE, "2097152"]).arg(env!("CARGO_BIN_EXE_midge")).arg("--config").arg(file);
    let Some(output) = finish(&mut command) else { return };
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["RLIMIT_MEMLOCK) is 2097152 bytes", "24 shards need ", "LimitMEMLOCK=", "runtime.shards"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("Listening") && !said.contains("os error 12"), "{said}");
}
