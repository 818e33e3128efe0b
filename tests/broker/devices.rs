//! Certificates as device fleets have them: midge with a `mosquitto.conf` accepts the same clients as the
//! real mosquitto with the same file.
//!
//! `certificates.sh` makes the files with openssl. Its names are those in the table here.

use crate::needs;
use crate::running::{PATIENCE, Running, free_port, midge};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CERTIFICATES: &str = include_str!("devices/certificates.sh");

/// A listener with its CA file and possibly revocation lists, and its clients, with whether they are
/// accepted.
type Door = (&'static str, Option<&'static str>, &'static [(&'static str, bool)]);

const IN: bool = true;
const OUT: bool = false;

const DOORS: &[Door] = &[
    (
        "root.crt",
        None,
        &[
            ("good", IN),
            ("client", IN),
            ("version1", IN),
            ("version1rsa", IN),
            ("version1expired", OUT),
            ("expired", OUT),
            ("early", OUT),
            ("forservers", OUT),
            ("encipher", OUT),
            ("unknown", OUT),
            ("isca", IN),
            ("maysign", OUT),
            ("p384", IN),
            ("p521", IN),
            ("rsa", IN),
            ("short", OUT),
            ("ed25519", IN),
            ("sha384", IN),
            ("sha512", IN),
            ("sha1", OUT),
            ("oftwin", OUT),
            ("stranger", OUT),
            ("deep", IN),
            ("deepalone", OUT),
            ("deepversion1", IN),
            ("deepexpired", OUT),
            ("ofnotca", OUT),
            ("ofversion1ca", OUT),
            ("oflast", IN),
            ("oftoodeep", OUT),
            ("named", IN),
            ("misnamed", OUT),
            ("self", OUT),
            ("root", OUT),
        ],
    ),
    (
        "devices.crt",
        None,
        &[
            ("self", IN),
            ("selfversion1", IN),
            ("selfplain", IN),
            ("selfexpired", OUT),
            ("selfabsent", OUT),
            ("good", IN),
            ("version1", IN),
            ("stranger", OUT),
        ],
    ),
    (
        "roots.d",
        None,
        &[
            ("good", IN),
            ("version1", IN),
            ("expired", OUT),
            ("oftwin", OUT),
            ("deep", IN),
            ("deepalone", OUT),
            ("ofp384", IN),
            ("ofrsa", IN),
            ("ofrootnotca", OUT),
            ("stranger", OUT),
        ],
    ),
    (
        "devices.d",
        None,
        &[("self", IN), ("selfversion1", IN), ("selfexpired", OUT), ("selfabsent", OUT), ("stranger", OUT)],
    ),
    ("rootexpired.crt", None, &[("ofexpired", OUT), ("stranger", OUT)]),
    // These are an intermediate CA that leads nowhere, and one that leads to an expired root.
    ("middle.crt", None, &[("deepalone", OUT), ("middle", OUT)]),
    ("bundle.crt", None, &[("deepofexpired", OUT)]),
    (
        "kinds.crt",
        None,
        &[
            ("ofp384", IN),
            ("ofp521", IN),
            ("ofp521sha256", IN),
            ("ofp521sha384", IN),
            ("ofrsa", IN),
            ("ofrsasha512", IN),
            ("ofrootversion1", IN),
            ("ofrootnotca", OUT),
        ],
    ),
    (
        "root.crt",
        Some("root.crl"),
        &[
            ("good", IN),
            ("version1", IN),
            ("revoked", OUT),
            ("revokedversion1", OUT),
            ("expired", OUT),
            ("deep", OUT),
        ],
    ),
    (
        "root.crt",
        Some("root2.crl"),
        &[("good", IN), ("version1", IN), ("revoked", OUT), ("revokedversion1", OUT), ("deep", OUT)],
    ),
    // There is a list of the intermediate CA only: its clients are looked up, and the CA itself is not.
    ("root.crt", Some("middle.crl"), &[("deep", IN), ("deeprevoked", OUT), ("good", OUT)]),
    ("root.crt", Some("middle2.crl"), &[("deep", IN), ("deeprevoked", OUT), ("good", OUT)]),
    ("root.crt", Some("both.crl"), &[("deep", IN), ("deeprevoked", OUT), ("good", IN), ("revoked", OUT)]),
    (
        "root.crt",
        Some("middlerevoked.crl"),
        &[("deep", IN), ("deeprevoked", OUT), ("good", IN), ("middle", OUT)],
    ),
    ("root.crt", Some("expired.crl"), &[("good", OUT), ("revoked", OUT)]),
    ("root.crt", Some("early.crl"), &[("good", OUT)]),
    ("root.crt", Some("renewed.crl"), &[("good", IN), ("revoked", OUT)]),
    ("root.crt", Some("twin.crl"), &[("good", OUT)]),
    ("devices.crt", Some("root.crl"), &[("self", OUT), ("good", IN), ("revoked", OUT)]),
    ("devices.crt", Some("self.crl"), &[("self", IN), ("good", OUT)]),
];

