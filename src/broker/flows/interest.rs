//! What this shard wants of the others: its filters are announced to them, and theirs are noted here.

use crate::base::{RequestToken, ShardId};
use crate::broker::components::requests::Needed;
use crate::broker::{Mail, Shard};

impl Shard {
    /// Notes the first subscription or group with this filter.
    pub(in crate::broker) fn acquire_interest(&mut self, filter: &str) {
        self.interest.acquire(filter, self.shared.hash(filter));
    }

    /// Makes sure that every shard knows the filter before `needed` is complete.
    pub(in crate::broker) fn announce(&mut self, filter: &str, token: RequestToken, needed: &mut Needed) {
        let Some(serial) = self.interest.unknown(filter) else { return };
        // The filter may be announced again while the first answers are on their way. Mails keep their order,
        // so an answer to this request means the same.
        needed.wildcards.push((filter.into(), serial));
        for shard in self.other_shards() {
            needed.remaining += 1;
            self.post(shard, Mail::InterestAdd { filter: filter.into(), token });
        }
    }

    /// Notes that the last subscription or group with this filter is gone.
    pub(in crate::broker) fn release_interest(&mut self, filter: &str) {
        if self.interest.release(filter, self.shared.hash(filter)) {
            for shard in self.other_shards() {
                self.post(shard, Mail::InterestRemove { filter: filter.into() });
            }
        }
    }

    pub(in crate::broker) fn handle_interest(
        &mut self,
        from: ShardId,
        filter: &str,
        token: Option<RequestToken>,
    ) {
        match token {
            Some(token) => {
                if self.interest.add_foreign(filter, from) {
                    self.note_foreign_filter(filter, true);
                }
                self.post(from, Mail::InterestKnown { token });
            }
            None => {
                if self.interest.remove_foreign(filter, from) {
                    self.note_foreign_filter(filter, false);
                }
            }
        }
    }
}
