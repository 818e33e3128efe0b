//! Enhanced authentication with SCRAM-SHA-256: at CONNECT, again later, and its failures.

use super::admission::{list, quiet, string};
use crate::auth::hash::{PasswordHash, Scheme};
use crate::auth::password_file::PasswordFile;
use crate::auth::scram::METHOD;
use crate::auth::scram::tests::client_final;
use crate::auth::scram_users::ScramUsers;
use crate::broker::world::World;
use crate::broker::{Counter, Event};
use crate::policy::access::{Access, Grant, Verdict};
use crate::policy::acl::{Actions, RuleEffect, Subscribing};
use crate::policy::method::Method;
use crate::policy::method::TEST_METHOD;
use crate::settings::Config;
use std::sync::Arc;

/// The users `user` and `other` with the password `pencil`, and a salt whose bytes are all `salt`. The line
/// of `old` has another scheme.
fn users(salt: u8) -> Arc<PasswordFile> {
    let line = |user: &str, scheme| {
        let hash = PasswordHash::new(scheme, b"pencil", &[salt; 16]).expect("good arguments");
        format!("{user}:{}\n", *hash.to_text())
    };
    let scram = Scheme::ScramSha256 { iterations: 4096 };
    let text = [line("user", scram), line("other", scram), line("old", Scheme::Sha512)].concat();
    Arc::new(PasswordFile::parse(&text, "users").expect("good lines"))
}

fn with_users(file: Arc<PasswordFile>) -> Access {
    let enhanced = ScramUsers::new(&file, [9; 32]).map(|users| Arc::new(users) as Arc<dyn Method>);
    Access { checks_passwords: true, passwords: Some(file), enhanced, ..Access::default() }
}

fn with_scram() -> Access {
    with_users(users(7))
}

fn property(id: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[id], length.as_slice(), bytes].concat()
}

/// The properties Authentication Method and Authentication Data.
fn properties(method: &str, data: Option<&str>) -> Vec<u8> {
    let mut properties = property(0x15, method.as_bytes());
    properties.extend(data.into_iter().flat_map(|data| property(0x16, data.as_bytes())));
    properties
}

fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 16_384);
    let (low, high) = ((body.len() & 0x7F) as u8, (body.len() >> 7) as u8);
    if high == 0 {
        [&[first_byte, low], body].concat()
    } else {
        [&[first_byte, low | 0x80, high], body].concat()
    }
}

/// The variable parts of a CONNECT of 5.0 with a clean start and no keep alive.
#[derive(Default)]
struct Said<'a> {
    client_id: &'a str,
    properties: Vec<u8>,
    user: Option<&'a str>,
    will_topic: Option<&'a str>,
}

impl Said<'_> {
    fn packet(&self) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT\x05".to_vec();
        let flags = [2, 0x80 * u8::from(self.user.is_some()), 4 * u8::from(self.will_topic.is_some())];
        body.extend_from_slice(&[flags.iter().sum(), 0, 0]);
        body.push(u8::try_from(self.properties.len()).expect("less than 128"));
        body.extend_from_slice(&self.properties);
        string(&mut body, self.client_id);
        if let Some(topic) = self.will_topic {
            body.push(0);
            string(&mut body, topic);
            string(&mut body, "gone");
        }
        if let Some(user) = self.user {
            string(&mut body, user);
        }
        packet(0x10, &body)
    }
}

fn auth(code: u8, method: &str, data: Option<&str>) -> Vec<u8> {
    let properties = properties(method, data);
    let length = u8::try_from(properties.len()).unwrap();
    // Above 127 the highest bit is set already: seven bits are left, and one more follows.
    let length = if length < 0x80 { vec![length] } else { vec![length, 1] };
    packet(0xF0, &[vec![code], length, properties].concat())
}

fn client_first(user: &str) -> String {
    format!("n,,n={user},r=nonce")
}

/// Opens a connection and sends CONNECT with the first message of SCRAM.
fn offer(world: &mut World, client_id: &str, user: &str) -> usize {
    let client = world.open(0);
    let properties = properties(METHOD, Some(&client_first(user)));
    world.send(client, &Said { client_id, properties, ..Said::default() }.packet());
    client
}

