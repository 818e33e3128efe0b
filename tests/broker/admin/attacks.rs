//! Hostile clients of the admin interface: they are refused, they cost a bound, and others are served meanwhile.

use super::{
    READER, WRITER, ask_tcp, connect_tcp, connect_unix, exchange, get_unix, metric, request, start_tcp,
    start_unix, token_file, wait_for,
};
use crate::running::PATIENCE;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn without_a_known_token_nothing_is_told_and_the_log_names_the_address_and_no_token() {
    let (running, address) = start_tcp("admin-tokens");
    let host = format!("Host: {address}\r\n");
    let wrong = "wrong-0123456789";
    for (headers, words) in [
        (host.clone(), "a token of admin.token_file is needed"),
        (format!("{host}Authorization: Bearer {wrong}\r\n"), "not one of admin.token_file"),
        (format!("{host}Authorization: Basic {READER}\r\n"), "a token of admin.token_file is needed"),
    ] {
        for path in ["/healthz", "/metrics", "/nowhere"] {
            let said = exchange(connect_tcp(address), &request("GET", path, &headers));
            assert_eq!(said.status, 401, "{said:?}");
            assert_eq!(said.header("www-authenticate"), Some("Bearer realm=\"midge\""), "{said:?}");
            assert!(said.body.contains(words), "{said:?}");
        }
    }
    assert_eq!(ask_tcp(address, "GET", "/healthz", READER).status, 200);
    let line = running.line("the refusal", |line| line.contains("without a known token"));
    assert!(line.contains("127.0.0.1:"), "{line}");
    let text = ask_tcp(address, "GET", "/metrics", READER).body;
    assert_eq!(metric(&text, "midge_admin_logins_failed_total"), 9.0);
    let log = running.lines().concat();
    assert!(!log.contains(wrong) && !log.contains(READER), "{log}");
}

#[test]
fn tokens_are_read_again_at_sighup_and_a_wrong_file_changes_nothing() {
    let (running, address) = start_tcp("admin-reload");
    let file = token_file("admin-reload");
    let status = |token: &str| ask_tcp(address, "GET", "/healthz", token).status;
    std::fs::write(&file, "new:read:short\n").expect("it is ours");
    running.hang_up();
    let line = running.line("the error", |line| line.contains("SIGHUP: nothing is changed"));
    assert!(line.contains(&format!("{}:1: the token of \"new\"", file.display())), "{line}");
    assert_eq!(status(READER), 200);
    std::fs::write(&file, "new:read:another-0123456789\n").expect("it is ours");
    running.hang_up();
    wait_for(200, || ask_tcp(address, "GET", "/healthz", "another-0123456789"));
    assert_eq!((status(READER), status(WRITER)), (401, 401));
}

#[test]
fn token_that_may_read_changes_nothing() {
    let (_running, address) = start_tcp("admin-rights");
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let said = ask_tcp(address, method, "/healthz", READER);
        assert_eq!(said.status, 403, "{said:?}");
        assert!(said.body.contains("may only read"), "{said:?}");
        assert_eq!(ask_tcp(address, method, "/healthz", WRITER).status, 405);
    }
}

#[test]
fn pages_of_other_sites_are_refused() {
    let (_running, address) = start_tcp("admin-sites");
    let with = |host: &str, header: &str| {
        let headers = format!("Host: {host}\r\nAuthorization: Bearer {WRITER}\r\n{header}");
        exchange(connect_tcp(address), &request("GET", "/healthz", &headers)).status
    };
    let own = address.to_string();
    for (host, header, status) in [
        (own.as_str(), "", 200),
        (&own, "Sec-Fetch-Site: same-origin\r\n", 200),
        (&own, "Sec-Fetch-Site: cross-site\r\n", 403),
        (&own, "Origin: http://evil.example\r\n", 403),
        (&own, "Origin: null\r\n", 403),
        ("evil.example", "", 403),
        ("localhost", "Origin: http://localhost\r\n", 200),
        (&own, "Host: evil.example\r\n", 400),
    ] {
        assert_eq!(with(host, header), status, "{host} {header}");
    }
    let (_other, socket) = start_unix("sites");
    let foreign = request("GET", "/healthz", "Host: localhost\r\nOrigin: http://evil.example\r\n");
    assert_eq!(exchange(connect_unix(&socket), &foreign).status, 403);
}

