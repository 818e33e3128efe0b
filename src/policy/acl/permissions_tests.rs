use super::*;
use crate::base::Random;
use crate::mqtt::filter_matches;
use crate::policy::acl::filters::tests::{filters, texts};
use crate::policy::acl::{Acl, Rule, Who};

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn rule(who: Who, effect: RuleEffect, actions: Actions, topics: &[&str]) -> Rule {
    Rule { who, clients: Vec::new(), effect, actions, topics: strings(topics) }
}

fn allow(actions: Actions, topics: &[&str]) -> Rule {
    rule(Who::Everyone, RuleEffect::Allow, actions, topics)
}

fn deny(actions: Actions, topics: &[&str]) -> Rule {
    rule(Who::Everyone, RuleEffect::Deny, actions, topics)
}

fn strict(rules: &[Rule]) -> Acl {
    Acl::new(RuleEffect::Deny, Subscribing::Strict, rules).expect("valid rules")
}

#[test]
fn without_access_control_everything_is_allowed() {
    let everything = Permissions::everything();
    assert!(everything.is_everything() && everything.may_publish("a") && everything.may_receive("$SYS/x"));
    assert!(everything.may_subscribe("#") && everything.receives_all_of("$SYS/#"));
}

#[test]
fn what_no_rule_mentions_has_the_default() {
    for (default, answer) in [(RuleEffect::Deny, false), (RuleEffect::Allow, true)] {
        let acl = Acl::new(default, Subscribing::Strict, &[]).expect("valid");
        for permissions in [acl.permissions(None, "c"), acl.permissions(Some("u"), "c")] {
            assert_eq!(permissions.may_publish("a"), answer);
            assert_eq!(permissions.may_receive("$SYS/broker/uptime"), answer);
            assert_eq!(permissions.may_subscribe("a/#"), answer);
            assert_eq!(permissions.may_subscribe("$SYS/#"), answer);
            assert!(!permissions.is_everything());
        }
    }
}

#[test]
fn deny_wins_whatever_the_order() {
    let (allowed, denied) = (allow(Actions::ALL, &["a/#"]), deny(Actions::PUBLISH, &["a/b"]));
    for rules in [[allowed.clone(), denied.clone()], [denied, allowed]] {
        let permissions = strict(&rules).permissions(None, "c");
        assert!(permissions.may_publish("a/c") && !permissions.may_publish("a/b"));
        assert!(permissions.may_receive("a/b") && permissions.may_subscribe("a/#"));
    }
}

#[test]
fn a_rule_is_for_those_it_names() {
    let some = |anonymous, users: &[&str]| Who::Some { anonymous, users: strings(users) };
    let mut from_one_client = rule(some(true, &["ann"]), RuleEffect::Allow, Actions::PUBLISH, &["one"]);
    from_one_client.clients = strings(&["c1", "c2"]);
    let mut any_user = allow(Actions::PUBLISH, &["client"]);
    any_user.clients = strings(&["c2"]);
    let acl = strict(&[
        rule(some(false, &["ann", "bob"]), RuleEffect::Allow, Actions::PUBLISH, &["users"]),
        rule(some(true, &[]), RuleEffect::Allow, Actions::PUBLISH, &["anonymous"]),
        rule(Who::Everyone, RuleEffect::Allow, Actions::PUBLISH, &["everyone"]),
        from_one_client,
        any_user,
    ]);
    for (user, client_id, expected) in [
        (None, "x", &["anonymous", "everyone"][..]),
        (None, "c1", &["anonymous", "everyone", "one"]),
        (None, "c2", &["anonymous", "everyone", "one", "client"]),
        (Some("ann"), "x", &["users", "everyone"]),
        (Some("ann"), "c1", &["users", "everyone", "one"]),
        (Some("bob"), "c1", &["users", "everyone"]),
        (Some("bob"), "c2", &["users", "everyone", "client"]),
        (Some("Ann"), "x", &["everyone"]),
        (Some(""), "x", &["everyone"]),
        (Some("eve"), "c2", &["everyone", "client"]),
    ] {
        let permissions = acl.permissions(user, client_id);
        for topic in ["users", "anonymous", "everyone", "one", "client"] {
            assert_eq!(
                permissions.may_publish(topic),
                expected.contains(&topic),
                "{user:?} {client_id} {topic}"
            );
        }
    }
}

