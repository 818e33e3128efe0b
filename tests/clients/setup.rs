//! The clients that the tests know, and which of them are left out.

use crate::needs::skips;

/// Somebody else's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Mosquitto,
    Paho,
    Aiomqtt,
    Gmqtt,
    Mqttjs,
    Rumqttc,
}

impl Client {
    /// As `MIDGE_SKIP_CLIENTS` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Paho => "paho",
            Self::Aiomqtt => "aiomqtt",
            Self::Gmqtt => "gmqtt",
            Self::Mqttjs => "mqttjs",
            Self::Rumqttc => "rumqttc",
        }
    }

    /// Whether the environment asks to leave this client out; notes it where it does.
    pub(crate) fn is_skipped(self) -> bool {
        let list = std::env::var("MIDGE_SKIP_CLIENTS").unwrap_or_default();
        let skipped = list.split(',').any(|name| name.trim() == self.name());
        if skipped {
            skips::note(self.name(), &format!("MIDGE_SKIP_CLIENTS={list}"));
        }
        skipped
    }
}
