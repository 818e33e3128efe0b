//! New settings, after the operator has changed the configuration: whatever has copied a bound is told.

use crate::base::Time;
use crate::broker::settings::BrokerSettings;
use crate::broker::{Shard, memory_max, retained_limits};
use std::sync::Arc;

impl Shard {
    /// Replaces the settings. Nothing that is kept is given up because a bound is lower now. Connected clients keep the
    /// terms that CONNACK has told them. Their rates follow with the next check of their rights: call
    /// [`Shard::handle_access`] after this.
    pub fn handle_settings(&mut self, now: Time, settings: Arc<BrokerSettings>) {
        self.durability.set_now(now);
        let former = std::mem::replace(&mut self.settings, settings);
        let shares = self.settings.shares(self.shared.shards());
        self.memory.set_max(memory_max(&self.settings, shares));
        self.retained.set_limits(retained_limits(shares));
        self.subscriptions.set_max(shares.subscriptions);
        self.change_lanes(now);
        if former.config.sys != self.settings.config.sys {
            self.change_sys(now);
        }
        self.settle(now);
    }
}
