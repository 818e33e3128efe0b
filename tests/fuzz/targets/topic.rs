//! Topic filters: an input is lines of text. Each is tried as a filter and as a topic name.
//!
//! A second implementation of the rules decides whether a line is a filter or a topic name, and another
//! matcher decides about matches. The index of several filters must find what that matcher finds, and must be
//! empty after every subscription has gone.

use midge::mqtt::QoS;
use midge::mqtt::{RetainHandling, SubscriptionOptions, TopicFilter, check_topic_name, filter_matches};
use midge::topic::{Matches, TopicIndex};
use std::collections::BTreeMap;

/// The number of lines that are used. The rest of an input is ignored.
const LINES_MAX: usize = 16;
/// There are fewer subscribers than lines, so that one has several filters.
const SUBSCRIBERS: usize = 5;

/// Subscriber and filter → options and identifier.
type Subscriptions<'a> = BTreeMap<(u32, &'a str), (SubscriptionOptions, u32)>;
/// Subscriber → QoS, Retain As Published, identifiers in order.
type Answer = BTreeMap<u32, (QoS, bool, Vec<u32>)>;

/// Runs the target.
pub fn run(input: &[u8]) {
    let lines = input.split(|&byte| byte == b'\n').take(LINES_MAX);
    let lines: Vec<&str> = lines.filter_map(|line| std::str::from_utf8(line).ok()).collect();
    for line in &lines {
        check_filter(line);
        assert_eq!(check_topic_name(line).is_ok(), is_topic(line), "{line:?}");
    }
    let topics: Vec<&str> = lines.iter().copied().filter(|line| is_topic(line)).collect();
    let filters: Vec<&str> = lines
        .iter()
        .filter_map(|line| TopicFilter::parse(line).ok())
        .map(TopicFilter::matching_part)
        .collect();
    for filter in &filters {
        for topic in &topics {
            assert_eq!(filter_matches(filter, topic), is_match(filter, topic), "{filter:?} {topic:?}");
        }
    }
    check_index(&filters, &topics);
}

/// Checks that a filter is accepted exactly if the rules say so, and that its parts are complete.
fn check_filter(line: &str) {
    let parsed = TopicFilter::parse(line);
    assert_eq!(parsed.is_ok(), is_filter(line), "{line:?}: {parsed:?}");
    let Ok(filter) = parsed else { return };
    assert_eq!(filter.as_str(), line);
    match filter.shared() {
        Some(shared) => {
            assert_eq!(format!("$share/{}/{}", shared.share_name, shared.filter), line);
            assert_eq!(shared.filter, filter.matching_part());
        }
        None => assert_eq!(filter.matching_part(), line),
    }
    assert_eq!(filter.has_wildcard(), filter.matching_part().contains(['+', '#']));
    assert_eq!(filter.levels(), filter.matching_part().split('/').count());
}

/// Subscribes to every filter and removes the subscriptions again. It matches all topics at each stage.
fn check_index(filters: &[&str], topics: &[&str]) {
    let (mut index, mut matches) = (TopicIndex::new(7), Matches::default());
    let mut expected = Subscriptions::new();
    for (number, &filter) in filters.iter().enumerate() {
        let subscriber = (number % SUBSCRIBERS) as u32;
        let (options, id) = options(number);
        let replaced = index.subscribe(filter, subscriber, options, id);
        assert_eq!(replaced, expected.insert((subscriber, filter), (options, id)).is_some(), "{filter:?}");
    }
    check_topics(&index, &mut matches, &expected, topics);
    for (number, &filter) in filters.iter().enumerate().skip(1).step_by(2) {
        unsubscribe(&mut index, &mut expected, (number % SUBSCRIBERS) as u32, filter);
    }
    check_topics(&index, &mut matches, &expected, topics);
    for (number, &filter) in filters.iter().enumerate() {
        unsubscribe(&mut index, &mut expected, (number % SUBSCRIBERS) as u32, filter);
        assert_eq!(index.subscription_count(), expected.len());
    }
    assert!(index.is_empty());
    check_topics(&index, &mut matches, &expected, topics);
}

