//! Whole files, from the text of a `mosquitto.conf` to midge's options.
#![allow(clippy::disallowed_methods, reason = "files to include, in a folder of the test's own")]

mod errors;
mod files;

use super::keys::{Form, KEYS, KeyHandling, Stands};
use super::*;
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

/// The value of a key in a table of the midge.toml.
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
    // mosquitto asks for no certificate in this case, whatever cafile says.
    for key in ["tls_client_ca", "tls_client_certificate", "tls_crl", "tls_user_name"] {
        assert_eq!(in_listener(tls, 0, key), None, "{key}");
    }
    // The file may hold the certificates between the listener's own and its CA.
    assert_eq!(in_listener(tls, 0, "tls_chain"), text("/ca"));
    let notes = conf(tls).mapping().notes;
    // The other note is about the size of packets.
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
    // It is the interval of a check, not a lifetime.
    let remarks = conf("retain_expiry_interval 5\n").remarks;
    assert!(remarks[0].to_string().contains("looks for expired retained messages"), "{remarks:?}");
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

/// The listeners that are left, and the lines that are left out.
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
        // Without the line, the same clients can connect, or fewer.
        ("listener 1 ::1\ntls_version tlsv1.1", &["[::1]:1"][..], &[2][..]),
        ("listener 1 host\nsocket_domain ipv4", &["host:1"], &[2]),
        ("listener 1 ::1\npsk_file f", &["[::1]:1"], &[2]),
        // Without the line, other clients could connect.
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
