//! The effects that the shard requests from its host, in order.

use crate::broker::Effect;

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Effects {
    list: Vec<Effect>,
    /// Whether events for the log level debug are wanted.
    tells_detail: bool,
}

impl Effects {
    /// Sets whether events for the log level debug are wanted.
    pub(in crate::broker) fn set_detail(&mut self, wanted: bool) {
        self.tells_detail = wanted;
    }

    #[inline(always)]
    pub(in crate::broker) fn tells_detail(&self) -> bool {
        self.tells_detail
    }

    pub(in crate::broker) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all effects, in order.
    pub(in crate::broker) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.list)
    }

    /// Takes an old list for reuse, so that no turn must allocate one.
    pub(in crate::broker) fn recycle(&mut self, mut list: Vec<Effect>) {
        if self.list.is_empty() {
            list.clear();
            self.list = list;
        }
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ConnectionSlot;

    #[test]
    fn an_old_list_is_used_again_but_never_in_place_of_newer_effects() {
        let slots = [1, 2, 3].map(ConnectionSlot::new);
        let mut effects = Effects::default();
        for slot in slots {
            effects.push(Effect::Pause { slot });
        }
        let taken = effects.take();
        assert!(
            taken
                .iter()
                .zip(slots)
                .all(|(effect, of)| matches!(effect, Effect::Pause { slot } if *slot == of))
        );
        effects.push(Effect::Resume { slot: slots[0] });
        effects.recycle(taken);
        assert!(matches!(effects.take()[..], [Effect::Resume { .. }]));
        let old = Vec::with_capacity(77);
        effects.recycle(old);
        assert!(effects.is_empty() && effects.list.capacity() >= 77);
    }
}
