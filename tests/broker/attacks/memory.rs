//! Floods of memory, in a small cgroup.

use crate::client::Client;
use crate::doors::pki::Authority;
use crate::listeners::second_address;
use crate::running::{PATIENCE, Running, config_file, midge};
use midge_kit::codec::{self, Encode, V5, frame, string};
use midge_kit::open;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// The memory that the broker may take. Half of it is for what clients make it keep.
const ALLOWED: u64 = 512 * MIB;

/// A memory cgroup for the test, if the system allows one.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates the cgroup. The error says why there can be none.
    fn new(name: &str) -> Result<Cgroup, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = own.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path));
        let group = group.ok_or("this process is in no memory cgroup of version 1")?;
        let name = format!("midge-{name}-{}", std::process::id());
        let folder = PathBuf::from(format!("/sys/fs/cgroup/memory{group}")).join(name);
        let why = |error| format!("{}: {error}", folder.display());
        std::fs::create_dir(&folder).map_err(why)?;
        let cgroup = Cgroup(folder.clone());
        std::fs::write(folder.join("memory.limit_in_bytes"), ALLOWED.to_string()).map_err(why)?;
        // The shell will enter the cgroup in the same way.
        std::fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).map_err(why)?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is empty only after the kernel has noticed the end of the process.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The cgroup can only be removed after the broker has ended.
struct Small {
    running: Running,
    _cgroup: Option<Cgroup>,
}

/// A broker with little memory: in a cgroup if possible, otherwise limited by its own bound only.
fn start(name: &str, rest: &str) -> Small {
    let cgroup = Cgroup::new(name);
    let bound = match &cgroup {
        Ok(_) => String::new(),
        Err(why) => {
            eprintln!("no memory cgroup can be made here: {why}; limits.memory_bytes stands in for it");
            format!("memory_bytes = {}\n", ALLOWED / 2)
        }
    };
    let cgroup = cgroup.ok();
    let text =
        format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[runtime]\nshards = 2\n[limits]\n{bound}{rest}");
    let file = config_file(name, &text);
    let mut command = midge();
    command.arg("--config").arg(&file);
    if let Some(cgroup) = &cgroup {
        let mut shell = Command::new("sh");
        let join = "echo $$ > \"$1\" && shift && exec \"$@\"";
        shell.args(["-c", join, "sh"]).arg(cgroup.0.join("cgroup.procs")).arg(command.get_program());
        shell.args(command.get_args());
        command = shell;
    }
    let running = Running::start_command(command).expect("it starts");
    if cgroup.is_some() {
        running.line("the memory", |line| {
            line.contains("At most 256 MiB of memory") && line.contains("the cgroup allows 512 MiB")
        });
    }
    Small { running, _cgroup: cgroup }
}

/// A 5.0 client whose bytes the test writes itself. `None` if it is not accepted.
fn raw(address: SocketAddr, id: &str, properties: &[u8], will: &[u8]) -> Option<TcpStream> {
    let mut stream = open(address);
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    body.extend([if will.is_empty() { 0x02 } else { 0x06 }, 0, 0]);
    body.push(u8::try_from(properties.len()).expect("short"));
    body.extend(properties);
    body.extend(string(id));
    body.extend(will);
    stream.write_all(&frame(0x10, &body)).ok()?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut rest = vec![0; usize::from(head[1]) - 2];
    stream.read_exact(&mut rest).ok()?;
    (head[3] == 0).then_some(stream)
}

fn subscribe(stream: &mut TcpStream, filter: &str, qos: u8) {
    stream.write_all(&codec::subscribe(1).filter(filter, qos).encode(V5)).expect("the broker reads");
    let mut suback = [0; 6];
    stream.read_exact(&mut suback).expect("SUBACK");
    assert_eq!(suback[0], 0x90);
}

/// Checks that the broker serves the connected clients, and has kept to its memory.
fn check(running: &Running, witness: &mut Client, flood: &str) {
    for _ in 0..10 {
        assert_eq!(witness.publish_acknowledged("witness", b"well", false), 0, "{flood}");
        assert_eq!(witness.message().payload, b"well", "{flood}");
    }
    let memory = running.memory_kib() / 1024;
    assert!(memory < ALLOWED / MIB, "{flood}: {memory} MiB");
    println!("{flood}: {memory} MiB");
}

