//! The clients of the fleet, their topics, and the packets of a device.

use super::device::Device;
use crate::codec::{self, PublishHead, Will};
use crate::connector::{ClientSpec, Identity};
use crate::payload::{self, STAMP_LEN, Stamp};

/// What the clients are. It is separate from [`super::fleet::Fleet`], because the connector needs
/// it while the fleet is borrowed.
pub(super) struct FleetSpec {
    pub(super) identity: Identity,
    pub(super) prefix: String,
    pub(super) run: u32,
    pub(super) payload: usize,
    pub(super) command_qos: u8,
    pub(super) backends: usize,
    pub(super) devices: Vec<Device>,
    pub(super) end_sessions: bool,
}

/// The publisher number in the stamps of commands. No device has it.
pub(super) const COMMAND_PUBLISHER: u32 = u32::MAX;
/// QoS of the wills.
pub(super) const WILL_QOS: u8 = 1;

impl FleetSpec {
    fn telemetry_topic(&self, device: u32) -> String {
        format!("{}/up/{device}", self.prefix)
    }

    pub(super) fn command_topic(&self, device: u32) -> String {
        format!("{}/down/{device}", self.prefix)
    }

    fn will_topic(&self, device: u32) -> String {
        format!("{}/gone/{device}", self.prefix)
    }

    pub(super) fn put_telemetry(
        &self,
        out: &mut Vec<u8>,
        number: u32,
        what: (u16, u32),
        sent_nanos: u64,
        dup: bool,
    ) {
        let ((id, sequence), topic) = (what, self.telemetry_topic(number));
        let (qos, payload_len) = (self.devices[number as usize].qos, self.payload);
        let head = PublishHead { topic: topic.as_bytes(), qos, dup, retain: false, id, payload_len };
        codec::put_publish(out, self.identity.version, &head);
        let stamp = Stamp { run: self.run, publisher: number, stream: number, sequence, sent_nanos };
        payload::put(out, topic.as_bytes(), payload_len, &stamp);
    }

    fn put_device_connect(&self, out: &mut Vec<u8>, number: u32, name: &str) {
        let topic = self.will_topic(number);
        let breaks = self.devices[number as usize].breaks;
        let stream = self.devices.len() as u32 + number;
        let stamp = Stamp { run: self.run, publisher: number, stream, sequence: breaks, sent_nanos: 0 };
        let mut payload = Vec::new();
        payload::put(&mut payload, topic.as_bytes(), STAMP_LEN, &stamp);
        let will = Will { topic: &topic, payload: &payload, qos: WILL_QOS };
        self.identity.put_resume(out, name, Some(will));
    }
}

impl ClientSpec for FleetSpec {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        let name = format!("m{id}");
        match id.checked_sub(self.backends + 1) {
            Some(number) if !self.end_sessions => self.put_device_connect(out, number as u32, &name),
            _ => self.identity.put_connect(out, &name),
        }
    }

    fn filters(&self, id: usize, from: usize) -> Vec<String> {
        let filters = match id.checked_sub(self.backends + 1) {
            None if id < self.backends => {
                vec![format!("{}/up/+", self.prefix), format!("{}/gone/+", self.prefix)]
            }
            // On later connections, the session has the subscription.
            Some(number) if self.devices[number].connections == 1 && !self.end_sessions => {
                vec![self.command_topic(number as u32)]
            }
            _ => Vec::new(),
        };
        if from == 0 { filters } else { Vec::new() }
    }

    fn subscribe_qos(&self) -> u8 {
        2
    }
}
