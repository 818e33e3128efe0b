//! The configurations that scenarios use besides the default one.

use crate::harness::Config;

/// Small limits of every kind.
pub const TIGHT: Config = Config {
    name: "TIGHT",
    text: "[protocol]\nsession_expiry_seconds_max = 6\nreceive_maximum = 2\ntopic_alias_maximum = 3\n\
           [limits]\nconnect_seconds = 4\nconnect_bytes = 2000\npacket_bytes = 1000\nsession_queue_messages = 10\n\
           subscriptions_per_client = 3\ntopic_levels = 8\nretained_messages = 95\n",
};

/// Queues of ten messages. When one is full, its oldest message is dropped.
pub const DROP_OLDEST: Config =
    Config { name: "DROP_OLDEST", text: "[limits]\nsession_queue_messages = 10\n" };

/// Queues of ten messages. When one is full, the new message is refused.
pub const REFUSE: Config = Config {
    name: "REFUSE",
    text: "[limits]\nsession_queue_messages = 10\nsession_queue_policy = \"refuse\"\n",
};

/// A short keep alive set by the server.
pub const KEEP_ALIVE: Config =
    Config { name: "KEEP_ALIVE", text: "[protocol]\nkeep_alive_seconds_max = 2\n" };

/// Everything optional is switched off, and so is QoS 2.
pub const BARE: Config = Config {
    name: "BARE",
    text: "[protocol]\nmaximum_qos = 1\nretain_available = false\nwildcard_subscriptions = false\n\
           subscription_identifiers = false\nshared_subscriptions = false\ntopic_alias_maximum = 0\n\
           topic_alias_maximum_out = 0\n",
};

/// No QoS above 0.
pub const QOS_0: Config = Config { name: "QOS_0", text: "[protocol]\nmaximum_qos = 0\n" };

/// MQTT 3.1 in its strict form.
pub const STRICT_31: Config = Config { name: "STRICT_31", text: "[protocol]\nstrict_31 = true\n" };

/// Room for fourteen sessions, on all shards together.
pub const FEW_SESSIONS: Config = Config { name: "FEW_SESSIONS", text: "[limits]\nsessions = 14\n" };

/// Response Information for clients that ask for it.
pub const RESPONSES: Config =
    Config { name: "RESPONSES", text: "[protocol]\nresponse_information = \"replies/\"\n" };

/// Clients can only connect with the built-in method of enhanced authentication.
pub const LOCKED: Config =
    Config { name: "LOCKED", text: "[auth]\nallow_anonymous = false\ntest_method = true\n" };
