//! TLS of the admin interface: with curl and with `midge ctl`.

use super::ctl::{ctl, stdout};
use super::{READER, WRITER, token_file};
use crate::doors::pki::{Authority, Issued};
use crate::{Running, needs, stderr};
use std::net::SocketAddr;
use std::path::Path;

/// A broker whose admin interface speaks TLS, and the address of it.
fn start(name: &str, rows: &str, server: &Issued) -> (Running, SocketAddr) {
    let rows = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\ntls_certificate = \"{}\"\ntls_key = \"{}\"\n{rows}[runtime]\nshards = 2\n",
        server.chain.display(),
        server.key.display()
    );
    let running = Running::start(&format!("admin-tls-{name}"), &rows);
    let line = running.line("the admin interface", |line| line.contains("Admin interface: "));
    let address = line.split("Admin interface: ").nth(1).expect("the line has it").trim_end_matches('.');
    (running, address.parse().expect("an address"))
}

/// The exit status of curl and what it printed.
fn curl(address: SocketAddr, ca: &Path, arguments: &[&str], path: &str) -> (Option<i32>, String) {
    let output = needs::command("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--write-out", " %{http_code}", "--cacert"])
        .arg(ca)
        .args(arguments)
        .arg(format!("https://localhost:{}{path}", address.port()))
        .output()
        .expect("curl starts");
    (output.status.code(), stdout(&output) + &stderr(&output))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name")
}

#[test]
fn certificate_or_token_lets_in_and_a_stranger_is_refused() {
    if !needs::has("curl") {
        return;
    }
    let authority = Authority::new("admin-tls");
    let other = Authority::new("admin-tls-other");
    let rows = format!(
        "token_file = \"{}\"\ntls_client_ca = \"{}\"\n",
        token_file("admin-tls").display(),
        authority.ca.display()
    );
    let (running, address) = start("either", &rows, &authority.server("server"));
    let ours = authority.client("operator");
    let foreign = other.client("stranger");
    let ask = |arguments: &[&str], path: &str| curl(address, &authority.ca, arguments, path);
    let own = ["--cert", text(&ours.chain), "--key", text(&ours.key)];

    assert_eq!(ask(&own, "/healthz"), (Some(0), "{\"status\":\"ok\"}\n 200".to_owned()));
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    assert!(ask(&["-H", &bearer(READER)], "/healthz").1.ends_with(" 200"));
    assert!(ask(&[], "/healthz").1.ends_with(" 401"));
    let metrics = ask(&["-H", &bearer(READER)], "/metrics").1;
    assert!(
        metrics.contains("midge_certificate_expiry_timestamp_seconds{listener=\"admin\",file="),
        "{metrics}"
    );
    let ban = ["-d", "{\"address\":\"203.0.113.9\"}", "-H", "Content-Type: application/json"];
    assert!(ask(&[&ban[..], &["-H", &bearer(READER)]].concat(), "/api/v1/bans").1.ends_with(" 403"));
    assert!(ask(&[&ban[..], &own].concat(), "/api/v1/bans").1.ends_with(" 200"));
    let stranger = ["--cert", text(&foreign.chain), "--key", text(&foreign.key), "-H", &bearer(WRITER)];
    assert_ne!(ask(&stranger, "/healthz").0, Some(0), "its handshake fails");
    assert_ne!(ask(&["--tls-max", "1.2", "-H", &bearer(READER)], "/healthz").0, Some(0));
    let plain = needs::command("curl")
        .args(["--silent", "--max-time", "60", &format!("http://{address}/healthz")])
        .output()
        .expect("curl starts");
    assert!(!plain.status.success(), "{plain:?}");
    running.line("the refusal", |line| line.contains("a TLS handshake has failed"));

    // A reload replaces the CA: what was let in before is not any more.
    std::fs::copy(&other.ca, &authority.ca).expect("it can be written");
    running.hang_up();
    running.line("the reload", |line| line.contains("are read again"));
    let insecure = ["--insecure", "--cert", text(&ours.chain), "--key", text(&ours.key)];
    assert_ne!(ask(&insecure, "/healthz").0, Some(0));
}

#[test]
fn without_tokens_every_client_must_have_a_certificate() {
    let authority = Authority::new("admin-tls-only");
    let rows = format!("tls_client_ca = \"{}\"\n", authority.ca.display());
    let (_running, address) = start("only", &rows, &authority.server("server"));
    let ours = authority.client("operator");
    let admin = format!("localhost:{}", address.port());
    let ca = ["--admin", &admin, "--ca", text(&authority.ca)];
    let own = ["--cert", text(&ours.chain), "--key", text(&ours.key)];
    let with = ctl(&[&ca[..], &own, &["health"]].concat());
    assert_eq!((with.status.code(), stdout(&with).as_str()), (Some(0), "ok\n"), "{with:?}");
    let by_address = ["--admin", &address.to_string(), "--ca", text(&authority.ca)];
    assert_eq!(ctl(&[&by_address[..], &own, &["health"]].concat()).status.code(), Some(0));
    let none = ctl(&[&ca[..], &["health"]].concat());
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    let other = Authority::new("admin-tls-only-other");
    let untrusted = ctl(&[&["--admin", &admin, "--ca", text(&other.ca)], &own[..], &["health"]].concat());
    assert_eq!(untrusted.status.code(), Some(2), "{untrusted:?}");
    assert!(stderr(&untrusted).contains("certificate"), "{untrusted:?}");
    let missing = ctl(&["--admin", &admin, "--ca", "/nonexistent", "health"]);
    assert!(missing.status.code() == Some(2) && stderr(&missing).contains("/nonexistent"), "{missing:?}");
    let rows = format!(
        "[admin]\naddress = \"{address}\"\ntls_certificate = \"c\"\ntls_key = \"k\"\ntls_client_ca = \"c\"\n"
    );
    let file = crate::config_file("admin-tls-ctl", &rows);
    let silent = ctl(&["-c", text(&file), "health"]);
    assert!(silent.status.code() == Some(2) && stderr(&silent).contains("--ca names"), "{silent:?}");
    let half = ctl(&[&ca[..], &["--cert", text(&ours.chain), "health"]].concat());
    assert_eq!(half.status.code(), Some(2), "{half:?}");
}

#[test]
fn half_a_configuration_of_tls_is_refused() {
    for (rows, words) in [
        ("address = \"127.0.0.1:9\"\n", "it needs tokens or client certificates"),
        ("address = \"127.0.0.1:9\"\ntoken_file = \"t\"\ntls_certificate = \"c\"\n", "must be set together"),
        ("address = \"127.0.0.1:9\"\ntls_client_ca = \"c\"\n", "without tls_certificate there is no TLS"),
        ("address = \"127.0.0.1:9\"\ntoken_file = \"t\"\ntls_crl = \"c\"\n", "without tls_client_ca"),
    ] {
        let file = crate::config_file("admin-tls-half", &format!("[admin]\n{rows}"));
        let output = crate::run(crate::midge().arg("check-config").arg(file));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(words), "{rows}: {output:?}");
    }
}
