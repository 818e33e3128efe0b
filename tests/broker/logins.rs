//! Which clients may connect and what they may do, with the clients and files of mosquitto.

use crate::Running;
use crate::needs;
use midge::auth::hash::{Argon2Cost, Scheme};
use midge::auth::password_edit::{Create, delete_user, set_password};
use midge_kit::codec::{self, EVERY_VERSION, Encode, V5, Version};
use midge_kit::open;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

pub(super) fn file(name: &str, text: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).expect("the target folder can be written");
    file
}

pub(super) fn passwords(name: &str, users: &[(&str, &str)]) -> PathBuf {
    let path = file(name, "");
    for (user, password) in users {
        let scheme = Scheme::Argon2id(Argon2Cost::DEFAULT);
        set_password(&path, user, password.as_bytes(), scheme, Create::No).expect("a line is added");
    }
    path
}

pub(super) fn has_mosquitto() -> bool {
    needs::has("mosquitto_pub") && needs::has("mosquitto_sub")
}

pub(super) fn publish(running: &Running, version: &str, login: &[&str], topic: &str) -> Output {
    needs::command("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-V", version, "-q", "1"])
        .args(["-t", topic, "-m", "hello"])
        .args(login)
        .output()
        .expect("it was there just now")
}

#[test]
fn password_file_lets_in_who_is_in_it() {
    if !has_mosquitto() {
        return;
    }
    let path = passwords("logins-passwords", &[("alice", "wonder"), ("bob", "builder")]);
    for (shards, anonymous) in [(1, false), (2, true)] {
        let rest = format!(
            "allow_anonymous = {anonymous}\n[runtime]\nshards = {shards}\n[auth]\npassword_file = {path:?}\n"
        );
        let running = Running::start(&format!("passwords{shards}"), &rest);
        for version in ["31", "311", "5"] {
            let good = |login: &[&str]| publish(&running, version, login, "a").status.success();
            assert!(good(&["-u", "alice", "-P", "wonder"]) && good(&["-u", "bob", "-P", "builder"]));
            assert!(!good(&["-u", "alice", "-P", "builder"]), "another's password");
            assert!(!good(&["-u", "carol", "-P", "wonder"]), "an unknown user");
            assert!(!good(&["-u", "alice"]), "no password");
            assert_eq!(good(&[]), anonymous, "no user name");
        }
        running.line("the refusal", |line| line.contains("unknown user or wrong password"));
        assert!(!running.lines().iter().any(|line| line.contains("wonder") || line.contains("builder")));
    }
}

/// Connects as this user with this password. Returns the return or reason code.
fn connect(running: &Running, version: Version, user: &str, password: Option<&str>) -> u8 {
    let connect = codec::connect(version, "nameless").user(user);
    let connect = match password {
        Some(password) => connect.password(password),
        None => connect,
    };
    let mut stream = open(running.address);
    stream.write_all(&connect.encode(version)).expect("it reads");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("CONNACK");
    connack[3]
}

/// A missing password is not an empty one.
#[test]
fn user_with_the_hash_of_an_empty_password_does_not_log_in_without_one() {
    let path = file("logins-empty", "");
    let cost = Argon2Cost::DEFAULT;
    let schemes = [
        ("argon", Scheme::Argon2id(cost)),
        ("pbkdf", Scheme::Pbkdf2Sha512 { iterations: 101 }),
        ("sha", Scheme::Sha512),
        ("scram", Scheme::ScramSha256 { iterations: 4096 }),
    ];
    for (user, scheme) in schemes {
        set_password(&path, user, b"", scheme, Create::No).expect("a line is added");
    }
    // With delays, the sixth refusal would take long.
    let rest = format!(
        "allow_anonymous = true\n[auth]\npassword_file = {path:?}\n[gate]\nfailures_before_delay = 1000\n"
    );
    let running = Running::start("logins-empty", &rest);
    for version in EVERY_VERSION {
        let refused = if version == V5 { 0x87 } else { 5 };
        for (user, _) in schemes {
            assert_eq!(connect(&running, version, user, None), refused, "{user} in {version:?}");
            assert_eq!(connect(&running, version, user, Some(" ")), refused, "{user} in {version:?}");
            assert_eq!(connect(&running, version, user, Some("")), 0, "{user} in {version:?}");
        }
        assert_eq!(connect(&running, version, "stranger", None), refused);
        assert_eq!(connect(&running, version, "stranger", Some("")), refused);
    }
}

