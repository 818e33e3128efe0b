use super::*;
use crate::policy::acl::PatternError;

fn acl(text: &str) -> Acl {
    parse("acl.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn rule(rest: &str) -> String {
    format!("[[rules]]\n{rest}\n")
}

#[test]
fn the_manual_is_a_file_that_means_what_it_says() {
    let acl = parse("acl.toml", include_str!("../../../config/acl.toml"))
        .unwrap_or_else(|errors| panic!("{errors}"));
    let device = acl.permissions(Some("fleet"), "d1");
    assert!(device.may_publish("devices/d1/state") && !device.may_publish("devices/d2/state"));
    assert!(device.may_subscribe("commands/d1/#") && !device.may_subscribe("commands/#"));
    assert!(device.may_publish("users/fleet/x") && device.may_subscribe("sessions/fleet-d1"));
    let archive = acl.permissions(Some("archive"), "a");
    assert!(archive.may_subscribe("devices/+/state") && !archive.may_subscribe("devices/#"));
    assert!(!archive.may_receive("devices/d1/secrets/key"));
    let control = acl.permissions(Some("control"), "a");
    assert!(control.may_subscribe("devices/#") && control.may_publish("commands/d1/stop"));
    assert!(acl.permissions(Some("operator"), "console-1").may_subscribe("$SYS/#"));
    assert!(!acl.permissions(Some("operator"), "console-2").may_subscribe("$SYS/#"));
    assert!(acl.permissions(None, "x").may_receive("public/news") && !control.may_receive("public/news"));
}

#[test]
fn a_file_without_rules_leaves_the_default() {
    for (text, answer) in [("", false), ("default = \"deny\"", false), ("default = \"allow\"", true)] {
        assert_eq!(acl(text).permissions(None, "c").may_publish("a"), answer, "{text}");
        assert_eq!(acl(text).permissions(None, "c").may_receive("$SYS/a"), answer, "{text}");
    }
    assert_eq!(acl("").subscribing(), Subscribing::Strict);
    assert_eq!(acl("subscribing = \"filtered\"").subscribing(), Subscribing::Filtered);
}

#[test]
fn actions_have_these_words() {
    for (word, publish, subscribe, receive) in [
        ("publish", true, false, false),
        ("write", true, false, false),
        ("subscribe", false, true, true),
        ("read", false, true, true),
        ("receive", false, false, true),
        ("all", true, true, true),
    ] {
        let allowed = acl(&rule(&format!("everyone = true\nallow = [\"{word}\"]\ntopics = [\"a\"]")));
        let permissions = allowed.permissions(None, "c");
        assert_eq!(permissions.may_publish("a"), publish, "{word}");
        assert_eq!(permissions.may_subscribe("a"), subscribe, "{word}");
        assert_eq!(permissions.may_receive("a"), receive, "{word}");
        let denied = format!(
            "default = \"allow\"\n{}",
            rule(&format!("everyone = true\ndeny = [\"{word}\"]\ntopics = [\"a\"]"))
        );
        let permissions = acl(&denied).permissions(None, "c");
        assert_eq!(permissions.may_publish("a"), !publish, "{word}");
        assert_eq!(permissions.may_receive("a"), !receive, "{word}");
        assert_eq!(permissions.may_subscribe("a"), !receive, "{word}");
    }
}

#[test]
fn rules_may_stand_inline_and_for_clients_alone() {
    let acl = acl("rules = [{ clients = [\"c1\"], allow = [\"all\"], topics = [\"a\"] }, \
                   { users = [\"u\"], anonymous = true, allow = [\"all\"], topics = [\"b\"] }]");
    for (user, client_id, a, b) in
        [(None, "c1", true, true), (Some("x"), "c1", true, false), (Some("u"), "c2", false, true)]
    {
        let permissions = acl.permissions(user, client_id);
        assert_eq!(
            (permissions.may_publish("a"), permissions.may_publish("b")),
            (a, b),
            "{user:?} {client_id}"
        );
    }
}

#[test]
fn every_mistake_is_named_with_line_and_key_and_what_is_allowed() {
    let good = "everyone = true\nallow = [\"all\"]\ntopics = [\"a\"]";
    for (text, expected) in [
        (
            "default = 1".to_string(),
            "acl.toml:1: default: got the integer 1; allowed is \"deny\" or \"allow\"",
        ),
        (
            "\ndefault = \"refuse\"".to_string(),
            "acl.toml:2: default: got the string \"refuse\"; allowed is \"deny\" or \"allow\"",
        ),
        (
            "subscribing = \"lax\"".to_string(),
            "acl.toml:1: subscribing: got the string \"lax\"; allowed is \"strict\" or \"filtered\"",
        ),
        (
            "defualt = \"deny\"".to_string(),
            "acl.toml:1: defualt: unknown key; did you mean default? Allowed are: default, subscribing, rules",
        ),
        (
            "\"a b\" = 1".to_string(),
            "acl.toml:1: \"a b\": unknown key. Allowed are: default, subscribing, rules",
        ),
        ("topics = [\"a\"]".to_string(), "acl.toml:1: topics: unknown key; it belongs in a [[rules]] table"),
        (
            "[rules]\nx = 1".to_string(),
            "acl.toml:1: rules: got a table; write a table [[rules]] for each rule",
        ),
        ("rules = [1]".to_string(), "acl.toml:1: rules: got an array; write a table [[rules]] for each rule"),
        (
            rule(&format!("{good}\ntopic = 1")),
            "acl.toml:5: rules[1].topic: unknown key; did you mean topics? Allowed are: users, anonymous, everyone, clients, allow, deny, topics",
        ),
        (
            rule("allow = [\"all\"]\ntopics = [\"a\"]"),
            "acl.toml:1: rules[1]: for whom? Give users = [...], clients = [...], anonymous = true or everyone = true",
        ),
        (
            rule("everyone = false\nallow = [\"all\"]\ntopics = [\"a\"]"),
            "acl.toml:1: rules[1]: for whom? Give users = [...], clients = [...], anonymous = true or everyone = true",
        ),
        (
            rule(&format!("anonymous = true\n{good}")),
            "acl.toml:1: rules[1].everyone: everyone includes users and anonymous: leave them out",
        ),
        (
            rule(&format!("{good}\nanonymous = 1")),
            "acl.toml:5: rules[1].anonymous: got the integer 1; allowed is true or false",
        ),
        (
            rule("everyone = true\ntopics = [\"a\"]"),
            "acl.toml:1: rules[1]: missing key: allow = [...] or deny = [...]",
        ),
        (
            rule(&format!("{good}\ndeny = [\"all\"]")),
            "acl.toml:5: rules[1].deny: a rule allows or denies: write two rules",
        ),
        (rule("everyone = true\nallow = [\"all\"]"), "acl.toml:1: rules[1]: missing key: topics = [...]"),
        (
            format!("{}{}", rule(good), rule("everyone = true\nallow = []\ntopics = [\"a\"]")),
            "acl.toml:7: rules[2].allow: got an empty array; allowed is an array of actions, at least one",
        ),
        (
            rule("everyone = true\nallow = \"all\"\ntopics = [\"a\"]"),
            "acl.toml:3: rules[1].allow: got the string \"all\"; allowed is an array of actions, at least one",
        ),
        (
            rule("everyone = true\ndeny = [\"reed\"]\ntopics = [\"a\"]"),
            "acl.toml:3: rules[1].deny: got \"reed\": no action; allowed are publish, write, subscribe, read, receive, all",
        ),
        (
            rule("everyone = true\nallow = [\"all\"]\ntopics = [\n  \"a\",\n  \"b#\"]"),
            "acl.toml:6: rules[1].topics: got \"b#\": no topic filter: + and # fill a whole level, and # is the last one",
        ),
        (
            rule("everyone = true\nallow = [\"all\"]\ntopics = [2]"),
            "acl.toml:4: rules[1].topics: got the integer 2 in the array; allowed are topic filters in quotes",
        ),
        (
            rule("anonymous = true\nallow = [\"all\"]\ntopics = [\"u/%u\"]"),
            "acl.toml:4: rules[1].topics: got \"u/%u\": anonymous clients have no user name for %u",
        ),
        (
            rule("users = [\"\"]\nallow = [\"all\"]\ntopics = [\"a\"]"),
            "acl.toml:2: rules[1].users: got \"\": an empty name",
        ),
        (
            rule("clients = [\"a\\u0001\"]\nallow = [\"all\"]\ntopics = [\"a\"]"),
            "acl.toml:2: rules[1].clients: got \"a\\u0001\": it has a control character or a non-character, which no client can send",
        ),
    ] {
        assert_eq!(parse("acl.toml", &text).expect_err("a mistake").to_string(), expected, "{text}");
    }
    for (topic, error) in [("$share/g/t", PatternError::Shared), ("$%c", PatternError::NameBehindDollar)] {
        let text = rule(&format!("everyone = true\nallow = [\"all\"]\ntopics = [\"{topic}\"]"));
        let expected = format!("acl.toml:4: rules[1].topics: got \"{topic}\": {error}");
        assert_eq!(parse("acl.toml", &text).expect_err("a mistake").to_string(), expected);
    }
}

#[test]
fn mistakes_come_in_the_order_of_their_lines_and_are_bounded() {
    let text = format!("{}subscribing = 1\n{}", "", rule("users = [1]\nallow = [\"x\"]\ntopics = []"));
    let errors = parse("f", &text).expect_err("mistakes");
    let lines: Vec<Option<usize>> = errors.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [Some(1), Some(3), Some(4), Some(5)]);
    let errors = parse("f", &rule("x = 1").repeat(15)).expect_err("mistakes");
    assert_eq!(errors.errors.len() + errors.more, 45);
    assert_eq!(errors.errors.len(), 20);
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    for (text, line) in [("default = \"deny", 1), ("\n[[rules]\n", 2), ("a = 1\na = 2", 2), ("x = [\n", 1)] {
        let errors = parse("f", text).expect_err("not TOML");
        assert_eq!((errors.errors.len(), errors.errors[0].line), (1, Some(line)), "{errors}");
        assert!(errors.errors[0].message.starts_with("not TOML: "), "{errors}");
    }
}

