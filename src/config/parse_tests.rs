//! The exact results and errors of the reader of the configuration, for good and bad files.

use super::*;
use crate::settings::{ListenerProtocol, LogFormat, LogLevel};

/// The errors of a text, one per line.
fn errors_of(text: &str) -> String {
    parse("midge.toml", text).expect_err("the text is wrong").to_string()
}

const LIMITS_KEYS: &str = "connections, handshakes, handshakes_per_address, connect_rate, connect_burst, connect_seconds, \
     tcp_keepalive_seconds, tcp_user_timeout_seconds, connect_bytes, connect_bytes_unnamed, packet_bytes, \
     payload_bytes, inflight_messages, inflight_bytes, session_queue_messages, session_queue_policy, session_queue_bytes, queue_bytes_total, \
     backlog_bytes, upload_bytes_per_second_min, memory_bytes, retained_messages, retained_bytes, subscriptions_per_client, subscription_bytes_per_client, client_id_bytes, subscriptions_total, wildcard_patterns_per_client, topic_levels, sessions, client_messages_per_second, client_bytes_per_second";

const SECTION_HEADERS: &str = "[[listeners]], [runtime], [auth], [jwt], [webhook], [acl], [protocol], [limits], [gate], [persistence], [sys], [admin], [shutdown], [log]";

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse("midge.toml", ""), Ok(Config::default()));
    assert_eq!(parse("midge.toml", "# nothing\n[limits]\n"), Ok(Config::default()));
    assert_eq!(parse("midge.toml", "listeners = []"), Ok(Config::default()));
}

#[test]
fn a_file_sets_what_it_names_and_nothing_else() {
    let text = "
        [[listeners]]
        address = \"0.0.0.0:1883\"
        [[listeners]]
        address = \"localhost:1884\"
        protocol = \"mqtt\"
        [runtime]
        shards = 2
        [auth]
        allow_anonymous = false
        [protocol]
        response_information = \"replies/\"
        [limits]
        packet_bytes = 1_000
        [log]
        level = \"debug\"
        format = \"json\"
    ";
    let config = parse("midge.toml", text).expect("a good file");
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:1883", "localhost:1884"]);
    assert_eq!(config.listeners[1].protocol, ListenerProtocol::Mqtt);
    let mut expected = Config { listeners: config.listeners.clone(), ..Config::default() };
    expected.runtime.shards = 2;
    expected.auth.allow_anonymous = Some(false);
    expected.protocol.response_information = "replies/".to_string();
    expected.limits.packet_bytes = 1000;
    expected.log.level = LogLevel::Debug;
    expected.log.format = LogFormat::Json;
    assert_eq!(config, expected);
}

#[test]
fn inline_and_dotted_tables_are_tables() {
    let text = "limits = { packet_bytes = 1000 }\nlog.level = \"warn\"\n\
                listeners = [{ address = \"[::1]:1\" }, { address = \"[::1]:2\" }]\n";
    let config = parse("midge.toml", text).expect("a good file");
    assert_eq!(config.limits.packet_bytes, 1000);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.listeners.len(), 2);
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_and_all_keys_of_its_section() {
    assert_eq!(
        errors_of("# first\n\n[limits]\npacket_byts = 5\n"),
        format!(
            "midge.toml:4: limits.packet_byts: unknown key; did you mean \"packet_bytes\"? Keys of [limits]: \
             {LIMITS_KEYS}"
        )
    );
    assert_eq!(
        errors_of("limits.colour = 5"),
        format!("midge.toml:1: limits.colour: unknown key. Keys of [limits]: {LIMITS_KEYS}")
    );
    let known: Vec<&str> = Listener::default().rows().iter().map(|row| row.key).collect();
    assert_eq!(
        errors_of("[[listeners]]\naddress = \"[::]:1\"\n[[listeners]]\nadress = \"[::]:2\"\n"),
        format!(
            "midge.toml:4: listeners[2].adress: unknown key; did you mean \"address\"? Keys of [[listeners]]: {}",
            known.join(", ")
        )
    );
}