/// Checks that new clients are accepted again after the flood.
fn recovered(running: &Running, flood: &str) {
    let until = Instant::now() + PATIENCE;
    while raw(running.address, "stranger", b"", b"").is_none() {
        assert!(Instant::now() < until, "{flood}: nobody gets in any more");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn witness(running: &Running) -> Client {
    let mut witness = running.client("witness");
    witness.subscribe("witness", 1);
    witness
}

#[test]
fn messages_that_nobody_acknowledges_are_bounded_in_all() {
    let small =
        start("memory-inflight", "inflight_bytes = 2147483647\nsession_queue_policy = \"drop_oldest\"\n");
    let running = &small.running;
    let mut witness = witness(running);
    let mut hoarders: Vec<TcpStream> = (0..3)
        .map(|number| {
            let mut stream = raw(running.address, &format!("hoarder{number}"), b"", b"").expect("it is in");
            subscribe(&mut stream, &format!("hoard/{number}"), 1);
            let mut reader = stream.try_clone().expect("a descriptor");
            std::thread::spawn(move || while reader.read(&mut [0; 65536]).is_ok_and(|read| read > 0) {});
            stream
        })
        .collect();
    let payload = vec![b'x'; 1_000_000];
    // Without a bound this would be 600 MB.
    for round in 0..200 {
        for number in 0..hoarders.len() {
            let code = witness.publish_acknowledged(&format!("hoard/{number}"), &payload, false);
            assert_eq!(code, 0, "the publisher is not to blame, in round {round}");
        }
    }
    check(running, &mut witness, "in flight");
    hoarders.drain(..).for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    recovered(running, "in flight");
}

#[test]
fn half_packets_are_read_no_further_when_memory_is_short() {
    let small = start("memory-partial", "");
    let running = &small.running;
    let mut witness = witness(running);
    let mut body = string("large");
    body.push(0);
    body.resize(1_990_000, b'x');
    let half = &frame(0x30, &body)[..1_900_000];
    let is_told = || running.lines().iter().any(|line| line.contains("limits.memory_bytes"));
    // This is 570 MB in total. Bytes that are not read wait in the sockets of the senders, which soon give
    // up.
    let mut senders = Vec::new();
    for number in 0..300 {
        let Some(mut stream) = raw(running.address, &format!("half{number}"), b"", b"") else { continue };
        // A busy broker needs time. A broker that is short of memory stops reading.
        let patience = if is_told() { Duration::from_millis(200) } else { Duration::from_secs(2) };
        stream.set_write_timeout(Some(patience)).expect("a socket option");
        let _ = stream.write_all(half);
        senders.push(stream);
    }
    assert!(senders.len() > 100, "{}", senders.len());
    check(running, &mut witness, "half packets");
    running.line("the bound", |line| line.contains("limits.memory_bytes"));
    drop(senders);
    recovered(running, "half packets");
}

/// A first TLS message of this length, in records of 16,000 bytes.
fn hello(bytes: usize) -> Vec<u8> {
    let mut message = vec![1, 0];
    message.extend(u16::try_from(bytes - 4).expect("a message of less than 64 KiB").to_be_bytes());
    message.extend([3, 3]);
    message.resize(bytes, b'x');
    let record = |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(16_000).flat_map(record).collect()
}

#[test]
fn half_handshakes_are_bounded_each_and_counted_in_all() {
    let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    let rows = Authority::new("memory-hello").server("server").rows();
    let rest = format!(
        "handshakes_per_address = 10000\nconnect_seconds = 600\n{listener}{rows}[sys]\ninterval_seconds = 1\n"
    );
    let small = start("memory-hello", &rest);
    let running = &small.running;
    let mut witness = witness(running);
    let secured = second_address(running);
    let (long, short) = (hello(60_000), hello(16_000));
    // There are 3,500 of each. The long ones would take half a gigabyte.
    for half in [&long[..long.len() - 1], &short[..short.len() - 1]] {
        let mut senders = Vec::new();
        for _ in 0..3500 {
            let mut stream = TcpStream::connect(secured).expect("it listens");
            stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
            // Connections with long ones are closed.
            let _ = stream.write_all(half);
            senders.push(stream);
        }
        check(running, &mut witness, "half handshakes");
        if half.len() < 20_000 {
            witness.subscribe("$SYS/broker/memory/packets", 0);
            let until = Instant::now() + PATIENCE;
            loop {
                let message = witness.message();
                let held: u64 = String::from_utf8_lossy(&message.payload).parse().expect("a number");
                if message.topic == "$SYS/broker/memory/packets" && held > 3500 * 2 * 16_000 {
                    break;
                }
                assert!(Instant::now() < until, "the account says {held} bytes");
            }
        }
    }
    running.line("the long ones", |line| line.contains("the handshake takes too many bytes"));
}

#[test]
fn backlogs_of_clients_that_do_not_read_are_bounded_in_all() {
    let small = start("memory-backlog", "backlog_bytes = 33554432\n");
    let running = &small.running;
    let mut witness = witness(running);
    let readers: Vec<TcpStream> = (0..24)
        .map(|number| {
            let mut stream = raw(running.address, &format!("stuck{number}"), b"", b"").expect("it is in");
            subscribe(&mut stream, "firehose", 0);
            stream
        })
        .collect();
    let payload = vec![b'x'; 500_000];
    // Each would get 30 MB. The sockets take some of it.
    for _ in 0..60 {
        witness.publish("firehose", &payload, false);
        assert_eq!(witness.publish_acknowledged("nobody", b"", false), 0x10, "the turn has passed");
    }
    check(running, &mut witness, "backlogs");
    drop(readers);
    recovered(running, "backlogs");
}

#[test]
fn filters_wills_and_aliases_are_bounded_in_all() {
    let small =
        start("memory-texts", "subscription_bytes_per_client = 100000000\nconnect_bytes_unnamed = 131072\n");
    let running = &small.running;
    let mut witness = witness(running);
    // Filters: up to 60 MB for each of ten clients, on two shards.
    let mut filters = Vec::new();
    let mut refused = 0;
    for number in 0..10 {
        let Some(mut stream) = raw(running.address, &format!("filters{number}"), b"", b"") else { break };
        for chunk in 0..100 {
            let mut body = vec![0, 1, 0];
            for at in 0..10 {
                body.extend(string(format!("{number}/{chunk}/{at}/+/{}", "x".repeat(60_000))));
                body.push(0);
            }
            stream.write_all(&frame(0x82, &body)).expect("the broker reads");
            let mut suback = [0; 15];
            stream.read_exact(&mut suback).expect("SUBACK");
            refused += suback[5..].iter().filter(|&&code| code == 0x97).count();
        }
        filters.push(stream);
    }
    assert!(refused > 0);
    check(running, &mut witness, "filters");
    drop(filters);
    recovered(running, "filters");
    // Wills that wait for their delay: 120 KB each, from 4,000 clients that have gone.
    let will = {
        let mut will = b"\x05\x18\x00\x00\x0e\x10".to_vec();
        will.extend(string(format!("w/{}", "x".repeat(60_000))));
        will.extend(60_000u16.to_be_bytes());
        will.resize(will.len() + 60_000, b'x');
        will
    };
    let expiry = [0x11, 0, 0, 0x0e, 0x10];
    let in_all =
        (0..4000).filter(|n| raw(running.address, &format!("will{n}"), &expiry, &will).is_some()).count();
    assert!((500..3500).contains(&in_all), "{in_all}");
    check(running, &mut witness, "wills");
}

#[test]
fn topic_aliases_are_bounded_in_all() {
    let (small, mut binders) = (start("memory-aliases", ""), Vec::new());
    let running = &small.running;
    let mut witness = witness(running);
    // Each has 600 KB. Without a bound this would be 360 MB.
    for number in 0..600 {
        let Some(mut stream) = raw(running.address, &format!("alias{number}"), b"", b"") else { continue };
        for alias in 1..=10u8 {
            let mut body = string("x".repeat(60_000));
            body.extend([3, 0x23, 0, alias]);
            if stream.write_all(&frame(0x30, &body)).is_err() {
                // It held the most.
                break;
            }
        }
        binders.push(stream);
    }
    check(running, &mut witness, "aliases");
    drop(binders);
    recovered(running, "aliases");
}
