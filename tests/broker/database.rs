//! Migration with everything that mosquitto has stored. A mosquitto gets retained messages, sessions, and
//! messages in each state of delivery. Its file is imported into midge's state directory, and its clients
//! continue from there.

use crate::needs;
use crate::running::{PATIENCE, Running, can_mount, free_port, midge, run, stderr};
use midge_kit::codec::{V5, V311, body_of, decode, frame, string};
use midge_kit::{open, read_packet};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A mosquitto that stores its state in a folder.
struct Mosquitto {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Mosquitto {
    fn start(program: &str, folder: &Path, more: &str) -> Mosquitto {
        let port = free_port();
        let file = folder.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\n{more}",
            folder.display()
        );
        std::fs::write(&file, text).expect("the target folder can be written");
        let log =
            std::fs::File::create(folder.join("mosquitto.log")).expect("the target folder can be written");
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("it was there just now");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mosquitto = Mosquitto { child, address, folder: folder.to_owned() };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let log = std::fs::read_to_string(folder.join("mosquitto.log")).unwrap_or_default();
            assert!(Instant::now() < until, "it does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        mosquitto
    }

    /// Stops it as an operator does. It writes its file then.
    fn stop(mut self) -> PathBuf {
        assert!(needs::kill("-TERM", self.child.id()));
        self.child.wait().expect("our child");
        self.folder.join("mosquitto.db")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The installed mosquitto, and a newer one if `MIDGE_MOSQUITTO_21` names it.
fn programs() -> Vec<(&'static str, String)> {
    let installed =
        needs::has("mosquitto").then(|| needs::command("mosquitto").get_program().display().to_string());
    let newer = std::env::var("MIDGE_MOSQUITTO_21").ok().filter(|program| is_there(program));
    if newer.is_none() {
        eprintln!("left out: a database of mosquitto 2.1: MIDGE_MOSQUITTO_21 names no program that runs");
    }
    let installed = installed.map(|program| ("installed", program));
    installed.into_iter().chain(newer.map(|program| ("newer", program))).collect()
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("-h").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("database-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// A client that acknowledges nothing by itself. Level 4 is 3.1.1, 5 is 5.0.
struct Raw {
    stream: TcpStream,
    level: u8,
}

/// A received PUBLISH.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    topic: String,
    payload: String,
    /// The flags DUP, QoS and RETAIN.
    flags: u8,
    id: u16,
    properties: Vec<u8>,
}

impl Raw {
    /// Connects with a kept session or a clean one. Returns whether there was a session.
    fn connect(address: SocketAddr, level: u8, id: &str, keeps: bool) -> (Raw, bool) {
        let mut raw = Raw { stream: open(address), level };
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend([level, u8::from(!keeps) << 1, 0, 0]);
        match (level, keeps) {
            (5, true) => body.extend([5, 0x11, 0, 0, 0x0E, 0x10]),
            (5, false) => body.push(0),
            _ => {}
        }
        body.extend(string(id));
        raw.send(0x10, &body);
        let (head, body) = raw.receive();
        assert_eq!((head, body[1]), (0x20, 0), "CONNACK for {id}");
        (raw, body[0] == 1)
    }

    fn send(&mut self, head: u8, body: &[u8]) {
        self.stream.write_all(&frame(head, body)).expect("the broker reads");
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let packet = read_packet(&mut self.stream).expect("a packet");
        let version = if self.level == 5 { V5 } else { V311 };
        decode(&packet, version).expect("a packet that a server may send");
        (packet[0], body_of(&packet).to_vec())
    }

    /// Subscribes. `options` are those of 5.0. Properties are only sent if the level has them.
    fn subscribe(&mut self, filter: &str, options: u8, properties: &[u8]) {
        let mut body = vec![0, 77];
        self.put_properties(&mut body, properties);
        body.extend(string(filter));
        body.push(options);
        self.send(0x82, &body);
        let (head, body) = self.receive();
        assert_eq!((head, body[body.len() - 1]), (0x90, options & 3), "SUBACK for {filter}");
    }

    fn put_properties(&self, body: &mut Vec<u8>, properties: &[u8]) {
        if self.level == 5 {
            body.push(u8::try_from(properties.len()).expect("short"));
            body.extend(properties);
        }
    }

    /// Sends a PUBLISH. Above QoS 0 it has a packet identifier.
    fn publish(&mut self, flags: u8, id: u16, topic: &str, payload: &str, properties: &[u8]) {
        let mut body = Vec::new();
        body.extend(string(topic));
        if flags & 6 != 0 {
            body.extend(id.to_be_bytes());
        }
        self.put_properties(&mut body, properties);
        body.extend(payload.as_bytes());
        self.send(0x30 | flags, &body);
    }

    /// Sends a PUBLISH and completes its exchange.
    fn publish_whole(&mut self, flags: u8, id: u16, topic: &str, payload: &str, properties: &[u8]) {
        self.publish(flags, id, topic, payload, properties);
        match flags >> 1 & 3 {
            0 => {}
            1 => self.expect(0x40, id),
            _ => {
                self.expect(0x50, id);
                self.send(0x62, &id.to_be_bytes());
                self.expect(0x70, id);
            }
        }
    }

    /// Expects this answer as the next packet.
    fn expect(&mut self, head: u8, id: u16) {
        let (got, body) = self.receive();
        assert_eq!((got, &body[..2]), (head, &id.to_be_bytes()[..]));
    }

    /// Expects a PUBLISH as the next packet.
    fn message(&mut self) -> Published {
        let (head, body) = self.receive();
        self.published(head, &body)
    }

    fn published(&self, head: u8, body: &[u8]) -> Published {
        assert_eq!(head >> 4, 3, "a PUBLISH, not {head:#x} {body:?}");
        let (topic, mut rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
        let mut id = 0;
        if head & 6 != 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = &[][..];
        if self.level == 5 {
            assert!(rest[0] < 128, "short properties");
            (properties, rest) = rest[1..].split_at(usize::from(rest[0]));
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Published {
            topic: text(topic),
            payload: text(rest),
            flags: head & 0x0F,
            id,
            properties: properties.to_vec(),
        }
    }

    /// Expects a PUBLISH as the next packet, and acknowledges it.
    fn take(&mut self) -> Published {
        let message = self.message();
        match message.flags >> 1 & 3 {
            0 => {}
            1 => self.send(0x40, &message.id.to_be_bytes()),
            _ => panic!("{message:?}"),
        }
        message
    }

    /// Receives this many messages and completes their exchanges, and that of one whose PUBREC was sent
    /// before.
    fn take_many(&mut self, count: usize, open: Option<u16>) -> Vec<Published> {
        let (mut messages, mut open) = (Vec::new(), Vec::from_iter(open));
        while messages.len() < count || !open.is_empty() {
            let (head, body) = self.receive();
            if head == 0x62 {
                open.retain(|id| id.to_be_bytes() != body[..2]);
                self.send(0x70, &body[..2]);
                continue;
            }
            let message = self.published(head, &body);
            match message.flags >> 1 & 3 {
                0 => {}
                1 => self.send(0x40, &message.id.to_be_bytes()),
                _ => {
                    self.send(0x50, &message.id.to_be_bytes());
                    open.push(message.id);
                }
            }
            messages.push(message);
        }
        messages
    }

    /// Expects that nothing comes before the answer to the last request.
    fn has_no_more(&mut self) {
        self.send(0xC0, &[]);
        assert_eq!(self.receive(), (0xD0, Vec::new()));
    }
}

fn words(message: &Published) -> (&str, &str, u8) {
    (&message.topic, &message.payload, message.flags)
}

/// The user property a=b, and a content type.
const PROPERTIES: [u8; 12] = *b"\x26\x00\x01a\x00\x01b\x03\x00\x02tx";
/// A subscription identifier.
const IDENTIFIER: [u8; 2] = [0x0B, 7];
const EXPIRES_IN_AN_HOUR: [u8; 5] = [0x02, 0, 0, 0x0E, 0x10];

/// Gives a broker everything that will be migrated.
fn fill(address: SocketAddr) {
    let (mut three, _) = Raw::connect(address, 4, "three", true);
    three.subscribe("a/#", 2, &[]);
    three.subscribe("/b", 1, &[]);
    let (mut five, _) = Raw::connect(address, 5, "five", true);
    // The options are QoS 1 and Retain As Published.
    five.subscribe("a/+", 0b1001, &IDENTIFIER);
    drop(five);
    let (mut clean, _) = Raw::connect(address, 4, "clean", false);
    clean.subscribe("a/#", 0, &[]);
    let (mut publisher, _) = Raw::connect(address, 5, "publisher", false);
    publisher.publish(1, 0, "r/0", "none", &[]);
    publisher.publish_whole(0b0011, 1, "r/1", "one", &[&PROPERTIES[..], &EXPIRES_IN_AN_HOUR].concat());
    publisher.publish_whole(0b0101, 2, "r/2", "two", &[]);
    publisher.publish_whole(0b0011, 3, "r/gone", "gone", &[]);
    publisher.publish_whole(0b0011, 4, "r/gone", "", &[]);
    // It is sent, and there is no answer.
    publisher.publish_whole(0b0010, 5, "a/1", "sent", &[]);
    assert_eq!(three.message().payload, "sent");
    // The end of its exchange is missing.
    publisher.publish_whole(0b0100, 6, "a/2", "received", &[]);
    let received = three.message();
    three.send(0x50, &received.id.to_be_bytes());
    three.expect(0x62, received.id);
    // It is sent, and there is no answer.
    publisher.publish_whole(0b0100, 7, "a/3", "sent exactly", &[]);
    assert_eq!(three.message().payload, "sent exactly");
    // These wait, because max_inflight_messages is 3.
    for number in 4..10_u16 {
        let (flags, topic) = (0b0010 << (number % 2), format!("a/{number}"));
        publisher.publish_whole(flags, 10 + number, &topic, "waits", &PROPERTIES);
    }
    publisher.publish_whole(0b0011, 30, "a/kept", "kept", &[]);
    drop(three);
    let (mut writer, _) = Raw::connect(address, 4, "writer", true);
    writer.publish(0b0100, 9, "a/held", "held", &[]);
    writer.expect(0x50, 9);
    // This comes after everything else, so that everything has arrived.
    publisher.has_no_more();
    clean.send(0xE0, &[]);
}

/// Checks what returning clients find.
fn check(midge: &Running) {
    let address = midge.address;
    let (mut three, is_present) = Raw::connect(address, 4, "three", true);
    assert!(is_present);
    // Messages that were in flight come first, with their old packet identifiers.
    three.expect(0x62, 2);
    let sent = three.message();
    assert_eq!((words(&sent), sent.id), (("a/1", "sent", 0b1010), 1));
    let exactly = three.message();
    assert_eq!((words(&exactly), exactly.id), (("a/3", "sent exactly", 0b1100), 3));
    three.send(0x40, &[0, 1]);
    three.send(0x70, &[0, 2]);
    three.send(0x50, &[0, 3]);
    let waiting = three.take_many(8, Some(3));
    let mut expected: Vec<(String, &str, u8)> =
        (4..10_u16).map(|number| (format!("a/{number}"), "waits", 0b0010 << (number % 2))).collect();
    // A subscription of 3.1.1 gets no RETAIN flag on live messages. The held message is delivered.
    expected.extend([("a/kept".to_owned(), "kept", 0b0010), ("a/held".to_owned(), "held", 0b0100)]);
    // midge keeps the order for each QoS: a QoS 2 message is sent when its identifier is durable.
    for flags in [0b0010, 0b0100] {
        let got: Vec<_> = waiting.iter().filter(|message| message.flags == flags).map(words).collect();
        let expected = expected.iter().filter(|(_, _, qos)| *qos == flags);
        let expected: Vec<_> = expected.map(|(topic, payload, _)| (&**topic, *payload, flags)).collect();
        assert_eq!(got, expected);
    }
    three.has_no_more();

    let (mut five, is_present) = Raw::connect(address, 5, "five", true);
    assert!(is_present);
    let expected = [("a/1", "sent"), ("a/2", "received"), ("a/3", "sent exactly")]
        .into_iter()
        .map(|(topic, payload)| (topic.to_owned(), payload, 0b0010, IDENTIFIER.to_vec()));
    let with_properties = || [&PROPERTIES[..], &IDENTIFIER].concat();
    let waiting = (4..10).map(|number| (format!("a/{number}"), "waits", 0b0010, with_properties()));
    let last = [("a/kept", "kept", 0b0011), ("a/held", "held", 0b0010)]
        .map(|(topic, payload, flags)| (topic.to_owned(), payload, flags, IDENTIFIER.to_vec()));
    for (topic, payload, flags, properties) in expected.chain(waiting).chain(last) {
        let message = five.take();
        assert_eq!(words(&message), (&*topic, payload, flags));
        assert_eq!(sorted(&message.properties), sorted(&properties), "{topic}");
    }
    five.has_no_more();

    // The client of the held message sends it again. It must not be delivered a second time.
    let (mut writer, is_present) = Raw::connect(address, 4, "writer", true);
    assert!(is_present);
    writer.publish_whole(0b1100, 9, "a/held", "held", &[]);
    assert_eq!(midge.client("checks").publish_acknowledged("/b", b"live", false), 0);
    assert_eq!(words(&three.take()), ("/b", "live", 0b0010));
    three.has_no_more();
    five.has_no_more();

    assert!(!Raw::connect(address, 4, "clean", true).1, "a clean session is not kept");
    let (mut newcomer, _) = Raw::connect(address, 5, "newcomer", false);
    newcomer.subscribe("+/+", 2, &[]);
    let mut retained = newcomer.take_many(4, None);
    retained.sort_by(|one, other| one.topic.cmp(&other.topic));
    let got: Vec<_> = retained.iter().map(words).collect();
    let kept = [("a/kept", "kept", 3), ("r/0", "none", 1), ("r/1", "one", 3), ("r/2", "two", 5)];
    assert_eq!(got, kept);
    let (expiry, rest): (Vec<u8>, Vec<u8>) = match retained[2].properties.iter().position(|&byte| byte == 2) {
        Some(0) => (retained[2].properties[1..5].to_vec(), retained[2].properties[5..].to_vec()),
        _ => panic!("{:?}", retained[2]),
    };
    assert_eq!(rest, PROPERTIES);
    let left = u32::from_be_bytes(expiry.try_into().expect("four bytes"));
    assert!((1..=3600).contains(&left), "{left}");
    newcomer.has_no_more();
}

/// The order of properties of different kinds has no meaning.
fn sorted(properties: &[u8]) -> Vec<u8> {
    let mut sorted = properties.to_vec();
    sorted.sort_unstable();
    sorted
}

fn import(database: &Path, more: &[&str]) -> Output {
    run(midge().arg("import-mosquitto").arg("--database").arg(database).args(more))
}

#[test]
fn all_that_mosquitto_keeps_moves_with_its_clients() {
    for (name, program) in programs() {
        let folder = folder(name);
        let mosquitto = Mosquitto::start(&program, &folder, "max_inflight_messages 3\n");
        fill(mosquitto.address);
        let database = mosquitto.stop();
        let state = folder.join("state");
        let rest = format!(
            "[runtime]\nshards = 2\n[limits]\ninflight_messages = 3\n[persistence]\ndirectory = {state:?}\n"
        );
        let file = crate::config_file(&format!("database-{name}"), &rest);
        let output = import(&database, &["-c", &file.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", stderr(&output));
        for line in [
            "taken: 4 retained messages",
            "taken: 3 sessions",
            "taken: 3 subscriptions",
            "taken: 17 queued messages",
            "taken: 2 messages on their way to clients, with their packet identifiers; of 1 more of QoS 2 only the",
            "taken: 1 messages of QoS 2 from clients that wait for PUBREL; they are passed on now, to 2 sessions",
            "not in the file: clean sessions; wills, which clients bring along; and shared subscriptions: their clients",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(said.contains(&format!("written: {}", state.display())), "{said}");
        assert!(!said.contains("left out"), "{said}");
        let verified = run(midge().arg("store").arg("verify").arg(&state));
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

        // The directory has a state now.
        let again = import(&database, &["--into", &state.display().to_string()]);
        assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
        assert!(stderr(&again).contains("there is a state in it already"), "{}", stderr(&again));

        let midge = Running::start(&format!("database-{name}"), &rest);
        midge.line("what is there", |line| line.contains("Restored 3 sessions with 3 subscriptions"));
        let used = import(&database, &["--into", &state.display().to_string()]);
        assert!(stderr(&used).contains("another midge, or one of its tools, uses it"), "{}", stderr(&used));
        check(&midge);
    }
}

#[test]
fn what_can_not_be_taken_is_refused_in_words_and_leaves_no_state() {
    let folder = folder("refused");
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, bytes).expect("the target folder can be written");
        file
    };
    let real = include_bytes!("../fuzz/corpus/mosquitto/real");
    for (name, database, words) in [
        ("cut", file("cut.db", &real[..1000]), "it ends within a chunk"),
        ("none", file("none.db", b"[[listeners]]"), "this is no database of mosquitto"),
        ("sqlite", file("sqlite.db", b"SQLite format 3\0more"), "plugin persist_sqlite"),
        ("missing", folder.join("missing.db"), "can't read"),
        ("device", "/dev/null".into(), "it is not a regular file"),
    ] {
        let state = folder.join(name);
        let output = import(&database, &["--into", &state.display().to_string()]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(stderr(&output).contains(words), "{name}: {}", stderr(&output));
        assert!(!state.exists(), "{name}");
    }
    let nothing = crate::config_file("database-nothing", "");
    let output = import(&file("good.db", real), &["-c", &nothing.display().to_string()]);
    assert!(stderr(&output).contains("--into names a directory"), "{}", stderr(&output));
}

#[test]
fn the_state_directory_is_that_of_the_mosquitto_conf_or_of_the_user() {
    let folder = folder("places");
    let database = folder.join("mosquitto.db");
    std::fs::write(&database, include_bytes!("../fuzz/corpus/mosquitto/real-2.1"))
        .expect("the target folder can be written");
    let conf = folder.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n",
        free_port(),
        folder.display()
    );
    std::fs::write(&conf, text).expect("the target folder can be written");
    let output = import(&database, &["--mosquitto-conf", &conf.display().to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut command = midge();
    command.arg("--mosquitto-conf").arg(&conf);
    let running = Running::start_command(command).expect("it starts");
    // These sessions do not expire. The other one's hour may have passed since the file was made.
    running.line("what is there", |line| line.contains("Restored ") && line.contains(" sessions with "));
    assert!(Raw::connect(running.address, 4, "three", true).1);
    assert!(Raw::connect(running.address, 4, "writer", true).1);

    let mut command = midge();
    command.arg("import-mosquitto").arg("--database").arg(&database);
    let output = run(command.env("STATE_DIRECTORY", folder.join("of-systemd")));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(folder.join("of-systemd/checkpoint.redb").is_file());
}

/// A chunk of a database in mosquitto's format.
fn chunk(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u32::try_from(body.len()).expect("short").to_be_bytes(), body].concat()
}

#[test]
fn a_full_disk_leaves_no_state_and_the_next_try_takes_all() {
    let folder = folder("full");
    let disk = folder.join("disk");
    std::fs::create_dir_all(&disk).expect("the target folder can be written");
    if !can_mount(&disk) {
        return;
    }
    let mut bytes = include_bytes!("../fuzz/corpus/mosquitto/real").to_vec();
    for number in 0..100_u64 {
        let (id, topic, payload) = (1000 + number, format!("large/{number:02}"), vec![7; 100_000]);
        let head = [&id.to_le_bytes()[..], &[0; 8], &100_000_u32.to_be_bytes(), &[0; 6], &[0, 8, 0, 0, 1, 1]];
        bytes.extend(chunk(2, &[&head.concat(), topic.as_bytes(), &payload].concat()));
        bytes.extend(chunk(4, &id.to_le_bytes()));
    }
    let database = folder.join("large.db");
    std::fs::write(&database, bytes).expect("the target folder can be written");
    let import = format!(
        "{} import-mosquitto --database {} --into {}/state",
        env!("CARGO_BIN_EXE_midge"),
        database.display(),
        disk.display()
    );
    let script = format!(
        "mount -t tmpfs -o size=40m tmpfs {0} && head -c 34m /dev/zero > {0}/filler || exit 9\n\
         {import}; echo first $?; ls {0}/state\nrm {0}/filler\n{import}; echo second $?; ls {0}/state",
        disk.display()
    );
    let output = run(Command::new("unshare").args(["-rm", "sh", "-c", &script]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (first, second) =
        said.split_once("second 0\n").unwrap_or_else(|| panic!("{said}{}", stderr(&output)));
    assert!(
        first.contains("first 1\n") && !first.split("first").nth(1).unwrap_or("").contains("checkpoint"),
        "{said}"
    );
    // These are the hundred, and those of the real file that have not expired since it was made.
    let taken =
        first.split("taken: ").find_map(|line| line.split_once(" retained messages")?.0.parse::<u32>().ok());
    assert!(taken >= Some(100) && second.contains("checkpoint.redb"), "{said}");
}
