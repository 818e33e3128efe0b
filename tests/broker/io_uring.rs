//! A machine that refuses io_uring: midge ends at once and says what must be changed.

use crate::needs;
use crate::running::PATIENCE;
use crate::{Running, config_file, stderr};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Refuses one system call to itself, by number and errno, and becomes the program that follows. The calls of
/// io_uring have the same numbers on every processor, so the filter need not check it.
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

/// Runs midge with a refused call. `None` if that is not possible.
fn run_refused(call: i32, errno: i32) -> Option<Output> {
    let file = config_file(
        &format!("uring-{call}-{errno}"),
        "[runtime]\nshards = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n",
    );
    if !needs::has("python3") {
        return None;
    }
    let mut command = needs::command("python3");
    command.args(["-c", REFUSE, &call.to_string(), &errno.to_string()]);
    finish(command.arg(env!("CARGO_BIN_EXE_midge")).arg("--config").arg(file), "a seccomp filter of its own")
}

/// The output of a command that ends soon. `None` if the environment that it needs is not available.
fn finish(command: &mut Command, what: &str) -> Option<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it can be run");
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
        needs::skips::note(what, stderr(&output).trim_end());
        return None;
    }
    Some(output)
}

#[test]
fn refused_io_uring_ends_the_start_with_what_to_do() {
    // If io_uring is refused anyway, the words are about that.
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

/// Becomes midge with a configuration file, without the right to exceed the limit of locked memory
/// (CAP_IPC_LOCK), and with this limit in bytes. If the user number is not 0, it runs as that user. Files
/// that this user could not open are opened before.
const AS_USER: &str = r#"
import ctypes, os, resource, sys
bytes, user, program, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
opened = [os.open(name, os.O_RDONLY) for name in (program, file)]
for descriptor in opened:
    os.set_inheritable(descriptor, True)
libc = ctypes.CDLL(None, use_errno=True)
drop_from_bounding_set, ipc_lock = 24, 14
if libc.prctl(drop_from_bounding_set, ipc_lock, 0, 0, 0) and os.geteuid() == 0:
    print("no capabilities:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(77)
if user != 0 and os.geteuid() != 0:
    print("only root can become a user that has no other programs", file=sys.stderr)
    sys.exit(77)
if user != 0:
    os.fchmod(opened[1], 0o644)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (bytes, bytes))
os.execv("/proc/self/fd/%d" % opened[0], [program, "--config", "/proc/self/fd/%d" % opened[1]])
"#;

/// Runs midge as a user with this limit of locked memory.
fn as_user(user: u32, locked_bytes: u64, shards: usize) -> Command {
    let text = format!("[runtime]\nshards = {shards}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    let mut command = needs::command("python3");
    command.args(["-c", AS_USER, &locked_bytes.to_string(), &user.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_midge")).arg(config_file(&format!("memlock-{user}-{shards}"), &text));
    command
}

const USER: &str = "a user of its own";

/// The usual limit of a user.
const USUAL_BYTES: u64 = 8 << 20;

#[test]
fn too_little_locked_memory_is_refused_with_what_is_needed() {
    if !needs::has("python3") {
        return;
    }
    // This is less than one shard needs.
    let Some(output) = finish(&mut as_user(0, 262_144, 128), USER) else { return };
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["RLIMIT_MEMLOCK) is 262144 bytes", "128 shards need ", "LimitMEMLOCK=", "ulimit -l "] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("Listening") && !said.contains("os error 12"), "{said}");
}

#[test]
fn a_user_runs_128_shards_with_the_usual_limit_and_again_right_after_a_kill() {
    if !needs::has("python3") {
        return;
    }
    // The user has no other programs, and no other run of the tests.
    let user = 100_000_000 + std::process::id();
    // If this is not possible, it prints so.
    if finish(&mut as_user(user, 0, 1), USER).is_none() {
        return;
    }
    for round in 0..2 {
        let mut broker = Running::start_command(as_user(user, USUAL_BYTES, 128)).expect("it starts");
        let mut client = broker.client(&format!("round-{round}"));
        assert!(client.publish_acknowledged("a/b", b"here", false) < 0x80);
        // By then the previous line is there too.
        broker.line("the bound", |line| line.contains("connections at a time"));
        let rings_count = broker.lines().iter().any(|line| line.contains("entries instead of 4096"));
        if round == 1 && rings_count {
            // This kernel counts rings, and the first broker has left no room for the rings of a second.
            let output = finish(&mut as_user(user, USUAL_BYTES, 16), USER).expect("it was there before");
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            for words in
                ["RLIMIT_MEMLOCK) is 8388608 bytes", "16 shards need ", "other programs of this user"]
            {
                assert!(said.contains(words), "{words} in {said}");
            }
            assert!(!said.contains("Listening"), "{said}");
        }
        broker.kill();
    }
}