#[test]
fn a_header_without_an_end_is_cut_off_and_others_are_served_meanwhile() {
    let (running, socket) = start_unix("slow");
    let began = Instant::now();
    let mut slow: Vec<UnixStream> = (0..8).map(|_| connect_unix(&socket)).collect();
    let mut silent = connect_unix(&socket);
    let mut left = Vec::new();
    while !slow.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} are still open", slow.len());
        // A byte at a time does not prolong it.
        slow.retain_mut(|stream| {
            let is_open = stream.write_all(b"G").is_ok();
            if !is_open {
                left.push(began.elapsed());
            }
            is_open
        });
        assert_eq!(get_unix(&socket, "/healthz").status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(left.iter().all(|after| *after >= Duration::from_secs(4)), "{left:?}");
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0)), "nor is silence");
    running.line("the limit", |line| line.contains("a header did not end within 5 s"));
    let text = get_unix(&socket, "/metrics").body;
    assert_eq!(metric(&text, "midge_admin_limit_reached_total{limit=\"header_time\"}"), 9.0);
}

#[test]
fn what_is_too_large_is_refused() {
    let (running, socket) = start_unix("large");
    let body = request("POST", "/healthz", "Host: a\r\nContent-Length: 2000000\r\n");
    assert_eq!(exchange(connect_unix(&socket), &body).status, 413);
    let header = format!("Host: a\r\nX: {}\r\n", "x".repeat(20_000));
    assert_eq!(exchange(connect_unix(&socket), &request("GET", "/healthz", &header)).status, 431);
    let fields: String = (0..100).map(|number| format!("X-{number}: x\r\n")).collect();
    let many = request("GET", "/healthz", &format!("Host: a\r\n{fields}"));
    assert_eq!(exchange(connect_unix(&socket), &many).status, 431);
    let long =
        exchange(connect_unix(&socket), &request("GET", &format!("/{}", "a".repeat(10_000)), "Host: a\r\n"));
    assert_eq!(long.status, 404);
    let longer = request("GET", &format!("/{}", "a".repeat(100_000)), "Host: a\r\n");
    let status = exchange(connect_unix(&socket), &longer).status;
    assert!(matches!(status, 414 | 431), "{status}");
    let text = get_unix(&socket, "/metrics").body;
    assert_eq!(metric(&text, "midge_admin_limit_reached_total{limit=\"body_size\"}"), 1.0);
    assert_eq!(metric(&text, "midge_admin_limit_reached_total{limit=\"header_size\"}"), 3.0);
    running.line("the limit", |line| line.contains("a body had more than 1048576 bytes"));
}

#[test]
fn a_body_without_a_length_is_not_read_to_its_end() {
    let (_running, socket) = start_unix("chunks");
    let mut stream = connect_unix(&socket);
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).expect("the server reads");
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while stream.write_all(&chunk).is_ok() {
        sent += 0x10000;
        assert!(sent < 64 << 20, "the server reads on and on");
    }
    assert_eq!(get_unix(&socket, "/healthz").status, 200);
}

#[test]
fn two_hundred_connections_cost_neither_the_broker_nor_later_operators() {
    let (running, socket) = start_unix("many");
    let mut many: Vec<UnixStream> = (0..200).map(|_| connect_unix(&socket)).collect();
    // Clients are served.
    let mut client = running.client("beside");
    client.subscribe("a", 1);
    assert_eq!(client.publish_acknowledged("a", b"x", false), 0);
    client.message();
    let mut refused = 0;
    for stream in &mut many {
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\"too many connections\"}"),
                "{answer}"
            );
            refused += 1;
        }
    }
    assert!(refused >= 200 - 64, "{refused}");
    drop(many);
    let said = wait_for(200, || get_unix(&socket, "/metrics"));
    assert!(
        metric(&said.body, "midge_admin_limit_reached_total{limit=\"connections\"}") >= f64::from(refused)
    );
    running.line("the limit", |line| line.contains("64 connections are open"));
}

#[test]
fn odd_paths_lead_nowhere() {
    let (_running, socket) = start_unix("paths");
    for path in [
        "//healthz",
        "/../healthz",
        "/x/../healthz",
        "/%2e%2e/healthz",
        "/healthz%00",
        "/%00",
        "/healthz/../metrics",
        "/.",
        "/etc/passwd",
        "/HEALTHZ",
        "/%",
        "/%zz",
        "*",
    ] {
        assert_eq!(get_unix(&socket, path).status, 404, "{path}");
    }
    for bytes in [
        &b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        assert_eq!(exchange(connect_unix(&socket), bytes).status, 400);
    }
    assert_eq!(get_unix(&socket, "/healthz?x=../..#y").status, 200, "what is behind the path plays no part");
}
