//! Persistence as an operator sees it: the state directory, damage, a full disk, the tools.

use crate::client::Client;
use crate::needs;
use crate::running::{PATIENCE, Running, can_mount, config_file, midge, run, stderr};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A directory that does not exist yet.
fn fresh(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{name}"));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn options(directory: &Path, shards: usize) -> String {
    format!(
        "[runtime]\nshards = {shards}\n[persistence]\ndirectory = \"{}\"\nsegment_bytes = 1048576\n",
        directory.display()
    )
}

fn start(name: &str, directory: &Path, shards: usize) -> Running {
    Running::start(&format!("store-{name}"), &options(directory, shards))
}

fn kill(mut broker: Running) {
    broker.kill();
}

fn store(action: &str, directory: &Path) -> Output {
    run(midge().args(["store", action]).arg(directory))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Leaves an offline session with a subscription to `kept/#`, a message in its queue, and a retained message.
fn leave_something(broker: &Running) {
    let mut away = Client::connect(broker.address, "away", false, 3600);
    away.subscribe("kept/#", 1);
    away.disconnect();
    let mut publisher = broker.client("publisher");
    assert_eq!(publisher.publish_acknowledged("kept/queued", b"one", false), 0);
    assert_eq!(publisher.publish_acknowledged("kept/retained", b"two", true), 0);
}

fn expect_something(broker: &Running) {
    let mut away = Client::connect(broker.address, "away", false, 3600);
    let topics = [away.message().topic, away.message().topic];
    assert_eq!(topics, ["kept/queued", "kept/retained"]);
    away.disconnect();
    let mut other = broker.client("other");
    other.subscribe("kept/retained", 0);
    let message = other.message();
    assert!(message.retain && message.payload == b"two");
}

#[test]
fn tools_whose_reader_has_left_do_their_work_and_end_in_silence() {
    let directory = fresh("unread");
    let broker = start("unread", &directory, 2);
    leave_something(&broker);
    kill(broker);
    let conf = directory.with_extension("conf");
    fs::write(&conf, "listener 1883\n").expect("the target folder can be written");
    let users = directory.with_extension("users");
    // The file may be from an earlier run.
    let _ = fs::remove_file(&users);
    let config = config_file("store-unread-check", "");
    let directory = directory.to_str().expect("UTF-8");
    let [conf, users, config] = [&conf, &users, &config].map(|file| file.to_str().expect("UTF-8"));
    for arguments in [
        &["store", "dump", directory][..],
        &["store", "verify", directory],
        &["store", "repair", directory],
        &["check-config", config],
        &["import-mosquitto", conf],
        &["passwd", "-c", "-b", users, "ada", "secret"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, output) = std::io::pipe().expect("a pipe");
        drop(reader);
        let errors = Command::new(env!("CARGO_BIN_EXE_midge")).args(arguments).stdout(output).output();
        let errors = errors.expect("midge is built");
        assert_eq!(errors.status.code(), Some(0), "{arguments:?}: {errors:?}");
        assert!(!stderr(&errors).contains("panicked") && !stderr(&errors).contains("pipe"), "{errors:?}");
    }
    // The password was written, even though nobody reads the warnings.
    assert!(fs::read_to_string(users).expect("a file").starts_with("ada:"));
    let (reader, output) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = midge().args(["check-config", "/not/there.toml"]).stderr(output).status();
    assert_eq!(status.expect("midge is built").code(), Some(2));
}

#[test]
fn sigusr1_brings_all_that_is_kept_into_the_checkpoint() {
    let directory = fresh("usr1");
    let broker = start("usr1", &directory, 2);
    leave_something(&broker);
    let written = |broker: &Running| {
        broker
            .lines()
            .iter()
            .filter(|line| line.contains("the checkpoint that was asked for is written"))
            .count()
    };
    broker.signal("-USR1");
    broker.line("the checkpoint", |line| line.contains("the checkpoint that was asked for is written"));
    // It is sent twice, with and without news. Each is answered.
    for (count, has_news) in [(2, true), (3, false)] {
        if has_news {
            let mut publisher = broker.client("publisher");
            // No client has subscribed to it.
            assert_eq!(publisher.publish_acknowledged("new/later", b"three", true), 0x10);
        }
        broker.signal("-USR1");
        let until = Instant::now() + PATIENCE;
        while written(&broker) < count {
            assert!(Instant::now() < until, "no answer {count}: {:#?}", broker.lines());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    kill(broker);
    // The log is removed, so only the checkpoint is left.
    for entry in fs::read_dir(directory.join("log")).expect("the log's folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("ours");
    }
    let dump = said(&store("dump", &directory));
    for part in ["client=\"away\"", "kept/queued", "kept/retained", "new/later"] {
        assert!(dump.contains(part), "{part} in {dump}");
    }
    let broker = start("usr1", &directory, 2);
    expect_something(&broker);
}

#[test]
fn mosquittos_tools_see_what_was_queued_and_retained_before_a_kill() {
    if !needs::has("mosquitto_pub") || !needs::has("mosquitto_sub") {
        return;
    }
    let directory = fresh("tools");
    let tool = |name: &str, broker: &Running, arguments: &[&str]| {
        let port = broker.address.port().to_string();
        let output = needs::command(name).args(["-p", &port]).args(arguments).output();
        String::from_utf8_lossy(&output.expect("it can be run").stdout).into_owned()
    };
    let broker = start("tools", &directory, 2);
    tool("mosquitto_sub", &broker, &["-i", "meter", "-c", "-q", "1", "-t", "cmd/meter", "-E"]);
    tool("mosquitto_pub", &broker, &["-q", "1", "-t", "cmd/meter", "-m", "read"]);
    tool("mosquitto_pub", &broker, &["-q", "1", "-r", "-t", "state/meter", "-m", "ok"]);
    kill(broker);
    let broker = start("tools", &directory, 3);
    let arguments = ["-i", "meter", "-c", "-q", "1", "-t", "cmd/meter", "-C", "1", "-W", "60"];
    assert_eq!(tool("mosquitto_sub", &broker, &arguments), "read\n");
    let retained = tool("mosquitto_sub", &broker, &["-t", "state/#", "-C", "1", "-W", "60", "-F", "%r %p"]);
    assert_eq!(retained, "1 ok\n");
}

#[test]
fn a_clean_stop_leaves_a_checkpoint_and_no_log() {
    let directory = fresh("stop");
    let mut broker = start("stop", &directory, 2);
    leave_something(&broker);
    broker.signal("-TERM");
    assert_eq!(broker.wait(), 0);
    assert_eq!(fs::read_dir(directory.join("log")).unwrap().count(), 0);
    let broker = start("stop", &directory, 1);
    broker.line("what was restored", |line| {
        line.contains("Restored 1 sessions with 1 subscriptions and 2 messages")
    });
    expect_something(&broker);
}

#[test]
fn only_one_broker_uses_a_directory_and_nobody_else_may_read_it() {
    let directory = fresh("lock");
    let broker = start("lock", &directory, 1);
    leave_something(&broker);
    let second = config_file(
        "lock-second",
        &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", options(&directory, 1)),
    );
    let output = run(midge().arg("--config").arg(second));
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("another midge") && told.contains("store-lock"), "{told}");
    let verify = store("verify", &directory);
    assert_eq!(verify.status.code(), Some(1), "a running broker's state is not looked at");

    let mut open = vec![directory];
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn nothing_is_kept_when_that_is_asked_for() {
    let directory = fresh("ephemeral");
    let file = config_file(
        "ephemeral",
        &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", options(&directory, 1)),
    );
    let mut command = midge();
    command.arg("--ephemeral").arg("--config").arg(file);
    let broker = Running::start_command(command).expect("it starts");
    broker.line("what is kept", |line| line.contains("Nothing is kept over a restart"));
    leave_something(&broker);
    kill(broker);
    assert!(!directory.exists());
}

/// [MQTT5-3.1.2-8]: a stop ends connections without DISCONNECT from their clients.
#[test]
fn wills_of_a_stop_reach_the_queues_of_other_shards() {
    let directory = fresh("wills");
    let mut broker = start("wills", &directory, 3);
    let mut away = Client::connect(broker.address, "away", false, 3600);
    away.subscribe("will/#", 1);
    away.disconnect();
    let clients: Vec<Client> = (0..20)
        .map(|n| Client::connect_with_will(broker.address, &format!("c{n}"), &format!("will/{n}")))
        .collect();
    broker.signal("-TERM");
    assert_eq!(broker.wait(), 0);
    drop(clients);
    let broker = start("wills", &directory, 1);
    let mut away = Client::connect(broker.address, "away", false, 3600);
    let mut topics: Vec<String> = (0..20).map(|_| away.message().topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 20);
}

/// The newest file of the log that is not empty.
fn written_segment(directory: &Path) -> PathBuf {
    let segments = fs::read_dir(directory.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut written: Vec<PathBuf> =
        segments.filter(|path| fs::read(path).unwrap()[4096..8192].iter().any(|&byte| byte != 0)).collect();
    written.sort();
    written.pop().expect("a segment")
}

/// A segment of the only shard in the first start.
fn first_epochs_segment(directory: &Path, number: u64) -> PathBuf {
    directory.join("log").join(format!("0000000001-000-{number:010}.log"))
}

#[test]
fn damage_is_set_aside_and_told_and_the_broker_starts_with_the_rest() {
    let directory = fresh("damage");
    let broker = start("damage", &directory, 1);
    leave_something(&broker);
    kill(broker);
    // The damaged batch is the first one, the session. Later ones were written when it was on the disk.
    let segment = written_segment(&directory);
    let file = fs::File::options().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 40).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 4096 + 40).unwrap();
    let verify = store("verify", &directory);
    assert_eq!(verify.status.code(), Some(1), "{}", said(&verify));

    let broker = start("damage", &directory, 1);
    broker
        .line("the damage", |line| line.contains("Damage") && line.contains(".log") && line.contains("lost"));
    assert_eq!(fs::read_dir(directory.join("damaged")).unwrap().count(), 1);
    let mut other = broker.client("other");
    other.subscribe("kept/retained", 0);
    assert_eq!(other.message().payload, b"two", "what is not damaged is there");
    kill(broker);
    let broker = start("damage", &directory, 1);
    assert!(!broker.lines().iter().any(|line| line.contains("Damage")), "told once");
}

#[test]
fn the_tools_verify_dump_and_repair() {
    let directory = fresh("dump");
    let broker = start("dump", &directory, 2);
    leave_something(&broker);
    kill(broker);
    let verify = store("verify", &directory);
    assert_eq!(verify.status.code(), Some(0), "{}", said(&verify));
    let dump = said(&store("dump", &directory));
    for what in ["client=\"away\"", "filter=\"kept/#\"", "topic=\"kept/queued\"", "topic=\"kept/retained\""] {
        assert!(dump.contains(what), "{what} in {dump}");
    }
    assert!(!dump.contains("one") && !dump.contains("two"), "no payloads: {dump}");
    assert_eq!(store("repair", &directory).status.code(), Some(0));
    assert_eq!(fs::read_dir(directory.join("log")).unwrap().count(), 0);
    assert_eq!(said(&store("dump", &directory)), dump);
    assert_eq!(store("verify", &fresh("none")).status.code(), Some(1));
    expect_something(&start("dump", &directory, 1));
}

#[test]
fn a_log_that_waits_for_the_checkpoint_is_told_once_and_so_is_its_end() {
    let directory = fresh("behind");
    let rest = format!("{}log_bytes = 4194304\n[sys]\ninterval_seconds = 1\n", options(&directory, 1));
    let broker = Running::start("store-behind", &rest);
    let mut publisher = broker.client("publisher");
    // The checkpoint can't get past a missing segment. The next message does not fit into the current
    // segment, so the log looks by name for the one that it writes to.
    assert_eq!(publisher.publish_acknowledged("r/first", &[7; 900_000], true), 0x10);
    let first = first_epochs_segment(&directory, 0);
    let hidden = first.with_extension("hidden");
    fs::rename(&first, &hidden).unwrap();
    // Segments are counted when they are full, and what comes in one batch may be in one that is not.
    let is_told = || broker.lines().iter().any(|line| line.contains("until the checkpoint has caught up"));
    for number in 0..100 {
        publisher.publish(&format!("r/{number}"), &[7; 900_000], true);
        if is_told() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let line = broker.line("the wait", |line| line.contains("until the checkpoint has caught up"));
    assert!(line.contains("persistence.log_bytes") && line.contains("4194304"), "{line}");
    fs::rename(&hidden, &first).unwrap();
    assert_eq!(publisher.publish_acknowledged("r/end", b"x", true), 0x10);
    broker.line("the end of the wait", |line| line.contains("the log goes on"));
    let lines = broker.lines();
    let told = lines.iter().take_while(|line| !line.contains("the log goes on"));
    assert_eq!(told.filter(|line| line.contains("until the checkpoint has caught up")).count(), 1);
    let mut watch = broker.client("watch");
    watch.subscribe("$SYS/broker/store/log/waits", 0);
    while watch.message().payload == b"0" {}
}

/// A separate disk, as a file system in memory, with a file that fills it until the test removes the file.
#[test]
fn a_full_disk_refuses_what_must_be_kept_until_there_is_room() {
    let directory = fresh("full");
    fs::create_dir_all(&directory).unwrap();
    if !can_mount(&directory) {
        return;
    }
    let text = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{}", options(&directory.join("state"), 1));
    let file = config_file("store-full", &text);
    let script = format!(
        "mount -t tmpfs -o size=24m tmpfs {0} || exit 1\n\
         head -c 18m /dev/zero > {0}/filler\n\
         (while [ ! -e {0}.go ]; do sleep 0.05; done; rm {0}/filler) &\n\
         exec {1} --config {2}",
        directory.display(),
        env!("CARGO_BIN_EXE_midge"),
        file.display()
    );
    let go = directory.with_extension("go");
    let _ = fs::remove_file(&go);
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]);
    let broker = Running::start_command(command).expect("it starts");
    let mut publisher = broker.client("publisher");
    let payload = vec![7; 100_000];
    let mut stored = 0;
    let refused = loop {
        let reason = publisher.publish_acknowledged(&format!("r/{stored}"), &payload, true);
        if reason != 0 && reason != 0x10 {
            break reason;
        }
        stored += 1;
        assert!(stored < 1000, "the disk never filled");
    };
    assert_eq!(refused, 0x97);
    broker.line("the full disk", |line| line.contains("disk is full"));
    // Everything that needs no disk continues.
    let mut subscriber = broker.client("subscriber");
    subscriber.subscribe("live", 1);
    assert_eq!(publisher.publish_acknowledged("live", b"x", false), 0);
    assert_eq!(subscriber.message().payload, b"x");
    fs::write(&go, "").unwrap();
    broker.line("the room", |line| line.contains("has room again"));
    let until = Instant::now() + PATIENCE;
    while !matches!(publisher.publish_acknowledged("r/1", &payload, true), 0 | 0x10) {
        assert!(Instant::now() < until, "still refused");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = fs::remove_file(&go);
}
