use super::*;
use crate::policy::acl::Permissions;

fn acl(text: &str) -> Acl {
    parse("acl", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn may_all(permissions: &Permissions, topic: &str) -> bool {
    assert_eq!(permissions.may_publish(topic), permissions.may_receive(topic), "{topic}");
    permissions.may_publish(topic)
}

#[test]
fn topics_are_for_the_user_of_the_line_above_and_else_for_anonymous_clients() {
    let acl =
        acl("topic global/#\ntopic deny global/except\n\nuser ann\ntopic readwrite ann/#\nuser bob b\n\
                   topic read r\ntopic write w\nuser ann\ntopic deny ann/except\n");
    let (anonymous, ann, bob) =
        (acl.permissions(None, "c"), acl.permissions(Some("ann"), "c"), acl.permissions(Some("bob b"), "c"));
    assert!(
        may_all(&anonymous, "global")
            && may_all(&anonymous, "global/x")
            && !may_all(&anonymous, "global/except")
    );
    assert!(!may_all(&anonymous, "ann") && !may_all(&ann, "global"));
    assert!(may_all(&ann, "ann/x") && !may_all(&ann, "ann/except"));
    assert!(bob.may_receive("r") && !bob.may_publish("r") && bob.may_publish("w") && !bob.may_receive("w"));
    let other = acl.permissions(Some("eve"), "c");
    assert!(!may_all(&other, "global") && !may_all(&other, "ann"));
}

#[test]
fn patterns_are_for_everyone_and_their_names_fill_a_level() {
    let acl = acl("user ann\npattern write d/%c/#\npattern read u/%u\ntopic t/%u\npattern read all\n");
    let bob = acl.permissions(Some("bob"), "dev");
    assert!(
        bob.may_publish("d/dev/x")
            && !bob.may_receive("d/dev/x")
            && bob.may_receive("u/bob")
            && bob.may_receive("all")
    );
    let ann = acl.permissions(Some("ann"), "dev");
    assert!(may_all(&ann, "t/%u") && !may_all(&ann, "t/ann"));
    let anonymous = acl.permissions(None, "dev");
    assert!(anonymous.may_publish("d/dev") && !anonymous.may_receive("u/") && anonymous.may_receive("all"));
}

#[test]
fn patterns_are_heard_after_the_topics_and_deny_wins_among_each() {
    let acl = acl(
        "pattern deny a/%u/x\npattern a/#\nuser ann\ntopic read a/ann/x\ntopic deny b/no\ntopic b/#\npattern b/#\n",
    );
    let ann = acl.permissions(Some("ann"), "c");
    assert!(
        ann.may_receive("a/ann/x") && !ann.may_publish("a/ann/x"),
        "the grant of the topic is heard first"
    );
    assert!(may_all(&ann, "a/bob/x") && !may_all(&ann, "b/no") && may_all(&ann, "b/yes"));
    assert!(
        may_all(&acl.permissions(Some("bob"), "c"), "b/no")
            && !may_all(&acl.permissions(Some("bob"), "c"), "a/bob/x")
    );
}

#[test]
fn a_list_tells_whether_it_goes_by_user_names() {
    let goes = |text: &str| acl(text).names_users();
    assert!(goes("topic read r\nuser ann\ntopic read s\n") && goes("pattern read u/%u\n"));
    assert!(!goes("topic readwrite t/%u\npattern read c/%c\n"), "in a topic line %u is plain text");
}

#[test]
fn names_with_wildcards_get_nothing_from_patterns() {
    let acl = acl("topic anonymous\npattern d/%c/#\npattern all\nuser #\ntopic own\n");
    for (user, client_id) in
        [(None, "+"), (None, "a#"), (Some("+"), "c"), (Some("#"), "c"), (Some("ann"), "#")]
    {
        let permissions = acl.permissions(user, client_id);
        assert!(!may_all(&permissions, "all") && !may_all(&permissions, "d/c/x"), "{user:?} {client_id}");
        assert_eq!(may_all(&permissions, "anonymous"), user.is_none());
        assert_eq!(may_all(&permissions, "own"), user == Some("#"));
    }
}

#[test]
fn names_are_text_also_with_slashes_and_inside_a_level() {
    let acl =
        acl("pattern write %u\npattern builders/%u/#\npattern owntracks/%c/#\npattern write dev-%u/x\n\
                   pattern all/#\npattern deny all/%c/no\n");
    let arch = acl.permissions(Some("arch/x86"), "alice/phone");
    assert!(arch.may_publish("arch/x86") && !arch.may_publish("arch") && !arch.may_publish("arch/x86/y"));
    assert!(may_all(&arch, "builders/arch/x86") && may_all(&arch, "builders/arch/x86/log"));
    assert!(may_all(&arch, "owntracks/alice/phone/event") && arch.may_publish("dev-arch/x86/x"));
    for topic in
        ["builders/arch/arm", "builders/arch", "builders/arch/x860", "owntracks/alice/tablet", "dev-/x"]
    {
        assert!(!may_all(&arch, topic), "{topic}");
    }
    assert!(!may_all(&arch, "all/alice/phone/no") && may_all(&arch, "all/alice/no"));
    // The comparison also knows whether a filter meets the denial.
    for (filter, receives_all) in [
        ("all/+/+/no", false),
        ("all/alice/#", false),
        ("all/alice/+/no", false),
        ("all/bob/#", true),
        ("all/+/no", true),
    ] {
        assert_eq!(arch.receives_all_of(filter), receives_all, "{filter}");
    }
    assert!(acl.permissions(Some("7"), "c").may_publish("dev-7/x"));
}

#[test]
fn a_subscription_is_granted_and_its_messages_are_checked() {
    let acl = acl("topic read a/#\ntopic deny a/secret\n");
    let permissions = acl.permissions(None, "c");
    for filter in ["#", "a/secret", "b", "$SYS/#", "$share/g/a/secret"] {
        assert!(permissions.may_subscribe(filter), "{filter}");
    }
    assert!(!permissions.receives_all_of("a/#") && permissions.receives_all_of("a/b/#"));
    assert!(!permissions.may_receive("a/secret") && permissions.may_receive("a/b"));
}

#[test]
fn a_file_without_rules_refuses_everything() {
    for text in ["", "\n\n", "#comment\n\n", "   \n\t\r\n", "user ann"] {
        let permissions = acl(text).permissions(Some("ann"), "c");
        assert!(!may_all(&permissions, "test/topic") && permissions.may_subscribe("test/topic"), "{text:?}");
    }
}

#[test]
fn filters_and_names_may_have_spaces() {
    let acl =
        acl("topic read   a b/c d  \r\n  user  two  words\t\n topic  readwrite   x y\ntopic read\ntopic #\n");
    assert!(acl.permissions(None, "c").may_receive("a b/c d"));
    let user = acl.permissions(Some("two  words"), "c");
    assert!(may_all(&user, "x y") && may_all(&user, "read") && may_all(&user, "anything"));
    assert!(!may_all(&user, "$SYS/x"));
}

#[test]
fn every_mistake_is_named_with_its_line() {
    for (text, expected) in [
        ("topic", "acl:1: topic: no topic filter; write topic [read|write|readwrite|deny] FILTER"),
        ("\npattern ", "acl:2: pattern: no topic filter; write pattern [read|write|readwrite|deny] FILTER"),
        ("topic reed a", "acl:1: topic: got \"reed\"; allowed is read, write, readwrite or deny"),
        ("topic a b", "acl:1: topic: got \"a\"; allowed is read, write, readwrite or deny"),
        (
            "topic readwrite a#",
            "acl:1: topic: got \"a#\": no topic filter: + and # fill a whole level, and # is the last one",
        ),
        (
            "topic a\u{1}",
            "acl:1: topic: got \"a\\u0001\": no topic filter: it has a control character or a non-character",
        ),
        (
            "topic read $share/g/t",
            "acl:1: topic: got \"$share/g/t\": write the filter without $share/GROUP/: shared subscriptions are judged by it",
        ),
        ("#\nuser", "acl:2: user: no user name; write user NAME"),
        ("user   ", "acl:1: user: no user name; write user NAME"),
        ("user a\u{7F}", "acl:1: user: the user name has a control character or a non-character"),
        (
            "topic a\n  # x",
            "acl:2: got \"#\"; a line begins with topic, user, pattern or, as a comment, with #",
        ),
        (
            "usr ann\ntopic a#",
            "acl:1: got \"usr\"; a line begins with topic, user, pattern or, as a comment, with #\nacl:2: topic: got \"a#\": no topic filter: + and # fill a whole level, and # is the last one",
        ),
    ] {
        assert_eq!(parse("acl", text).expect_err("a mistake").to_string(), expected, "{text:?}");
    }
    let errors = parse("acl", &"x\n".repeat(30)).expect_err("mistakes");
    assert_eq!((errors.errors.len(), errors.more), (20, 10));
}

#[test]
fn mutated_files_do_not_panic() {
    let seed =
        "topic read $SYS/#\n# no\nuser roger\ntopic foo/bar\ntopic deny  a b/+/#\npattern write d/%c/%u/#\n";
    crate::policy::acl::mutations::each(seed, 60_000, |text| {
        if let Ok(acl) = parse("acl", text) {
            let permissions = acl.permissions(Some("roger"), "c");
            permissions.may_publish("d/c/roger/x");
            permissions.may_subscribe("+/#");
        }
    });
}
