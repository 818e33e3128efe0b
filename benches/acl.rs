//! Access control: the time of one decision in nanoseconds, for several numbers of rules, and the time of a
//! login.

use criterion::{Criterion, criterion_group, criterion_main};
use midge::policy::acl::{Acl, Actions, Permissions, Rule, RuleEffect, Subscribing, Who};
use std::hint::black_box;

/// The number of clients that ask in turn; a power of two.
const CLIENTS: usize = 1_024;

fn rule(who: Who, topic: String) -> Rule {
    Rule { who, clients: Vec::new(), effect: RuleEffect::Allow, actions: Actions::ALL, topics: vec![topic] }
}

fn acl(rules: &[Rule]) -> Acl {
    Acl::new(RuleEffect::Deny, Subscribing::Strict, rules).expect("valid rules")
}

fn device(number: usize) -> String {
    format!("device-{number:09}")
}

fn may_publish(c: &mut Criterion, name: &str, clients: &[Permissions], topics: &[String]) {
    let mut asked = clients.iter().zip(topics).cycle();
    c.bench_function(&format!("may_publish/{name}"), |b| {
        b.iter(|| {
            let (permissions, topic) = asked.next().expect("a cycle has no end");
            assert!(permissions.may_publish(black_box(topic)));
        });
    });
}

fn questions(c: &mut Criterion) {
    let own_topics: Vec<String> = (0..CLIENTS).map(|n| format!("d/{}/telemetry/temp", device(n))).collect();
    may_publish(c, "no_rules", &vec![Permissions::everything(); CLIENTS], &own_topics);
    for rules in [10, 1_000] {
        let areas = (0..rules - 1).map(|n| rule(Who::Everyone, format!("area/{n}/+/#")));
        let own = rule(Who::Everyone, "d/%c/#".to_string());
        let for_everyone = acl(&areas.chain([own]).collect::<Vec<Rule>>());
        let clients: Vec<Permissions> =
            (0..CLIENTS).map(|n| for_everyone.permissions(Some("fleet"), &device(n))).collect();
        may_publish(c, &format!("{rules}_rules/own_pattern"), &clients, &own_topics);
        let topics: Vec<String> = (0..CLIENTS).map(|n| format!("area/{}/x/y", n % (rules - 1))).collect();
        may_publish(c, &format!("{rules}_rules/one_of_many"), &clients, &topics);

        let user = |n: usize| format!("user{}", n % rules);
        let for_users = (0..rules)
            .map(|n| rule(Who::Some { anonymous: false, users: vec![user(n)] }, format!("u/{}/#", user(n))));
        let by_user = acl(&for_users.collect::<Vec<Rule>>());
        let clients: Vec<Permissions> =
            (0..CLIENTS).map(|n| by_user.permissions(Some(&user(n)), "c")).collect();
        let topics: Vec<String> = (0..CLIENTS).map(|n| format!("u/{}/x/y", user(n))).collect();
        may_publish(c, &format!("{rules}_rules/by_user"), &clients, &topics);
    }
}

fn login(c: &mut Criterion) {
    let acl = acl(&[rule(Who::Everyone, "d/%c/#".to_string())]);
    let ids: Vec<String> = (0..CLIENTS).map(device).collect();
    let mut ids = ids.iter().cycle();
    c.bench_function("login", |b| {
        b.iter(|| acl.permissions(Some("fleet"), ids.next().expect("a cycle has no end")));
    });
}

criterion_group!(benches, questions, login);
criterion_main!(benches);
