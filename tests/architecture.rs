//! Checks the source against the rules of ARCHITECTURE.md that can be checked automatically.
//!
//! Each rule has a list of the places that still break it. A list may only become shorter: an entry that is
//! no longer needed fails the test too.

#![allow(clippy::disallowed_methods, reason = "it reads the source")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms. Each may use only those before it. `main.rs` and the other files outside of the rooms may use
/// all.
const ROOMS: &[&str] = &[
    "files",
    "base",
    "mqtt",
    "topic",
    "session",
    "settings",
    "policy",
    "store",
    "broker",
    "transport",
    "auth",
    "control",
    "host",
    "driver",
    "persistence",
    "admin",
    "config",
];

/// The state of a connection has parts that are defined by other components.
const COMPONENTS: &[(&str, &str)] = &[("connections", "outbox"), ("connections", "rates")];

/// The other flows that a flow may use. Methods of the machine are not considered here.
const FLOWS: &[(&str, &[&str])] = &[
    ("authentication", &["read", "refuse"]),
    ("connack", &["authentication", "losses"]),
    ("connect", &["connack", "mount", "publish", "read", "refuse", "timers"]),
    ("deliver", &["convoy", "enqueue", "memory"]),
    ("detail", &["publish"]),
    ("disconnect", &["full_disk", "read", "source"]),
    ("dispatch", &["read"]),
    ("enqueue", &["deliver"]),
    ("explain", &["connect", "mount", "publish"]),
    ("full_disk", &["mount"]),
    ("groups", &["convoy", "forward"]),
    ("publish", &["convoy", "full_disk", "mount", "reply"]),
    ("questions", &["full_disk", "read"]),
    ("read", &["behind", "refuse"]),
    ("records", &["groups"]),
    ("refuse", &["read"]),
    ("replay", &["publish", "source"]),
    ("reply", &["full_disk"]),
    ("send_durable", &["deliver"]),
    ("subscribe", &["groups", "refused_filters"]),
    ("trace", &["mount"]),
];

/// The largest number of lines of a file before its tests.
const LINES_MAX: usize = 600;

/// A file of `src` without its comments and tests.
struct Source {
    path: String,
    code: String,
    lines: usize,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or("");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Its name in a folder, or the name of the subfolder that it is in.
    fn below(&self, folder: &str) -> Option<&str> {
        let rest = self.path.strip_prefix(folder)?;
        let name = rest.split('/').next()?;
        Some(name.strip_suffix(".rs").unwrap_or(name)).filter(|&name| name != "mod")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the source is there") {
            let path = entry.expect("a folder can be read").path();
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("tests") {
                let text = fs::read_to_string(&path).expect("the source is text");
                let lines = without_tests(&text);
                let code: Vec<&str> =
                    lines.iter().map(|line| line.split("//").next().unwrap_or("")).collect();
                sources.push(Source { path: name, lines: lines.len(), code: code.join("\n") });
            }
        }
    }
    assert!(sources.len() > 200, "{} files", sources.len());
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

/// The lines of a file without its test modules. A module in the file ends with a brace at the beginning of a
/// line, and a module in a file of its own has a single line here. Everything after either of them is code.
fn without_tests(text: &str) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    let mut is_of_tests = false;
    while let Some(line) = lines.next() {
        let module = line.find("mod ").map_or("", |at| &line[at..]);
        let is_module = !module.is_empty() && (line.starts_with("mod ") || line.starts_with("pub"));
        if is_of_tests && is_module {
            if module.ends_with('{') {
                lines.by_ref().find(|line| *line == "}");
            }
        } else {
            kept.push(line);
        }
        let is_attribute = line.starts_with("#[");
        let begins_tests = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,");
        is_of_tests = begins_tests || is_of_tests && is_attribute;
    }
    kept
}

/// The words after each `prefix` in a text. For a list in braces, all of them.
fn named<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => words.extend(list.split(';').next().unwrap_or("").split(|c: char| !is_word(c))),
            None => words.extend(rest.split(|c: char| !is_word(c)).next()),
        }
    }
    words
}

/// Fails unless the findings are exactly what the list allows.
fn check<T: Ord + std::fmt::Debug>(found: BTreeMap<T, String>, allowed: impl IntoIterator<Item = T>) {
    let allowed: BTreeSet<T> = allowed.into_iter().collect();
    let new: Vec<_> = found.iter().filter(|(tie, _)| !allowed.contains(tie)).collect();
    assert!(new.is_empty(), "not allowed: {new:#?}");
    let stale: Vec<_> = allowed.iter().filter(|tie| !found.contains_key(tie)).collect();
    assert!(stale.is_empty(), "take these out of the list, nothing needs them any more: {stale:?}");
}