#[test]
fn users_whom_passwd_has_written_for_scram_come_in_by_plain_passwords_too() {
    if !has_mosquitto() {
        return;
    }
    let path = file("logins-scram", "");
    let write = |user: &str, password: &str| {
        let mut passwd = crate::midge();
        let output = crate::run(passwd.args(["passwd", "--scram", "-b"]).arg(&path).args([user, password]));
        assert!(output.status.success(), "{}", crate::stderr(&output));
    };
    write("alice", "wonder");
    let text = std::fs::read_to_string(&path).expect("the file is there");
    assert!(text.starts_with("alice:$scram-sha-256$4096$"), "{text}");
    let rest = format!("allow_anonymous = false\n[auth]\npassword_file = {path:?}\n");
    let running = Running::start("scram", &rest);
    let good = |login: &[&str]| publish(&running, "5", login, "a").status.success();
    assert!(good(&["-u", "alice", "-P", "wonder"]));
    assert!(!good(&["-u", "alice", "-P", "wander"]) && !good(&["-u", "bob", "-P", "builder"]));
    write("bob", "builder");
    running.hang_up();
    running.line("the reload", |line| line.contains("password files and access lists are read again"));
    assert!(good(&["-u", "bob", "-P", "builder"]));
}

#[test]
fn listener_beyond_loopback_is_closed_to_anonymous_clients_until_they_are_allowed() {
    if !has_mosquitto() {
        return;
    }
    for (rest, open) in [("", false), ("[auth]\nallow_anonymous = true\n", true)] {
        let running = Running::start_on("0.0.0.0:0", &format!("beyond{open}"), rest);
        assert_eq!(publish(&running, "5", &[], "a").status.success(), open);
        if !open {
            running.line("the way to open it", |line| line.contains("allow_anonymous = true in [auth]"));
        }
    }
}

