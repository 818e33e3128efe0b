//! Clients that stop, read slowly, write slowly, or vanish.

use crate::Running;
use crate::doors::pki::{Authority, TlsStream, tls_half};
use crate::doors::websocket::{LISTENER, binary, upgrade};
use crate::listeners::second_address;
use crate::running::PATIENCE;
use midge_kit::codec::{self, Encode, V311};
use midge_kit::{expect, open};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];

/// A CONNECT of 3.1.1 with a clean session and a will with the payload `gone` to `wills`.
fn connect(id: &str, keep_alive_seconds: u8) -> Vec<u8> {
    let will = codec::will("wills", "gone");
    codec::connect(V311, id).keep_alive(keep_alive_seconds.into()).will(will).encode(V311)
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    codec::subscribe(1).filter(filter, qos).encode(V311)
}

/// A PUBLISH. If it needs a packet identifier, it is 1, and so is that of the first subscriber's copy.
fn publish(topic: &str, qos: u8, payload: &[u8]) -> Vec<u8> {
    codec::publish(topic, payload).qos(qos, 1).encode(V311)
}

fn client<S: Read + Write>(mut stream: S, id: &str, keep_alive_seconds: u8) -> S {
    stream.write_all(&connect(id, keep_alive_seconds)).expect("the broker reads");
    expect(&mut stream, &CONNACK);
    stream
}

fn subscriber<S: Read + Write>(stream: S, id: &str, keep_alive_seconds: u8, filter: &str, qos: u8) -> S {
    let mut stream = client(stream, id, keep_alive_seconds);
    stream.write_all(&subscribe(filter, qos)).expect("the broker reads");
    expect(&mut stream, &[0x90, 3, 0, 1, qos]);
    stream
}

/// Waits until everything that the client has sent is handled.
fn ping(stream: &mut (impl Read + Write)) {
    stream.write_all(&PINGREQ).expect("the broker reads");
    expect(stream, &PINGRESP);
}

/// Sends eight megabytes, more than sockets and a backlog hold together.
fn flood(publisher: &mut TcpStream, topic: &str) {
    let message = publish(topic, 0, &[b'x'; 10_000]);
    for _ in 0..20 {
        for _ in 0..40 {
            publisher.write_all(&message).expect("the broker reads");
        }
        ping(publisher);
    }
}

/// A broker with a second listener, and the address of that.
fn with_listener(name: &str, rows: &str) -> (Running, SocketAddr) {
    let rest = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{rows}[runtime]\nshards = 2\n");
    let running = Running::start(name, &rest);
    let address = second_address(&running);
    (running, address)
}

fn is_told_of(running: &Running, id: &str, what: &str) {
    let client = format!("client=\"{id}\"");
    let until = Instant::now() + PATIENCE;
    while !running.lines().iter().any(|line| line.contains(what) && line.contains(&client)) {
        assert!(Instant::now() < until, "no line says of {id}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_gone(running: &Running, id: &str) -> bool {
    let client = format!("client=\"{id}\"");
    running.lines().iter().any(|line| line.contains("client disconnected") && line.contains(&client))
}

/// MQTT in WebSocket frames. Each read takes a part of one frame.
struct WebSocketStream {
    stream: TcpStream,
    left: usize,
}

impl WebSocketStream {
    fn open(address: SocketAddr) -> WebSocketStream {
        let mut stream = open(address);
        upgrade(&mut stream);
        WebSocketStream { stream, left: 0 }
    }
}

impl Read for WebSocketStream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            assert_eq!(head[0], 0x82, "a binary frame");
            let more = match head[1] {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            let mut length = [0; 8];
            self.stream.read_exact(&mut length[8 - more..])?;
            self.left = if more == 0 { head[1].into() } else { u64::from_be_bytes(length) as usize };
        }
        let len = into.len().min(self.left);
        let len = self.stream.read(&mut into[..len])?;
        self.left -= len;
        Ok(len)
    }
}