#[test]
fn names_stand_for_the_client_itself() {
    let acl = strict(&[allow(Actions::ALL, &["d/%c/#", "u/%u", "x-%u-%c/y", "%u/own"])]);
    let ann = acl.permissions(Some("ann"), "dev 1");
    for topic in ["d/dev 1", "d/dev 1/a/b", "u/ann", "x-ann-dev 1/y", "ann/own"] {
        assert!(ann.may_publish(topic), "{topic}");
    }
    for topic in
        ["d", "d/dev", "d/dev 12/a", "d/%c", "u/ann/x", "u/an", "x-ann-dev 1", "bob/own", "u/%u", "/own"]
    {
        assert!(!ann.may_publish(topic), "{topic}");
    }
    assert!(ann.may_subscribe("d/dev 1/#") && !ann.may_subscribe("d/+/#") && !ann.may_subscribe("d/#"));
    assert!(ann.may_subscribe("d/dev 1/+/x") && !ann.may_subscribe("+/own"));
    let anonymous = acl.permissions(None, "dev 1");
    assert!(
        anonymous.may_publish("d/dev 1/a") && !anonymous.may_publish("u/") && !anonymous.may_publish("/own")
    );
    assert!(!anonymous.may_publish("x--dev 1/y"));
    // The names are too long to be stored in place.
    let long = "n".repeat(60_000);
    assert!(acl.permissions(Some(&long), &long).may_publish(&format!("d/{long}/x")));
    assert!(!acl.permissions(Some(&long), &long).may_publish(&format!("d/{long}n/x")));
}

#[test]
fn a_name_does_not_widen_a_rule() {
    let acl = strict(&[allow(Actions::ALL, &["d/%c/#", "u-%u/x", "%u/#", "%c/#", "open"])]);
    for name in ["+", "#", "a/b", "/", "a+", "#a", "", "b/#", "+/+", "a/"] {
        let permissions = acl.permissions(Some(name), name);
        for topic in
            ["d", "d/a", "d/a/b", "d/a/b/c", "d//x", "u-/x", "u-a/b/x", "a/b", "/", "a", "b/x", "d/+", "+"]
        {
            assert!(!permissions.may_publish(topic) && !permissions.may_receive(topic), "{name:?} {topic}");
        }
        for filter in ["#", "+", "+/#", "d/#", "d/+/#", "d/a/b/#", "a/b/#", "b/#", "d/+", "/#", "//#"] {
            assert!(!permissions.may_subscribe(filter), "{name:?} {filter}");
        }
        assert!(permissions.may_publish("open") && permissions.may_subscribe("open"), "{name:?}");
    }
    // [MQTT5-4.7.2-1]
    let sys = acl.permissions(Some("$SYS"), "$SYS");
    assert!(!sys.may_receive("$SYS/broker/uptime") && !sys.may_subscribe("$SYS/#"));
    assert!(sys.may_publish("d/$SYS/x") && sys.may_publish("u-$SYS/x"));
}

#[test]
fn nobody_escapes_a_denial_by_his_name() {
    let acl = strict(&[allow(Actions::ALL, &["#", "$x/#"]), deny(Actions::ALL, &["d/%c/secret", "a/%u"])]);
    let plain = acl.permissions(Some("ann"), "dev");
    assert!(
        !plain.may_publish("d/dev/secret")
            && plain.may_publish("d/other/secret")
            && plain.may_publish("a/bob")
    );
    for name in ["dev/x", "+", "#"] {
        let odd = acl.permissions(Some(name), name);
        assert!(!odd.may_publish("d/dev/x/secret") && !odd.may_publish("d/dev/secret"), "{name:?}");
        assert!(
            !odd.may_publish("a/bob") && !odd.may_subscribe("#") && !odd.may_subscribe("d/+"),
            "{name:?}"
        );
        assert!(odd.may_publish("d") && odd.may_publish("b/c") && odd.may_subscribe("b/#"), "{name:?}");
    }
    // For a client without a user name, a rule about its own user name never applies.
    assert!(acl.permissions(None, "dev").may_subscribe("a/#"));
    let own = strict(&[allow(Actions::ALL, &["#", "$x/#"]), deny(Actions::ALL, &["%u/x"])]);
    for name in ["$x", "a/b"] {
        let odd = own.permissions(Some(name), "c");
        assert!(!odd.may_publish("$x/x") && !odd.may_publish("b") && !odd.may_subscribe("#"), "{name:?}");
    }
}