/// The first `count` messages that a mosquitto subscriber gets while others publish.
fn heard(running: &Running, count: usize, publishing: impl FnOnce()) -> String {
    // A retained message shows that it has subscribed.
    let ready = publish(running, "5", &["-u", "writer", "-P", "w", "-r"], "open/ready");
    assert!(ready.status.success(), "{ready:?}");
    let port = running.address.port().to_string();
    let mut subscriber = needs::command("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-i", "listener", "-q", "1", "-v", "-t", "#"])
        .args(["-W", "60", "-C", &(count + 1).to_string(), "-u", "reader", "-P", "r"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it comes with mosquitto_pub");
    let mut output = BufReader::new(subscriber.stdout.take().expect("piped"));
    let mut lines = String::new();
    output.read_line(&mut lines).expect("text");
    assert_eq!(lines, "open/ready hello\n");
    publishing();
    lines.clear();
    output.read_to_string(&mut lines).expect("text");
    subscriber.wait().expect("it ends by itself");
    lines
}

#[test]
fn access_list_of_mosquitto_holds_and_is_read_again_on_sighup() {
    if !has_mosquitto() {
        return;
    }
    let users = passwords("logins-acl-passwords", &[("reader", "r"), ("writer", "w")]);
    let both = "user reader\ntopic read open/#\ntopic read later/#\nuser writer\ntopic write #\n";
    let acl = file("logins-acl", both);
    let rest = format!("[runtime]\nshards = 2\n[auth]\npassword_file = {users:?}\n[acl]\nfile = {acl:?}\n");
    let running = Running::start("acl", &rest);
    let write = |topic: &str| {
        assert!(publish(&running, "5", &["-u", "writer", "-P", "w"], topic).status.success(), "{topic}");
    };
    let got = heard(&running, 2, || ["open/a", "closed/a", "later/a"].into_iter().for_each(write));
    assert_eq!(got, "open/a hello\nlater/a hello\n");
    // A 5.0 publisher without permission is told so.
    let refused = publish(&running, "5", &["-u", "reader", "-P", "r"], "open/a");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Not authorized"), "{refused:?}");

    std::fs::write(&acl, "user reader\ntopic read open/#\nuser writer\ntopic write #\n").expect("written");
    running.hang_up();
    running.line("the reload", |line| line.contains("access lists are read again"));
    let got = heard(&running, 1, || ["later/b", "open/b"].into_iter().for_each(write));
    assert_eq!(got, "open/b hello\n");

    std::fs::write(&acl, "user reader\ntopic rread open/#\n").expect("written");
    running.hang_up();
    running.line("the mistake", |line| line.contains("nothing is changed") && line.contains("logins-acl:2"));
    let got = heard(&running, 1, || write("open/c"));
    assert_eq!(got, "open/c hello\n", "the list that was good holds");
}

#[test]
fn user_who_is_taken_out_of_the_password_file_is_let_go_on_sighup_and_others_stay() {
    if !has_mosquitto() {
        return;
    }
    let users = [("alice", "wonder"), ("bob", "builder"), ("carol", "singer")];
    let path = passwords("logins-revoked", &users);
    let rest = format!("allow_anonymous = false\n[runtime]\nshards = 2\n[auth]\npassword_file = {path:?}\n");
    let running = Running::start("revoked", &rest);
    let port = running.address.port().to_string();
    let mut listeners = users.map(|(user, password)| {
        let listener = needs::command("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", user, "-u", user, "-P", password])
            .args(["-t", "news", "-C", "1", "-W", "60"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it comes with mosquitto_pub");
        running.line("the listener", |line| line.contains("client connected") && line.contains(user));
        listener
    });
    delete_user(&path, "bob").expect("he is there");
    let scheme = Scheme::Argon2id(Argon2Cost::DEFAULT);
    set_password(&path, "carol", b"dancer", scheme, Create::No).expect("she is there");
    running.hang_up();
    for (user, password) in &users[1..] {
        running.line("who is let go", |line| {
            line.contains("line in the password file has changed or is gone (0x87)") && line.contains(user)
        });
        assert!(!publish(&running, "5", &["-u", user, "-P", password], "news").status.success());
    }
    assert!(!running.lines().iter().any(|line| line.contains("another, or gone") && line.contains("alice")));
    // Her SUBSCRIBE may still be on its way.
    let [alice, bob, carol] = &mut listeners;
    while alice.try_wait().expect("our child").is_none() {
        assert!(publish(&running, "5", &["-u", "alice", "-P", "wonder"], "news").status.success());
    }
    for listener in [bob, carol] {
        listener.kill().expect("our child");
        listener.wait().expect("our child");
    }
    let got = listeners.map(|listener| listener.wait_with_output().expect("it has ended").stdout);
    assert_eq!(got, [b"hello\n".to_vec(), vec![], vec![]]);
}

#[test]
fn file_that_cannot_be_used_is_named_at_the_start() {
    let wrong = file("logins-wrong", "alice:secret\n");
    let config = crate::config_file("logins-wrong-config", &format!("[auth]\npassword_file = {wrong:?}\n"));
    for arguments in [["check-config"].as_slice(), &["serve", "--config"]] {
        let output = crate::run(crate::midge().args(arguments).arg(&config));
        let said = crate::stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("logins-wrong:1") && said.contains("midge passwd"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