/// The data of the AUTH with code 0x18. The broker must have sent nothing else.
fn challenge(world: &mut World, client: usize) -> String {
    data_of(&world.take(client), 0x18)
}

fn data_of(packet: &[u8], code: u8) -> String {
    let head = [&[0x15, 0, 13], METHOD.as_bytes(), &[0x16, 0]].concat();
    let at = packet.windows(head.len()).position(|window| window == head).expect("method and data");
    let text = &packet[at + head.len() + 1..];
    assert_eq!(
        (packet[0], packet[at - 2], packet[at - 1]),
        (0xF0, code, packet.len() as u8 - 4),
        "{packet:?}"
    );
    assert_eq!(text.len(), usize::from(packet[at + head.len()]));
    String::from_utf8(text.to_vec()).expect("SCRAM is text")
}

/// The client's answer to the challenge, and the signature that it then expects.
fn answer(user: &str, server_first: &str, password: &str) -> (Vec<u8>, String) {
    let (last, expected) = client_final(&client_first(user), server_first, password);
    (auth(0x18, METHOD, Some(&last)), expected)
}

fn enter(world: &mut World, client_id: &str, user: &str) -> usize {
    let client = offer(world, client_id, user);
    let (last, expected) = answer(user, &challenge(world, client), "pencil");
    world.send(client, &last);
    let connack = world.take(client);
    assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0), "{connack:?}");
    // [MQTT5-4.12.0-5]
    let proof = properties(METHOD, Some(&expected));
    assert!(connack.windows(proof.len()).any(|window| window == proof), "{connack:?}");
    client
}

fn refused(world: &mut World, client: usize) -> u8 {
    let connack = world.take(client);
    assert!(world.is_closed(client) && connack.len() == 5, "{connack:?}");
    assert_eq!(connack[..3], [0x20, 3, 0]);
    connack[3]
}

/// The reason code of the final DISCONNECT.
fn cut(world: &mut World, client: usize) -> u8 {
    let got = world.take(client);
    assert!(world.is_closed(client) && got[0] == 0xE0, "{got:?}");
    got[2]
}

fn subscribe(topic: &str) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    string(&mut body, topic);
    body.push(0);
    packet(0x82, &body)
}

/// [MQTT5-4.12.0-2] [MQTT5-4.12.0-5]
#[test]
fn client_comes_in_as_the_user_that_it_has_proved_to_be() {
    let acl = list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::ALL, "of/%u/#")]).acl;
    let access = Access { acl, ..with_scram() };
    for shards in [1, 2] {
        let mut world = quiet(shards, access.clone());
        for client_id in ["a", "b", ""] {
            let client = enter(&mut world, client_id, "user");
            world.send(client, &subscribe("of/user/a"));
            assert_eq!(world.take(client), [0x90, 4, 0, 1, 0, 0]);
            world.send(client, &subscribe("of/other/a"));
            assert_eq!(world.take(client), [0x90, 4, 0, 1, 0, 0x87]);
        }
        assert!(world.logins.is_empty(), "no password is checked");
        // Its will is checked as the user's too.
        for (topic, code) in [("of/user/a", 0), ("of/other/a", 0x87)] {
            let client = world.open(0);
            let properties = properties(METHOD, Some(&client_first("user")));
            let said = Said { client_id: "w", properties, will_topic: Some(topic), ..Said::default() };
            world.send(client, &said.packet());
            let (last, _) = answer("user", &challenge(&mut world, client), "pencil");
            world.send(client, &last);
            assert_eq!(world.take(client)[3], code, "{topic}");
        }
    }
}