#[test]
fn sys_is_read_by_rules_that_begin_with_it() {
    // [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
    let wide = strict(&[allow(Actions::ALL, &["#", "+/#", "+/+"])]).permissions(None, "c");
    assert!(wide.may_subscribe("#") && wide.may_receive("SYS/x"));
    for filter in ["$SYS/#", "$SYS", "$SYS/+"] {
        assert!(!wide.may_subscribe(filter) && !wide.receives_all_of(filter), "{filter}");
    }
    assert!(!wide.may_receive("$SYS/broker/uptime"));
    let told = strict(&[allow(Actions::READ, &["$SYS/#"])]).permissions(None, "c");
    assert!(
        told.may_receive("$SYS/broker/uptime")
            && told.may_subscribe("$SYS/#")
            && told.may_subscribe("$SYS/+")
    );
    assert!(!told.may_publish("$SYS/x") && !told.may_subscribe("#") && !told.may_subscribe("+/#"));
    // Denying everything else does not affect `$SYS`, and denying `$SYS` does not affect anything else.
    let both = [allow(Actions::READ, &["$SYS/#", "#"]), deny(Actions::READ, &["$SYS/secret"])];
    let both = strict(&both).permissions(None, "c");
    assert!(both.may_subscribe("#") && both.may_subscribe("+/#") && !both.may_subscribe("$SYS/#"));
    assert!(both.may_subscribe("$SYS/broker/#"));
}

#[test]
fn a_shared_subscription_is_judged_by_its_filter() {
    // [MQTT5-4.8.2-1]
    let permissions = strict(&[allow(Actions::READ, &["a/#"])]).permissions(None, "c");
    assert!(permissions.may_subscribe("$share/g/a/+") && permissions.receives_all_of("$share/g/a/+"));
    assert!(!permissions.may_subscribe("$share/a/b") && !permissions.may_subscribe("$share/g/#"));
    for no_filter in ["", "a#", "$share/g", "$share", "a/#/b", "a/\0"] {
        assert!(
            !permissions.may_subscribe(no_filter) && !permissions.receives_all_of(no_filter),
            "{no_filter:?}"
        );
    }
}

#[test]
fn subscribing_takes_a_grant_to_receive_too() {
    let only_ask = strict(&[allow(Actions::SUBSCRIBE, &["a"])]).permissions(None, "c");
    assert!(!only_ask.may_subscribe("a") && !only_ask.may_receive("a"));
    let only_receive = strict(&[allow(Actions::RECEIVE, &["a"])]).permissions(None, "c");
    assert!(
        !only_receive.may_subscribe("a")
            && only_receive.may_receive("a")
            && only_receive.receives_all_of("a")
    );
    let both = strict(&[allow(Actions::SUBSCRIBE, &["#"]), allow(Actions::RECEIVE, &["a/#"])])
        .permissions(None, "c");
    assert!(both.may_subscribe("a/b") && !both.may_subscribe("+/b") && !both.receives_all_of("+/b"));
}

#[test]
fn filtered_subscribing_refuses_only_what_one_rule_denies_to_subscribe() {
    let rules = [
        allow(Actions::READ, &["a/+"]),
        deny(Actions::READ, &["a/secret/#", "+/x"]),
        deny(Actions::RECEIVE, &["a/held"]),
    ];
    let acl = Acl::new(RuleEffect::Deny, Subscribing::Filtered, &rules).expect("valid");
    assert_eq!(acl.subscribing(), Subscribing::Filtered);
    let permissions = acl.permissions(None, "c");
    for filter in ["#", "a/#", "a/+", "a/held", "b", "$SYS/#", "a/b", "$share/g/a/#"] {
        assert!(permissions.may_subscribe(filter), "{filter}");
    }
    for filter in ["a/secret", "a/secret/#", "a/secret/+", "b/x", "+/x", "$share/g/a/secret"] {
        assert!(!permissions.may_subscribe(filter), "{filter}");
    }
    assert!(
        permissions.may_receive("a/b") && !permissions.may_receive("a/held") && !permissions.may_receive("b")
    );
    assert!(!permissions.receives_all_of("a/+") && permissions.receives_all_of("a/b"));
}