#[test]
fn rules_beyond_the_limit_are_refused_with_the_line_of_their_table() {
    let names: Vec<String> = (0..1_001).map(|number| format!("\"{number}\"")).collect();
    let names = names.join(",");
    let text = rule(&format!("users = [{names}]\nclients = [{names}]\nallow = [\"all\"]\ntopics = [\"a\"]"));
    let errors = parse("f", &format!("\n{text}")).expect_err("too many");
    assert_eq!((errors.errors.len(), errors.errors[0].line), (1, Some(2)), "{errors}");
    assert!(errors.to_string().contains("1000000"), "{errors}");
}

#[test]
fn mutated_files_do_not_panic() {
    let seed = "default = \"deny\"\nsubscribing = \"strict\"\n[[rules]]\nusers = [\"a\"]\nclients = [\"c\"]\n\
                allow = [\"read\"]\ntopics = [\"%u/+/x%c/#\"]\n[[rules]]\neveryone = true\ndeny = [\"all\"]\ntopics = [\"#\"]\n";
    crate::policy::acl::mutations::each(seed, 40_000, |text| {
        if let Ok(acl) = parse("f", text) {
            let permissions = acl.permissions(Some("a"), "c");
            permissions.may_publish("a/b/xc/d");
            permissions.may_subscribe("a/#");
        }
    });
}
