#![allow(clippy::disallowed_methods, reason = "the tests write the files that are read")]

use super::*;
use crate::settings::{Address, LogLevel};
use std::fs;

/// A new folder with these files.
fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("midge-sources-{}-{name}", std::process::id()));
    // It does not exist the first time.
    let _ = fs::remove_dir_all(&folder);
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    folder
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// The errors with the folder left out of their files' names.
fn errors(folder: &Path, of: &[(&str, &str)]) -> String {
    let error = load(Some(&folder.join("midge.toml")), variables(of)).expect_err("it is wrong");
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

#[test]
fn included_files_override_the_main_file_and_add_listeners() {
    let folder = folder(
        "override",
        &[
            (
                "midge.toml",
                "include = [\"conf.d/*.toml\", \"last.toml\"]\n[[listeners]]\naddress = \"127.0.0.1:1\"\n\
                 [limits]\nconnections = 5\npacket_bytes = 1000\n",
            ),
            ("conf.d/20-b.toml", "[limits]\nconnections = 7\n[[listeners]]\naddress = \"127.0.0.1:2\"\n"),
            ("conf.d/10-a.toml", "[limits]\nconnections = 6\nhandshakes = 9\n"),
            ("conf.d/.hidden.toml", "nonsense"),
            ("conf.d/other.txt", "nonsense"),
            ("last.toml", "log.level = \"warn\"\n[[listeners]]\naddress = \"127.0.0.1:3\"\n"),
        ],
    );
    let loaded = load(Some(&folder.join("midge.toml")), variables(&[])).expect("good files");
    assert_eq!((loaded.config.limits.connections, loaded.config.limits.handshakes), (7, 9));
    assert_eq!((loaded.config.limits.packet_bytes, loaded.config.log.level), (1000, LogLevel::Warn));
    let addresses: Vec<String> = loaded.config.listeners.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    let origin = |key: &str| {
        let words = loaded.origins.of(key).map(ToString::to_string);
        words.map(|words| words.replace(&format!("{}/", folder.display()), ""))
    };
    assert_eq!(origin("limits.connections").as_deref(), Some("conf.d/20-b.toml:2"));
    assert_eq!(origin("limits.packet_bytes").as_deref(), Some("midge.toml:6"));
    assert_eq!(origin("listeners[2].address").as_deref(), Some("conf.d/20-b.toml:4"));
    assert_eq!(origin("limits.backlog_bytes"), None);
    let names: Vec<&str> = loaded.files.iter().map(|file| file.rsplit('/').next().expect("a name")).collect();
    assert_eq!(names, ["midge.toml", "10-a.toml", "20-b.toml", "last.toml"]);
}

#[test]
fn a_pattern_without_a_file_is_fine_and_a_missing_file_is_not() {
    let folder = folder("missing", &[("midge.toml", "include = [\"conf.d/*.toml\"]\n")]);
    let loaded = load(Some(&folder.join("midge.toml")), variables(&[])).expect("a good file");
    assert_eq!((loaded.config, loaded.files.len()), (Config::default(), 1));
    fs::write(folder.join("midge.toml"), "include = [\"none.toml\", \"a[\"]\n").expect("it can be written");
    let said = errors(&folder, &[]);
    assert!(said.contains("none.toml: cannot be read: "), "{said}");
    assert!(said.contains("midge.toml:1: include: \"a[\": "), "{said}");
}

#[test]
fn a_file_is_read_once_however_often_it_is_named() {
    let folder = folder(
        "once",
        &[
            ("midge.toml", "include = [\"a.toml\", \"*.toml\"]\n[[listeners]]\naddress = \"127.0.0.1:1\"\n"),
            ("a.toml", "[[listeners]]\naddress = \"127.0.0.1:2\"\n"),
        ],
    );
    let loaded = load(Some(&folder.join("midge.toml")), variables(&[])).expect("good files");
    assert_eq!(loaded.config.listeners.len(), 2);
}

#[test]
fn errors_name_the_file_that_has_them() {
    let folder = folder(
        "errors",
        &[
            ("midge.toml", "include = [\"a.toml\", \"b.toml\"]\n[limits]\nconnections = -1\n"),
            ("a.toml", "\n[limits]\npacket_byts = 1\n"),
            ("b.toml", "include = [\"c.toml\"]\n"),
        ],
    );
    let said = errors(&folder, &[("MIDGE__LIMITS__HANDSHAKES", "many"), ("PATH", "/bin")]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("midge.toml:3: limits.connections: got -1; allowed is "), "{said}");
    assert!(lines[1].starts_with("a.toml:3: limits.packet_byts: unknown key; did you mean"), "{said}");
    assert_eq!(
        lines[2],
        "b.toml:1: include: an included file can't include others: name them in the main file"
    );
    let expected = "environment variable MIDGE__LIMITS__HANDSHAKES: limits.handshakes: got the string \"many\"; allowed is ";
    assert!(lines[3].starts_with(expected), "{said}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn an_address_of_two_files_is_refused_with_both_places() {
    let folder = folder(
        "double",
        &[
            ("midge.toml", "include = [\"a.toml\"]\n[[listeners]]\naddress = \"127.0.0.1:1\"\n"),
            ("a.toml", "[[listeners]]\naddress = \"127.0.0.1:1\"\n"),
        ],
    );
    let said = errors(&folder, &[]);
    assert_eq!(
        said,
        "a.toml:2: listeners[2].address: \"127.0.0.1:1\" is also the address of the listener of midge.toml:3"
    );
    let moved = variables(&[("MIDGE__LISTENERS__2__ADDRESS", "127.0.0.1:2")]);
    assert!(load(Some(&folder.join("midge.toml")), moved).is_ok());
}

#[test]
fn what_an_option_needs_may_stand_in_another_file() {
    let folder = folder(
        "admin",
        &[
            ("midge.toml", "include = [\"a.toml\"]\nadmin.address = \"127.0.0.1:9000\"\n"),
            ("a.toml", "admin.token_file = \"/etc/midge/tokens\"\n"),
        ],
    );
    assert!(load(Some(&folder.join("midge.toml")), variables(&[])).is_ok());
    let said = errors(&folder, &[("MIDGE__ADMIN__TOKEN_FILE", "")]);
    assert_eq!(
        said,
        "midge.toml:2: admin.address: \"127.0.0.1:9000\" has a port, so it needs tokens or client certificates: set admin.token_file or admin.tls_client_ca"
    );
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    let error = load(Some(Path::new("no/such/midge.toml")), variables(&[])).expect_err("no file");
    assert_eq!(
        error.to_string(),
        "no/such/midge.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn an_endless_file_is_refused() {
    let error = load(Some(Path::new("/dev/zero")), variables(&[])).expect_err("endless");
    assert_eq!(error.to_string(), "/dev/zero: cannot be read: it is a device; a regular file is needed");
}

#[test]
fn variables_override_files_and_make_listeners() {
    let set = variables(&[
        ("MIDGE__LISTENERS__2__ADDRESS", "unix:/run/m.sock"),
        ("MIDGE__LISTENERS__1__ADDRESS", "0.0.0.0:1883"),
        ("MIDGE__LISTENERS__2__ALLOW_ANONYMOUS", "true"),
        ("MIDGE__LOG__LEVEL", "debug"),
        ("MIDGE__AUTH__PASSWORD_FILE", "\"/etc/pass words\""),
        ("MIDGE__PROTOCOL__RESPONSE_INFORMATION", "17"),
        ("MIDGE__LIMITS__CONNECTIONS", " 1_000 "),
        ("MIDGE__GATE__BANNED", "[\"10.0.0.0/8\"]"),
        ("MIDGE_WRITE_MANUAL", "1"),
    ]);
    let loaded = load(None, set.clone()).expect("good variables");
    let config = &loaded.config;
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[0].address, Address::parse("0.0.0.0:1883").expect("an address"));
    assert_eq!(config.listeners[1].allow_anonymous, Some(true));
    assert_eq!((config.log.level, config.limits.connections), (LogLevel::Debug, 1000));
    assert_eq!(
        (config.auth.password_file.as_str(), config.protocol.response_information.as_str()),
        ("/etc/pass words", "17")
    );
    assert_eq!(config.gate.banned.len(), 1);
    assert_eq!(loaded.variables.len(), 8);
    let origin = loaded.origins.of("log.level").map(ToString::to_string);
    assert_eq!(origin.as_deref(), Some("MIDGE__LOG__LEVEL"));
    let over = with_variables(Config::default(), variables(&[("MIDGE__LISTENERS__1__MOUNT_POINT", "a/")]));
    assert_eq!(over.expect("good variables").config.listeners[0].mount_point, "a/");
}

#[test]
fn wrong_variables_are_refused_one_by_one() {
    let said = |name: &str, value: &str| {
        let error = load(None, variables(&[(name, value)])).expect_err(name).to_string();
        let (start, rest) = error.split_once(": ").expect("a place");
        assert_eq!(start, format!("environment variable {name}"));
        rest.to_owned()
    };
    assert!(said("MIDGE__LIMITS__CONECTIONS", "1").contains("did you mean \"connections\"?"));
    assert!(said("MIDGE__LIMIT__CONNECTIONS", "1").contains("did you mean MIDGE__LIMITS__CONNECTIONS?"));
    assert!(said("MIDGE__LIMITS", "1").contains("MIDGE__SECTION__KEY"));
    assert!(said("MIDGE__", "1").contains("MIDGE__SECTION__KEY"));
    assert!(said("MIDGE__LIMITS__A__B", "1").contains("MIDGE__SECTION__KEY"));
    assert!(said("MIDGE__limits__connections", "1").contains("MIDGE__LIMITS__CONNECTIONS"));
    assert!(said("MIDGE__LISTENERS__0__ADDRESS", "1").contains("from 1"));
    assert!(said("MIDGE__LISTENERS__3__ADDRESS", "1").contains("the next is listeners[1]"));
    assert!(said("MIDGE__LISTENERS__ADDRESS", "1").contains("MIDGE__LISTENERS__1__KEY"));
    assert!(said("MIDGE__LISTENERS__1__ADDRESS", "nowhere").contains("allowed is"));
    assert!(said("MIDGE__LIMITS__CONNECTIONS", "").contains("allowed is an integer"));
    assert!(said("MIDGE__LIMITS__CONNECTIONS", "1\nadmin.address = 5").contains("allowed is an integer"));
    assert!(
        said("MIDGE__ADMIN__ADDRESS", "127.0.0.1:9000").contains("it needs tokens or client certificates")
    );
    assert!(said("MIDGE__LISTENERS__1__MOUNT_POINT", "a/#").contains("no + and no #"));
}
