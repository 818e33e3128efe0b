//! The table of all normative statements, and what holds it together: every statement has a test or an excuse,
//! every test exists and carries the statement's tag, and no statement of the checklists is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::REGISTRY;

/// One row: `version`, `id`, the statement in short, and its proof: names of scenarios, or `excuse: …`.
const STATEMENTS: &str = include_str!("statements.tsv");

/// The sources of all scenarios by room.
const SOURCES: &[(&str, &str)] = crate::SOURCES;

/// A version and an identifier.
type Id = (String, String);

enum Proof {
    Tests(Vec<String>),
    Excuse(String),
}

fn statements() -> Vec<(Id, Proof)> {
    let rows = STATEMENTS.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [version, id, statement, proof] = cells[..] else { panic!("four cells in {line:?}") };
        assert!(!statement.is_empty(), "{version} {id} says what it is about");
        let proof = match proof.strip_prefix("excuse: ") {
            Some(excuse) => Proof::Excuse(excuse.to_string()),
            None => {
                Proof::Tests(proof.split(", ").filter(|name| !name.is_empty()).map(str::to_string).collect())
            }
        };
        ((version.to_string(), id.to_string()), proof)
    });
    rows.collect()
}

/// Tags in the comment above each scenario: `[MQTT5-3.1.0-1]`, `[MQTT311-…]`, `[MQTT31-…]`, `[PITFALL-…]`.
fn tags() -> BTreeMap<Id, BTreeSet<String>> {
    let mut found: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
    for (room, source) in SOURCES {
        let mut comment = Vec::new();
        for line in source.lines() {
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text);
                continue;
            }
            if let Some(name) = scenario_name(line) {
                for id in comment.iter().flat_map(|text| tags_in(text)) {
                    found.entry(id).or_default().insert(format!("{room}::{name}"));
                }
            }
            comment.clear();
        }
    }
    found
}

fn scenario_name(line: &str) -> Option<&str> {
    line.strip_prefix("pub fn ")?.split_once("(broker: &Broker)").map(|(name, _)| name)
}

fn tags_in(text: &str) -> Vec<Id> {
    let versions = [("MQTT5-", "5.0"), ("MQTT311-", "3.1.1"), ("MQTT31-", "3.1"), ("PITFALL-", "pitfall")];
    let tags = text.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(tag, _)| tag);
    let ids = tags.filter_map(|tag| {
        let (prefix, version) = versions.iter().find(|(prefix, _)| tag.starts_with(prefix))?;
        Some((version.to_string(), tag[prefix.len()..].to_string()))
    });
    ids.collect()
}

#[test]
fn every_statement_has_a_test_or_an_excuse() {
    let registered: BTreeSet<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
    let mut seen = BTreeSet::new();
    for (id, proof) in statements() {
        match proof {
            Proof::Tests(names) => {
                assert!(!names.is_empty(), "{id:?} has neither a test nor an excuse");
                for name in names {
                    assert!(registered.contains(&name[..]), "{id:?} names {name}, which does not exist");
                }
            }
            Proof::Excuse(excuse) => assert!(excuse.len() > 10, "{id:?} has an excuse that says nothing"),
        }
        assert!(seen.insert(id.clone()), "{id:?} is there twice");
    }
}

#[test]
fn rows_and_tags_agree() {
    let mut tags = tags();
    for (id, proof) in statements() {
        let tagged = tags.remove(&id).unwrap_or_default();
        let named: BTreeSet<String> = match proof {
            Proof::Tests(names) => names.into_iter().collect(),
            Proof::Excuse(_) => BTreeSet::new(),
        };
        assert_eq!(named, tagged, "{id:?}: left is statements.tsv, right are the tags above the scenarios");
    }
    assert!(tags.is_empty(), "tags of statements that are not in statements.tsv: {tags:?}");
}

#[test]
fn every_scenario_is_registered_and_proves_something() {
    let tagged: BTreeSet<String> = tags().into_values().flatten().collect();
    let mut written = BTreeSet::new();
    for (room, source) in SOURCES {
        written.extend(source.lines().filter_map(scenario_name).map(|name| format!("{room}::{name}")));
    }
    let registered: BTreeSet<String> = REGISTRY.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(written, registered, "left are the scenarios as written, right the registry");
    assert_eq!(tagged, registered, "left are the scenarios with a tag, right the registry");
}

/// Only where the checklists lie beside the checkout.
#[test]
fn no_statement_of_the_checklists_is_missing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/spec");
    let mut wanted = BTreeSet::new();
    for (file, version) in [("mqtt-5.0.md", "5.0"), ("mqtt-3.1.1.md", "3.1.1"), ("pitfalls.md", "pitfall")] {
        let Ok(text) = std::fs::read_to_string(folder.join(file)) else { return };
        wanted.extend(ids_of(&text, version));
    }
    let listed: BTreeSet<Id> = statements().into_iter().map(|(id, _)| id).collect();
    let missing: Vec<&Id> = wanted.difference(&listed).collect();
    assert!(missing.is_empty(), "not in statements.tsv: {missing:?}");
    let surplus: Vec<&Id> = listed.difference(&wanted).collect();
    assert!(surplus.is_empty(), "not in the checklists: {surplus:?}");
}

/// Identifiers of all rows of a checklist: the printed ones, with a number where one comes again, and made-up
/// ones for the rows of tables without identifiers.
fn ids_of(text: &str, version: &str) -> Vec<Id> {
    let mut ids = Vec::new();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let mut head: Option<Vec<String>> = None;
    let mut clients_only = false;
    for line in text.lines() {
        if line.starts_with("## ") {
            clients_only = line.contains("bind only the client");
        }
        if !line.starts_with('|') {
            head = None;
            if clients_only {
                let words = line.split(|letter: char| !(letter.is_alphanumeric() || "-.".contains(letter)));
                ids.extend(words.filter_map(|word| word.strip_prefix("MQTT-")).map(str::to_string));
            }
            continue;
        }
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
        let Some(head) = &head else {
            head = Some(cells);
            continue;
        };
        if cells[0].starts_with("--") {
            continue;
        }
        let mut next = |name: &str| {
            let number = count.entry(name.to_string()).or_default();
            *number += 1;
            *number
        };
        let id = match (&head[0][..], head.get(1).map_or("", |second| second)) {
            ("ID", _) | ("#", _) => {
                let id: String = cells[0].replace("(P)", "").replace(['✔', '✎', '★'], "");
                let id = id.trim().trim_start_matches("MQTT-").to_string();
                match next(&id) {
                    1 => id,
                    number => format!("{id}#{number}"),
                }
            }
            ("Hex", _) => format!("property-{}", cells[0]),
            ("Code", "Meaning") => format!("code-{}", cells[0]),
            ("Code", _) => format!("reason-{}", cells[0].replace(' ', "-")),
            ("Role", _) => format!("machine-{}", next("machine")),
            ("Filter", "Valid") => "filters".to_string(),
            ("Filter", "Matches") => format!("match-{}", next("match")),
            _ => continue,
        };
        ids.push(id);
    }
    let version = |id: &str| if id.starts_with("§3.1-") { "3.1".to_string() } else { version.to_string() };
    ids.into_iter().map(|id| (version(&id), id)).collect()
}
