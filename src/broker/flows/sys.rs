//! `$SYS`: publishes the counts of the broker as retained messages.

use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::sys::Sys;
use crate::broker::fanout::Fanout;
use crate::mqtt::QoS;
use crate::session::Publication;

impl Shard {
    /// Publishes the values that have changed. With `first`, publishes all and starts the clock of the
    /// uptime.
    pub(in crate::broker) fn publish_sys(&mut self, now: Time, first: bool) {
        let mut sys = std::mem::take(&mut self.sys);
        if first {
            sys.start(now);
        }
        sys.update(now, &self.shared.counters);
        for at in 0..Sys::TOPICS {
            let Some((topic, value)) = sys.changed(at, now, &self.shared.counters) else { continue };
            let publication = Publication {
                topic,
                forward: [&[]; 3],
                payload: value.as_bytes(),
                qos: QoS::AtMostOnce,
                retain: true,
                expires_at: None,
                origin: None,
                stamp: Some(self.stamps.next(now)),
                source: &[],
            };
            self.publish(now, &mut Fanout::new(publication, now));
        }
        self.sys = sys;
    }
}
