//! Whole files, from the text of a `mosquitto.conf` to midge's words.
#![allow(clippy::disallowed_methods, reason = "files to include, in a folder of the test's own")]

use std::path::PathBuf;

use super::keys::{Form, KEYS, KeyHandling, Stands};
use super::*;
use crate::base::Random;
use crate::settings::{Listener, QueuePolicy};

fn conf(text: &str) -> MosquittoConf {
    match MosquittoConf::parse("m.conf", text.as_bytes(), None) {
        Ok(conf) => conf,
        Err(errors) => panic!("{text:?}: {errors:?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    let errors = MosquittoConf::parse("m.conf", text.as_bytes(), None).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// What a key of a table became, as the midge.toml has it.
fn mapped(mapping: &Mapping, table: TomlTable, key: &str) -> Option<TomlValue> {
    let mut found = mapping.settings.iter().filter(|setting| setting.table == table && setting.key == key);
    let value = found.next().map(|setting| setting.value.clone());
    assert_eq!(found.next(), None, "{key} stands there once");
    value
}

fn in_section(text: &str, section: &'static str, key: &str) -> Option<TomlValue> {
    mapped(&conf(text).mapping(), TomlTable::Section(section), key)
}

fn in_listener(text: &str, index: usize, key: &str) -> Option<TomlValue> {
    mapped(&conf(text).mapping(), TomlTable::Listener(index), key)
}

fn addresses(conf: &MosquittoConf) -> Vec<String> {
    let settings = conf.mapping().settings.into_iter().filter(|setting| setting.key == "address");
    settings
        .map(|setting| match setting.value {
            TomlValue::Text(address) => address,
            other => panic!("an address is a text, not {other:?}"),
        })
        .collect()
}

fn text(text: &str) -> Option<TomlValue> {
    Some(TomlValue::Text(text.to_owned()))
}

fn truth(truth: bool) -> Option<TomlValue> {
    Some(TomlValue::Boolean(truth))
}

fn integer(integer: u64) -> Option<TomlValue> {
    Some(TomlValue::Integer(integer))
}

/// A folder of one test, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("midge-conf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("conf.d")).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn include_line(&self) -> String {
        format!("include_dir {}\n", self.0.join("conf.d").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What Debian ships.
fn stock(folder: &Folder) -> String {
    let mut text = "# Local configuration belongs into conf.d\n#\n\n\
                    pid_file /run/mosquitto/mosquitto.pid\n\n\
                    persistence true\npersistence_location /var/lib/mosquitto/\n\n\
                    log_dest file /var/log/mosquitto/mosquitto.log\n\n"
        .to_owned();
    text.push_str(&folder.include_line());
    text
}

#[test]
fn the_stock_file_of_debian_serves_this_machine_and_keeps_its_state() {
    let folder = Folder::new("stock");
    let path = folder.file("mosquitto.conf", &stock(&folder));
    let mut conf = MosquittoConf::load(&path, None).expect("a good file");
    conf.has_ipv6 = true;
    assert!(conf.local_only);
    assert_eq!(addresses(&conf), ["127.0.0.1:1883", "[::1]:1883"]);
    let config = conf.config().expect("all of it is known");
    assert_eq!(config.auth.allow_anonymous, Some(true));
    assert_eq!(config.persistence.directory, "/var/lib/mosquitto/mosquitto.db.midge");
    let remarks: Vec<String> = conf.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].contains("mosquitto.conf:4: pid_file: "), "{remarks:?}");
    assert!(conf.midge_toml().contains("/var/log/mosquitto/mosquitto.log"));
}

#[test]
fn listener_lines_beside_the_stock_file_open_it_to_others_and_close_it_to_the_anonymous() {
    let folder = Folder::new("listeners");
    folder.file("conf.d/10-net.conf", "listener 1883\nmax_connections 500\nlistener 8883 192.0.2.1\n");
    folder.file("conf.d/20-who.conf", "password_file /etc/mosquitto/passwd\n");
    folder.file("conf.d/README", "no configuration\n");
    let path = folder.file("mosquitto.conf", &stock(&folder));
    let mut conf = MosquittoConf::load(&path, None).expect("a good file");
    conf.has_ipv6 = true;
    assert_eq!(addresses(&conf), ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:8883"]);
    let mapping = conf.mapping();
    assert_eq!(mapped(&mapping, TomlTable::Listener(1), "connections"), integer(500));
    assert_eq!(mapped(&mapping, TomlTable::Listener(2), "connections"), None);
    assert_eq!(mapped(&mapping, TomlTable::Section("auth"), "allow_anonymous"), truth(false));
    assert_eq!(mapped(&mapping, TomlTable::Section("auth"), "password_file"), text("/etc/mosquitto/passwd"));
    let opened = &conf.listeners[0].place;
    assert!(opened.file.ends_with("10-net.conf"));
    assert_eq!(opened.line, 1);
}

#[test]
fn included_files_come_in_mosquittos_order_and_only_those_of_its_name() {
    let folder = Folder::new("order");
    for (name, port) in
        [("b.conf", 1), ("A.conf", 2), ("a.conf", 3), ("c.conf.bak", 4), (".conf", 5), ("10.conf", 6)]
    {
        folder.file(&format!("conf.d/{name}"), &format!("listener {port} 127.0.0.1\n"));
    }
    let path = folder.file("m.conf", &folder.include_line());
    let conf = MosquittoConf::load(&path, None).expect("good files");
    let ports = ["127.0.0.1:6", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:1"];
    assert_eq!(addresses(&conf), ports);
}

#[test]
fn a_listener_of_one_file_is_not_that_of_another() {
    let folder = Folder::new("scope");
    folder.file("conf.d/1.conf", "mount_point a/\ninclude_dir elsewhere\n");
    folder.file("conf.d/2.conf", "max_connections 7\n");
    let path =
        folder.file("m.conf", &format!("listener 1884 127.0.0.1\n{}max_qos 1\n", folder.include_line()));
    let errors = MosquittoConf::load(&path, None).expect_err("mount_point needs its listener");
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().contains("1.conf:1: mount_point: a listener line"), "{errors:?}");
    assert!(errors[1].to_string().contains("1.conf:2: include_dir: allowed in the main file only"));

    folder.file("conf.d/1.conf", "");
    let conf = MosquittoConf::load(&path, None).expect("good files");
    assert_eq!(conf.listeners.len(), 2, "max_connections opens the default listener beside 1884");
    assert_eq!(conf.listeners[0].settings.max_qos.as_ref().map(|qos| qos.value), Some(1));
    assert_eq!(conf.listeners[1].opened_by, "max_connections");
    assert_eq!(conf.listeners[1].place.value, ListenAddress::Port(1883, None));
    assert!(conf.midge_toml().contains("opens mosquitto's default listener"));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = Folder::new("open");
    let missing = MosquittoConf::load(&folder.0.join("no.conf"), None).expect_err("no file");
    assert!(missing[0].to_string().contains("no.conf: cannot be read"), "{missing:?}");
    let directory = MosquittoConf::load(&folder.0.join("conf.d"), None).expect_err("no file");
    assert!(directory[0].to_string().contains("is a directory"), "{directory:?}");
    assert!(errors("include_dir /nowhere/at/all\n")[0].contains("m.conf:1: include_dir: the directory"));
}

/// Text of a file, the line to blame, its key, and a part of the reason.
const WRONG: &[(&str, usize, &str, &str)] = &[
    ("unknown_option unknown", 1, "unknown_option", "Unknown configuration variable"),
    ("\n\nalow_anonymous true", 3, "alow_anonymous", "did you mean \"allow_anonymous\"?"),
    ("port\t1883", 1, "\"port\\u00091883\"", "a space, not a tab"),
    (" # port 1883", 1, "#", "first column"),
    ("user", 1, "user", "has no value"),
    ("user ", 1, "user", "has no value"),
    ("pid_file /a\npid_file /a", 2, "pid_file", "already set in m.conf:1"),
    ("persistence_file a\npersistence_file a", 2, "persistence_file", "already set"),
    ("memory_limit", 1, "memory_limit", "has no value"),
    ("memory_limit -1", 1, "memory_limit", "from 0"),
    ("memory_limit 100M", 1, "memory_limit", "whole number"),
    ("accept_protocol_versions 3", 1, "accept_protocol_versions", "listener line"),
    ("port 1\naccept_protocol_versions 3", 2, "accept_protocol_versions", "listener line"),
    ("listener 1\naccept_protocol_versions", 2, "accept_protocol_versions", "names no version"),
    ("listener 1\naccept_protocol_versions 7", 2, "accept_protocol_versions", "3, 4 and 5"),
    ("allow_anonymous", 1, "allow_anonymous", "has no value"),
    ("allow_anonymous falst", 1, "allow_anonymous", "got \"falst\"; allowed is true or false"),
    ("autosave_interval", 1, "autosave_interval", "has no value"),
    ("autosave_interval string", 1, "autosave_interval", "whole number"),
    ("listener", 1, "listener", "has no value"),
    ("listener 100000", 1, "listener", "from 0 to 65535"),
    ("listener 0", 1, "listener", "Unix socket"),
    ("listener 1883 not_a_host!", 1, "listener", "IP address or a host name"),
    ("port 0", 1, "port", "from 1 to 65535"),
    ("bind_address a\nbind_address b", 2, "bind_address", "already set"),
    ("mount_point test/", 1, "mount_point", "listener line"),
    ("listener 1\nmount_point test/+/", 2, "mount_point", "wildcards"),
    ("listener 1\nprotocol", 2, "protocol", "has no value"),
    ("listener 1\nprotocol test", 2, "protocol", "mqtt or websockets"),
    ("listener 1\nprotocol http_api", 2, "protocol", "not supported"),
    ("listener 1\nsocket_domain ipv5", 2, "socket_domain", "ipv4 or ipv6"),
    ("listener 1 localhost\nsocket_domain ipv4", 2, "socket_domain", "write the address"),
    ("max_qos 3", 1, "max_qos", "from 0 to 2"),
    ("maximum_qos -1", 1, "maximum_qos", "from 0 to 2"),
    ("max_inflight_messages 65536", 1, "max_inflight_messages", "to 65535"),
    ("max_packet_size 19", 1, "max_packet_size", "from 20"),
    ("message_size_limit 556000000", 1, "message_size_limit", "to 268435455"),
    ("max_keepalive 65536", 1, "max_keepalive", "to 65535"),
    ("max_keepalive -1", 1, "max_keepalive", "from 0"),
    ("listener 1\nmax_topic_alias 65536", 2, "max_topic_alias", "to 65535"),
    ("listener 1\nmax_topic_alias_broker -1", 2, "max_topic_alias_broker", "from 0"),
    ("websockets_headers_size 65536", 1, "websockets_headers_size", "to 65535"),
    ("sys_interval 65536", 1, "sys_interval", "to 65535"),
    ("retain_expiry_interval 0", 1, "retain_expiry_interval", "from 1"),
    ("persistent_client_expiration 14", 1, "persistent_client_expiration", "14d"),
    ("persistent_client_expiration 0d", 1, "persistent_client_expiration", "above 0"),
    ("persistent_client_expiration ü", 1, "persistent_client_expiration", "above 0"),
    ("log_facility 8", 1, "log_facility", "from 0 to 7"),
    ("log_type loud", 1, "log_type", "information"),
    ("log_dest nowhere", 1, "log_dest", "file PATH"),
    ("log_dest file", 1, "log_dest", "has no value"),
    ("log_dest file /a\nlog_dest file /b", 2, "log_dest", "already set"),
    ("per_listener_settings true\nallow_anonymous true", 2, "allow_anonymous", "listener line"),
    ("allow_anonymous true\nper_listener_settings true", 2, "per_listener_settings", "above every key"),
    ("listener 1\ncertfile c", 2, "certfile", "needs a keyfile"),
    ("listener 1\nkeyfile c", 2, "keyfile", "needs a certfile"),
    ("listener 1\ncafile c", 2, "cafile", "needs a certfile"),
    (
        "listener 1\ncertfile c\nkeyfile k\nrequire_certificate true",
        4,
        "require_certificate",
        "needs a cafile",
    ),
    ("listener 1\ntls_version tlsv1.1", 2, "tls_version", "not supported"),
    ("listener 1\ntls_version ssl", 2, "tls_version", "tlsv1.2 or tlsv1.3"),
    ("listener 1\ntls_version tlsv1.2\ntls_version tlsv1.2", 3, "tls_version", "already set"),
    ("listener 1\ntls_keyform engine", 2, "tls_keyform", "not supported"),
    ("capath /etc/ssl/certs", 1, "capath", "a listener line must stand above"),
    ("listener 1\ncapath /etc/ssl/certs", 2, "capath", "needs a certfile"),
    ("listener 1\nenable_proxy_protocol 3", 2, "enable_proxy_protocol", "from 1 to 2"),
    (
        "listener 1\nenable_proxy_protocol 2\nuse_subject_as_username true",
        3,
        "use_subject_as_username",
        "beside",
    ),
    (
        "listener 1\nenable_proxy_protocol 2\nrequire_certificate true",
        3,
        "require_certificate",
        "not supported",
    ),
    ("proxy_protocol_v2_require_tls true", 1, "proxy_protocol_v2_require_tls", "not supported"),
    ("psk_file /a", 1, "psk_file", "pre-shared"),
    ("listener 1\npsk_hint h", 2, "psk_hint", "pre-shared"),
    ("connection", 1, "connection", "has no value"),
    ("connection b", 1, "connection", "no bridges"),
    ("round_robin true", 1, "round_robin", "a connection line must stand above"),
    ("plugin /usr/lib/x.so", 1, "plugin", "no plugins"),
    ("global_plugin /usr/lib/mosquitto_acl_file.so", 1, "global_plugin", "write \"acl_file FILE\""),
    ("auth_opt_host db", 1, "auth_opt_host", "must stand above"),
    ("plugin_opt_ string", 1, "plugin_opt_", "must stand above"),
];

#[test]
fn every_kind_of_error_names_its_line_and_key() {
    for (text, line, key, reason) in WRONG {
        let errors = errors(text);
        let expected = format!("m.conf:{line}: {key}: ");
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        assert!(errors[0].starts_with(&expected) && errors[0].contains(reason), "{text:?}: {errors:?}");
    }
    let prefix = format!("listener 1\nlistener_auto_id_prefix {}", "a".repeat(51));
    assert!(errors(&prefix)[0].contains("longer than 50 bytes"));
    let many = "listener 1\n".repeat(65);
    assert!(errors(&many)[0].contains("m.conf:65: listener: more than 64 listeners"));
    let latin1 = MosquittoConf::parse("m.conf", b"listener 1\nmount_point \xfc/", None).expect_err("Latin-1");
    assert_eq!(latin1[0].to_string(), "m.conf:2: the line is not UTF-8");
}

#[test]
fn all_errors_are_told_at_once_and_each_line_of_a_bridge_is_one() {
    let text = "allow_anonymous perhaps\nconnection cloud\naddress example.org:8883\ntopic # out 1\n\
                listener 100000\nmount_point a/\nplugin /a.so\nplugin_opt_x y\n";
    let errors = errors(text);
    let lines: Vec<&str> = errors.iter().map(|error| error.split(' ').next().expect("a place")).collect();
    assert_eq!(
        lines,
        ["m.conf:1:", "m.conf:2:", "m.conf:3:", "m.conf:4:", "m.conf:5:", "m.conf:7:", "m.conf:8:"]
    );
    assert!(errors[2].contains("the bridge of line 2"));
}

#[test]
fn every_harmless_key_is_remarked_with_its_line() {
    for (key, kind) in KEYS {
        let KeyHandling::Harmless(stands, form, why) = kind else { continue };
        let value = match form {
            Form::Boolean => "true",
            Form::Integer(..) => "7",
            Form::Text | Form::Anything => "some thing",
        };
        let above = if *stands == Stands::Anywhere { "" } else { "listener 1883" };
        let conf = conf(&format!("{above}\n{key} {value}\n"));
        assert_eq!(conf.remarks.len(), 1, "{key}");
        assert_eq!(conf.remarks[0].to_string(), format!("m.conf:2: {key}: {why}"));
        let words = conf.midge_toml().replace("\n#  ", "");
        assert!(words.contains(&format!("m.conf:2 {key}: ")), "{words}");
    }
}

#[test]
fn carriage_returns_and_a_missing_last_line_feed_do_no_harm() {
    let conf = conf(
        "\r\n# c\r\nlistener 1883 127.0.0.1\r\nallow_anonymous true\r\npersistence_location /a b \r\n\
         persistence 1",
    );
    assert_eq!(addresses(&conf), ["127.0.0.1:1883"]);
    assert_eq!(conf.security.allow_anonymous.as_ref().map(|at| (at.line, at.value)), Some((4, true)));
    let directory = mapped(&conf.mapping(), TomlTable::Section("persistence"), "directory");
    assert_eq!(directory, text("/a b/mosquitto.db.midge"));
}

#[test]
fn who_may_come_in_without_a_name_is_as_in_mosquitto() {
    let auth = |text: &str| in_section(text, "auth", "allow_anonymous");
    assert_eq!(auth(""), truth(true));
    assert_eq!(auth("max_connections 10"), truth(true));
    assert_eq!(auth("password_file /p"), truth(true));
    let skips = |text: &str| in_section(text, "auth", "skip_bad_password_lines");
    assert_eq!((skips("password_file /p"), skips("listener 1")), (truth(true), None));
    assert_eq!(skips("per_listener_settings true\nlistener 1\npassword_file /p"), truth(true));
    assert_eq!(auth("allow_anonymous false"), truth(false));
    assert_eq!(auth("port 1"), truth(false));
    assert_eq!(auth("listener 1"), truth(false));
    assert_eq!(auth("bind_address localhost"), truth(false));
    assert_eq!(auth("listener 1\nallow_anonymous true"), truth(true));
    assert_eq!(auth("listener 1\nallow_anonymous true\nallow_anonymous false"), truth(false));

    let own = |text: &str| in_listener(text, 0, "allow_anonymous");
    assert_eq!(own("listener 1\nallow_anonymous true"), None, "it is the whole broker's");
    assert_eq!(own("allow_anonymous true\nlistener 1\nlistener_allow_anonymous false"), truth(false));
    let per_listener = "per_listener_settings true\nlistener 1 ::1\nallow_anonymous true\npassword_file /p\n\
                        acl_file /a\nlistener 2 ::1\n";
    assert_eq!(auth(per_listener), truth(false));
    assert_eq!(own(per_listener), truth(true));
    assert_eq!(in_listener(per_listener, 0, "password_file"), text("/p"));
    assert_eq!(in_listener(per_listener, 0, "acl_file"), text("/a"));
    assert_eq!(in_listener(per_listener, 1, "allow_anonymous"), None);
    assert_eq!(in_listener(per_listener, 1, "acl_file"), None);
    let last_counts =
        "per_listener_settings 1\nlistener 1\nlistener_allow_anonymous true\nallow_anonymous false";
    assert_eq!(own(last_counts), truth(false));
}

#[test]
fn mosquittos_defaults_are_set_where_midge_has_others() {
    let config = conf("listener 1883").config().expect("all of it is known");
    assert_eq!(config.auth.allow_anonymous, Some(false));
    assert_eq!(config.protocol.receive_maximum, 20);
    assert_eq!(config.protocol.topic_alias_maximum, 10);
    assert_eq!(config.protocol.keep_alive_seconds_max, 65_535);
    assert_eq!(config.protocol.session_expiry_seconds_max, u32::MAX);
    assert_eq!(config.protocol.maximum_qos, 2);
    assert!(config.protocol.retain_available);
    assert_eq!(config.limits.inflight_messages, 20);
    assert_eq!(config.limits.packet_bytes, 2_000_000);
    assert_eq!(config.limits.session_queue_messages, 1000);
    assert_eq!(config.limits.session_queue_policy, QueuePolicy::DropNewest);
    assert_eq!(config.persistence.directory, "");
    assert_eq!(config.sys.interval_seconds, 10);
}

#[test]
fn no_limit_is_the_most_that_midge_can_hold() {
    let text = "max_inflight_messages 0\nmax_queued_messages 0\nmax_keepalive 0\nmemory_limit 0\n\
                global_max_connections -1\nglobal_max_clients 0\nmax_queued_bytes -1\nmax_inflight_bytes 0\n\
                message_size_limit 0\nlistener 1\nmax_connections -1\n";
    let conf = conf(text);
    let config = conf.config().expect("all of it is known");
    assert_eq!(config.protocol.receive_maximum, 65_535);
    assert_eq!(config.limits.inflight_messages, 65_535);
    assert_eq!(config.limits.session_queue_messages, 100_000_000);
    assert_eq!(config.limits.session_queue_bytes, 1 << 40);
    assert_eq!(config.limits.connections, 0);
    assert_eq!(config.limits.sessions, 1_000_000);
    assert_eq!(config.protocol.keep_alive_seconds_max, 65_535);
    assert_eq!(mapped(&conf.mapping(), TomlTable::Listener(0), "connections"), None);
}

#[test]
fn limits_and_terms_are_taken_over() {
    let conf = conf(
        "max_inflight_messages 5\nmax_queued_messages 7\nmax_queued_bytes 100\nmax_keepalive 60\n\
                     max_packet_size 50\nglobal_max_connections 10\nglobal_max_clients 11\n\
                     retain_available 0\n\
                     persistent_client_expiration 2w\nsys_interval 0\nmemory_limit 100000000\n\
                     log_type warning\nlog_type error\nlog_dest stdout\nlistener 1\n",
    );
    let config = conf.config().expect("all of it is known");
    assert_eq!(config.protocol.receive_maximum, 5);
    assert_eq!(config.limits.inflight_messages, 5);
    assert_eq!(config.limits.session_queue_messages, 7);
    assert_eq!(config.limits.session_queue_bytes, 1024, "midge's least");
    assert_eq!(config.protocol.keep_alive_seconds_max, 60);
    assert_eq!(config.limits.packet_bytes, 50);
    assert_eq!(config.limits.connections, 10);
    assert_eq!(config.limits.sessions, 11);
    assert!(!config.protocol.retain_available);
    assert_eq!(config.protocol.session_expiry_seconds_max, 14 * 86_400);
    assert_eq!(config.sys.interval_seconds, 0);
    assert_eq!(config.limits.memory_bytes, 100_000_000);
    assert_eq!(config.limits.queue_bytes_total, 50_000_000);
    assert_eq!(config.log.level.word(), "warn");
    assert_eq!(config.log.target.word(), "stdout");
}

#[test]
fn a_tls_listener_becomes_one() {
    let tls =
        "listener 8883 127.0.0.1\ncafile /ca\ncertfile /c\nkeyfile /k\ntls_version tlsv1.3\ncrlfile /r\n";
    let required =
        format!("{tls}require_certificate true\nuse_identity_as_username true\nuse_subject_as_username 1\n");
    let own = |key: &str| in_listener(&required, 0, key);
    assert_eq!(own("tls_certificates"), Some(TomlValue::Texts(vec!["/c".to_owned()])));
    assert_eq!(own("tls_keys"), Some(TomlValue::Texts(vec!["/k".to_owned()])));
    assert_eq!(own("tls_client_ca"), text("/ca"));
    assert_eq!(own("tls_client_certificate"), text("required"));
    assert_eq!(own("tls_crl"), text("/r"));
    assert_eq!(own("tls_crl_scope"), text("client"));
    assert_eq!(own("tls_client_certificate_rules"), text("openssl"));
    assert_eq!(own("tls_user_name"), text("common_name"));
    assert_eq!(own("tls_minimum"), text("1.3"));
    // mosquitto asks for no certificate then, whatever cafile says.
    for key in ["tls_client_ca", "tls_client_certificate", "tls_crl", "tls_user_name"] {
        assert_eq!(in_listener(tls, 0, key), None, "{key}");
    }
    // It may hold what leads from the listener's own certificate to its CA.
    assert_eq!(in_listener(tls, 0, "tls_chain"), text("/ca"));
    let notes = conf(tls).mapping().notes;
    // The other is about the size of packets.
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn a_websocket_listener_keeps_its_origins() {
    let header_bytes = |size: &str, protocol: &str| {
        let text = format!("websockets_headers_size {size}\nlistener 9001\nprotocol {protocol}\n");
        in_listener(&text, 0, "websocket_header_bytes")
    };
    assert_eq!(header_bytes("65535", "websockets"), integer(65_535 + 4096));
    assert_eq!(
        header_bytes("4096", "websockets"),
        integer(Listener::default().websocket_header_bytes as u64)
    );
    assert_eq!(header_bytes("0", "websockets"), header_bytes("4096", "websockets"));
    assert_eq!(header_bytes("65535", "mqtt"), None);
    let web = "listener 9001 127.0.0.1\nprotocol websockets\nwebsockets_origin a.example\n\
               websockets_origin b.example\n";
    assert_eq!(in_listener(web, 0, "protocol"), text("websocket"));
    let origins = ["a.example", "b.example"].map(str::to_owned).to_vec();
    assert_eq!(in_listener(web, 0, "websocket_origins"), Some(TomlValue::Texts(origins)));
}

#[test]
fn a_listener_listens_where_mosquittos_does() {
    let listening = |text: &str| addresses(&conf(text));
    assert_eq!(listening("listener 1883"), ["0.0.0.0:1883", "[::]:1883"]);
    assert_eq!(listening("listener 1883 # all"), ["0.0.0.0:1883", "[::]:1883"]);
    assert_eq!(listening("listener 1883\nsocket_domain ipv4"), ["0.0.0.0:1883"]);
    assert_eq!(listening("listener 1883\nsocket_domain ipv6"), ["[::]:1883"]);
    assert_eq!(listening("listener 1883 ::1"), ["[::1]:1883"]);
    assert_eq!(listening("listener 0 /run/m.sock"), ["unix:/run/m.sock"]);
    assert_eq!(listening("listener 0x75b Broker.example"), ["Broker.example:1883"]);
    assert_eq!(listening("port 1884\nbind_address 127.0.0.1"), ["127.0.0.1:1884"]);
    assert_eq!(listening("bind_address 127.0.0.1\nport 1884\nport 1885"), ["127.0.0.1:1885"]);
    let without_ipv6 = MosquittoConf { has_ipv6: false, ..conf("listener 1883") };
    assert_eq!(addresses(&without_ipv6), ["0.0.0.0:1883"]);
}

#[test]
fn the_port_of_the_command_line_counts_without_listeners_only() {
    let load = |text: &str| MosquittoConf::parse("m.conf", text.as_bytes(), Some(1999)).expect(text);
    assert_eq!(addresses(&load("max_connections 10")), ["127.0.0.1:1999", "[::1]:1999"]);
    let with_listener = load("listener 1883 127.0.0.1");
    assert_eq!(addresses(&with_listener), ["127.0.0.1:1883"]);
    assert!(with_listener.midge_toml().contains("the port of the command line counts only"));
}

#[test]
fn what_decides_who_comes_in_or_what_flows_has_its_like_in_midge() {
    let text = "clientid_prefixes a-\nqueue_qos0_messages true\ncheck_retain_source true\n\
                listener 1\nbind_interface eth0\nuse_username_as_clientid true\ncertfile c\nkeyfile k\ncafile a\n\
                require_certificate true\ndisable_client_cert_date_checks true\n";
    let config = conf(text).config().expect("midge has all of it");
    let listener = &config.listeners[0];
    assert_eq!((config.auth.client_id_prefix.as_str(), listener.interface.as_str()), ("a-", "eth0"));
    assert!(config.protocol.queue_qos0 && config.protocol.check_retain_source);
    assert!(listener.user_name_as_client_id && !listener.tls_client_certificate_dates);
    assert!(conf("").config().expect("defaults").protocol.check_retain_source, "mosquitto's default");
    assert!(!conf("check_retain_source false").config().expect("false").protocol.check_retain_source);
    // The interval of a look around, not a life.
    let remarks = conf("retain_expiry_interval 5\n").remarks;
    assert!(remarks[0].to_string().contains("looks for expired retained messages"), "{remarks:?}");
}

#[test]
fn an_error_of_midges_own_reader_names_the_line_of_the_mosquitto_conf() {
    let errors =
        conf("listener 1884 127.0.0.1\n# again\nlistener 1884 127.0.0.1\n").config().expect_err("twice");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().starts_with("m.conf:3: listener: listeners[2].address: "), "{errors:?}");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const VALUES: [&str; 14] = [
        "",
        " ",
        "true",
        "0",
        "-1",
        "65536",
        "0x7fffffff",
        "99999999999999999999",
        "/a b\t",
        "ü",
        "\u{1}",
        "# c",
        "\"",
        "tlsv1.2",
    ];
    let at = random.index(bytes.len() + 1);
    match random.below(6) {
        0 => bytes.insert(at, random.next_u64() as u8),
        1 => bytes.truncate(at),
        2 => {
            let end = (at + random.index(20)).min(bytes.len());
            bytes.drain(at..end);
        }
        3 => {
            let line = bytes.split(|byte| *byte == b'\n').nth(random.index(30)).unwrap_or(b"").to_vec();
            bytes.splice(at..at, line);
        }
        _ => {
            let (key, value) = (random.pick(KEYS).0, random.pick(&VALUES));
            let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |feed| feed + 1);
            bytes.splice(start..start, format!("{key} {value}\n").into_bytes());
        }
    }
}

#[test]
fn no_file_makes_the_reader_panic_and_what_it_takes_is_toml() {
    let seeds = [
        "per_listener_settings true\nlistener 1883\nallow_anonymous true\nmax_connections 10\n\
         listener 8883 ::1\ncertfile /c\nkeyfile /k\ncafile /a\nrequire_certificate true\n\
         auto_id_prefix x\nlistener_allow_anonymous 1\n",
        "pid_file /p\npersistence true\npersistence_location /var/lib/\nlog_dest file /l\nlog_type all\n\
         port 1883\nbind_address 127.0.0.1\nmax_queued_messages 9\nwebsockets_log_level 7\n\
         listener 9001\nprotocol websockets\n",
        "",
    ];
    let mut random = Random::new(1);
    let mut taken = 0;
    for round in 0..50_000_usize {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        match MosquittoConf::parse("m.conf", &bytes, None) {
            Err(errors) => {
                assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().is_empty()))
            }
            Ok(conf) => {
                taken += 1;
                if round % 4 > 0 {
                    continue;
                }
                let text = conf.midge_toml();
                if let Err(error) = toml_edit::Document::parse(text.as_str()) {
                    panic!("{:?} became {text}: {error}", String::from_utf8_lossy(&bytes));
                }
                if round % 16 == 0
                    && let Err(errors) = conf.config()
                {
                    let lines = bytes.split(|byte| *byte == b'\n').count();
                    assert!(errors.iter().all(|error| error.line.is_none_or(|line| line <= lines)));
                }
            }
        }
    }
    assert!(taken > 1000, "{taken} of the files are good");
}

