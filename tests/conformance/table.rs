//! The table of all normative statements, and its checks: every statement has a test or an excuse, every test
//! exists and has the statement's tag, and no statement of `identifiers.txt` is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::REGISTRY;

/// One row: `version`, `id`, the statement in short, and its proof. The proof is a list of scenarios
/// (`room::name`) and other tests (`path.rs::name`), or `excuse: …`.
const STATEMENTS: &str = include_str!("statements.tsv");

/// Each line has a version and an identifier.
const IDENTIFIERS: &str = include_str!("identifiers.txt");

/// The sources of all scenarios by room.
const SOURCES: &[(&str, &str)] = crate::SOURCES;

/// A version and an identifier.
type Id = (String, String);

enum Proof {
    Tests(Vec<String>),
    Excuse(Excuse),
}

/// Why a statement has no test.
enum Excuse {
    /// It only binds the client: a server can neither keep nor break it.
    ClientOnly,
    /// The standard leaves a choice, and midge has chosen otherwise.
    Choice,
    /// Its subject is not implemented. In this case no code and no test may refer to it.
    NotBuilt,
}

fn statements() -> Vec<(Id, Proof)> {
    let rows = STATEMENTS.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [version, id, statement, proof] = cells[..] else { panic!("four cells in {line:?}") };
        assert!(!statement.is_empty(), "{version} {id} says what it is about");
        let proof = match proof.strip_prefix("excuse: ") {
            Some(excuse) => Proof::Excuse(excuse_of(excuse)),
            None => {
                Proof::Tests(proof.split(", ").filter(|name| !name.is_empty()).map(str::to_string).collect())
            }
        };
        ((version.to_string(), id.to_string()), proof)
    });
    rows.collect()
}

fn excuse_of(text: &str) -> Excuse {
    let (kind, reason) = text.split_once(": ").unwrap_or((text, ""));
    match (kind, reason.split(' ').count() > 2) {
        ("client-only", false) => Excuse::ClientOnly,
        ("choice", true) => Excuse::Choice,
        ("not-built", true) => Excuse::NotBuilt,
        _ => panic!(
            "{text:?} is none of: client-only; choice: and the reason; not-built: and what is not there"
        ),
    }
}

/// Whether it is a test outside of the scenarios.
fn is_elsewhere(name: &str) -> bool {
    name.contains(".rs::")
}

/// The tags in the comment above each scenario: `[MQTT5-3.1.0-1]`, `[MQTT311-…]`, `[MQTT31-…]`,
/// `[PITFALL-…]`.
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

/// The comments and attributes directly above a test of another file. `None` if there is no such test.
fn words_above(sources: &BTreeMap<String, String>, test: &str) -> Option<String> {
    let (path, name) = test.split_once("::")?;
    let lines: Vec<&str> = sources.get(path)?.lines().collect();
    let at = lines.iter().position(|line| line.trim_start().starts_with(&format!("fn {name}(")))?;
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    let above: Vec<&str> =
        above.take_while(|line| line.starts_with("//") || line.starts_with("#[")).collect();
    above.contains(&"#[test]").then(|| above.join("\n"))
}

/// Every source of the crate but this file, by its path from the crate's root.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is text");
                let name = path.strip_prefix(root).expect("it is below the root").display().to_string();
                sources.insert(name, text);
            }
        }
    }
    sources.remove("tests/conformance/table.rs");
    sources
}

#[test]
fn every_statement_has_a_test_or_an_excuse() {
    let registered: BTreeSet<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
    let sources = sources();
    let spoken_of: BTreeSet<Id> = sources.values().flat_map(|source| tags_in(source)).collect();
    let mut seen = BTreeSet::new();
    for (id, proof) in statements() {
        match proof {
            Proof::Tests(names) => {
                assert!(!names.is_empty(), "{id:?} has neither a test nor an excuse");
                for name in names {
                    if is_elsewhere(&name) {
                        let words = words_above(&sources, &name);
                        let words = words.unwrap_or_else(|| panic!("{id:?} names {name}, which is no test"));
                        assert!(tags_in(&words).contains(&id), "{id:?} is no tag above {name}");
                    } else {
                        assert!(registered.contains(&name[..]), "{id:?} names {name}, which does not exist");
                    }
                }
            }
            Proof::Excuse(Excuse::NotBuilt) => {
                assert!(!spoken_of.contains(&id), "{id:?} is not built, and a source has its tag");
            }
            Proof::Excuse(Excuse::ClientOnly | Excuse::Choice) => {}
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
            Proof::Tests(names) => names.into_iter().filter(|name| !is_elsewhere(name)).collect(),
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

#[test]
fn every_identifier_has_its_row() {
    let lines = IDENTIFIERS.lines().filter(|line| !line.starts_with('#'));
    let wanted = lines.map(|line| line.split_once(' ').expect("a version and an identifier"));
    let wanted: BTreeSet<Id> = wanted.map(|(version, id)| (version.to_string(), id.to_string())).collect();
    assert!(wanted.len() > 700, "the list is not whole: {}", wanted.len());
    let listed: BTreeSet<Id> = statements().into_iter().map(|(id, _)| id).collect();
    let missing: Vec<&Id> = wanted.difference(&listed).collect();
    assert!(missing.is_empty(), "not in statements.tsv: {missing:?}");
    let surplus: Vec<&Id> = listed.difference(&wanted).collect();
    assert!(surplus.is_empty(), "not in identifiers.txt: {surplus:?}");
}