fn unsubscribe<'a>(
    index: &mut TopicIndex,
    expected: &mut Subscriptions<'a>,
    subscriber: u32,
    filter: &'a str,
) {
    let removed = index.unsubscribe(filter, subscriber);
    assert_eq!(removed, expected.remove(&(subscriber, filter)).is_some(), "{filter:?}");
}

fn check_topics(index: &TopicIndex, matches: &mut Matches, expected: &Subscriptions<'_>, topics: &[&str]) {
    for topic in topics {
        for origin in [None, Some(1)] {
            index.matches(topic, origin, matches);
            let found = answer_of(matches);
            assert_eq!(found.len(), matches.as_slice().len(), "a subscriber is found twice: {topic:?}");
            assert_eq!(found, naive_answer(expected, topic, origin), "{topic:?}");
        }
    }
}

fn answer_of(matches: &Matches) -> Answer {
    let found = matches.as_slice().iter().map(|matched| {
        let mut ids = matches.subscription_ids(matched).to_vec();
        ids.sort_unstable();
        (matched.subscriber, (matched.qos, matched.retain_as_published, ids))
    });
    found.collect()
}

fn naive_answer(subscriptions: &Subscriptions<'_>, topic: &str, origin: Option<u32>) -> Answer {
    let mut answer = Answer::new();
    for ((subscriber, filter), (options, id)) in subscriptions {
        if !is_match(filter, topic) || (options.no_local && origin == Some(*subscriber)) {
            continue;
        }
        let (qos, retain, ids) = answer.entry(*subscriber).or_insert((QoS::AtMostOnce, false, Vec::new()));
        *qos = options.qos.max(*qos);
        *retain |= options.retain_as_published;
        ids.extend((*id > 0).then_some(*id));
        ids.sort_unstable();
    }
    answer
}

fn options(number: usize) -> (SubscriptionOptions, u32) {
    let options = SubscriptionOptions {
        qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][number % 3],
        no_local: number % 4 == 1,
        retain_as_published: number % 5 == 2,
        retain_handling: RetainHandling::Always,
    };
    (options, (number % 4) as u32)
}

// A second implementation of the rules of sections 4.7 and 4.8.2.

fn is_topic(text: &str) -> bool {
    !text.is_empty() && !text.contains(['+', '#']) && has_no_forbidden_character(text)
}

fn is_filter(text: &str) -> bool {
    if !has_no_forbidden_character(text) {
        return false;
    }
    let levels: Vec<&str> = text.split('/').collect();
    match &levels[..] {
        ["$share"] => false,
        ["$share", name, rest @ ..] => {
            !name.is_empty() && !name.contains(['+', '#']) && are_filter_levels(rest)
        }
        levels => are_filter_levels(levels),
    }
}

fn are_filter_levels(levels: &[&str]) -> bool {
    let has_character = levels.len() > 1 || levels.iter().any(|level| !level.is_empty());
    has_character
        && levels.iter().enumerate().all(|(at, level)| match *level {
            "+" => true,
            "#" => at + 1 == levels.len(),
            level => !level.contains(['+', '#']),
        })
}

fn has_no_forbidden_character(text: &str) -> bool {
    text.chars().all(|character| {
        let code = character as u32;
        code > 0x1F
            && !(0x7F..=0x9F).contains(&code)
            && !(0xFDD0..=0xFDEF).contains(&code)
            && code % 0x1_0000 < 0xFFFE
    })
}

/// Compares level by level, following the text of the standard.
fn is_match(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    let starts_with_wildcard = matches!(filter[0], "+" | "#");
    !(starts_with_wildcard && topic[0].starts_with('$')) && are_match(&filter, &topic)
}

fn are_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        ([], []) | (["#"], _) => true,
        ([level, filter @ ..], [name, topic @ ..]) => {
            (*level == "+" || level == name) && are_match(filter, topic)
        }
        _ => false,
    }
}