/// [MQTT5-4.12.0-4]
#[test]
fn wrong_password_a_stranger_and_a_user_without_keys_are_refused_alike() {
    let mut world = quiet(1, with_scram());
    let mut challenges = Vec::new();
    for (user, password) in [("user", "pencils"), ("stranger", "pencil"), ("old", "pencil")] {
        let client = offer(&mut world, "c", user);
        let server_first = challenge(&mut world, client);
        let (last, _) = answer(user, &server_first, password);
        world.events.clear();
        world.send(client, &last);
        assert_eq!(refused(&mut world, client), 0x87, "{user}");
        let words = |event: &Event| match event {
            Event::Refused { violation, .. } => Some(violation.cause),
            _ => None,
        };
        let said: Vec<_> = world.events.iter().filter_map(words).collect();
        assert_eq!(said, ["unknown user or wrong password"]);
        challenges.push(server_first);
    }
    assert!(challenges.iter().all(|one| one.len() == challenges[0].len()), "{challenges:?}");
}

#[test]
fn each_exchange_has_a_nonce_of_its_own() {
    let mut world = quiet(1, with_scram());
    let nonce = |world: &mut World| {
        let client = offer(world, "c", "user");
        challenge(world, client).split(',').next().unwrap().to_owned()
    };
    let (one, other) = (nonce(&mut world), nonce(&mut world));
    assert_ne!(one, other);
    // A proof for one exchange is wrong for another.
    let client = offer(&mut world, "c", "user");
    let (last, _) = answer("user", &challenge(&mut world, client), "pencil");
    let client = offer(&mut world, "c", "user");
    world.take(client);
    world.send(client, &last);
    assert_eq!(refused(&mut world, client), 0x82);
}

#[test]
fn user_name_of_connect_must_be_the_one_of_the_proof() {
    let mut world = quiet(1, with_scram());
    let mut connect = |user| {
        let client = world.open(0);
        let properties = properties(METHOD, Some(&client_first("user")));
        world
            .send(client, &Said { client_id: "c", properties, user: Some(user), ..Said::default() }.packet());
        world.take(client)
    };
    assert_eq!(connect("other"), [0x20, 3, 0, 0x87, 0]);
    assert_eq!(connect("user")[..1], [0xF0]);
    // A soft hyphen is ignored. (RFC 4013)
    assert_eq!(connect("us\u{ad}er")[..1], [0xF0]);
}

/// [MQTT5-4.12.0-3] [MQTT5-4.12.0-4]
#[test]
fn what_is_no_step_of_the_method_is_a_protocol_error() {
    for data in [None, Some(""), Some("n,,n=user"), Some("x,,n=user,r=abc")] {
        let mut world = quiet(1, with_scram());
        let client = world.open(0);
        let properties = properties(METHOD, data);
        world.send(client, &Said { client_id: "c", properties, ..Said::default() }.packet());
        assert_eq!(refused(&mut world, client), 0x82, "{data:?}");
    }
    for (data, code) in [("p=tls-unique,,n=user,r=abc", 0x87), ("n,a=admin,n=user,r=abc", 0x87)] {
        let mut world = quiet(1, with_scram());
        let client = world.open(0);
        let properties = properties(METHOD, Some(data));
        world.send(client, &Said { client_id: "c", properties, ..Said::default() }.packet());
        assert_eq!(refused(&mut world, client), code, "{data:?}");
    }
    let mut world = quiet(1, with_scram());
    for step in 0..5 {
        let client = offer(&mut world, "c", "user");
        let server_first = challenge(&mut world, client);
        let (good, _) = client_final(&client_first("user"), &server_first, "pencil");
        let steps = [
            auth(0x18, METHOD, None),
            auth(0x18, METHOD, Some("c=biws")),
            auth(0x19, METHOD, Some(&good)),
            auth(0x18, "SCRAM-SHA-1", Some(&good)),
            vec![0xC0, 0],
        ];
        world.send(client, &steps[step]);
        assert_eq!(refused(&mut world, client), 0x82, "{step}");
    }
    assert_eq!(world.shard(0).connections(), 0);
}

