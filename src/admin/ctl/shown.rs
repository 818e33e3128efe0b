//! Answers as people read them: tables, and the fields of an object.

use super::table::{Column, TextTable};
use super::text_of;
use serde_json::Value;

pub(super) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// A table of the objects in a list. Fields of numbers stand at the right.
pub(super) fn table(value: &Value, list: &str, columns: &[(&str, bool)]) -> String {
    let mut table = TextTable::new(columns.iter().map(|&(field, is_number)| match is_number {
        true => Column::number(&field.replace('_', " ")),
        false => Column::words(&field.replace('_', " ")),
    }));
    for item in items(value, list) {
        table.add(columns.iter().map(|(field, _)| text_of(item, field)));
    }
    table.to_string()
}

/// What follows a page: how many there are in all, and where the next page goes on.
pub(super) fn rest(value: &Value, what: &str) -> String {
    let mut words = String::new();
    if let Some(matching) = value.get("matching") {
        words = format!("{matching} {what}\n");
    }
    match value.get("next") {
        Some(Value::String(next)) => words + &format!("more: --after '{next}'\n"),
        Some(next @ Value::Object(_)) => {
            words
                + &format!(
                    "more: --after '{}' '{}'\n",
                    text_of(next, "after_client"),
                    text_of(next, "after_filter")
                )
        }
        _ => words,
    }
}

pub(super) fn clients(value: &Value) -> String {
    let mut table = TextTable::new([
        Column::words("client"),
        Column::words("peer"),
        Column::words("user"),
        Column::words("protocol"),
        Column::number("seconds"),
        Column::number("received"),
        Column::number("sent"),
        Column::number("subscriptions"),
        Column::number("queued"),
        Column::number("inflight"),
        Column::number("lost"),
    ]);
    for client in items(value, "clients") {
        let connection = client.get("connection").unwrap_or(&Value::Null);
        let peer = text_of(connection, "peer");
        table.add([
            text_of(client, "client_id"),
            if peer.is_empty() { "away".to_owned() } else { peer },
            text_of(connection, "user"),
            text_of(client, "protocol"),
            text_of(connection, "connected_seconds"),
            text_of(connection, "messages_received"),
            text_of(connection, "messages_sent"),
            text_of(client, "subscriptions"),
            text_of(client, "queued_messages"),
            text_of(client, "inflight_messages"),
            text_of(client, "lost_messages"),
        ]);
    }
    table.to_string() + &rest(value, "clients")
}

/// The last events of a client.
pub(super) fn events(value: &Value) -> String {
    let mut table = TextTable::new([
        Column::words("last at"),
        Column::number("times"),
        Column::words("event"),
        Column::words("cause"),
    ]);
    let mut has_some = false;
    for event in items(value, "events") {
        has_some = true;
        table.add(["at", "count", "what", "words"].map(|field| text_of(event, field)));
    }
    if has_some { format!("\n{table}") } else { String::new() }
}

/// The fields of an object, one a line. Lists stand below.
pub(super) fn client(value: &Value) -> String {
    let mut words = fields(value);
    let mut table =
        TextTable::new([Column::words("subscription"), Column::number("qos"), Column::words("options")]);
    let mut has_some = false;
    for subscription in items(value, "subscription_list") {
        has_some = true;
        let named = |field: &str, words: &str| {
            if flag(subscription, field) { words.to_owned() } else { String::new() }
        };
        let id = text_of(subscription, "subscription_id");
        let id = if id.is_empty() { id } else { format!("identifier {id}") };
        let options =
            [named("no_local", "no local"), named("retain_as_published", "retain as published"), id];
        let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
        table.add([text_of(subscription, "filter"), text_of(subscription, "qos"), options.join(", ")]);
    }
    if has_some {
        words += &format!("\n{table}");
    }
    words + &events(value)
}

/// The fields of an object, one a line, those of objects in it behind their names.
pub(super) fn fields(value: &Value) -> String {
    let mut table = TextTable::new([Column::words("field"), Column::words("value")]);
    for (name, field) in value.as_object().into_iter().flatten() {
        match field {
            Value::Object(inner) => {
                for inner_name in inner.keys() {
                    let name = format!("{name} {inner_name}").replace('_', " ");
                    table.add([name, text_of(field, inner_name)]);
                }
            }
            Value::Array(list) if list.iter().all(Value::is_string) => {
                let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                table.add([name.replace('_', " "), texts.join(", ")]);
            }
            Value::Array(_) => {}
            _ => table.add([name.replace('_', " "), text_of(value, name)]),
        }
    }
    table.to_string()
}

pub(super) fn subscriptions(value: &Value) -> String {
    let columns = [("client_id", false), ("filter", false), ("qos", true), ("subscription_id", true)];
    table(value, "subscriptions", &columns) + &rest(value, "subscriptions")
}

pub(super) fn groups(value: &Value) -> String {
    let mut table = TextTable::new([
        Column::words("filter"),
        Column::words("member"),
        Column::number("qos"),
        Column::words("ready"),
    ]);
    for group in items(value, "groups") {
        let all = text_of(group, "members");
        table.add([text_of(group, "filter"), format!("{all} in all"), String::new(), String::new()]);
        for member in items(group, "member_list") {
            table.add([
                String::new(),
                text_of(member, "client_id"),
                text_of(member, "qos"),
                text_of(member, "ready"),
            ]);
        }
    }
    table.to_string() + &rest(value, "groups")
}

pub(super) fn retained(value: &Value) -> String {
    let columns = [("topic", false), ("qos", true), ("payload_bytes", true), ("expires_in_seconds", true)];
    table(value, "messages", &columns) + &rest(value, "messages")
}

pub(super) fn listeners(value: &Value) -> String {
    let columns = [
        ("address", false),
        ("protocol", false),
        ("tls", false),
        ("connections", true),
        ("connections_max", true),
    ];
    let mut words = table(value, "listeners", &columns);
    let mut certificates = TextTable::new([
        Column::words("listener"),
        Column::words("certificate"),
        Column::words("subject"),
        Column::number("days left"),
    ]);
    let mut has_some = false;
    for listener in items(value, "listeners") {
        for certificate in items(listener, "certificates") {
            has_some = true;
            certificates.add([
                text_of(listener, "address"),
                text_of(certificate, "file"),
                text_of(certificate, "subject"),
                text_of(certificate, "days_left"),
            ]);
        }
    }
    if has_some {
        words += &format!("\n{certificates}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_end_with_where_they_go_on() {
        let value = json!({
            "clients": [
                { "client_id": "a", "protocol": "5.0", "queued_messages": 7, "connection": { "peer": "192.0.2.1:9" } },
                { "client_id": "b\u{1b}", "protocol": "3.1.1" },
            ],
            "matching": 9,
            "next": "0:b",
        });
        let shown = clients(&value);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("client  "), "{shown}");
        assert!(lines[1].starts_with("a ") && lines[1].contains("192.0.2.1:9"), "{shown}");
        assert!(lines[2].starts_with("b\\u{1b} ") && lines[2].contains("away"), "{shown}");
        assert_eq!(lines[3..], ["9 clients", "more: --after '0:b'"]);
    }

    #[test]
    fn one_client_is_its_fields_and_a_table_of_its_subscriptions() {
        let value = json!({
            "client_id": "a",
            "connection": { "peer": "unix", "paused_by": [] },
            "subscription_list": [{ "filter": "t", "qos": 1, "no_local": true, "subscription_id": 5 }],
        });
        let shown = client(&value);
        assert!(shown.contains("connection peer"), "{shown}");
        assert!(shown.ends_with("t               1  no local, identifier 5\n"), "{shown}");
    }
}