/// The rows of a listener in `midge.toml`, and for each client a part of the log line, or `None` if it is
/// accepted.
type Rules = (&'static str, &'static [(&'static str, Option<&'static str>)]);

const STANDARD: &[Rules] = &[
    (
        "tls_client_ca = \"root.crt\"",
        &[
            ("good", None),
            ("p521", None),
            ("sha512", None),
            ("deep", None),
            (
                "version1",
                Some(
                    "is of X.509 version 1; version 3 is needed, or tls_client_certificate_rules = \"openssl\"",
                ),
            ),
            (
                "isca",
                Some(
                    "is a CA's (CA:TRUE), as self-signed ones of devices often are; tls_client_certificate_rules",
                ),
            ),
            ("sha1", Some("it is signed by ECDSA with SHA-1 by a key of the kind ECDSA on the curve P-256")),
            ("unknown", Some("a critical extension that is not known")),
            ("misnamed", Some("a CA's name constraints do not allow its names")),
            ("oftoodeep", Some("has more CAs above it than one of them allows")),
            ("ofnotca", Some("is issued by a certificate that is no CA's")),
        ],
    ),
    ("tls_client_ca = \"devices.crt\"", &[("self", Some("is a CA's (CA:TRUE)")), ("good", None)]),
    ("tls_client_ca = \"rootp521.crt\"", &[("ofp521", None), ("ofp521sha256", None), ("ofp521sha384", None)]),
    (
        "tls_client_ca = \"rootk1.crt\"",
        &[("ofk1", Some("signed by ECDSA with SHA-256 by a key of the kind ECDSA on the curve secp256k1"))],
    ),
    // Each CA in the file is trusted by itself.
    ("tls_client_ca = \"middle.crt\"", &[("deepalone", None)]),
    (
        "tls_client_ca = \"root.crt\"\ntls_crl = \"root.crl\"",
        &[
            ("good", None),
            ("revoked", Some("is revoked")),
            ("deep", Some("has an issuer for which there is no revocation list")),
        ],
    ),
    (
        "tls_client_ca = \"root.crt\"\ntls_crl = \"both.crl\"",
        &[("deep", None), ("deeprevoked", Some("is revoked"))],
    ),
    (
        "tls_client_ca = \"root.crt\"\ntls_crl = \"middlerevoked.crl\"",
        &[("deep", Some("is revoked")), ("good", None)],
    ),
    (
        "tls_client_ca = \"root.crt\"\ntls_crl = \"middle.crl\"\ntls_crl_scope = \"client\"",
        &[("deep", None), ("deeprevoked", Some("is revoked"))],
    ),
    (
        "tls_client_ca = \"root.crt\"\ntls_client_certificate_rules = \"openssl\"",
        &[
            ("version1", None),
            ("k1", Some("the client has sent no certificate, and one is required; clients do not send")),
            ("sha1", Some("it is signed by ECDSA with SHA-1 by a key of the kind ECDSA on the curve P-256")),
        ],
    ),
];

#[test]
fn by_the_standard_rules_the_log_says_which_option_or_what_is_wrong() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let Some(folder) = certificates("standard") else { return };
    for (number, (rows, clients)) in STANDARD.iter().enumerate() {
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls_certificates = [\"server.crt\"]\ntls_keys = [\"server.key\"]\n\
             tls_client_certificate = \"required\"\n{rows}\n[persistence]\ndirectory = \"\"\n"
        );
        let file = folder.join(format!("midge{number}.toml"));
        std::fs::write(&file, text).expect("a file of ours");
        let mut command = midge();
        command.arg("--config").arg(file).current_dir(&folder);
        let running = Running::start_command(command).expect("it starts");
        for (client, why) in clients.iter().filter(|(client, _)| is_made(&folder, client)) {
            // With TLS 1.2 a client can use a certificate of any kind.
            let output = publish(&folder, running.address.port(), client, "tlsv1.2");
            assert_eq!(output.status.success(), why.is_none(), "{client} with {rows}: {output:?}");
            if let Some(why) = why {
                running.line(client, |line| line.contains("TLS: the client") && line.contains(why));
            }
        }
    }
}

