//! The errors of a file, and their lines.

use super::*;
use crate::base::Random;

/// The text of a file, the line of the error, its key, and a part of the reason.
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
