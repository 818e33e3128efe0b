//! Tokens as passwords, and the operator's server that decides about logins, with mosquitto's clients.

use crate::Running;
use crate::logins::{file, has_mosquitto, publish};
use crate::needs;
use crate::running::free_port;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A token with these claims, signed with a secret.
fn token(secret: &[u8], claims: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn with_tokens(name: &str, more: &str) -> (Running, String) {
    let secret = file(&format!("tokens-{name}"), std::str::from_utf8(SECRET).expect("text"));
    let rest =
        format!("allow_anonymous = false\n[runtime]\nshards = 2\n[jwt]\nsecrets = [{secret:?}]\n{more}");
    (Running::start(name, &rest), rest)
}

#[test]
fn token_lets_its_user_in_and_limits_what_it_may_do() {
    if !has_mosquitto() {
        return;
    }
    let (running, _) = with_tokens("jwt", "publish_claim = \"publ\"\n");
    let end = now() + 600;
    let good = token(SECRET, &format!(r#"{{"sub":"meter","exp":{end},"publ":["meters/1/#"]}}"#));
    for version in ["311", "5"] {
        let outcome = |password: &str, topic: &str| {
            let output = publish(&running, version, &["-u", "any", "-P", password], topic);
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(outcome(&good, "meters/1/power"), (true, String::new()), "{version}");
        if version == "5" {
            let refused = outcome(&good, "meters/2/power").1;
            assert!(refused.contains("Not authorized"), "{refused}");
        }
        let forged =
            token(b"another secret of 32 bytes, truly", &format!(r#"{{"sub":"meter","exp":{end}}}"#));
        let old = token(SECRET, &format!(r#"{{"sub":"meter","exp":{}}}"#, now() - 100));
        for bad in [forged.as_str(), &old, &token(SECRET, r#"{"sub":"meter"}"#), "no token"] {
            assert!(!outcome(bad, "meters/1/power").0, "{bad}");
        }
    }
    for cause in ["the token's signature is wrong", "the token has expired", "the token lacks a claim"] {
        running.line(cause, |line| line.contains("refused") && line.contains(cause));
    }
    running.line("who it is", |line| line.contains("client connected") && line.contains("meter"));
    assert!(!running.lines().iter().any(|line| line.contains("eyJ")), "no token in the log");
}

// [MQTT5-reason-0xA0]
#[test]
fn client_is_out_when_its_token_expires_and_comes_back_with_another() {
    if !has_mosquitto() {
        return;
    }
    let (running, _) = with_tokens("jwt-end", "leeway_seconds = 0\n");
    let port = running.address.port().to_string();
    let short = token(SECRET, &format!(r#"{{"sub":"meter","exp":{}}}"#, now() + 10));
    let mut subscriber = needs::command("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", "short", "-t", "a", "-u", "u", "-P", &short])
        .stderr(Stdio::null())
        .spawn()
        .expect("it comes with mosquitto_pub");
    running.line("the end", |line| line.contains("short") && line.contains("has expired (0xA0)"));
    subscriber.kill().expect("it is there until it is waited for");
    subscriber.wait().expect("it ends");
    assert!(!publish(&running, "5", &["-i", "short", "-u", "u", "-P", &short], "a").status.success());
    let fresh = token(SECRET, &format!(r#"{{"sub":"meter","exp":{}}}"#, now() + 60));
    assert!(publish(&running, "5", &["-i", "short", "-u", "u", "-P", &fresh], "a").status.success());
}

#[test]
fn keys_that_cannot_be_used_are_named_at_the_start() {
    let weak = file("tokens-weak", "short");
    let config = crate::config_file("tokens-weak-config", &format!("[jwt]\nsecrets = [{weak:?}]\n"));
    let output = crate::run(crate::midge().args(["serve", "--config"]).arg(&config));
    let said = crate::stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("[jwt]") && said.contains("tokens-weak"), "{said}");
}

/// A server that decides by the user name, and records its requests.
struct Decider {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Decider {
    fn start() -> Decider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (address, asked) = (listener.local_addr().expect("bound"), Arc::new(Mutex::new(Vec::new())));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = Arc::clone(&all);
                std::thread::spawn(move || Decider::serve(&stream, &asked));
            }
        });
        Decider { address, asked }
    }

    fn serve(mut stream: &TcpStream, asked: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the whole body");
            let body = String::from_utf8(body).expect("JSON is text");
            let answer = match &body {
                body if body.contains("\"username\":\"slow\"") => {
                    std::thread::sleep(Duration::from_secs(120));
                    "{\"result\":\"allow\"}"
                }
                body if body.contains("\"username\":\"good\"") => {
                    "{\"result\":\"allow\",\"acl\":{\"publish\":[\"mine/#\"]}}"
                }
                body if body.contains("\"username\":null") => "{\"result\":\"allow\"}",
                _ => "{\"result\":\"deny\"}",
            };
            asked.lock().expect("no panic").push(body);
            let sent = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            );
            if sent.is_err() {
                return;
            }
        }
    }
}

#[test]
fn webhook_decides_who_comes_in_and_what_they_may_publish() {
    if !has_mosquitto() {
        return;
    }
    let decider = Decider::start();
    let rest = format!(
        "allow_anonymous = false\n[runtime]\nshards = 2\n[webhook]\nurl = \"http://{}/login\"\nanswer_milliseconds = 5000\n",
        decider.address
    );
    let running = Running::start("webhook", &rest);
    let try_it = |login: &[&str], topic: &str| {
        let output = publish(&running, "5", login, topic);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(try_it(&["-u", "good", "-P", "secret"], "mine/a"), (true, String::new()));
    assert!(try_it(&["-u", "good", "-P", "secret"], "yours/a").1.contains("Not authorized"));
    assert!(!try_it(&["-u", "bad", "-P", "secret"], "mine/a").0);
    assert!(try_it(&[], "mine/a").0, "one without a name is asked for too");
    let (let_in, words) = try_it(&["-u", "slow"], "mine/a");
    assert!(!let_in && words.contains("Server unavailable"), "{words}");
    running.line("the slow server", |line| line.contains("webhook:") && line.contains("refused"));
    let asked = decider.asked.lock().expect("no panic");
    assert!(asked.iter().any(|body| body.contains("\"password\":\"secret\"")), "{asked:?}");
    assert!(!running.lines().iter().any(|line| line.contains("secret")));
}

#[test]
fn nobody_new_comes_in_while_the_webhook_is_unreachable_and_others_are_served() {
    if !has_mosquitto() {
        return;
    }
    // Connections to it are refused.
    let closed = free_port();
    let rest = format!(
        "allow_anonymous = true\n[runtime]\nshards = 1\n[webhook]\nurl = \"http://127.0.0.1:{closed}/\"\n"
    );
    let running = Running::start("webhook-gone", &rest);
    for _ in 0..8 {
        let output = publish(&running, "311", &["-u", "u", "-P", "p"], "a");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("broker unavailable"), "{said}");
    }
    assert!(publish(&running, "5", &[], "a").status.success(), "those who need not be asked for");
}
