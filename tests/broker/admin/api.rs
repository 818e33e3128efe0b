//! What `/api/v1/` says and does with real clients, and `midge ctl` with the same questions.

use super::ctl::{ctl, stdout};
use super::{connect_unix, exchange, get_unix, request, start_unix, wait_for};
use crate::client::Client;
use crate::doors::pki::{Authority, open_with, showing};
use crate::{Running, needs, stderr};
use midge_kit::codec::{self, Encode, Kind, V5, V311};
use midge_kit::open;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

/// A broker with two shards and its admin interface.
struct Asked {
    running: Running,
    socket: PathBuf,
}

impl Asked {
    fn start(name: &str) -> Asked {
        let (running, socket) = start_unix(&format!("api-{name}"));
        wait_for(200, || get_unix(&socket, "/readyz"));
        Asked { running, socket }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let headers = format!("Host: localhost\r\n{kind}Content-Length: {}\r\n", body.len());
        let bytes = [request(method, path, &headers), body.into_bytes()].concat();
        let said = exchange(connect_unix(&self.socket), &bytes);
        let value = serde_json::from_str(&said.body);
        (said.status, value.unwrap_or_else(|error| panic!("{method} {path}: {error}: {said:?}")))
    }

    /// The answer to GET, which must succeed.
    fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Asks until the answer is as it should be.
    fn until(&self, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + midge_kit::PATIENCE;
        loop {
            let (_, value) = self.ask("GET", path, None);
            if is_it(&value) {
                return value;
            }
            assert!(Instant::now() < until, "{path}: {value}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// That a request is refused with a sentence that has these words.
    fn refuses(&self, method: &str, path: &str, body: Option<&Value>, status: u16, words: &str) {
        let (got, value) = self.ask(method, path, body);
        let said = value["error"].as_str().unwrap_or_default();
        assert!(got == status && said.contains(words), "{method} {path}: {got} {value}");
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let admin = format!("unix:{}", self.socket.display());
        ctl(&[&["--admin", &admin], arguments].concat())
    }

    /// What a command prints. It must succeed.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        stdout(&output)
    }
}

/// A field of all members of a list.
fn all<'a>(value: &'a Value, list: &str, field: &str) -> Vec<&'a str> {
    let list = value[list].as_array().unwrap_or_else(|| panic!("no {list} in {value}"));
    list.iter().map(|each| each[field].as_str().unwrap_or_else(|| panic!("no {field} in {each}"))).collect()
}

