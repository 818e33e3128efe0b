//! The effects of rules on a topic: the actions that they allow and deny, in each of the two rounds.

use crate::policy::acl::{Actions, Round, RuleEffect};

/// A bit for each action that is allowed and denied, in each of the two rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::policy::acl) struct RuleEffects {
    allow: u8,
    deny: u8,
}

/// The position of the second round's bits.
const SECOND_SHIFT: u32 = 3;

impl RuleEffects {
    pub(in crate::policy::acl) fn of(effect: RuleEffect, actions: Actions, round: Round) -> RuleEffects {
        let bits = match round {
            Round::First => actions.0,
            Round::Second => actions.0 << SECOND_SHIFT,
        };
        match effect {
            RuleEffect::Allow => RuleEffects { allow: bits, deny: 0 },
            RuleEffect::Deny => RuleEffects { allow: 0, deny: bits },
        }
    }

    pub(in crate::policy::acl) fn add(&mut self, other: RuleEffects) {
        self.allow |= other.allow;
        self.deny |= other.deny;
    }

    /// The grants of `self` with the denials of `other`.
    pub(in crate::policy::acl) fn with_denials_of(self, other: RuleEffects) -> RuleEffects {
        RuleEffects { deny: other.deny, ..self }
    }

    /// The same, without what the second round allows.
    pub(in crate::policy::acl) fn second_round_only_denies(self) -> RuleEffects {
        RuleEffects { allow: self.allow & Actions::ALL.0, ..self }
    }

    /// The actions that are allowed in the end.
    #[inline]
    pub(in crate::policy::acl) fn granted(self, default: Actions) -> Actions {
        let (allow, deny) = (self.allow & Actions::ALL.0, self.deny & Actions::ALL.0);
        let (later_allow, later_deny) = (self.allow >> SECOND_SHIFT, self.deny >> SECOND_SHIFT);
        let later = (later_allow | default.0) & !later_deny;
        Actions((allow | later) & !deny)
    }

    /// Whether any rule has this effect on one of these actions, in either round.
    pub(in crate::policy::acl) fn has(self, effect: RuleEffect, actions: Actions) -> bool {
        let bits = match effect {
            RuleEffect::Allow => self.allow,
            RuleEffect::Deny => self.deny,
        };
        (bits | bits >> SECOND_SHIFT) & actions.0 != 0
    }

    /// The actions that any rule denies, in either round.
    pub(in crate::policy::acl) fn denied(self) -> Actions {
        Actions((self.deny | self.deny >> SECOND_SHIFT) & Actions::ALL.0)
    }
}