#[test]
fn a_key_of_ours_on_a_curve_that_can_not_sign_is_named_at_the_start() {
    let Some(folder) = certificates("key") else { return };
    let file = folder.join("midge.toml");
    let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls_certificates = [\"p521server.crt\"]\ntls_keys = [\"p521server.key\"]\n";
    std::fs::write(&file, text).expect("a file of ours");
    let output = midge().arg("check-config").arg(&file).current_dir(&folder).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("p521server.key") && said.contains("ECDSA on the curve P-521"), "{said}");
}

/// The real mosquitto, on the ports of its file.
struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with the certificates. `None` without openssl, after a message.
fn certificates(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("devices-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    if !needs::has("openssl") {
        return None;
    }
    let made = Command::new("sh")
        .args(["-c", CERTIFICATES])
        .env("PATH", needs::path_with(&["openssl"]))
        .current_dir(&folder)
        .output()
        .expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (mark, what) in [("no-version1", "certificates"), ("no-version1-lists", "revocation lists")] {
        if folder.join(mark).exists() {
            eprintln!("left out: this openssl makes no {what} of version 1 (3.0 does)");
        }
    }
    Some(folder)
}

/// Whether openssl has made this client's certificate as its name says.
fn is_made(folder: &Path, client: &str) -> bool {
    !client.contains("version1") || !folder.join("no-version1").exists()
}

/// A `mosquitto.conf` with all listeners, and their ports.
fn conf(folder: &Path, name: &str) -> (PathBuf, Vec<u16>) {
    let mut text = "user root\nallow_anonymous true\npersistence false\n".to_owned();
    let mut ports = Vec::new();
    let at = |file: &str| folder.join(file).display().to_string();
    for (authorities, lists, _) in DOORS {
        let port = free_port();
        ports.push(port);
        let key = if authorities.ends_with(".d") { "capath" } else { "cafile" };
        text +=
            &format!("listener {port} 127.0.0.1\n{key} {}\ncertfile {}\n", at(authorities), at("server.crt"));
        text += &format!("keyfile {}\nrequire_certificate true\n", at("server.key"));
        if let Some(lists) = lists {
            text += &format!("crlfile {}\n", at(lists));
        }
    }
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a file of ours");
    (file, ports)
}

fn publish(folder: &Path, port: u16, client: &str, version: &str) -> Output {
    let at = |file: String| folder.join(file).display().to_string();
    needs::command("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "t", "-m", "x", "--insecure"])
        // Otherwise openssl would not even send what the broker must refuse.
        .args([
            "--ciphers",
            "DEFAULT@SECLEVEL=0",
            "--tls-version",
            version,
            "--cafile",
            &at("root.crt".into()),
        ])
        .args(["--cert", &at(format!("{client}.crt")), "--key", &at(format!("{client}.key"))])
        .stdin(Stdio::null())
        .output()
        .expect("it was there just now")
}

fn wait_for(port: u16) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn midge_and_the_real_mosquitto_let_in_the_same_certificates() {
    if !needs::has("mosquitto") || !needs::has("mosquitto_pub") {
        return;
    }
    let Some(folder) = certificates("matrix") else { return };
    let (file, theirs) = conf(&folder, "mosquitto.conf");
    let log = std::fs::File::create(folder.join("mosquitto.log")).expect("a file of ours");
    let _mosquitto = Mosquitto(
        needs::command("mosquitto")
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it was there just now"),
    );
    let (file, ours) = conf(&folder, "midge.conf");
    let mut command = midge();
    command.arg("serve").arg("--mosquitto-conf").arg(file);
    let _midge = Running::start_command(command).expect("it starts");
    theirs.iter().chain(&ours).for_each(|port| wait_for(*port));

    let mut wrong = Vec::new();
    for ((authorities, lists, clients), (theirs, ours)) in DOORS.iter().zip(theirs.iter().zip(&ours)) {
        for (client, expected) in clients.iter().filter(|(client, _)| is_made(&folder, client)) {
            for version in ["tlsv1.2", "tlsv1.3"] {
                let [mosquitto, midge] =
                    [theirs, ours].map(|port| publish(&folder, *port, client, version).status.success());
                if (mosquitto, midge) != (*expected, *expected) {
                    wrong.push(format!(
                        "{client} at {authorities} with {}, {version}: mosquitto {mosquitto}, midge {midge}",
                        lists.unwrap_or("no list")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
