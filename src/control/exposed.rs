//! Warns the operator about files of the configuration that every user of this machine can read or change.

use crate::files::open_to_all;
use crate::settings::Config;
use std::collections::BTreeMap;
use std::path::Path;

/// What other users of this machine must not be able to do with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guarded {
    /// Read it: that would be enough to log in or to eavesdrop.
    Secret(&'static str),
    /// Change it.
    Trusted(&'static str),
}

/// A warning for each file that is open to every user.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    files(config).into_iter().filter_map(|(path, guarded)| warning(path, guarded)).collect()
}

fn warning(path: &str, guarded: Guarded) -> Option<String> {
    let open = open_to_all(Path::new(path));
    let (Guarded::Secret(what) | Guarded::Trusted(what)) = guarded;
    let (does, remedy) = match guarded {
        _ if open.writing => ("change", "o-w"),
        Guarded::Secret(_) if open.reading => ("read", "o-rwx"),
        _ => return None,
    };
    Some(format!(
        "{path}: everybody on this machine can {does} this {what} (mode {:04o}); chmod {remedy} {path}",
        open.mode
    ))
}

/// Each file once, sorted by name.
fn files(config: &Config) -> BTreeMap<&str, Guarded> {
    let mut files = BTreeMap::new();
    let mut put = |path, guarded| {
        files.insert(path, guarded);
    };
    for listener in &config.listeners {
        for path in &listener.tls_certificates {
            put(path.as_str(), Guarded::Trusted("certificate"));
        }
        let authorities = [&listener.tls_chain, &listener.tls_client_ca];
        authorities.into_iter().for_each(|path| put(path, Guarded::Trusted("file of CA certificates")));
        put(&listener.tls_ca_directory, Guarded::Trusted("directory of CA certificates"));
        put(&listener.tls_crl, Guarded::Trusted("revocation list"));
        let acl = listener.acl_file.as_ref().unwrap_or(&config.acl.file);
        put(acl, Guarded::Trusted("access list"));
    }
    config.jwt.keys.iter().for_each(|path| put(path, Guarded::Trusted("key of tokens")));
    put(&config.webhook.ca_file, Guarded::Trusted("file of CA certificates"));
    // Secrets come last, so that a file that is named for two purposes counts as a secret.
    for listener in &config.listeners {
        listener.tls_keys.iter().for_each(|path| put(path, Guarded::Secret("private key")));
        let passwords = listener.password_file.as_ref().unwrap_or(&config.auth.password_file);
        put(passwords, Guarded::Secret("password file"));
    }
    config.jwt.secrets.iter().for_each(|path| put(path, Guarded::Secret("secret of tokens")));
    put(&config.webhook.header_file, Guarded::Secret("file with the webhook's header"));
    files.remove("");
    files
}