#[test]
fn a_directory_of_authorities_stands_beside_the_file() {
    let tls = "listener 8883\ncertfile c\nkeyfile k\n";
    let required = "require_certificate true\n";
    for (more, chain, client_ca, directory) in [
        ("cafile a\n", text("a"), None, None),
        ("capath d\n", None, None, text("d")),
        ("cafile a\ncapath d\nrequire_certificate true\n", text("a"), text("a"), text("d")),
        ("capath d\nrequire_certificate true\n", None, None, text("d")),
    ] {
        let file = format!("{tls}{more}");
        assert_eq!(in_listener(&file, 0, "tls_chain"), chain, "{more}");
        assert_eq!(in_listener(&file, 0, "tls_client_ca"), client_ca, "{more}");
        assert_eq!(in_listener(&file, 0, "tls_ca_directory"), directory, "{more}");
        let required = more.contains(required).then(|| TomlValue::Text("required".to_owned()));
        assert_eq!(in_listener(&file, 0, "tls_client_certificate"), required, "{more}");
        conf(&file).config().expect("midge has all of it");
    }
}

/// What is left of a file, and what is not.
fn partial(text: &str) -> (Vec<String>, Vec<String>) {
    let mut reader = super::read::ConfReader::new("m.conf", None);
    reader.is_partial = true;
    reader.read_bytes(text.as_bytes());
    let conf = reader.finish().unwrap_or_else(|errors| panic!("{text:?}: {errors:?}"));
    (addresses(&conf), conf.left_out.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_left_out_opens_no_door() {
    let proxy = "enable_proxy_protocol 2\n";
    for (text, addresses, places) in [
        // The same clients come in without it, or fewer.
        ("listener 1 ::1\ntls_version tlsv1.1", &["[::1]:1"][..], &[2][..]),
        ("listener 1 host\nsocket_domain ipv4", &["host:1"], &[2]),
        ("listener 1 ::1\npsk_file f", &["[::1]:1"], &[2]),
        // Others would.
        ("listener 1 ::1\nlistener 2 ::1\npsk_hint h\nlistener 3 ::1", &["[::1]:1", "[::1]:3"], &[3, 2]),
        ("listener 1 ::1\nlistener 2 ::1\nprotocol http_api", &["[::1]:1"], &[3, 2]),
        ("listener 1 ::1\nlistener 2 ::1\nproxy_protocol_v2_require_tls true", &["[::1]:1"], &[3, 2]),
        (&format!("listener 2 ::1\n{proxy}require_certificate true\nlistener 1 ::1"), &["[::1]:1"], &[3, 1]),
        (
            &format!("listener 2 ::1\n{proxy}use_identity_as_username true\nlistener 1 ::1"),
            &["[::1]:1"],
            &[3, 1],
        ),
        ("psk_hint h\nport 1\nlistener 2 ::1", &["[::1]:2"], &[1, 2]),
    ] {
        let (left, left_out) = partial(text);
        assert_eq!(left, addresses, "{text:?}");
        let expected: Vec<String> = places.iter().map(|line| format!("m.conf:{line}:")).collect();
        let got: Vec<&str> = left_out.iter().map(|line| line.split(' ').next().expect("a place")).collect();
        assert_eq!(got, expected, "{text:?}: {left_out:?}");
    }
}

#[test]
fn a_mosquitto_conf_is_told_from_a_midge_toml() {
    for (text, expected) in [
        ("# comment\n\n  pid_file /run/m.pid\n", true),
        ("listener 1883\n", true),
        ("plugin_opt_x y", true),
        ("user = \"x\"\n", false),
        ("[[listeners]]\n", false),
        ("frobnicate 1\nlistener 1\n", false),
        ("\u{e4} 1\n", false),
        ("# nothing\n", false),
        ("", false),
    ] {
        assert_eq!(is_evident(text.as_bytes()), expected, "{text:?}");
    }
}
