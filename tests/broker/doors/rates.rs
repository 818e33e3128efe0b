//! Clients that exceed their rate, over real sockets: nothing is lost, and it takes its time.

use super::pki::Authority;
use super::websocket::{binary, frame, upgrade};
use super::wire::{self, CONNACK, SUBACK, connect, expect, publish, subscribe};
use crate::Running;
use crate::listeners::second_address;
use crate::needs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// After a burst of fifty, another fifty come at fifty per second. Clocks have a resolution of milliseconds
/// at worst.
const LEAST: Duration = Duration::from_millis(990);

/// Subscribes for the observation of a client, so that not even acknowledgements count.
fn subscriber(address: SocketAddr, filter: &str) -> TcpStream {
    let mut stream = wire::open(address);
    stream.write_all(&connect("subscriber")).expect("the broker reads");
    expect(&mut stream, &CONNACK);
    stream.write_all(&subscribe(filter)).expect("the broker reads");
    expect(&mut stream, &SUBACK);
    stream
}

/// This many messages of one publisher, in order.
fn messages(topic: &str, count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| publish(topic, format!("{number:03}").as_bytes())).collect()
}

/// A client sends a hundred messages and the end of its connection at once.
fn hundred_arrive_in_no_less_than_a_second(name: &str, rows: &str, send: impl Fn(SocketAddr, &[u8])) {
    for shards in [1, 2] {
        let rest = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\nclient_messages_per_second = 50\n{rows}\
             [runtime]\nshards = {shards}\n"
        );
        let running = Running::start(&format!("rates-{name}{shards}"), &rest);
        let paced = second_address(&running);
        let mut watch = subscriber(running.address, "#");
        let all = messages("t", 100);
        let began = Instant::now();
        send(paced, &all);
        expect(&mut watch, &all);
        assert!(began.elapsed() >= LEAST, "{:?}", began.elapsed());
        running.line("the limit", |line| {
            line.contains("client=\"hasty\"") && line.contains("limits.client_messages_per_second")
        });
        running.line("its end", |line| {
            line.contains("client disconnected") && line.contains("client=\"hasty\"")
        });
    }
}

#[test]
fn a_hasty_client_loses_nothing() {
    hundred_arrive_in_no_less_than_a_second("plain", "", |address, all| {
        let mut stream = wire::open(address);
        stream.write_all(&[&connect("hasty"), all].concat()).expect("a socket takes it");
        stream.shutdown(Shutdown::Write).expect("connected");
        expect(&mut stream, &CONNACK);
        assert_eq!(wire::rest(&mut stream), b"");
    });
}

#[test]
fn a_hasty_client_loses_nothing_over_tls() {
    let authority = Authority::new("rates");
    let rows = authority.server("server").rows();
    hundred_arrive_in_no_less_than_a_second("tls", &rows, |address, all| {
        let mut stream = authority.open(address);
        stream.write_all(&connect("hasty")).expect("the handshake succeeds");
        expect(&mut stream, &CONNACK);
        // The bytes that are decrypted at once wait above the layer.
        stream.write_all(all).expect("the broker reads");
        stream.conn.send_close_notify();
        stream.flush().expect("the broker reads");
        wire::rest(&mut stream.sock);
    });
}

#[test]
fn a_hasty_client_loses_nothing_over_websocket() {
    let rows = "protocol = \"websocket\"\nwebsocket_path = \"/mqtt\"\n";
    hundred_arrive_in_no_less_than_a_second("websocket", rows, |address, all| {
        let mut stream = wire::open(address);
        upgrade(&mut stream);
        stream.write_all(&binary(&connect("hasty"))).expect("the broker reads");
        super::websocket::expect(&mut stream, &CONNACK);
        let frames: Vec<u8> = all.chunks(100).flat_map(binary).collect();
        // This is a close frame of the client.
        let close = frame(8, &[3, 0xE8]);
        stream.write_all(&[frames, close].concat()).expect("the broker reads");
        wire::rest(&mut stream);
    });
}

#[test]
fn a_listener_takes_no_more_than_its_rate_from_all_its_clients_and_all_of_it_at_last() {
    let rest = "[[listeners]]\naddress = \"127.0.0.1:0\"\nmessages_per_second = 80\n\
                [runtime]\nshards = 2\n[sys]\ninterval_seconds = 1\n";
    let running = Running::start("rates-listener", rest);
    let paced = second_address(&running);
    let mut watch = subscriber(running.address, "#");
    let began = Instant::now();
    let clients: Vec<TcpStream> = (0..8)
        .map(|number| {
            let mut stream = wire::open(paced);
            let topic = format!("t{number}");
            stream
                .write_all(&[connect(&format!("client{number}")), messages(&topic, 20)].concat())
                .expect("a socket takes it");
            stream
        })
        .collect();
    let mut next = [0; 8];
    for _ in 0..160 {
        // Each message has nine bytes.
        let mut message = [0; 9];
        std::io::Read::read_exact(&mut watch, &mut message).expect("all of them come");
        let number = usize::from(message[5] - b'0');
        assert_eq!(message[..], publish(&format!("t{number}"), format!("{:03}", next[number]).as_bytes()));
        next[number] += 1;
    }
    assert_eq!(next, [20; 8]);
    assert!(began.elapsed() >= LEAST, "{:?}", began.elapsed());
    running.line("the limit", |line| line.contains("listeners.messages_per_second"));
    drop(clients);
    let mut figures = running.client("figures");
    figures.subscribe("$SYS/broker/limits/listener_rate", 0);
    loop {
        let count: u64 = String::from_utf8_lossy(&figures.message().payload).parse().expect("a number");
        if count > 0 {
            break;
        }
    }
}

#[test]
fn mosquitto_pub_above_its_rate_is_acknowledged_to_the_last_message() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let rest = "[limits]\nclient_messages_per_second = 50\n[runtime]\nshards = 2\n";
    for version in ["mqttv311", "mqttv5"] {
        let running = Running::start(&format!("rates-{version}"), rest);
        let mut watch = subscriber(running.address, "t");
        let began = Instant::now();
        let child = needs::command("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &running.address.port().to_string(), "-V", version])
            .args(["-i", "hasty", "-k", "5", "-q", "1", "-t", "t", "-l"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("it can be run");
        let lines: String = (0..100).map(|number| format!("{number:03}\n")).collect();
        child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
        expect(&mut watch, &messages("t", 100));
        assert!(began.elapsed() >= LEAST, "{:?}", began.elapsed());
        let output = child.wait_with_output().expect("our child");
        assert!(output.status.success(), "{output:?}");
    }
}
