#![allow(clippy::disallowed_methods, reason = "the tests are the server, and time it")]

use super::test_server::{CannedReply, TestServer, whole};
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

const NOW: u64 = 1_750_000_000;

fn login(client_id: &str) -> LoginRequest {
    LoginRequest {
        client_id: client_id.into(),
        username: Some("user".into()),
        password: Some(b"hunter2".to_vec()),
        peer: [127, 0, 0, 9].into(),
        protocol_version: 5,
        listener: "tls".into(),
        mount: None,
        is_certified: true,
    }
}

fn client(server: &TestServer, change: impl FnOnce(&mut WebhookSettings)) -> WebhookClient {
    let mut settings = WebhookSettings::new(&server.url());
    // On a busy machine an answer may take long.
    (settings.timeout_millis, settings.connect_timeout_millis) = (60_000, 60_000);
    change(&mut settings);
    WebhookClient::load(&settings).unwrap()
}

fn allow() -> WebhookAnswer {
    WebhookAnswer::Allow(Arc::default())
}

fn json(body: &str) -> CannedReply {
    CannedReply::Json(200, body.into())
}

fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let file = std::env::temp_dir().join(format!("midge-webhook-{}-{name}", std::process::id()));
    std::fs::write(&file, content).unwrap();
    file
}

