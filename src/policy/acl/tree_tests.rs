//! Compares the tree with the same rules, applied one by one as strings.

use super::*;
use crate::base::Random;
use crate::mqtt::filter_matches;
use crate::policy::acl::filters::tests::{filters, texts};
use crate::policy::acl::pattern::{Placeholders, parse};
use crate::policy::acl::{Round, RuleEffect, covers, intersects};

/// A pattern of a rule, for one client.
enum Plain {
    /// The pattern does not apply to this client.
    Never,
    Filter(String),
    /// Everything, including `$` topics: the first level of a denial has a name that can't stand for itself.
    Everything,
}

/// With `slashes`, names with `/` stand for themselves.
fn plain(pattern: &str, is_denial: bool, user: &str, client_id: &str, slashes: bool) -> Plain {
    let mut expanded: Vec<String> = Vec::new();
    for level in pattern.split('/') {
        let used = [("%u", user), ("%c", client_id)].into_iter().filter(|(sign, _)| level.contains(sign));
        let names: Vec<&str> = used.map(|(_, name)| name).collect();
        if names.contains(&"") {
            return Plain::Never;
        }
        let begins_with_dollar = |sign, name: &str| level.starts_with(sign) && name.starts_with('$');
        let is_first = expanded.is_empty();
        let takes_dollar = begins_with_dollar("%u", user) || begins_with_dollar("%c", client_id);
        let is_wild = |name: &&str| name.contains(['+', '#']) || name.contains('/') && !slashes;
        if names.iter().any(is_wild) || is_first && takes_dollar {
            return match (is_denial, is_first) {
                (false, _) => Plain::Never,
                (true, true) => Plain::Everything,
                (true, false) => Plain::Filter(format!("{}/+/#", expanded.join("/"))),
            };
        }
        // No test uses a name with `%`.
        expanded.push(level.replace("%u", user).replace("%c", client_id));
    }
    Plain::Filter(expanded.join("/"))
}

fn name(text: &str, slashes: bool) -> Name<'_> {
    match text {
        "" => Name::Missing,
        text if text.contains(['+', '#']) || text.contains('/') && !slashes => Name::Unusable,
        text => Name::Plain(text.as_bytes()),
    }
}

#[test]
fn the_tree_says_what_its_rules_say_one_by_one() {
    let patterns: Vec<String> = filters(&["a", "b", "+", "#", "$x", "", "%u", "%c", "a%u", "%c%u"], 3);
    let patterns: Vec<String> =
        patterns.into_iter().filter(|topic| parse(topic, Placeholders::Anywhere).is_ok()).collect();
    let filters = filters(&["a", "b", "ab", "+", "#", "$x", ""], 3);
    let topics = texts(&["a", "b", "ab", "ba", "$x", ""], 3);
    let mut random = Random::new(1);
    for _ in 0..300 {
        let mut growing = Growing::default();
        let root = growing.new_root();
        let mut rules: Vec<(&str, RuleEffects)> = Vec::new();
        for _ in 0..1 + random.below(12) {
            let pattern = &patterns[random.index(patterns.len())];
            let effect = random.pick(&[RuleEffect::Allow, RuleEffect::Deny]);
            let actions = random.pick(&[Actions::PUBLISH, Actions::READ, Actions::RECEIVE]);
            let round = random.pick(&[Round::First, Round::Second]);
            let effects = RuleEffects::of(effect, actions, round);
            growing.insert(root, &parse(pattern, Placeholders::Anywhere).expect("valid"), effects, 0);
            rules.push((pattern, effects));
        }
        let tree = growing.finish();
        let user = random.pick(&["", "a", "b", "$x", "a/b", "a/$x", "+", "#"]);
        let client_id = random.pick(&["", "a", "b", "ab", "$x", "b/", "/", "a//b", "#"]);
        let slashes = random.below(2) == 0;
        let names = ClientNames { user: name(user, slashes), client_id: name(client_id, slashes) };
        let plain: Vec<(Plain, RuleEffects)> = rules
            .iter()
            .map(|(pattern, effects)| {
                (
                    plain(pattern, effects.has(RuleEffect::Deny, Actions::ALL), user, client_id, slashes),
                    *effects,
                )
            })
            .collect();
        let sum = |of: &dyn Fn(&str) -> bool| {
            let mut found = RuleEffects::default();
            for (plain, effects) in &plain {
                match plain {
                    Plain::Everything => found.add(*effects),
                    Plain::Filter(filter) if of(filter) => found.add(*effects),
                    _ => {}
                }
            }
            found
        };
        let context = |text: &str| format!("{text:?} by {rules:?} for user {user:?}, client {client_id:?}");
        for topic in &topics {
            let expected = sum(&|filter| filter_matches(filter, topic));
            assert_eq!(tree.matching(root, topic, names), expected, "{}", context(topic));
        }
        for filter in &filters {
            let covering = sum(&|wide| covers(wide, filter));
            assert_eq!(tree.covering(root, filter, names), covering, "covering {}", context(filter));
            let meeting = sum(&|other| intersects(other, filter));
            assert_eq!(tree.meeting(root, filter, names), meeting, "meeting {}", context(filter));
        }
    }
}

#[test]
fn a_topic_of_a_packets_length_costs_no_more_depth_than_the_rules_have() {
    let mut growing = Growing::default();
    let root = growing.new_root();
    let deep = format!("{}#", "+/".repeat(LEVELS_MAX - 1));
    let allow = RuleEffects::of(RuleEffect::Allow, Actions::ALL, Round::First);
    growing.insert(root, &parse(&deep, Placeholders::Anywhere).expect("valid"), allow, 0);
    let tree = growing.finish();
    let names = ClientNames { user: Name::Missing, client_id: Name::Missing };
    let topic = "/".repeat(65_535);
    assert_eq!(tree.matching(root, &topic, names), allow);
    assert_eq!(tree.meeting(root, "+/#", names), allow);
    assert_eq!(tree.covering(root, &"+/".repeat(30_000), names), allow);
}

#[test]
fn a_round_is_heard_on_what_the_one_before_left_open() {
    let all = |effect, round| RuleEffects::of(effect, Actions::ALL, round);
    let granted = |parts: &[RuleEffects], default| {
        let mut found = RuleEffects::default();
        parts.iter().for_each(|part| found.add(*part));
        found.granted(default) == Actions::ALL
    };
    let (allow, deny) = (all(RuleEffect::Allow, Round::First), all(RuleEffect::Deny, Round::First));
    let (late_allow, late_deny) =
        (all(RuleEffect::Allow, Round::Second), all(RuleEffect::Deny, Round::Second));
    for (parts, with_deny, with_allow) in [
        (&[][..], false, true),
        (&[allow], true, true),
        (&[deny], false, false),
        (&[allow, deny], false, false),
        (&[late_allow], true, true),
        (&[late_deny], false, false),
        (&[late_allow, late_deny], false, false),
        (&[allow, late_deny], true, true),
        (&[deny, late_allow], false, false),
    ] {
        assert_eq!(granted(parts, Actions::NONE), with_deny, "{parts:?}");
        assert_eq!(granted(parts, Actions::ALL), with_allow, "{parts:?}");
    }
}