impl Write for WebSocketStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write_all(&binary(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The clients stop until the broker drops their messages, and then go. Their wills must come, and nothing
/// may be left.
fn stuck_clients_that_go_are_noticed<S: Read + Write>(
    running: &Running,
    open_one: impl Fn() -> S,
    go: impl Fn(S) -> Option<S>,
) {
    const CLIENTS: usize = 5;
    let mut watcher = running.client("watcher");
    watcher.subscribe("wills", 1);
    let mut publisher = client(open(running.address), "publisher", 0);
    let before = running.descriptors();
    let name = |at| format!("stuck{at}");
    let stuck: Vec<S> = (0..CLIENTS).map(|at| subscriber(open_one(), &name(at), 0, "flood", 0)).collect();
    flood(&mut publisher, "flood");
    for at in 0..CLIENTS {
        is_told_of(running, &name(at), "QoS 0 messages dropped");
    }
    // Half-open connections are closed at the end.
    let half_open: Vec<S> = stuck.into_iter().filter_map(go).collect();
    for _ in 0..CLIENTS {
        assert_eq!(watcher.message().payload, b"gone");
    }
    let until = Instant::now() + PATIENCE;
    while running.descriptors() > before {
        assert!(Instant::now() < until, "{} descriptors stay", running.descriptors() - before);
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(half_open);
}

#[test]
fn stuck_client_that_closes_is_noticed_and_its_will_comes() {
    for shards in [1, 2] {
        let rest = format!("[runtime]\nshards = {shards}\n");
        let running = Running::start(&format!("stuck-close{shards}"), &rest);
        stuck_clients_that_go_are_noticed(&running, || open(running.address), |_| None);
    }
}

#[test]
fn stuck_client_that_closes_is_noticed_over_tls() {
    let authority = Authority::new("stuck-tls");
    let (running, address) = with_listener("stuck-tls", &authority.server("server").rows());
    let config = authority.trusting();
    let open_one = || TlsStream::new(tls_half(&config), open(address));
    stuck_clients_that_go_are_noticed(&running, open_one, |_| None);
}

#[test]
fn stuck_client_that_closes_is_noticed_over_websocket() {
    let (running, address) = with_listener("stuck-websocket", LISTENER);
    stuck_clients_that_go_are_noticed(&running, || WebSocketStream::open(address), |_| None);
}

/// The client ends its sending side, and takes nothing of what waits for it.
#[test]
fn stuck_client_that_closes_its_side_alone_is_noticed() {
    let running = Running::start("stuck-half", "[runtime]\nshards = 2\n");
    let go = |stream: TcpStream| {
        stream.shutdown(Shutdown::Write).expect("connected");
        Some(stream)
    };
    stuck_clients_that_go_are_noticed(&running, || open(running.address), go);
}

/// A client with a slow link: it reads a little at a time and pings in time, until it has `bytes` bytes.
fn read_slowly(stream: &mut (impl Read + Write), bytes: usize, pause: Duration) -> Vec<u8> {
    let mut got = Vec::new();
    let mut piece = vec![0; 20_000];
    let mut pinged = Instant::now();
    while got.len() < bytes {
        let want = piece.len().min(bytes - got.len());
        let len = stream.read(&mut piece[..want]).expect("it stays connected");
        assert!(len > 0, "closed after {} of {bytes} bytes", got.len());
        got.extend(&piece[..len]);
        if pinged.elapsed() > Duration::from_millis(500) {
            stream.write_all(&PINGREQ).expect("it stays connected");
            pinged = Instant::now();
        }
        std::thread::sleep(pause);
    }
    got
}

/// The waiting bytes take longer to read than the keep alive lasts.
fn slow_reader_that_pings_is_not_thrown_out<S: Read + Write>(running: &Running, stream: S) {
    let mut slow = subscriber(stream, "slow", 6, "flood", 0);
    let mut publisher = client(open(running.address), "publisher", 0);
    flood(&mut publisher, "flood");
    is_told_of(running, "slow", "QoS 0 messages dropped");
    // One and a half times the keep alive is nine seconds.
    let began = Instant::now();
    read_slowly(&mut slow, 2_500_000, Duration::from_millis(90));
    assert!(began.elapsed() > Duration::from_secs(10));
    assert!(!is_gone(running, "slow"));
    drop(slow);
    is_told_of(running, "slow", "QoS 0 messages were dropped while the client did not read");
}

#[test]
fn slow_reader_that_pings_in_time_is_not_thrown_out() {
    let running = Running::start("slow-reader", "[runtime]\nshards = 1\n");
    slow_reader_that_pings_is_not_thrown_out(&running, open(running.address));
}

#[test]
fn slow_reader_that_pings_in_time_is_not_thrown_out_of_tls() {
    let authority = Authority::new("slow-tls");
    let (running, address) = with_listener("slow-tls", &authority.server("server").rows());
    let stream = TlsStream::new(tls_half(&authority.trusting()), open(address));
    slow_reader_that_pings_is_not_thrown_out(&running, stream);
}

#[test]
fn slow_reader_that_pings_in_time_is_not_thrown_out_of_websocket() {
    let (running, address) = with_listener("slow-websocket", LISTENER);
    slow_reader_that_pings_is_not_thrown_out(&running, WebSocketStream::open(address));
}

#[test]
fn message_larger_than_a_backlog_arrives_on_a_slow_link_once() {
    let rest = "[limits]\npacket_bytes = 8000000\n[runtime]\nshards = 1\n";
    let running = Running::start("slow-large", rest);
    let payload: Vec<u8> = (0..6_000_000_u32).map(|at| ((at * 31) >> 3) as u8).collect();
    std::thread::scope(|scope| {
        for qos in [0, 1] {
            let (running, payload) = (&running, &payload);
            scope.spawn(move || {
                let topic = format!("firmware/{qos}");
                let id = format!("slow{qos}");
                let mut slow = subscriber(open(running.address), &id, 6, &topic, qos);
                let mut publisher = client(open(running.address), &format!("publisher{qos}"), 0);
                let message = publish(&topic, qos, payload);
                publisher.write_all(&message).expect("the broker reads");
                // Its pings are answered after the message.
                let got = read_slowly(&mut slow, message.len(), Duration::from_millis(40));
                assert!(got == message);
                if qos == 1 {
                    slow.write_all(&[0x40, 2, 0, 1]).expect("it stays connected");
                }
                slow.write_all(&publish("after", 0, b"")).expect("it stays connected");
                slow.write_all(&subscribe("nothing", 0)).expect("it stays connected");
                let mut rest = Vec::new();
                while !rest.ends_with(&[0x90, 3, 0, 1, 0]) {
                    let mut byte = [0];
                    slow.read_exact(&mut byte).expect("it stays connected");
                    rest.push(byte[0]);
                }
                rest.truncate(rest.len() - 5);
                assert!(rest.chunks(2).all(|answer| answer == PINGRESP), "{} bytes more", rest.len());
            });
        }
    });
}

/// The client reads nothing, and requests answers without end.
#[test]
fn pings_of_a_client_that_does_not_read_cost_a_bound() {
    let running = Running::start("ping-flood", "[runtime]\nshards = 1\n");
    let mut stuck = subscriber(open(running.address), "stuck", 0, "flood", 0);
    let mut publisher = client(open(running.address), "publisher", 0);
    flood(&mut publisher, "flood");
    is_told_of(&running, "stuck", "QoS 0 messages dropped");
    let before = running.memory_kib();
    stuck.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket option");
    let pings = PINGREQ.repeat(50_000);
    let is_stopped = |line: &String| {
        line.contains("reading stopped, the client asks for more than it reads") && line.contains("\"stuck\"")
    };
    let (mut sent, until) = (0, Instant::now() + PATIENCE);
    loop {
        match stuck.write(&pings) {
            Ok(len) => sent += len,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                // The broker may have been delayed on a busy machine.
                if running.lines().iter().any(is_stopped) {
                    break;
                }
                assert!(Instant::now() < until, "no line says that it reads no more");
            }
        }
        assert!(sent < 100_000_000, "it reads on and on");
    }
    let grown = running.memory_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
    // Others are served at the same time.
    ping(&mut publisher);
}

/// Sends one piece after the other, with pauses.
fn write_slowly(stream: &mut TcpStream, bytes: &[u8], piece: usize, pause: Duration) {
    for piece in bytes.chunks(piece) {
        stream.write_all(piece).expect("it stays connected");
        std::thread::sleep(pause);
    }
}

#[test]
fn upload_that_takes_longer_than_a_keep_alive_arrives() {
    let authority = Authority::new("slow-upload");
    let (running, secured) = with_listener("slow-upload", &authority.server("server").rows());
    let mut watcher = running.client("watcher");
    watcher.subscribe("upload/#", 1);
    let payload = vec![b'x'; 25_000];
    let mut plain = client(open(running.address), "plain", 2);
    write_slowly(&mut plain, &publish("upload/plain", 0, &payload), 500, Duration::from_millis(100));
    assert!(watcher.message().payload == payload);
    ping(&mut plain);
    // A TLS record can't be used before it is complete. Here the first one takes longer than the keep alive.
    let mut tls = client(TlsStream::new(tls_half(&authority.trusting()), open(secured)), "tls", 2);
    let mut records = Vec::new();
    tls.conn.writer().write_all(&publish("upload/tls", 0, &payload)).expect("there is room");
    while tls.conn.wants_write() {
        tls.conn.write_tls(&mut records).expect("a vector takes it");
    }
    write_slowly(&mut tls.sock, &records, 400, Duration::from_millis(100));
    assert!(watcher.message().payload == payload);
    ping(&mut tls);
}

#[test]
fn packet_that_comes_a_byte_at_a_time_is_ended_at_the_keep_alive() {
    let running = Running::start("loris", "[runtime]\nshards = 1\n");
    let mut slow = client(open(running.address), "loris", 2);
    let packet = publish("upload", 0, &[b'x'; 10_000]);
    let until = Instant::now() + PATIENCE;
    for byte in packet {
        if slow.write_all(&[byte]).is_err() || is_gone(&running, "loris") {
            break;
        }
        assert!(Instant::now() < until, "it stays connected");
        std::thread::sleep(Duration::from_millis(200));
    }
    is_told_of(&running, "loris", "limits.upload_bytes_per_second_min");
}
