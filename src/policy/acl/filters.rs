//! Compares two topic filters: whether one covers the other, and whether they meet. Both answers are exact.
//!
//! The filters must have been checked, and have no `$share/{name}/`. A filter stands for the set of topic
//! names that it matches (5.0 section 4.7). `#` also matches its parent, and a wildcard in the first level
//! matches no topic that begins with `$`. `[MQTT5-4.7.2-1]`

/// Whether `wide` matches every topic name that `narrow` matches.
pub fn covers(wide: &str, narrow: &str) -> bool {
    if begins_with_wildcard(wide) && narrow.starts_with('$') {
        return false;
    }
    let mut narrow = spelt_out(narrow).split('/');
    for level in wide.split('/') {
        if level == "#" {
            return true;
        }
        match narrow.next() {
            None | Some("#") => return false,
            Some(other) if level == "+" || level == other => {}
            Some(_) => return false,
        }
    }
    narrow.next().is_none()
}

/// Whether a topic name exists that both filters match.
pub fn intersects(one: &str, other: &str) -> bool {
    let parts = |wild: &str, plain: &str| begins_with_wildcard(wild) && plain.starts_with('$');
    if parts(one, other) || parts(other, one) {
        return false;
    }
    let mut others = spelt_out(other).split('/');
    for level in spelt_out(one).split('/') {
        let other = others.next();
        match (level, other) {
            // `#` also matches its parent, so the rest of the other filter does not matter.
            ("#", _) | (_, Some("#")) => return true,
            (_, None) => return false,
            (level, Some(other)) if level == other || level == "+" || other == "+" => {}
            _ => return false,
        }
    }
    matches!(others.next(), None | Some("#"))
}

/// The same filter in a form that excludes the empty topic: a topic name has at least one character, so `#`
/// and `/#` match no parent. `[MQTT5-4.7.3-1]`
pub(super) fn spelt_out(filter: &str) -> &str {
    match filter {
        "#" => "+/#",
        "/#" => "/+/#",
        _ => filter,
    }
}

fn begins_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mqtt::{TopicFilter, filter_matches};

    /// Every text of one to `levels_max` of these levels, except the empty one.
    pub(in crate::policy::acl) fn texts(levels: &[&str], levels_max: usize) -> Vec<String> {
        let mut longest: Vec<String> = levels.iter().map(ToString::to_string).collect();
        let mut all = longest.clone();
        for _ in 1..levels_max {
            longest = longest
                .iter()
                .flat_map(|text| levels.iter().map(move |level| format!("{text}/{level}")))
                .collect();
            all.extend_from_slice(&longest);
        }
        all.retain(|text| !text.is_empty());
        all
    }

    pub(in crate::policy::acl) fn filters(levels: &[&str], levels_max: usize) -> Vec<String> {
        let mut all = texts(levels, levels_max);
        all.retain(|filter| TopicFilter::parse(filter).is_ok());
        all
    }

    #[test]
    fn covering_and_meeting_are_what_the_matched_topics_say() {
        // [MQTT5-4.7.1-2] [MQTT5-4.7.1-3] [MQTT5-4.7.2-1]
        let filters = filters(&["a", "b", "+", "#", "$x", ""], 4);
        // `z` stands for all names that no filter has.
        let topics = texts(&["a", "b", "z", "$x", ""], 5);
        let matched: Vec<Vec<u64>> = filters
            .iter()
            .map(|filter| {
                let mut set = vec![0_u64; topics.len().div_ceil(64)];
                for (number, topic) in topics.iter().enumerate() {
                    set[number / 64] |= u64::from(filter_matches(filter, topic)) << (number % 64);
                }
                set
            })
            .collect();
        for (one, matched_one) in filters.iter().zip(&matched) {
            for (other, matched_other) in filters.iter().zip(&matched) {
                let pairs = || matched_one.iter().zip(matched_other);
                let is_covered = pairs().all(|(one, other)| !one & other == 0);
                let meet = pairs().any(|(one, other)| one & other != 0);
                assert_eq!(covers(one, other), is_covered, "{one:?} covers {other:?}");
                assert_eq!(intersects(one, other), meet, "{one:?} meets {other:?}");
            }
        }
    }
}