#[test]
fn a_strict_subscription_receives_all_that_it_matches() {
    let patterns = filters(&["a", "b", "+", "#", "$x", "", "%u", "a%c"], 3);
    let asked = filters(&["a", "b", "ab", "+", "#", "$x", ""], 3);
    let topics = texts(&["a", "b", "ab", "$x", ""], 4);
    let matched: Vec<Vec<&String>> = asked
        .iter()
        .map(|filter| topics.iter().filter(|topic| filter_matches(filter, topic)).collect())
        .collect();
    let mut random = Random::new(1);
    let mut below = |bound: usize| random.index(bound);
    let (mut granted, mut all_received) = (0, 0);
    for _ in 0..150 {
        let mut rules = Vec::new();
        for _ in 0..1 + below(6) {
            let actions = [Actions::READ, Actions::RECEIVE, Actions::SUBSCRIBE][below(3)];
            let effect = if below(3) == 0 { RuleEffect::Deny } else { RuleEffect::Allow };
            let topic = &patterns[below(patterns.len())];
            rules.push(rule(Who::Everyone, effect, actions, &[topic]));
        }
        let default = if below(4) == 0 { RuleEffect::Allow } else { RuleEffect::Deny };
        let acl = Acl::new(default, Subscribing::Strict, &rules).expect("valid");
        let user = [None, Some("a"), Some("$x"), Some("a/b")][below(4)];
        let permissions = acl.permissions(user, ["b", "#"][below(2)]);
        let may_receive: Vec<&String> =
            topics.iter().filter(|topic| permissions.may_receive(topic)).collect();
        for (filter, matched) in asked.iter().zip(&matched) {
            let (subscribes, receives) =
                (permissions.may_subscribe(filter), permissions.receives_all_of(filter));
            assert!(!subscribes || receives, "{filter:?} by {rules:?}");
            if receives {
                let refused = matched.iter().find(|topic| may_receive.binary_search(topic).is_err());
                let refused = refused.filter(|topic| !may_receive.contains(topic));
                assert_eq!(refused, None, "{filter:?} by {rules:?} for {user:?}");
            }
            granted += usize::from(subscribes);
            all_received += usize::from(receives);
        }
    }
    assert!(granted > 1_000 && all_received > granted, "{granted} {all_received}");
}

#[test]
fn lists_of_a_token_allow_what_they_have() {
    let lists = |publish: Option<&[&str]>, subscribe: Option<&[&str]>| {
        let (publish, subscribe) = (publish.map(strings), subscribe.map(strings));
        Permissions::of_lists(publish.as_deref(), subscribe.as_deref())
    };
    let both = lists(Some(&["p/#", "%c"]), Some(&["s/+"])).expect("valid");
    assert!(
        both.may_publish("p/x")
            && both.may_publish("%c")
            && !both.may_publish("s/x")
            && !both.may_publish("c")
    );
    assert!(both.may_receive("s/x") && both.may_subscribe("s/x") && both.receives_all_of("s/+"));
    assert!(!both.may_subscribe("s/#") && !both.may_subscribe("p/x") && !both.may_receive("p/x"));
    let only_publishing = lists(Some(&[]), None).expect("valid");
    assert!(!only_publishing.may_publish("a") && only_publishing.may_subscribe("#"));
    assert!(only_publishing.may_receive("$SYS/x"));
    let only_reading = lists(None, Some(&[])).expect("valid");
    assert!(
        only_reading.may_publish("a") && !only_reading.may_receive("a") && !only_reading.may_subscribe("a")
    );
    assert!(lists(None, None).expect("valid").is_everything());
    for (publish, subscribe, rule) in [(&["a#"][..], &["b"][..], 0), (&["a"], &["$share/g/t"], 1)] {
        let error = lists(Some(publish), Some(subscribe)).expect_err("no topic filter");
        assert!(matches!(&error, RuleError::Pattern { rule: at, .. } if *at == rule), "{error}");
    }
}

