//! A configuration in a few lines, for `midge check-config`: the listeners, and every option that is not at
//! its default.

use crate::settings::Config;

/// The lines of the summary, without line ends.
pub fn summary(config: &Config) -> Vec<String> {
    let mut lines: Vec<String> = config
        .listeners
        .iter()
        .map(|listener| format!("listener {} ({})", listener.address, listener.protocol.word()))
        .collect();
    let listeners = lines.len();
    let defaults = Config::default();
    for (section, default) in config.sections().into_iter().zip(defaults.sections()) {
        for row in section.rows() {
            let (value, default) = (section.shown(row.key), default.shown(row.key));
            if let (Some(value), Some(default)) = (value, default)
                && value != default
            {
                lines.push(format!("{}.{} = {value} (default {default})", section.name(), row.key));
            }
        }
    }
    if lines.len() == listeners {
        lines.push("every other option is at its default".to_string());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_summed_up_in_two_lines() {
        let lines = summary(&Config::default());
        assert_eq!(lines, ["listener 127.0.0.1:1883 (mqtt)", "every other option is at its default"]);
    }

    #[test]
    fn what_differs_from_the_default_is_named_with_it() {
        let mut config = Config::default();
        config.limits.packet_bytes = 1000;
        config.protocol.response_information = "replies/".to_string();
        let expected = [
            "listener 127.0.0.1:1883 (mqtt)",
            "protocol.response_information = \"replies/\" (default \"\")",
            "limits.packet_bytes = 1000 (default 2000000)",
        ];
        assert_eq!(summary(&config), expected);
    }
}