#[test]
fn clients_are_filtered_sorted_and_paged() {
    let broker = Asked::start("clients");
    let mut clients: Vec<Client> =
        (0..7).map(|number| broker.running.client(&format!("dev-{number}"))).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for _ in 0..number {
            assert!(client.publish_acknowledged("t", b"x", false) < 0x80);
        }
    }
    let mut named = midge_kit::Client::over(open(broker.running.address), V311);
    named.send(codec::connect(V311, "named").user("ada"));
    named.expect(Kind::Connack);
    Client::connect(broker.running.address, "gone", true, 600).disconnect();
    broker.until("/api/v1/clients?state=away", |value| value["matching"] == 1);

    let list = broker.get("/api/v1/clients?prefix=dev-");
    let names: Vec<String> = (0..7).map(|number| format!("dev-{number}")).collect();
    assert_eq!(
        (all(&list, "clients", "client_id"), &list["matching"]),
        (names.iter().map(String::as_str).collect(), &json!(7))
    );
    assert_eq!(all(&broker.get("/api/v1/clients?user=ada"), "clients", "client_id"), ["named"]);
    assert_eq!(all(&broker.get("/api/v1/clients?state=away"), "clients", "client_id"), ["gone"]);
    assert_eq!(broker.get("/api/v1/clients?address=127.0.0.1")["matching"], 8);
    assert_eq!(broker.get("/api/v1/clients?address=203.0.113.1")["matching"], 0);
    let listeners = broker.get("/api/v1/listeners");
    let listener = all(&listeners, "listeners", "address")[0];
    assert_eq!(broker.get(&format!("/api/v1/clients?listener={listener}"))["matching"], 9);

    let sorted = broker.get("/api/v1/clients?prefix=dev-&sort=messages&limit=3");
    assert_eq!(all(&sorted, "clients", "client_id"), ["dev-6", "dev-5", "dev-4"]);
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = broker.get(&format!("/api/v1/clients?prefix=dev-&limit=3{after}"));
        found.extend(all(&page, "clients", "client_id").into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found, names);

    for (path, words) in [
        ("/api/v1/clients?limit=0", "limit"),
        ("/api/v1/clients?limit=1001", "limit"),
        ("/api/v1/clients?sort=size", "sort"),
        ("/api/v1/clients?state=odd", "state"),
        ("/api/v1/clients?address=nowhere", "address"),
        ("/api/v1/clients?listener=nowhere", "listener"),
        ("/api/v1/clients?colour=red", "colour"),
        ("/api/v1/clients?limit=1&after=%00", "after"),
    ] {
        let (status, value) = broker.ask("GET", path, None);
        assert_eq!(status, 400, "{path}: {value}");
        assert!(value["error"].as_str().is_some_and(|error| error.contains(words)), "{path}: {value}");
    }

    let table = broker.said(&["clients", "--prefix", "dev-", "--sort", "messages", "--limit", "2"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].contains("client") && lines[1].starts_with("dev-6") && lines[2].starts_with("dev-5"),
        "{table}"
    );
    let raw: Value =
        serde_json::from_str(&broker.said(&["--json", "clients", "--user", "ada"])).expect("JSON");
    assert_eq!(all(&raw, "clients", "client_id"), ["named"]);
    assert!(broker.said(&["sessions"]).contains("gone"));
    assert_eq!(
        broker.ctl(&["clients", "--limit", "5000"]).status.code(),
        Some(1),
        "the broker knows the bound"
    );
}

