//! What a listener speaks below MQTT.

pub mod tls;
