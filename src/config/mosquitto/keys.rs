//! Every key that mosquitto 2.1 knows, one row each: where the key may stand, and what midge does with it.

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// Anywhere. The key concerns the whole broker.
    Anywhere,
    /// Anywhere. With `per_listener_settings true`, only below a listener.
    Security,
    /// Below a listener. Without one, the key opens the default listener.
    ListenerOrDefault,
    /// Below a listener.
    Listener,
    /// Below a `listener` line, not the default listener.
    NamedListener,
}

/// The form of a value that has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Boolean,
    Integer(i64, i64),
    Text,
    /// No check: the value is ignored.
    Anything,
}

/// What midge does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyHandling {
    /// It means the same in midge.
    Supported(Stands),
    /// It has no effect, for this reason.
    Harmless(Stands, Form, &'static str),
    /// It belongs to a bridge. It stops the start.
    Bridge,
    /// It belongs to a plugin. It stops the start.
    Plugin,
    /// It stops the start, for this reason.
    NotSupported(&'static str),
    /// It stops the start, for this reason. Without it, its listener would admit clients that mosquitto
    /// refuses.
    ClosesListener(&'static str),
}

use Form::{Anything, Boolean, Integer, Text};
use KeyHandling::{Bridge, ClosesListener, Harmless, NotSupported, Plugin, Supported};
use Stands::{Anywhere, Listener, ListenerOrDefault, NamedListener, Security};

const INT_MIN: i64 = i32::MIN as i64;
const INT_MAX: i64 = i32::MAX as i64;

const AUTOSAVE: &str = "midge writes each change at once; persistence.sync says how safely";
const CIPHERS: &str = "midge offers a fixed list of suites, all with forward secrecy and authenticated \
                       encryption; a client that has none of them can't connect";
const ENGINE: &str = "midge has no OpenSSL engines; the key is read from keyfile";
const PID_FILE: &str =
    "midge stays in the foreground and writes no such file; the program that starts it knows its process";
const PROXY_TLS: &str = "midge does not ask a proxy whether its client came over TLS; leaving it out would \
                         change who may come in";
const SWEPT: &str =
    "it says how often mosquitto looks for expired retained messages; midge removes them all the time";
const RETRY: &str = "without effect in mosquitto 2 either: nothing is sent again on a live connection";
const PSK: &str = "midge has no TLS with pre-shared keys; leaving it out would change who may come in";

/// All keys. [`find`] also knows `plugin_opt_…` and `auth_opt_…`.
pub(super) const KEYS: &[(&str, KeyHandling)] = &[
    ("accept_protocol_versions", Supported(NamedListener)),
    ("acl_file", Supported(Security)),
    ("address", Bridge),
    ("addresses", Bridge),
    ("allow_anonymous", Supported(Security)),
    (
        "allow_duplicate_messages",
        Harmless(Anywhere, Boolean, "midge keeps to what the standard says of overlapping subscriptions"),
    ),
    ("allow_zero_length_clientid", Supported(Security)),
    ("auth_plugin", Plugin),
    ("auth_plugin_deny_special_chars", Plugin),
    ("auto_id_prefix", Supported(Security)),
    ("autosave_interval", Harmless(Anywhere, Integer(INT_MIN, INT_MAX), AUTOSAVE)),
    ("autosave_on_changes", Harmless(Anywhere, Boolean, AUTOSAVE)),
    ("bind_address", Supported(Anywhere)),
    ("bind_interface", Supported(ListenerOrDefault)),
    ("bridge_alpn", Bridge),
    ("bridge_attempt_unsubscribe", Bridge),
    ("bridge_bind_address", Bridge),
    ("bridge_cafile", Bridge),
    ("bridge_capath", Bridge),
    ("bridge_certfile", Bridge),
    ("bridge_ciphers", Bridge),
    ("bridge_ciphers_tls1.3", Bridge),
    ("bridge_identity", Bridge),
    ("bridge_insecure", Bridge),
    ("bridge_keyfile", Bridge),
    ("bridge_max_packet_size", Bridge),
    ("bridge_max_topic_alias", Bridge),
    ("bridge_outgoing_retain", Bridge),
    ("bridge_protocol_version", Bridge),
    ("bridge_psk", Bridge),
    ("bridge_receive_maximum", Bridge),
    ("bridge_reload_type", Bridge),
    ("bridge_require_ocsp", Bridge),
    ("bridge_session_expiry_interval", Bridge),
    ("bridge_tcp_keepalive", Bridge),
    ("bridge_tcp_user_timeout", Bridge),
    ("bridge_tls_use_os_certs", Bridge),
    ("bridge_tls_version", Bridge),
    ("cafile", Supported(Listener)),
    ("capath", Supported(Listener)),
    ("certfile", Supported(ListenerOrDefault)),
    ("check_retain_source", Supported(Anywhere)),
    ("ciphers", Harmless(ListenerOrDefault, Text, CIPHERS)),
    ("ciphers_tls1.3", Harmless(ListenerOrDefault, Text, CIPHERS)),
    ("cleansession", Bridge),
    ("clientid", Bridge),
    ("clientid_prefixes", Supported(Anywhere)),
    ("connection", Bridge),
    ("connection_messages", Supported(Anywhere)),
    ("crlfile", Supported(ListenerOrDefault)),
    ("dhparamfile", Harmless(Anywhere, Anything, "no longer needed, by mosquitto either")),
    ("disable_client_cert_date_checks", Supported(Listener)),
    ("enable_control_api", Harmless(Anywhere, Boolean, "midge has no $CONTROL topics")),
    ("enable_proxy_protocol", Supported(Listener)),
    ("global_max_clients", Supported(Anywhere)),
    ("global_max_connections", Supported(Anywhere)),
    ("global_plugin", Plugin),
    ("http_dir", Harmless(Listener, Text, "midge serves no files over HTTP, only MQTT over WebSocket")),
    ("idle_timeout", Bridge),
    ("include_dir", Supported(Anywhere)),
    ("keepalive_interval", Bridge),
    ("keyfile", Supported(ListenerOrDefault)),
    ("listener", Supported(Anywhere)),
    ("listener_allow_anonymous", Supported(Listener)),
    ("listener_auto_id_prefix", Supported(Listener)),
    ("local_cleansession", Bridge),
    ("local_clientid", Bridge),
    ("local_password", Bridge),
    ("local_username", Bridge),
    ("log_dest", Supported(Anywhere)),
    ("log_facility", Harmless(Anywhere, Integer(0, 7), "midge does not log to syslog by itself")),
    ("log_timestamp", Harmless(Anywhere, Boolean, "every line of midge's log has its time")),
    ("log_timestamp_format", Harmless(Anywhere, Text, "midge writes times as RFC 3339, in UTC")),
    ("log_type", Supported(Anywhere)),
    ("max_connections", Supported(ListenerOrDefault)),
    ("max_inflight_bytes", Supported(Anywhere)),
    ("max_inflight_messages", Supported(Anywhere)),
    ("max_keepalive", Supported(Anywhere)),
    ("max_packet_size", Supported(Anywhere)),
    ("max_qos", Supported(ListenerOrDefault)),
    ("max_queued_bytes", Supported(Anywhere)),
    ("max_queued_messages", Supported(Anywhere)),
    ("max_topic_alias", Supported(Listener)),
    ("max_topic_alias_broker", Supported(Listener)),
    ("maximum_qos", Supported(ListenerOrDefault)),
    ("memory_limit", Supported(Anywhere)),
    ("message_size_limit", Supported(Anywhere)),
    ("mount_point", Supported(Listener)),
    ("notification_topic", Bridge),
    ("notifications", Bridge),
    ("notifications_local_only", Bridge),
    ("packet_buffer_size", Harmless(Anywhere, Integer(0, 65_535), "midge's buffers need no size")),
    ("password", Bridge),
    ("password_file", Supported(Security)),
    ("per_listener_settings", Supported(Anywhere)),
    ("persistence", Supported(Anywhere)),
    ("persistence_file", Supported(Anywhere)),
    ("persistence_location", Supported(Anywhere)),
    ("persistent_client_expiration", Supported(Anywhere)),
    ("pid_file", Harmless(Anywhere, Text, PID_FILE)),
    ("plugin", Plugin),
    ("plugin_load", Plugin),
    ("plugin_use", Plugin),
    ("port", Supported(Anywhere)),
    ("protocol", Supported(ListenerOrDefault)),
    ("proxy_protocol_v2_require_tls", ClosesListener(PROXY_TLS)),
    ("psk_file", NotSupported(PSK)),
    ("psk_hint", ClosesListener(PSK)),
    ("queue_qos0_messages", Supported(Anywhere)),
    ("remote_clientid", Bridge),
    ("remote_password", Bridge),
    ("remote_username", Bridge),
    ("require_certificate", Supported(ListenerOrDefault)),
    ("restart_timeout", Bridge),
    ("retain_available", Supported(Anywhere)),
    ("retain_expiry_interval", Harmless(Anywhere, Integer(1, INT_MAX), SWEPT)),
    ("retained_persistence", Supported(Anywhere)),
    ("retry_interval", Harmless(Anywhere, Anything, RETRY)),
    ("round_robin", Bridge),
    ("set_tcp_nodelay", Harmless(Anywhere, Boolean, "midge always sends at once")),
    ("socket_domain", Supported(ListenerOrDefault)),
    ("start_type", Bridge),
    ("sys_interval", Supported(Anywhere)),
    ("threshold", Bridge),
    ("tls_engine", Harmless(ListenerOrDefault, Text, ENGINE)),
    ("tls_engine_kpass_sha1", Harmless(ListenerOrDefault, Text, ENGINE)),
    ("tls_keyform", Supported(ListenerOrDefault)),
    ("tls_version", Supported(Listener)),
    ("topic", Bridge),
    ("try_private", Bridge),
    ("upgrade_outgoing_qos", Supported(Anywhere)),
    ("use_identity_as_username", Supported(ListenerOrDefault)),
    ("use_subject_as_username", Supported(ListenerOrDefault)),
    ("use_username_as_clientid", Supported(ListenerOrDefault)),
    ("user", Harmless(Anywhere, Text, "midge runs as the user who starts it: start it as this user")),
    ("username", Bridge),
    ("websockets_headers_size", Supported(Anywhere)),
    ("websockets_log_level", Harmless(Anywhere, Anything, "WebSocket is logged as everything else")),
    ("websockets_origin", Supported(Listener)),
];

/// The kind of a key; `None` if mosquitto does not know the key.
pub(super) fn find(key: &str) -> Option<KeyHandling> {
    if key.starts_with("plugin_opt_") || key.starts_with("auth_opt_") {
        return Some(Plugin);
    }
    let index = KEYS.binary_search_by_key(&key, |(name, _)| name).ok()?;
    KEYS.get(index).map(|(_, kind)| *kind)
}

/// The error for a key that mosquitto does not know, with a guess at the key that was meant.
pub(super) fn unknown(key: &str) -> String {
    let hint = if key.contains('\t') {
        "; between a key and its value mosquitto wants a space, not a tab".to_owned()
    } else if key.starts_with('#') {
        "; a comment must begin in the first column".to_owned()
    } else {
        nearest(key).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"))
    };
    format!("Unknown configuration variable{hint}")
}

/// The known key that is nearest to an unknown one, if it is near enough to be a likely misspelling.
fn nearest(key: &str) -> Option<&'static str> {
    // The comparison takes quadratic time.
    if key.len() > 60 {
        return None;
    }
    let key = key.to_ascii_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::osa_distance(&key, known);
    let names = KEYS.iter().map(|(name, _)| *name);
    let near = names.filter(|name| name.len().abs_diff(key.len()) <= 8).min_by_key(|name| distance(name))?;
    (distance(near) <= (near.len() / 4).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_sorted_and_each_is_there_once() {
        assert!(KEYS.is_sorted_by(|(one, _), (next, _)| one < next));
        for (name, kind) in KEYS {
            assert_eq!(find(name), Some(*kind));
        }
    }

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        assert_eq!(nearest("alow_anonymous"), Some("allow_anonymous"));
        assert_eq!(nearest("max-connections"), Some("max_connections"));
        assert_eq!(nearest("unknown_option"), None);
        assert_eq!(nearest(&"x".repeat(100)), None);
        assert_eq!(find("plugin_opt_x"), Some(Plugin));
        assert_eq!(find("plugin_optx"), None);
    }
}