/// [MQTT5-4.12.0-1]
#[test]
fn method_that_a_listener_does_not_offer_is_refused() {
    let by_certificate = Access { names_by_certificate: true, ..with_scram() };
    for (access, method) in [
        (Access::default(), METHOD),
        (Access::default(), TEST_METHOD),
        (with_scram(), "SCRAM-SHA-1"),
        (by_certificate, METHOD),
    ] {
        let mut world = quiet(1, access);
        let client = world.open(0);
        let properties = properties(method, Some(&client_first("user")));
        world.send(client, &Said { client_id: "c", properties, ..Said::default() }.packet());
        assert_eq!(refused(&mut world, client), 0x8C);
    }
}

#[test]
fn test_method_proves_nobody() {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.auth.test_method = true;
    let connect = |world: &mut World, will_topic| {
        let client = world.open(0);
        let properties = properties(TEST_METHOD, None);
        let said = Said { client_id: "c", properties, user: Some("user"), will_topic };
        world.send(client, &said.packet());
        client
    };
    // The test method is not offered where users must prove their identity.
    for access in [with_scram(), Access { names_by_certificate: true, ..Access::default() }] {
        let mut world = World::new(1, config.clone());
        world.ask(&access);
        let client = connect(&mut world, None);
        assert_eq!(refused(&mut world, client), 0x8C);
    }
    // Elsewhere a client of the test method has no user, whatever name it sends.
    let access = list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::ALL, "of/%u/#")]);
    let mut world = World::new(1, config.clone());
    world.ask(&access);
    for (will_topic, code) in [(None, 0), (Some("of/user/a"), 0x87)] {
        let client = connect(&mut world, will_topic);
        assert_eq!(world.take(client)[..1], [0xF0]);
        world.send(client, &auth(0x18, TEST_METHOD, Some("response")));
        assert_eq!(world.take(client)[3], code);
        world.send(client, &subscribe("of/user/a"));
        assert_eq!(world.take(client).last().copied(), (code == 0).then_some(0x87));
    }
}

/// [MQTT5-4.12.1-1]
#[test]
fn client_that_is_in_proves_itself_again_while_everything_else_goes_on() {
    for shards in [1, 2] {
        let mut world = quiet(shards, with_scram());
        let client = enter(&mut world, "c", "user");
        for _ in 0..2 {
            world.send(client, &auth(0x19, METHOD, Some(&client_first("user"))));
            let (last, expected) = answer("user", &challenge(&mut world, client), "pencil");
            world.send(client, &[subscribe("a"), b"\x30\x06\x00\x01a\x00hi".to_vec()].concat());
            assert_eq!(world.take(client), b"\x90\x04\x00\x01\x00\x00\x30\x06\x00\x01a\x00hi");
            world.send(client, &last);
            assert_eq!(data_of(&world.take(client), 0x00), expected);
        }
        world.send(client, &[0xC0, 0]);
        assert_eq!(world.take(client), [0xD0, 0]);
    }
}

/// [MQTT5-4.12.1-1] [MQTT5-4.12.1-2]
#[test]
fn failed_proof_and_wrong_steps_end_the_connection_of_a_client_that_is_in() {
    let mut world = quiet(1, with_scram());
    let client = enter(&mut world, "c", "user");
    world.send(client, &auth(0x19, METHOD, Some(&client_first("user"))));
    let (last, _) = answer("user", &challenge(&mut world, client), "pencils");
    world.send(client, &last);
    assert_eq!(cut(&mut world, client), 0x87);
    // It counts as a wrong login.
    assert_eq!(world.shared().counters[0].get(Counter::LoginsFailed), 1);

    let again = || auth(0x19, METHOD, Some(&client_first("user")));
    for (steps, code) in [
        // The session still belongs to the user.
        (vec![auth(0x19, METHOD, Some(&client_first("other")))], 0x87),
        (vec![auth(0x19, METHOD, None)], 0x82),
        (vec![auth(0x19, TEST_METHOD, None)], 0x82),
        (vec![auth(0x18, METHOD, Some("c=biws,r=nonce,p="))], 0x82),
        (vec![again(), again()], 0x82),
        (vec![again(), auth(0x18, METHOD, None)], 0x82),
        (vec![again(), auth(0x18, TEST_METHOD, Some("response"))], 0x82),
    ] {
        let client = enter(&mut world, "c", "user");
        let (last, before) = steps.split_last().expect("a step");
        for step in before {
            world.send(client, step);
            assert_eq!(world.take(client)[..1], [0xF0]);
        }
        world.send(client, last);
        assert_eq!(cut(&mut world, client), code, "{steps:?}");
    }
}

