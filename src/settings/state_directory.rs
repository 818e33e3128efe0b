//! The place of the state directory if the configuration leaves it to the system.

use super::Persistence;
use std::ffi::OsString;
use std::path::PathBuf;

/// The state directory. `None` if nothing is kept. `env` reads the environment.
///
/// # Errors
/// A sentence, if `persistence.directory` is "auto" and the environment names no place.
pub fn state_directory(
    persistence: &Persistence,
    is_root: bool,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<PathBuf>, String> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    match persistence.directory.as_str() {
        "" => return Ok(None),
        "auto" => {}
        directory => return Ok(Some(PathBuf::from(directory))),
    }
    if let Some(given) = set("STATE_DIRECTORY") {
        // systemd gives a list if a unit has several directories.
        return Ok(std::env::split_paths(&given).next());
    }
    if is_root {
        return Ok(Some(PathBuf::from("/var/lib/midge")));
    }
    let state = set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    match state.or_else(home) {
        Some(state) => Ok(Some(state.join("midge"))),
        None => Err("persistence.directory is \"auto\", and neither XDG_STATE_HOME nor HOME is set: name a \
                     directory, or start with --ephemeral"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(directory: &str, is_root: bool, env: &[(&str, &str)]) -> Result<Option<PathBuf>, String> {
        let persistence = Persistence { directory: directory.to_owned(), ..Persistence::default() };
        state_directory(&persistence, is_root, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_place_is_the_systems_unless_the_file_names_one() {
        for (directory, is_root, env, expected) in [
            ("auto", false, &[("HOME", "/home/a")][..], Some("/home/a/.local/state/midge")),
            ("auto", false, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s")], Some("/s/midge")),
            (
                "auto",
                false,
                &[("HOME", "/home/a"), ("XDG_STATE_HOME", "relative")],
                Some("/home/a/.local/state/midge"),
            ),
            (
                "auto",
                false,
                &[("HOME", "/home/a"), ("XDG_STATE_HOME", "")],
                Some("/home/a/.local/state/midge"),
            ),
            ("auto", true, &[("HOME", "/root")], Some("/var/lib/midge")),
            ("auto", true, &[("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")], Some("/var/lib/one")),
            ("/data/midge", true, &[], Some("/data/midge")),
            ("", true, &[("STATE_DIRECTORY", "/x")], None),
        ] {
            assert_eq!(
                resolve(directory, is_root, env),
                Ok(expected.map(PathBuf::from)),
                "{directory} {env:?}"
            );
        }
        assert!(resolve("auto", false, &[]).is_err());
    }
}