#[test]
fn client_is_shown_in_detail_and_ended_with_a_reason() {
    let broker = Asked::start("client");
    let mut client = Client::connect(broker.running.address, "a/b ü", true, 600);
    client.subscribe("x/+", 1);
    assert!(client.publish_acknowledged("x/1", b"four", false) < 0x80);
    client.message();
    let path = "/api/v1/clients/a%2Fb%20%C3%BC";
    let shown = broker.until(path, |value| value["connection"]["messages_sent"] == 1);
    assert_eq!(
        (&shown["client_id"], &shown["connected"], &shown["protocol"]),
        (&json!("a/b ü"), &json!(true), &json!("5.0"))
    );
    assert_eq!(shown["session_expiry_seconds"], 600);
    assert_eq!(shown["connection"]["messages_received"], 1);
    assert_eq!(shown["connection"]["peer"], client.local_address().to_string());
    assert_eq!(shown["subscription_list"][0]["filter"], "x/+");
    assert_eq!(shown["subscription_list"][0]["qos"], 1);
    assert_eq!(shown["losses"]["queue_full"], 0);
    assert!(shown["events"][0]["what"].is_string(), "{shown}");
    assert!(broker.said(&["client", "a/b ü"]).contains("x/+"));

    let (status, ended) = broker.ask("DELETE", path, None);
    assert_eq!(
        (status, &ended["was_connected"], &ended["session_ended"]),
        (200, &json!(true), &json!(false))
    );
    assert_eq!(client.read_disconnect().0, 0x98);
    let away = broker.until("/api/v1/sessions", |value| value["matching"] == 1);
    assert_eq!(all(&away, "clients", "client_id"), ["a/b ü"]);

    let (status, ended) = broker.ask("DELETE", &format!("{path}?session=true"), None);
    assert_eq!(
        (status, &ended["was_connected"], &ended["session_ended"]),
        (200, &json!(false), &json!(true))
    );
    broker.refuses("GET", path, None, 404, "a/b ü");
    broker.refuses("DELETE", path, None, 404, "a/b ü");
    broker.refuses("DELETE", &format!("{path}?session=perhaps"), None, 400, "session");

    let other = Client::connect(broker.running.address, "other", true, 600);
    assert!(!broker.said(&["disconnect", "--session", "other"]).is_empty());
    assert_eq!(other.read_disconnect().0, 0x98);
    let gone = broker.ctl(&["client", "other"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(stderr(&gone).contains("other"), "{gone:?}");
}

#[test]
fn client_over_tls_is_shown_with_its_certificate() {
    use std::io::{Read, Write};
    let authority = Authority::new("admin-api");
    let server = authority.server("server");
    let socket = super::socket_path("api-certificate");
    let rows = format!(
        "tls_certificates = [\"{}\"]\ntls_keys = [\"{}\"]\ntls_client_ca = \"{}\"\ntls_client_certificate = \"optional\"\n{}",
        server.chain.display(),
        server.key.display(),
        authority.ca.display(),
        super::unix_rows(&socket)
    );
    let broker = Asked { running: Running::start("admin-api-certificate", &rows), socket };
    wait_for(200, || get_unix(&broker.socket, "/readyz"));
    let device = authority.client("device-7");
    // The names are for both shards, so the connection moves with its TLS.
    for id in ["a", "b", "c", "d"] {
        let mut stream = open_with(&showing(&authority, &device), broker.running.address);
        stream.write_all(&codec::connect(V311, id).encode(V311)).expect("the broker reads");
        stream.read_exact(&mut [0; 4]).expect("CONNACK");
        let shown = broker.get(&format!("/api/v1/clients/{id}"));
        assert_eq!(shown["tls"]["version"], "TLS 1.3", "{shown}");
        assert!(
            shown["tls"]["cipher_suite"].as_str().is_some_and(|suite| suite.starts_with("TLS13_")),
            "{shown}"
        );
        assert_eq!(shown["tls"]["certificate_subject"], "CN=device-7", "{shown}");
        assert!(broker.said(&["client", id]).contains("CN=device-7"));
    }
    let mut stream = authority.open(broker.running.address);
    stream.write_all(&codec::connect(V311, "without").encode(V311)).expect("the broker reads");
    stream.read_exact(&mut [0; 4]).expect("CONNACK");
    let shown = broker.get("/api/v1/clients/without");
    assert!(shown["tls"]["version"].is_string() && shown["tls"]["certificate_subject"].is_null(), "{shown}");
}

#[test]
fn subscriptions_and_groups_are_found_by_filter_topic_and_client() {
    let broker = Asked::start("subscriptions");
    let mut clients: Vec<Client> =
        (0..4).map(|number| broker.running.client(&format!("s{number}"))).collect();
    for client in &mut clients {
        client.subscribe("site/+/door", 0);
    }
    clients[0].subscribe("site/#", 1);
    clients[1].subscribe("other/1", 2);
    clients[2].subscribe("$share/g/site/1/#", 1);
    clients[3].subscribe("$share/g/site/1/#", 0);

    let by_topic = broker.get("/api/v1/subscriptions?topic=site/1/door");
    // A shared subscription matches too; its options are with its group.
    assert_eq!(by_topic["matching"], 7, "{by_topic}");
    assert_eq!(broker.get("/api/v1/subscriptions?filter=site/%2B/door")["matching"], 4);
    let of_client = broker.get("/api/v1/subscriptions?prefix=s1");
    assert_eq!(all(&of_client, "subscriptions", "filter"), ["other/1", "site/+/door"]);
    assert_eq!(of_client["subscriptions"][0]["qos"], 2);

    let mut found = 0;
    let mut after = String::new();
    loop {
        let page = broker.get(&format!("/api/v1/subscriptions?limit=3{after}"));
        found += page["subscriptions"].as_array().expect("a list").len();
        let next = &page["next"];
        let Some(client) = next["after_client"].as_str() else { break };
        let filter = next["after_filter"].as_str().expect("with the client");
        let filter = filter.replace('#', "%23").replace('+', "%2B");
        after = format!("&after_client={client}&after_filter={filter}");
    }
    assert_eq!(found, 8);

    let groups = broker.get("/api/v1/groups");
    assert_eq!(all(&groups, "groups", "filter"), ["$share/g/site/1/#"]);
    assert_eq!(
        (&groups["groups"][0]["members"], all(&groups["groups"][0], "member_list", "client_id").len()),
        (&json!(2), 2)
    );
    broker.refuses("GET", "/api/v1/subscriptions?topic=a/%23", None, 400, "topic");
    broker.refuses("GET", "/api/v1/subscriptions?after_client=a", None, 400, "together");
    broker.refuses("GET", "/api/v1/groups?limit=x", None, 400, "limit");

    let table = broker.said(&["subscriptions", "--topic", "site/1/door"]);
    assert!(table.contains("s0") && table.contains("site/#"), "{table}");
    assert!(broker.said(&["groups"]).contains("$share/g/site/1/#"));
}

#[test]
fn messages_are_published_retained_shown_and_removed() {
    let broker = Asked::start("messages");
    let mut subscriber = broker.running.client("subscriber");
    subscriber.subscribe("in/#", 1);
    for qos in 0..3 {
        let topic = format!("in/{qos}");
        let body = json!({"topic": topic, "payload": "words", "qos": qos, "retain": true});
        let (status, taken) = broker.ask("POST", "/api/v1/publish", Some(&body));
        assert_eq!((status, &taken["has_subscribers"]), (200, &json!(true)), "{taken}");
        let message = subscriber.message();
        assert_eq!(
            (message.topic.as_str(), message.payload.as_slice()),
            (topic.as_str(), b"words".as_slice())
        );
    }
    let body = json!({"topic": "in/raw", "payload_base64": "/wA=", "retain": true});
    assert_eq!(broker.ask("POST", "/api/v1/publish", Some(&body)).0, 200);
    assert_eq!(subscriber.message().payload, [0xff, 0]);

    let list = broker.get("/api/v1/retained?filter=in/%23&limit=2");
    assert_eq!(all(&list, "messages", "topic"), ["in/0", "in/1"]);
    let next = list["next"].as_str().expect("there are more");
    let rest = broker.get(&format!("/api/v1/retained?filter=in/%23&after={next}"));
    assert_eq!(all(&rest, "messages", "topic"), ["in/2", "in/raw"]);
    let shown = broker.get("/api/v1/retained/in/2");
    assert_eq!(
        (&shown["payload"], &shown["qos"], &shown["payload_bytes"]),
        (&json!("words"), &json!(2), &json!(5))
    );
    assert_eq!(broker.get("/api/v1/retained/in%2Fraw")["payload_base64"], "/wA=");
    assert_eq!(get_unix(&broker.socket, "/api/v1/retained/in/1?raw=true").body, "words");

    assert_eq!(broker.ask("DELETE", "/api/v1/retained/in/0", None), (200, json!({"removed": true})));
    broker.refuses("GET", "/api/v1/retained/in/0", None, 404, "in/0");
    broker.refuses("DELETE", "/api/v1/retained/in/0", None, 404, "in/0");
    for (body, words) in [
        (json!({"topic": "a/#"}), ""),
        (json!({"topic": ""}), ""),
        (json!({"topic": "a", "qos": 3}), "qos must be 0, 1 or 2"),
        (json!({"topic": "a", "payload": "a", "payload_base64": "YQ=="}), "one payload"),
        (json!({"topic": "a", "payload_base64": "?"}), "payload_base64"),
        (json!({"topic": "a".repeat(70_000)}), "65,535"),
        (json!({"topic": "a", "colour": "red"}), "colour"),
        (json!({"payload": "a"}), "topic"),
        (json!(["a"]), ""),
    ] {
        let (status, value) = broker.ask("POST", "/api/v1/publish", Some(&body));
        assert!((400..500).contains(&status), "{status}: {value}");
        assert!(value["error"].as_str().is_some_and(|error| error.contains(words)), "{words}: {value}");
    }
    broker.refuses("GET", "/api/v1/retained?filter=a%23", None, 400, "filter");

    assert!(!broker.said(&["publish", "in/ctl", "by hand", "--qos", "1", "--retain"]).is_empty());
    assert_eq!(subscriber.message().payload, b"by hand");
    assert!(broker.said(&["retained", "list", "in/#"]).contains("in/ctl"));
    assert!(broker.said(&["retained", "get", "in/ctl"]).contains("by hand"));
    assert!(!broker.said(&["retained", "delete", "in/ctl"]).is_empty());
    assert_eq!(broker.ctl(&["retained", "get", "in/ctl"]).status.code(), Some(1));
    assert_eq!(broker.ctl(&["publish", "a/#", "x"]).status.code(), Some(1));
}

#[test]
fn listeners_shards_limits_and_the_overview_agree_with_what_happened() {
    let broker = Asked::start("figures");
    let mut clients: Vec<Client> =
        (0..3).map(|number| broker.running.client(&format!("f{number}"))).collect();
    clients[0].subscribe("n", 1);
    assert_eq!(clients[1].publish_acknowledged("n", b"x", false), 0);
    clients[0].message();
    let listeners = broker.get("/api/v1/listeners");
    let listener = &listeners["listeners"][0];
    assert_eq!(
        (&listener["connections"], &listener["protocol"], &listener["tls"]),
        (&json!(3), &json!("mqtt"), &json!(false))
    );
    let shards = broker.get("/api/v1/shards");
    let shards = shards["shards"].as_array().expect("a list").clone();
    assert_eq!(shards.iter().filter_map(|shard| shard["connections"].as_u64()).sum::<u64>(), 3);
    assert!(
        shards.iter().all(|shard| shard["log_failed"] == false && shard["busy_seconds"].is_f64()),
        "{shards:?}"
    );
    let limits = broker.get("/api/v1/limits");
    let limit = |key: &str| {
        let list = limits["limits"].as_array().expect("a list");
        list.iter().find(|limit| limit["key"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
    };
    assert_eq!(limit("limits.connections")["used"], 3);
    assert_eq!(limit("limits.sessions")["used"], 3);
    assert_eq!(
        (&limit("limits.packet_bytes")["value"], &limit("limits.packet_bytes")["reached"]),
        (&json!(2_000_000), &json!(0))
    );
    let overview = broker.get("/api/v1/overview");
    for (field, value) in [
        ("connections", 3),
        ("clients_connected", 3),
        ("sessions", 3),
        ("subscriptions", 1),
        ("messages_dropped", 0),
    ] {
        assert_eq!(overview[field], value, "{field}");
    }
    assert!(
        overview["messages_received"].as_u64() >= Some(1) && overview["messages_sent"].as_u64() >= Some(1),
        "{overview}"
    );
    assert_eq!(overview["shards"].as_array().map(Vec::len), Some(2));
    let (bounds, counts) = (&overview["commits"]["bounds_seconds"], &overview["commits"]["counts"]);
    assert_eq!(bounds.as_array().map(|bounds| bounds.len() + 1), counts.as_array().map(Vec::len));
    let mut away = Client::connect(broker.running.address, "away", true, 600);
    away.subscribe("queue", 1);
    away.disconnect();
    broker.until("/api/v1/sessions", |value| value["matching"] == 1);
    clients[1].publish_acknowledged("queue", b"waits", false);
    broker.until("/api/v1/shards", |value| {
        let shards = value["shards"].as_array().expect("a list");
        shards.iter().filter_map(|shard| shard["queued_messages"].as_u64()).sum::<u64>() == 1
            && shards.iter().any(|shard| shard["queued_bytes"].as_u64() > Some(0))
    });
    for command in ["listeners", "limits", "shards"] {
        let table = broker.said(&[command]);
        let raw: Value = serde_json::from_str(&broker.said(&["--json", command])).expect("JSON");
        let rows = raw[command].as_array().expect("a list").len();
        assert_eq!(table.lines().count(), rows + 1, "{table}");
    }
}

#[test]
fn banned_address_can_not_connect_until_the_ban_is_removed() {
    let broker = Asked::start("bans");
    let address = json!({"address": "127.0.0.1", "seconds": 600});
    let (status, bans) = broker.ask("POST", "/api/v1/bans", Some(&address));
    assert_eq!((status, all(&bans, "bans", "network")), (200, vec!["127.0.0.1/32"]));
    assert!(bans["bans"][0]["seconds_left"].as_u64().is_some_and(|left| (1..=600).contains(&left)), "{bans}");
    let mut refused = midge_kit::Client::over(open(broker.running.address), V5);
    refused.send(codec::connect(V5, "banned"));
    refused.expect_end();
    assert_eq!(broker.ask("DELETE", "/api/v1/bans/127.0.0.1", None).0, 200);
    broker.running.client("free").disconnect();
    broker.refuses("DELETE", "/api/v1/bans/127.0.0.1", None, 404, "127.0.0.1");
    broker.refuses("DELETE", "/api/v1/bans/nowhere", None, 400, "");
    broker.refuses("POST", "/api/v1/bans", Some(&json!({"address": "nowhere"})), 400, "");
    broker.refuses("POST", "/api/v1/bans", Some(&json!({"address": "::1", "seconds": -1})), 400, "");
    assert!(broker.said(&["bans", "add", "203.0.113.9", "--seconds", "60"]).contains("203.0.113.9"));
    assert!(broker.said(&["bans", "list"]).contains("203.0.113.9"));
    assert!(!broker.said(&["bans", "remove", "203.0.113.9"]).contains("203.0.113.9"));
    assert_eq!(broker.ctl(&["bans", "remove", "203.0.113.9"]).status.code(), Some(1));
}

#[test]
fn description_has_every_path_and_method_that_is_served() {
    let broker = Asked::start("openapi");
    let description = broker.get("/openapi.json");
    let routes = include_str!("../../../src/admin/api/mod.rs");
    let mut count = 0;
    for line in routes.split(".route(\"").skip(1) {
        let (path, rest) = line.split_once('"').expect("it ends");
        let path = path.replace("{*", "{");
        let handlers = rest.split(".route(").next().unwrap_or_default().lines().next().unwrap_or_default();
        for method in ["get", "post", "put", "delete"] {
            let is_served =
                handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(").{method}("));
            if is_served && path != "/openapi.json" {
                let described = &description["paths"][&path][method];
                assert!(described["responses"].is_object(), "{method} {path} is not described");
                count += 1;
            }
        }
    }
    assert!(count > 25, "{count} routes were found");
}

#[test]
fn examples_of_the_manual_work() {
    if !needs::has("curl") {
        return;
    }
    let broker = Asked::start("manual");
    let mut clients = ["sensor-17", "sensor-18"].map(|id| broker.running.client(id));
    clients[0].subscribe("site/+/door", 1);
    let manual = include_str!("../../../docs/admin-api.md");
    let examples: Vec<&str> =
        manual.lines().filter_map(|line| line.strip_prefix("    curl --unix-socket ")).collect();
    assert!(examples.len() > 15, "{examples:?}");
    for example in examples {
        let example = example.replace("/run/midge/admin.sock", &broker.socket.display().to_string());
        let asked =
            format!("curl --silent --show-error --fail-with-body --max-time 60 --unix-socket {example}");
        let output = std::process::Command::new("sh").args(["-c", &asked]).output().expect("a shell starts");
        assert!(output.status.success(), "{example}: {output:?}");
        assert!(!output.stdout.is_empty(), "{example}");
    }
}

#[test]
fn manual_names_every_path() {
    let manual = include_str!("../../../docs/admin-api.md");
    let routes = include_str!("../../../src/admin/api/mod.rs");
    for line in routes.split(".route(\"").skip(1) {
        let (path, _) = line.split_once('"').expect("it ends");
        let stem = path.split("/{").next().expect("a part");
        assert!(manual.contains(stem), "{path}");
    }
}
