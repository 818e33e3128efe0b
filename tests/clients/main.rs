//! Real clients against the real binary: the command line tools of mosquitto, paho-mqtt, aiomqtt and gmqtt
//! (Python), mqtt.js (Node) and rumqttc (Rust), each at every protocol version that it supports, with 1, 2
//! and 7 shards. paho-mqtt, aiomqtt and mqtt.js also run over WebSocket, TLS and both.
//!
//! Each test starts its own broker, on a free port and with a config file in its own folder. The clients'
//! programs are installed once, in the target folder; see [`needs`]. A client that is not available is
//! skipped. With `CI=true` this is a failure.
//!
//! - `MIDGE_SKIP_CLIENTS=paho,mqttjs` leaves clients out, by the names in [`setup::Client`].
//! - `MIDGE_TEST_TARGET=HOST:PORT` runs everything against a running broker of any kind.

// The lint that keeps clocks, sockets and files out of the core does not apply here, because these are
// processes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod broker;
mod mosquitto;
#[path = "../needs/mod.rs"]
mod needs;
mod rumqttc_v4;
mod rumqttc_v5;
mod scripts;
mod setup;

use crate::broker::Door;
use crate::setup::Client;

/// The same tests for one number of shards.
macro_rules! clients_over {
    ($module:ident, $shards:literal) => {
        mod $module {
            use super::*;

            #[test]
            fn mosquitto_clients_speak_mqtt_3_1() {
                mosquitto::talk($shards, mosquitto::Version::V31);
            }

            #[test]
            fn mosquitto_clients_speak_mqtt_3_1_1() {
                mosquitto::talk($shards, mosquitto::Version::V311);
            }

            #[test]
            fn mosquitto_clients_speak_mqtt_5() {
                mosquitto::talk($shards, mosquitto::Version::V5);
            }

            #[test]
            fn paho_speaks_mqtt_3_1() {
                scripts::talk($shards, Client::Paho, 3);
            }

            #[test]
            fn paho_speaks_mqtt_3_1_1() {
                scripts::talk($shards, Client::Paho, 4);
            }

            #[test]
            fn paho_speaks_mqtt_5() {
                scripts::talk($shards, Client::Paho, 5);
            }

            #[test]
            fn aiomqtt_speaks_mqtt_3_1() {
                scripts::talk($shards, Client::Aiomqtt, 3);
            }

            #[test]
            fn aiomqtt_speaks_mqtt_3_1_1() {
                scripts::talk($shards, Client::Aiomqtt, 4);
            }

            #[test]
            fn aiomqtt_speaks_mqtt_5() {
                scripts::talk($shards, Client::Aiomqtt, 5);
            }

            #[test]
            fn gmqtt_speaks_mqtt_3_1_1() {
                scripts::talk($shards, Client::Gmqtt, 4);
            }

            #[test]
            fn gmqtt_speaks_mqtt_5() {
                scripts::talk($shards, Client::Gmqtt, 5);
            }

            #[test]
            fn mqttjs_speaks_mqtt_3_1() {
                scripts::talk($shards, Client::Mqttjs, 3);
            }

            #[test]
            fn mqttjs_speaks_mqtt_3_1_1() {
                scripts::talk($shards, Client::Mqttjs, 4);
            }

            #[test]
            fn mqttjs_speaks_mqtt_5() {
                scripts::talk($shards, Client::Mqttjs, 5);
            }

            #[test]
            fn mqttjs_proves_itself_by_scram() {
                scripts::prove($shards);
            }

            #[test]
            fn rumqttc_speaks_mqtt_3_1_1() {
                rumqttc_v4::talk($shards);
            }

            #[test]
            fn rumqttc_speaks_mqtt_5() {
                rumqttc_v5::talk($shards);
            }
        }
    };
}

clients_over!(over_1_shard, 1);
clients_over!(over_2_shards, 2);
clients_over!(over_7_shards, 7);

/// paho-mqtt, aiomqtt and mqtt.js with layers below MQTT.
macro_rules! clients_behind {
    ($module:ident, $door:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn paho_speaks_mqtt_3_1() {
                scripts::talk_behind($door, 2, Client::Paho, 3);
            }

            #[test]
            fn paho_speaks_mqtt_3_1_1() {
                scripts::talk_behind($door, 2, Client::Paho, 4);
            }

            #[test]
            fn paho_speaks_mqtt_5() {
                scripts::talk_behind($door, 2, Client::Paho, 5);
            }

            #[test]
            fn aiomqtt_speaks_mqtt_5() {
                scripts::talk_behind($door, 2, Client::Aiomqtt, 5);
            }

            #[test]
            fn mqttjs_speaks_mqtt_3_1() {
                scripts::talk_behind($door, 2, Client::Mqttjs, 3);
            }

            #[test]
            fn mqttjs_speaks_mqtt_3_1_1() {
                scripts::talk_behind($door, 2, Client::Mqttjs, 4);
            }

            #[test]
            fn mqttjs_speaks_mqtt_5() {
                scripts::talk_behind($door, 2, Client::Mqttjs, 5);
            }
        }
    };
}

clients_behind!(over_websocket, Door::WebSocket);
clients_behind!(over_tls, Door::Tls);
clients_behind!(over_websocket_and_tls, Door::WebSocketTls);