#[test]
fn change_of_the_password_file_holds_for_the_next_proof() {
    let mut world = quiet(1, with_scram());
    let client = enter(&mut world, "c", "user");
    world.ask(&Access { enhanced: None, ..with_scram() });
    world.send(client, &[0xC0, 0]);
    assert_eq!(world.take(client), [0xD0, 0], "who is in stays in");
    world.send(client, &auth(0x19, METHOD, Some(&client_first("user"))));
    assert_eq!(cut(&mut world, client), 0x8C);
}

#[test]
fn who_has_another_line_in_the_password_file_or_none_has_to_come_in_anew() {
    let without_other = || {
        let text = PasswordHash::new(Scheme::ScramSha256 { iterations: 4096 }, b"pencil", &[7; 16])
            .expect("good arguments")
            .to_text();
        with_users(Arc::new(PasswordFile::parse(&format!("user:{}\n", *text), "users").expect("a good line")))
    };
    for (changed, stay) in [(without_other(), [true, false, false]), (with_users(users(8)), [false; 3])] {
        let mut world = quiet(1, with_scram());
        let mut clients = vec![enter(&mut world, "c", "user"), enter(&mut world, "d", "other")];
        // A client with a plain password, which the pool has checked.
        clients.push(world.open(0));
        let said = Said { client_id: "e", user: Some("old"), ..Said::default() };
        world.send(clients[2], &said.packet());
        let line = with_scram().passwords.expect("a file").line("old");
        assert!(line.is_some());
        world.answer(Verdict::Good(Grant { user: Some("old".into()), line, ..Grant::default() }));
        assert_eq!(world.take(clients[2])[0], 0x20);
        world.ask(&with_scram());
        assert!(clients.iter().all(|&client| !world.is_closed(client)), "the same lines");
        world.ask(&changed);
        for (client, stays) in clients.into_iter().zip(stay) {
            assert_eq!(world.is_closed(client), !stays);
            assert!(stays || cut(&mut world, client) == 0x87);
        }
    }
}

// [MQTT5-reason-0x88]
#[test]
fn proof_by_a_line_that_has_changed_meanwhile_opens_nothing() {
    let mut world = quiet(1, with_scram());
    let client = offer(&mut world, "c", "user");
    let (last, _) = answer("user", &challenge(&mut world, client), "pencil");
    world.ask(&with_users(users(8)));
    world.send(client, &last);
    assert_eq!(refused(&mut world, client), 0x88);
}

#[test]
fn more_clients_than_a_turn_looks_at_are_judged_in_the_next_ones() {
    let mut world = quiet(1, with_scram());
    let clients: Vec<_> = (0..600).map(|number| enter(&mut world, &format!("c{number}"), "user")).collect();
    world.ask(&Access { checks_passwords: true, ..Access::default() });
    assert!(clients.iter().all(|&client| world.is_closed(client)));
}

/// [MQTT5-3.1.2-24]
#[test]
fn client_that_takes_no_challenge_that_large_is_refused() {
    let mut world = quiet(1, with_scram());
    let client = world.open(0);
    let properties =
        [&[0x27, 0, 0, 0, 60], properties(METHOD, Some(&client_first("user"))).as_slice()].concat();
    world.send(client, &Said { client_id: "c", properties, ..Said::default() }.packet());
    assert_eq!(refused(&mut world, client), 0x95);
}

#[test]
fn time_for_a_connect_is_also_that_for_its_proof() {
    let mut world = quiet(1, with_scram());
    let client = offer(&mut world, "c", "user");
    let (last, _) = answer("user", &challenge(&mut world, client), "pencil");
    world.pass(11_000);
    assert!(world.is_closed(client));
    world.send(client, &last);
    assert_eq!(world.shard(0).connections(), 0);
}