#[test]
fn what_stands_behind_a_module_of_tests_is_code() {
    let text = "#[cfg(test)]\nmod tests;\nmod a;\n#[cfg(test)]\npub(crate) mod b {\n    c\n}\nfn d() {}";
    assert_eq!(without_tests(text), ["#[cfg(test)]", "mod a;", "#[cfg(test)]", "fn d() {}"]);
    let text = "#[cfg(test)]\n#[path = \"a\"]\nmod tests;\n#[cfg(test)]\nfn b() {}\nmod c {\n}";
    assert_eq!(
        without_tests(text).last(),
        Some(&"}"),
        "neither a function nor what follows it is such a module"
    );
}

#[test]
fn rooms_know_only_those_below_them() {
    let rank = |room: &str| ROOMS.iter().position(|&listed| listed == room);
    let mut up = BTreeMap::new();
    let sources = sources();
    for source in &sources {
        let Some(own) = rank(source.room()) else { continue };
        for room in named(&source.code, "crate::") {
            if rank(room).is_some_and(|rank| rank > own) {
                up.insert((source.room(), room), source.path.clone());
            }
        }
    }
    check(up, []);
}

#[test]
fn every_folder_of_the_source_is_a_room_with_its_place() {
    for source in sources() {
        let is_room = ROOMS.contains(&source.room());
        assert!(is_room || !source.path.contains('/'), "{} is in no room", source.path);
    }
}

#[test]
fn only_flows_see_the_machine_as_a_whole() {
    for source in sources().iter().filter(|source| source.room() == "broker") {
        let has_methods = source.code.contains("\nimpl Shard {");
        let may = source.path == "broker/mod.rs" || source.path.starts_with("broker/flows/");
        assert!(may || !has_methods, "{} has methods of the machine", source.path);
    }
}

#[test]
fn components_do_not_know_each_other_nor_the_flows() {
    let mut ties = BTreeMap::new();
    let sources = sources();
    for source in &sources {
        let Some(own) = source.below("broker/components/") else { continue };
        for other in named(&source.code, "components::").into_iter().filter(|&other| other != own) {
            ties.insert((own, other), source.path.clone());
        }
        assert!(named(&source.code, "flows::").is_empty(), "{} names a flow", source.path);
    }
    check(ties, COMPONENTS.iter().copied());
}

#[test]
fn flows_name_few_others() {
    let mut ties = BTreeMap::new();
    let sources = sources();
    let flows: BTreeSet<&str> = sources.iter().filter_map(|source| source.below("broker/flows/")).collect();
    for source in &sources {
        let Some(own) = source.below("broker/flows/") else { continue };
        let named = named(&source.code, "super::").into_iter().chain(named(&source.code, "flows::"));
        for other in named.filter(|other| flows.contains(other)) {
            ties.insert((own, other), source.path.clone());
        }
    }
    let allowed = FLOWS.iter().flat_map(|(own, others)| others.iter().map(move |&other| (*own, other)));
    check(ties, allowed);
}

#[test]
fn files_are_read_in_one_sitting() {
    for source in sources() {
        assert!(source.lines <= LINES_MAX, "{} has {} lines: split it", source.path, source.lines);
    }
}

#[test]
fn a_type_name_is_defined_once() {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let sources = sources();
    for source in &sources {
        for line in source.code.lines().map(str::trim_start).filter(|line| line.starts_with("pub")) {
            let mut words = line
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .filter(|word| !word.is_empty());
            let is_type = words.any(|word| {
                matches!(word, "struct" | "enum" | "trait" | "type" | "fn" | "use" | "const" | "mod")
            });
            let is_other =
                ["fn ", "use ", "const ", "mod ", "static "].iter().any(|other| line.contains(other));
            let name = words.next().filter(|name| name.starts_with(char::is_uppercase));
            if let Some(name) = name.filter(|_| is_type && !is_other) {
                places.entry(name).or_default().push(&source.path);
            }
        }
    }
    let twice = places.into_iter().filter(|(_, paths)| paths.len() > 1);
    check(twice.map(|(name, paths)| (name, paths.join(", "))).collect(), []);
}

#[test]
fn no_function_takes_two_bare_integers_of_one_type_side_by_side() {
    const BARE: &[&str] = &["u8", "u16", "u32", "u64", "u128", "usize", "i32", "i64"];
    let mut found = BTreeMap::new();
    let sources = sources();
    for source in &sources {
        for (at, _) in source.code.match_indices("fn ") {
            let Some((name, rest)) = source.code[at + 3..].split_once('(') else { continue };
            let types: Vec<&str> = parameters(rest)
                .into_iter()
                .map(|parameter| parameter.split_once(':').map_or("", |(_, of)| of.trim()))
                .collect();
            if types.windows(2).any(|two| two[0] == two[1] && BARE.contains(&two[0])) {
                let name = name.split('<').next().unwrap_or(name).trim();
                found.insert((source.path.as_str(), name), String::new());
            }
        }
    }
    check(found, []);
}

/// The parameters of a function, starting after its opening parenthesis.
fn parameters(code: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' if depth == 0 => {
                found.push(&code[start..at]);
                break;
            }
            // The arrow of a function type closes nothing.
            '>' if code[..at].ends_with('-') => {}
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&code[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}