#[test]
fn part_of_a_key_is_answered_with_the_whole() {
    assert!(errors_of("[limits]\nPacket-Size = 1\n").contains("did you mean \"packet_bytes\"?"));
    assert!(errors_of("[protocol]\nkeep_alive = 1\n").contains("did you mean \"keep_alive_seconds_max\"?"));
}

#[test]
fn a_key_of_another_section_is_sent_home() {
    assert_eq!(
        errors_of("[auth]\nlevel = \"info\"\n"),
        "midge.toml:2: auth.level: unknown key; it belongs in [log]. Keys of [auth]: allow_anonymous, \
         password_file, skip_bad_password_lines, client_id_prefix, test_method"
    );
    assert_eq!(
        errors_of("packet_bytes = 5\n"),
        format!(
            "midge.toml:1: packet_bytes: unknown key; it belongs in [limits]. Sections: {SECTION_HEADERS}"
        )
    );
}

#[test]
fn an_unknown_section_is_answered_with_the_nearest_and_all_sections() {
    assert_eq!(
        errors_of("\n[limit]\npacket_bytes = 5\n"),
        format!("midge.toml:2: limit: unknown section; did you mean [limits]? Sections: {SECTION_HEADERS}")
    );
    assert_eq!(
        errors_of("[[listener]]\n"),
        format!(
            "midge.toml:1: listener: unknown section; did you mean [[listeners]]? Sections: {SECTION_HEADERS}"
        )
    );
    assert_eq!(
        errors_of("[\"a b\".c]\nx = 1\n"),
        format!("midge.toml:1: \"a b\": unknown section. Sections: {SECTION_HEADERS}")
    );
}

#[test]
fn a_wrong_type_says_what_it_got_and_what_is_allowed_with_its_unit() {
    let cases = [
        (
            "[limits]\npacket_bytes = \"2MB\"",
            "limits.packet_bytes: got the string \"2MB\"; allowed is an \
          integer from 20 to 268435460 (bytes)",
        ),
        (
            "[runtime]\nshards = 2.5",
            "runtime.shards: got the float 2.5; allowed is an integer from 0 to 128 \
          (shards)",
        ),
        (
            "[auth]\nallow_anonymous = \"yes\"",
            "auth.allow_anonymous: got the string \"yes\"; allowed is true \
          or false",
        ),
        ("[auth]\nallow_anonymous = 1", "auth.allow_anonymous: got the integer 1; allowed is true or false"),
        (
            "[log]\nlevel = true",
            "log.level: got true; allowed is \"error\", \"warn\", \"info\", \"debug\" or \
          \"trace\"",
        ),
        (
            "[limits]\nsessions = [1]",
            "limits.sessions: got an array; allowed is an integer from 1 to 1000000000 \
          (sessions)",
        ),
        ("[log]\nformat = 2026-01-01", "log.format: got a date or time; allowed is \"human\" or \"json\""),
        (
            "[[listeners]]\naddress = 1883",
            "listeners[1].address: got the integer 1883; allowed is \
          \"ADDRESS:PORT\", \"HOSTNAME:PORT\" or \"unix:PATH\", such as \"0.0.0.0:1883\", \"[::]:1883\", \
          \"localhost:1883\" or \"unix:/run/midge/midge.sock\"",
        ),
        (
            "[protocol]\nresponse_information = {}",
            "protocol.response_information: got a table; allowed is a \
          string of at most 65535 bytes without control characters",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors_of(text), format!("midge.toml:2: {expected}"));
    }
}