fn unreachable(answer: Result<WebhookAnswer, WebhookRefusal>) -> String {
    match answer {
        Err(WebhookRefusal::Unreachable(cause)) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_server_is_told_everything_and_its_answer_comes_back() {
    let server = TestServer::start(json(
        r#"{"result":"allow","user":"alice","expires_at":1750000100,"acl":{"publish":["a/#"],"subscribe":["b/+"]}}"#,
    ));
    let value_file = file("header", " Bearer s3cret \n");
    let header = WebhookHeader { name: "Authorization".into(), value_file: value_file.clone() };
    let client = client(&server, |settings| settings.header = Some(header));
    std::fs::remove_file(value_file).unwrap();
    let expected = WebhookGrant {
        user: Some("alice".into()),
        expires_at: Some(1_750_000_100),
        publish: Some(vec!["a/#".into()]),
        subscribe: Some(vec!["b/+".into()]),
    };
    assert_eq!(client.check(&login("c1"), NOW), Ok(WebhookAnswer::Allow(Arc::new(expected))));

    let mut other = login("c2");
    (other.username, other.password, other.mount) = (None, Some(vec![0xff, 0x00]), Some("site/".into()));
    other.peer = "2001:db8::1".parse().unwrap();
    client.check(&other, NOW).unwrap();
    other.password = None;
    client.check(&other, NOW).unwrap();

    let received = server.received();
    let head = received[0].head.to_lowercase();
    assert!(head.starts_with("post /login?x=1 http/1.1\r\n"), "{head}");
    for line in
        ["authorization: bearer s3cret\r\n", "content-type: application/json\r\n", "user-agent: midge\r\n"]
    {
        assert!(head.contains(line), "{head} lacks {line}");
    }
    let expected = serde_json::json!({
        "client_id": "c1", "username": "user", "password": "hunter2", "peer": "127.0.0.9", "protocol_version": 5,
        "listener": "tls", "mount": null, "username_certified": true,
    });
    assert_eq!(received[0].body, expected);
    let expected = serde_json::json!({
        "client_id": "c2", "username": null, "password": null, "password_base64": "/wA=", "peer": "2001:db8::1",
        "protocol_version": 5, "listener": "tls", "mount": "site/", "username_certified": true,
    });
    assert_eq!(received[1].body, expected);
    assert!(received[2].body["password"].is_null() && received[2].body.get("password_base64").is_none());
}

#[test]
fn connections_are_kept_for_the_next_login() {
    let server = TestServer::start(json(r#"{"result":"deny"}"#));
    let client = client(&server, |_| {});
    for number in 0..20 {
        server.set(match number % 4 {
            0 => json(r#"{"result":"allow"}"#),
            1 => CannedReply::Json(403, "forbidden".into()),
            2 => CannedReply::Json(204, String::new()),
            _ => CannedReply::Json(401, String::new()),
        });
        let expected = if number % 2 == 0 { allow() } else { WebhookAnswer::Deny };
        assert_eq!(client.check(&login(&number.to_string()), NOW), Ok(expected));
    }
    assert_eq!((server.connections(), server.requests()), (1, 20));
}

#[test]
fn a_connection_that_the_server_has_closed_meanwhile_is_opened_again() {
    let server = TestServer::start(CannedReply::Raw(whole(200, r#"{"result":"allow"}"#)));
    let client = client(&server, |_| {});
    for number in 0..20 {
        assert_eq!(client.check(&login(&number.to_string()), NOW), Ok(allow()));
    }
    // Each login was asked for once, unless the server closed the connection between the check and the write.
    assert!(server.connections() >= 20);
}

#[test]
fn whatever_was_not_agreed_lets_nobody_in() {
    let redirect = "HTTP/1.1 307 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
    let large = format!(r#"{{"result":"allow","pad":"{}"}}"#, "x".repeat(70_000));
    let endless_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let cut_short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":\"allow\"}";
    let bad_chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{\"result\":\"allow\"}\r\n";
    let replies = [
        CannedReply::Raw(redirect.into()),
        CannedReply::Raw(redirect.replace("307", "302").into()),
        json(&large),
        json(""),
        json("allow"),
        json(r#"{"result":"yes"}"#),
        json(r#"{"result":"allow","acl":1}"#),
        CannedReply::Json(500, r#"{"result":"allow"}"#.into()),
        CannedReply::Json(201, r#"{"result":"allow"}"#.into()),
        CannedReply::Close,
        CannedReply::Raw(b"hello\r\n\r\n".to_vec()),
        CannedReply::Raw(endless_head.into()),
        CannedReply::Raw(cut_short.into()),
        CannedReply::Raw(bad_chunks.into()),
        CannedReply::Raw(vec![0xff; 1_000]),
    ];
    let server = TestServer::start(CannedReply::Close);
    let client = client(&server, |settings| settings.failures_max = 1_000);
    for reply in replies {
        server.set(reply.clone());
        let cause = unreachable(client.check(&login("c"), NOW));
        assert!(!cause.is_empty() && !cause.contains("hunter2"), "{reply:?}: {cause}");
    }
    for received in server.received() {
        assert!(received.head.starts_with("POST /login?x=1 "), "a redirect was followed");
    }
    server.set(json(r#"{"result":"allow"}"#));
    assert_eq!(client.check(&login("c"), NOW), Ok(allow()), "no failure is remembered");
}

#[test]
fn a_slow_server_is_given_up_in_time() {
    let server = TestServer::start(CannedReply::Close);
    let client = client(&server, |settings| settings.timeout_millis = 300);
    for reply in [CannedReply::Late(Duration::from_secs(120)), CannedReply::Drip(Duration::from_secs(1))] {
        server.set(reply);
        let start = Instant::now();
        let cause = unreachable(client.check(&login("c"), NOW));
        assert!(cause.contains("timeout"), "{cause}");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = WebhookClient::load(&WebhookSettings::new(&format!("http://{address}"))).unwrap();
    assert!(!unreachable(client.check(&login("c"), NOW)).is_empty());
}

#[test]
fn an_answer_is_remembered_for_the_same_login_only() {
    let server = TestServer::start(json(r#"{"result":"allow"}"#));
    let client = client(&server, |_| {});
    assert_eq!(client.remembered(&login("c"), Instant::now()), None);
    for _ in 0..3 {
        assert_eq!(client.check(&login("c"), NOW), Ok(allow()));
    }
    assert_eq!(client.remembered(&login("c"), Instant::now()), Some(allow()));
    assert_eq!(server.requests(), 1);
    let mut other = login("c");
    other.password = Some(b"hunter3".to_vec());
    server.set(json(r#"{"result":"deny"}"#));
    for _ in 0..3 {
        assert_eq!(client.check(&other, NOW), Ok(WebhookAnswer::Deny));
    }
    assert_eq!(server.requests(), 2);
    client.forget();
    assert_eq!(client.check(&login("c"), NOW), Ok(WebhookAnswer::Deny));
    assert_eq!(server.requests(), 3);
}

#[test]
fn too_many_logins_at_once_are_refused_at_once() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let server = TestServer::start(CannedReply::Once(Arc::clone(&may_answer)));
    let client = client(&server, |settings| settings.concurrent_max = 2);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..2)
            .map(|number| {
                let client = &client;
                scope.spawn(move || client.check(&login(&number.to_string()), NOW))
            })
            .collect();
        while server.requests() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // This call waits for neither of them.
        assert_eq!(client.check(&login("third"), NOW), Err(WebhookRefusal::Busy));
        may_answer.store(true, Ordering::SeqCst);
        for thread in running {
            assert_eq!(thread.join().unwrap(), Ok(allow()));
        }
    });
    server.set(json(r#"{"result":"allow"}"#));
    assert_eq!(client.check(&login("third"), NOW), Ok(allow()));
}

#[test]
fn a_dead_server_is_left_alone_for_a_moment() {
    let server = TestServer::start(CannedReply::Json(500, String::new()));
    let client = client(&server, |settings| {
        settings.failures_max = 3;
        settings.circuit_open_millis = 5_000;
    });
    for _ in 0..3 {
        unreachable(client.check(&login("c"), NOW));
    }
    server.set(json(r#"{"result":"allow"}"#));
    assert_eq!(client.check(&login("c"), NOW), Err(WebhookRefusal::Resting));
    assert_eq!(server.requests(), 3);
    std::thread::sleep(Duration::from_millis(5_050));
    assert_eq!(client.check(&login("c"), NOW), Ok(allow()));
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_name_is_looked_up_and_a_number_in_brackets_is_one() {
    let server = TestServer::start(json(r#"{"result":"ignore"}"#));
    let url = format!("http://localhost:{}/", server.address.port());
    let client = WebhookClient::load(&WebhookSettings::new(&url)).unwrap();
    for number in 0..3 {
        assert_eq!(client.check(&login(&number.to_string()), NOW), Ok(WebhookAnswer::Ignore));
    }
    for (url, in_clear) in [
        ("http://localhost/", false),
        ("http://127.1.2.3:81/", false),
        ("http://[::1]:81/x", false),
        ("https://hook.example/", false),
        ("http://hook.example/", true),
        ("http://[2001:db8::1]/", true),
    ] {
        let client = WebhookClient::load(&WebhookSettings::new(url)).unwrap();
        assert_eq!(client.sends_passwords_in_clear(), in_clear, "{url}");
    }
}

#[test]
fn a_server_with_tls_is_checked_against_the_authority_in_the_file() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let server = TestServer::start_with(json(r#"{"result":"allow"}"#), Some(Arc::new(config)));
    let ca_file = file("ca.pem", made.cert.pem());
    let with = |host: &str, ca_file| {
        let mut settings = WebhookSettings::new(&format!("https://{host}:{}/", server.address.port()));
        settings.ca_file = ca_file;
        WebhookClient::load(&settings).unwrap()
    };
    for host in ["localhost", "127.0.0.1"] {
        let client = with(host, Some(ca_file.clone()));
        assert_eq!(client.check(&login("c1"), NOW), Ok(allow()));
        assert_eq!(client.check(&login("c2"), NOW), Ok(allow()));
    }
    assert_eq!(server.connections(), 2);
    let told = server.requests();
    unreachable(with("localhost", None).check(&login("c"), NOW));
    unreachable(with("127.0.0.2", Some(ca_file.clone())).check(&login("c"), NOW));
    assert_eq!(server.requests(), told, "no password has gone to a stranger");
    std::fs::remove_file(ca_file).unwrap();
}

#[test]
fn settings_that_do_not_work_are_named() {
    for url in [
        "",
        "hook.example",
        "ftp://hook.example/",
        "http://",
        "http:///x",
        "http://u:p@hook.example/",
        "\u{0}",
    ] {
        let error = WebhookClient::load(&WebhookSettings::new(url)).unwrap_err();
        assert!(error.to_string().contains("URL"), "{url}: {error}");
    }
    let refused = |change: &dyn Fn(&mut WebhookSettings)| {
        let mut settings = WebhookSettings::new("https://hook.example/");
        change(&mut settings);
        WebhookClient::load(&settings).unwrap_err().to_string()
    };
    assert!(refused(&|settings| settings.timeout_millis = 0).contains("time-outs"));
    assert!(refused(&|settings| settings.concurrent_max = 0).contains("concurrency"));
    let missing = refused(&|settings| settings.ca_file = Some("/nowhere/ca.pem".into()));
    assert!(missing.contains("/nowhere/ca.pem: can't be read"), "{missing}");
    let empty = file("empty", "");
    assert!(refused(&|settings| settings.ca_file = Some(empty.clone())).contains("no certificate"));
    let with_header = |name: &str, value_file: &Path| {
        let header = WebhookHeader { name: name.into(), value_file: value_file.to_owned() };
        refused(&|settings| settings.header = Some(header.clone()))
    };
    assert!(with_header("Authorization", &empty).contains("is empty"));
    assert!(with_header("a b", &empty).contains("name"));
    let lines = file("lines", "one\r\nX-Other: two");
    assert!(with_header("Authorization", &lines).contains("no header may have"));
    std::fs::remove_file(empty).unwrap();
    std::fs::remove_file(lines).unwrap();
}

#[test]
fn a_client_shows_neither_its_secret_nor_a_password() {
    let server = TestServer::start(CannedReply::Close);
    let value_file = file("secret", "Bearer s3cret");
    let header = WebhookHeader { name: "Authorization".into(), value_file: value_file.clone() };
    let client = client(&server, |settings| settings.header = Some(header));
    std::fs::remove_file(value_file).unwrap();
    let refusal = client.check(&login("c"), NOW).unwrap_err();
    let words = format!("{client:?} {refusal} {refusal:?}");
    assert!(!words.contains("s3cret") && !words.contains("hunter2"), "{words}");
}
