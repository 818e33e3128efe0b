//! The clients that the tests use, and which of them are left out.

use crate::needs::skips;

/// A client of another project.
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
    /// The name in `MIDGE_SKIP_CLIENTS`.
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

    /// Whether the environment asks to leave this client out. If so, this is recorded.
    pub(crate) fn is_skipped(self) -> bool {
        let list = std::env::var("MIDGE_SKIP_CLIENTS").unwrap_or_default();
        let skipped = list.split(',').any(|name| name.trim() == self.name());
        if skipped {
            skips::note(self.name(), &format!("MIDGE_SKIP_CLIENTS={list}"));
        }
        skipped
    }
}