#[test]
fn an_impossible_value_says_what_is_allowed() {
    let cases = [
        ("[runtime]\nshards = 500", "runtime.shards: got 500; allowed is an integer from 0 to 128 (shards)"),
        ("[runtime]\nshards = -1", "runtime.shards: got -1; allowed is an integer from 0 to 128 (shards)"),
        (
            "[runtime]\nmesh_capacity = 1000",
            "runtime.mesh_capacity: got 1000; allowed is a power of two from \
          2 to 1048576 (messages between shards)",
        ),
        (
            "[protocol]\nmaximum_qos = 3",
            "protocol.maximum_qos: got 3; allowed is an integer from 0 to 2 (QoS)",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "log.level: got \"loud\"; allowed is \"error\", \"warn\", \"info\", \
          \"debug\" or \"trace\"",
        ),
        (
            "[protocol]\nresponse_information = \"a\\u0000\"",
            "protocol.response_information: got \
          \"a\\u0000\"; allowed is a string of at most 65535 bytes without control characters",
        ),
        (
            "[[listeners]]\naddress = \"1883\"",
            "listeners[1].address: got \"1883\"; allowed is \
          \"ADDRESS:PORT\", \"HOSTNAME:PORT\" or \"unix:PATH\", such as \"0.0.0.0:1883\", \"[::]:1883\", \
          \"localhost:1883\" or \"unix:/run/midge/midge.sock\"",
        ),
        (
            "[[listeners]]\nprotocol = \"mqtts\"",
            "listeners[1].protocol: got \"mqtts\": TLS is not a protocol of its own: see \
          tls_certificates; allowed is \"mqtt\" or \"websocket\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors_of(text), format!("midge.toml:2: {expected}"));
    }
}

#[test]
fn a_section_that_is_no_table_is_refused() {
    assert_eq!(
        errors_of("limits = 5"),
        "midge.toml:1: limits: got the integer 5; this is a section: write [limits]"
    );
    assert_eq!(errors_of("[[log]]\n"), "midge.toml:1: log: there is one such section: write [log]");
    assert_eq!(
        errors_of("\n[listeners]\naddress = \"[::]:1883\"\n"),
        "midge.toml:2: listeners: got one table; write [[listeners]], one for each address"
    );
    assert_eq!(
        errors_of("listeners = [1]"),
        "midge.toml:1: listeners: got an array; write a table [[listeners]] for each address"
    );
}

#[test]
fn one_address_cannot_have_two_listeners() {
    let twice = "[[listeners]]\naddress = \"[::]:1883\"\n\n[[listeners]]\naddress = \"[::]:1883\"\n";
    assert_eq!(
        errors_of(twice),
        "midge.toml:5: listeners[2].address: \"[::]:1883\" is also the address of the listener of line 2"
    );
    let chosen = twice.replace(":1883", ":0");
    assert_eq!(parse("midge.toml", &chosen).map(|config| config.listeners.len()), Ok(2));
}

#[test]
fn more_listeners_than_the_bound_are_refused() {
    let text: String = (1..=65).map(|port| format!("[[listeners]]\naddress = \"[::]:{port}\"\n")).collect();
    assert_eq!(errors_of(&text), "midge.toml:1: listeners: got 65 listeners; allowed are 64");
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for (text, line) in [
        ("[limits]\nbytes = \n", 2),
        ("[nothing]\nsizes = 2MB\n", 2),
        ("sizes = 2MB", 1),
        ("[limits]\n\npacket_bytes 5\n", 3),
        ("[limits\n", 1),
        ("a = \"open\nb = 1\n", 1),
        ("[log]\n[log]\n", 2),
    ] {
        let errors = errors_of(text);
        assert!(errors.starts_with(&format!("midge.toml:{line}: not TOML: ")), "{text:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_known_option_on_a_line_that_is_not_toml_says_what_it_may_be() {
    let cases = [
        (
            "[limits]\npacket_bytes = 2MB\n",
            "midge.toml:2: limits.packet_bytes: not TOML: string values must be quoted, expected literal \
             string; allowed is an integer from 20 to 268435460 (bytes)",
        ),
        (
            "[limits]\npacket_bytes = 99999999999999999999\n",
            "midge.toml:2: limits.packet_bytes: not TOML: integer number overflowed; allowed is an integer \
             from 20 to 268435460 (bytes)",
        ),
        (
            "[log]\nlevel = warn\n",
            "midge.toml:2: log.level: not TOML: string values must be quoted, expected literal string; allowed \
             is \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors_of(text), expected);
    }
    let twice = errors_of("[log]\nlevel = \"info\"\nlevel = \"warn\"\n");
    assert_eq!(twice, "midge.toml:3: log.level: not TOML: duplicate key");
}

#[test]
fn all_errors_are_reported_in_the_order_of_their_lines() {
    let errors = errors_of("[log]\nlevel = 1\ncolour = 2\n[auth]\ntest_method = 3\n[limits]\nsessions = 0\n");
    let starts: Vec<&str> =
        errors.lines().map(|line| line.split(": ").next().expect("a first part")).collect();
    assert_eq!(starts, ["midge.toml:2", "midge.toml:3", "midge.toml:5", "midge.toml:7"]);
}

#[test]
fn more_errors_than_the_bound_are_counted() {
    let text: String = (0..1000).map(|number| format!("key{number} = 1\n")).collect();
    let errors = errors_of(&text);
    assert_eq!(errors.lines().count(), ERRORS_MAX + 1);
    assert_eq!(errors.lines().last(), Some("midge.toml: 980 more errors"));
}

#[test]
fn a_key_of_any_length_and_content_is_shown_short_and_on_one_line() {
    let long = "k".repeat(100_000);
    for text in [format!("{long} = 1"), format!("[limits]\n{long} = 1"), "\"a\\nb\" = 1".to_string()] {
        let errors = errors_of(&text);
        assert!(errors.len() < 1000 && errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    errors_of(&format!("a = {}", "[".repeat(100_000)));
    errors_of(&format!("a{} = 1", ".b".repeat(50_000)));
}

#[test]
fn what_is_no_network_is_named_among_those_that_are() {
    let config = parse("midge.toml", "[gate]\nbanned = [\"10.0.0.0/8\", \"::1\"]\n").expect("a good file");
    assert_eq!(config.gate.banned, ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]);
    let errors = errors_of("[gate]\n\nexempt = [\"192.0.2.7\", \"10.1.2.3/8\"]\nbanned = \"::1\"\n");
    assert_eq!(
        errors,
        "midge.toml:3: gate.exempt: got \"10.1.2.3/8\" among others; allowed is an array of at most 256 addresses and \
         networks, such as \"192.0.2.7\", \"10.0.0.0/8\" and \"2001:db8::/32\"\n\
         midge.toml:4: gate.banned: got the string \"::1\"; allowed is an array of at most 1024 addresses and \
         networks, such as \"192.0.2.7\", \"10.0.0.0/8\" and \"2001:db8::/32\""
    );
}

#[test]
fn an_admin_interface_with_a_port_needs_tokens() {
    assert_eq!(
        errors_of("[admin]\naddress = \"127.0.0.1:9883\"\n"),
        "midge.toml:2: admin.address: \"127.0.0.1:9883\" has a port, so it needs tokens or client certificates: set admin.token_file or admin.tls_client_ca"
    );
    let with = "[admin]\ntoken_file = \"tokens\"\naddress = \"127.0.0.1:9883\"\n";
    for text in [with, "[admin]\naddress = \"unix:/run/a.sock\"\n", "[admin]\naddress = \"\"\n"] {
        assert!(parse("midge.toml", text).is_ok(), "{text}");
    }
    assert_eq!(
        errors_of("[admin]\nsocket_mode = \"rw\"\n"),
        "midge.toml:2: admin.socket_mode: got \"rw\"; allowed is permissions in octal from \"0000\" to \"0777\", such as \
         \"0660\""
    );
}