#[test]
fn two_permissions_together_allow_what_both_allow() {
    let acl = strict(&[allow(Actions::ALL, &["a/#", "b/#"])]).permissions(Some("u"), "c");
    let list = strings(&["b/#", "c"]);
    let token = Permissions::of_lists(Some(&list), None).expect("valid");
    for both in [acl.and(&token), token.and(&acl), acl.and(&token).and(&token)] {
        assert!(both.may_publish("b/x") && !both.may_publish("a/x") && !both.may_publish("c"));
        assert!(both.may_subscribe("a/#") && !both.may_subscribe("c") && both.may_receive("a"));
        assert!(both.receives_all_of("a/+") && !both.receives_all_of("+/x"));
    }
    let everything = Permissions::everything();
    assert!(everything.and(&everything).is_everything());
    assert!(everything.and(&acl).may_publish("a/x") && !acl.and(&everything).may_publish("c"));
    assert!(matches!(acl.and(&acl).0.as_deref(), Some(Inner::Login(_))), "the same twice is the same");
}

#[test]
fn clients_that_no_rule_singles_out_share_their_permissions() {
    let users = Who::Some { anonymous: true, users: strings(&["ann"]) };
    let acl = strict(&[allow(Actions::ALL, &["a"]), rule(users, RuleEffect::Allow, Actions::ALL, &["b"])]);
    let pointer = |permissions: &Permissions| permissions.0.as_ref().map(Arc::as_ptr);
    let same = |one: Option<&str>, other| {
        pointer(&acl.permissions(one, "c1")) == pointer(&acl.permissions(other, "c2"))
    };
    assert!(same(None, None) && same(Some("bob"), Some("eve")) && !same(Some("ann"), Some("bob")));
    assert!(
        acl.permissions(None, "c").may_publish("b") && !acl.permissions(Some("bob"), "c").may_publish("b")
    );
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let refused =
        |rules: &[Rule]| Acl::new(RuleEffect::Deny, Subscribing::Strict, rules).expect_err("refused");
    let error = refused(&[allow(Actions::ALL, &["a"]), allow(Actions::ALL, &["b", "c#"])]);
    assert!(matches!(&error, RuleError::Pattern { rule: 1, topic, .. } if topic == "c#"));
    assert_eq!(
        error.to_string(),
        "rule 2: \"c#\": no topic filter: + and # fill a whole level, and # is the last one"
    );
    let mut many = allow(Actions::ALL, &["a", "b", "c", "d", "e"]);
    many.clients = (0..250_000).map(|number| number.to_string()).collect();
    assert_eq!(refused(&[many]), RuleError::TooMany);
}

#[test]
fn a_verdict_names_the_rule_whichever_way_it_decides() {
    let text = "default = \"deny\"\n\
        [[rules]]\neveryone = true\nallow = [\"publish\"]\ntopics = [\"a/#\"]\n\
        [[rules]]\neveryone = true\nallow = [\"read\"]\ntopics = [\"a/#\"]\n\
        [[rules]]\neveryone = true\ndeny = [\"all\"]\ntopics = [\"a/secret\"]\n";
    let list = crate::policy::acl::toml::parse("acl.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let permissions = list.permissions(None, "c");
    for (question, words) in [
        (RuleQuestion::Publish("a/b"), "allowed by acl.toml:2"),
        (RuleQuestion::Receive("a/b"), "allowed by acl.toml:6"),
        (RuleQuestion::Subscribe("a/b"), "allowed by acl.toml:6"),
        (RuleQuestion::Publish("a/secret"), "denied by acl.toml:10"),
        (RuleQuestion::Subscribe("a/#"), "denied by acl.toml:10"),
        (RuleQuestion::Receive("b"), "denied by acl.toml: no rule allows it"),
    ] {
        let verdict = permissions.verdict(question);
        assert_eq!(verdict.to_string(), words, "{question:?}");
        assert_eq!(verdict.is_allowed(), words.starts_with("allowed"));
    }
    let everything = Permissions::everything().verdict(RuleQuestion::Publish("a"));
    assert_eq!((everything.is_allowed(), everything.to_string().as_str()), (true, "there is no access list"));
    let of_token = Permissions::of_lists(Some(&["x".to_owned()]), None).expect("a good list");
    let both = permissions.and(&of_token).verdict(RuleQuestion::Publish("a/b"));
    assert_eq!(both.to_string(), "denied by no list that came with the login has it");
    let of_wide = Permissions::of_lists(Some(&["#".to_owned()]), None).expect("a good list");
    let both = permissions.and(&of_wide).verdict(RuleQuestion::Publish("a/b"));
    assert_eq!(both.to_string(), "allowed by acl.toml:2 and a list that came with the login");
}
