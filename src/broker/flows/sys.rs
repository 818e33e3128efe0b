//! `$SYS`: publishes the counts of the broker as retained messages.

use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::sys::Sys;
use crate::broker::components::timers::Timer;
use crate::broker::fanout::Fanout;
use crate::mqtt::QoS;
use crate::session::Publication;

impl Shard {
    /// Starts to publish the values, if this is the shard that does it and the operator wants them.
    pub(in crate::broker) fn start_sys(&mut self, now: Time) {
        if self.id == 0 {
            self.sys.start(now);
            self.publish_sys(now);
        }
    }

    /// Publishes the values at another interval from now on. Without one, removes them.
    pub(in crate::broker) fn change_sys(&mut self, now: Time) {
        if self.id != 0 {
            return;
        }
        if let Some(timer) = self.sys.timer().take() {
            self.timers.cancel(timer);
        }
        if self.settings.config.sys.interval_seconds > 0 {
            return self.publish_sys(now);
        }
        for topic in self.sys.withdraw() {
            self.publish_value(now, topic, "");
        }
    }

    /// Publishes the values that have changed, and starts the timer of the next time.
    pub(in crate::broker) fn publish_sys(&mut self, now: Time) {
        let seconds = self.settings.config.sys.interval_seconds;
        if seconds == 0 {
            return;
        }
        let mut sys = std::mem::take(&mut self.sys);
        sys.update(now, &self.shared.counters);
        for at in 0..Sys::TOPICS {
            if let Some((topic, value)) = sys.changed(at, now, &self.shared.counters) {
                self.publish_value(now, topic, value);
            }
        }
        *sys.timer() = Some(self.timers.schedule(now.after_seconds(seconds), Timer::Sys));
        self.sys = sys;
    }

    fn publish_value(&mut self, now: Time, topic: &str, value: &str) {
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
}
