//! The access policies of the configuration: layer stacks, password files and access lists of all listeners.
//! They are read at the start and again on SIGHUP, all of them or none.

use crate::auth::acl_file;
use crate::auth::jwt::{JwtKeySource, JwtSettings, JwtVerifier, SecretAlgorithm};
use crate::auth::password_file::PasswordFile;
use crate::auth::scram_users::ScramUsers;
use crate::auth::webhook::{WebhookClient, WebhookHeader, WebhookSettings};
use crate::control::exposed;
use crate::control::proofs::Proofs;
use crate::policy::access::{Access, PasswordLines};
use crate::policy::acl::Acl;
use crate::policy::address_gate::AddressGateSettings;
use crate::policy::method::Method;
use crate::settings::{ClientCertificates, Config, Jwt, Listener, Means, TokenAlgorithm, UserNames, Webhook};
use crate::transport::LayerStack;
use crate::transport::tls::TlsConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The policies of each listener, by its number. Cheap to clone.
#[derive(Clone)]
pub struct AccessPolicies {
    /// The protocol layers below MQTT.
    pub stacks: Arc<[LayerStack]>,
    /// The rules that the machine applies to clients.
    pub access: Arc<[Access]>,
    /// Warnings about the files that do not depend on the date. See [`AccessPolicies::warnings`].
    notes: Vec<String>,
    /// The rules for the addresses that may connect. They hold at all listeners.
    pub address_gate: Arc<AddressGateSettings>,
    proofs: Arc<[Option<Arc<Proofs>>]>,
    requests_max: usize,
}

/// The largest number of threads that compute. With more, a flood of logins would slow down the shards.
const HASH_THREADS_MAX: usize = 4;

impl AccessPolicies {
    /// Reads every file that the listeners name, each once.
    ///
    /// # Errors
    /// The problem of the first file that can't be used: the file, the line, and what is allowed.
    pub fn load(config: &Config) -> Result<AccessPolicies, String> {
        let (mut stacks, mut access, mut proofs, mut notes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut password_files = BTreeMap::new();
        let mut acl_files = BTreeMap::new();
        let all_tokens = load_tokens(&config.jwt, &mut notes)?;
        let all_webhook = load_webhook(&config.webhook, &mut notes)?;
        for listener in &config.listeners {
            stacks.push(LayerStack::of(listener)?);
            let file = listener.password_file.as_ref().unwrap_or(&config.auth.password_file);
            let skips = config.auth.skip_bad_password_lines;
            let passwords = once(&mut password_files, file, |path| load_passwords(path, skips, &mut notes))?;
            let tokens = chosen(listener, "jwt", listener.jwt, &all_tokens)?;
            let webhook = chosen(listener, "webhook", listener.webhook, &all_webhook)?;
            let file = listener.acl_file.as_ref().unwrap_or(&config.acl.file);
            let acl =
                once(&mut acl_files, file, |path| acl_file::load(path).map_err(|errors| errors.to_string()))?;
            let names_users = acl.as_ref().is_some_and(Acl::names_users);
            let allow_anonymous = config.terms(listener).allow_anonymous;
            access.push(Access {
                acl,
                allow_anonymous: Some(allow_anonymous),
                checks_passwords: passwords.is_some() || tokens.is_some(),
                asks_for_all: webhook.is_some(),
                names_by_certificate: listener.tls_user_name != UserNames::None,
                enhanced: passwords
                    .as_ref()
                    .map(scram)
                    .transpose()?
                    .flatten()
                    .map(|users| users as Arc<dyn Method>),
                passwords: passwords.clone().map(|file| file as Arc<dyn PasswordLines>),
            });
            let asks_any = passwords.is_some() || tokens.is_some() || webhook.is_some();
            let means = config.means(listener);
            if let Some(why) = shut_because(config, listener, passwords.as_deref()) {
                notes.push(format!("listener {}: no client can connect: {why}", listener.address));
            }
            if names_users && !means.any() && allow_anonymous {
                notes.push(format!(
                    "listener {}: its access list depends on user names, and nothing proves them there",
                    listener.address
                ));
            }
            proofs.push(asks_any.then(|| {
                Arc::new(Proofs {
                    passwords,
                    tokens,
                    webhook,
                    listener: listener.address.to_string(),
                    mount_point: Some(listener.mount_point.clone()).filter(|mount| !mount.is_empty()),
                })
            }));
        }
        notes.extend(exposed::warnings(config));
        let requests_max = if all_webhook.is_some() { config.webhook.requests } else { 0 };
        Ok(AccessPolicies {
            stacks: stacks.into(),
            access: access.into(),
            notes,
            address_gate: Arc::new(AddressGateSettings::from(config)),
            proofs: proofs.into(),
            requests_max,
        })
    }

    /// The policies in another order: of each listener by number, those at this place here or, without a place, those
    /// that it has in `rest`.
    pub fn arranged(&self, places: &[Option<usize>], rest: &AccessPolicies) -> AccessPolicies {
        fn arrange<T: Clone>(places: &[Option<usize>], own: &[T], rest: &[T]) -> Arc<[T]> {
            let chosen = places.iter().enumerate().map(|(number, place)| match place {
                Some(place) => own[*place].clone(),
                None => rest[number].clone(),
            });
            chosen.collect()
        }
        AccessPolicies {
            stacks: arrange(places, &self.stacks, &rest.stacks),
            access: arrange(places, &self.access, &rest.access),
            notes: self.notes.clone(),
            address_gate: Arc::clone(&self.address_gate),
            proofs: arrange(places, &self.proofs, &rest.proofs),
            requests_max: self.requests_max,
        }
    }

    /// Warnings for the operator at `now`, in seconds since 1970, one per line.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let mut warnings = self.notes.clone();
        warnings.extend(self.outdated(now));
        warnings
    }

    /// The TLS certificates and revocation lists that at `now` have expired, are not valid yet, or expire
    /// soon, one per line.
    pub fn outdated(&self, now: i64) -> Vec<String> {
        once_each(self.stacks.iter().filter_map(|stack| stack.tls.as_ref()).flat_map(|tls| tls.notices(now)))
    }

    /// The certificates of midge itself, one per line, with subject, serial number and expiry date.
    pub fn certificates(&self) -> Vec<String> {
        once_each(self.stacks.iter().filter_map(|stack| stack.tls.as_ref()).flat_map(TlsConfig::loaded))
    }

    /// The proofs that a listener accepts. `None` if it needs none.
    pub fn proofs(&self, listener: u16) -> Option<Arc<Proofs>> {
        self.proofs.get(usize::from(listener)).cloned().flatten()
    }

    /// The number of threads for logins. First those that compute: one for each processor, at most
    /// `HASH_THREADS_MAX`. Second those that wait for the webhook.
    pub fn threads(&self) -> (usize, usize) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let asks_any = self.proofs.iter().any(Option::is_some);
        (if asks_any { processors.min(HASH_THREADS_MAX) } else { 0 }, self.requests_max)
    }
}

/// Removes duplicates: listeners that share a file would repeat its lines.
fn once_each(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    lines.filter(|line| seen.insert(line.clone())).collect()
}

/// The reason why no client can connect to a listener, and how to change it. `None` if clients can.
fn shut_because(config: &Config, listener: &Listener, passwords: Option<&PasswordFile>) -> Option<String> {
    let means = config.means(listener);
    if means.certificates {
        let by_balancer =
            listener.tls_user_name == UserNames::CommonName && !listener.proxy_trusted.is_empty();
        let is_asked_for = listener.tls_client_certificate != ClientCertificates::None;
        return (!is_asked_for && !by_balancer).then(|| {
            "tls_user_name takes user names from client certificates, but clients are not asked for one; set \
             tls_client_certificate"
                .to_owned()
        });
    }
    if config.terms(listener).allow_anonymous {
        return None;
    }
    // The test method proves nothing. It admits its clients if the listener has no means of proof.
    if !means.any() && !config.auth.test_method {
        return Some(
            "nothing there proves who a client is, and allow_anonymous is false; give it a password_file, [jwt] keys, \
             a [webhook] or tls_user_name, or set allow_anonymous = true in [auth] or for the listener"
                .to_owned(),
        );
    }
    let has_no_user = passwords.is_some_and(PasswordFile::is_empty);
    (has_no_user && means == Means { passwords: true, ..Means::default() }).then(|| {
        let file = listener.password_file.as_ref().unwrap_or(&config.auth.password_file);
        format!("its password file {file} has no user; add one with midge passwd {file} NAME")
    })
}

/// A means of proof that the broker has, unless the listener does not use it.
fn chosen<T: Clone>(
    listener: &Listener,
    section: &str,
    wanted: Option<bool>,
    all: &Option<T>,
) -> Result<Option<T>, String> {
    match wanted {
        Some(false) => Ok(None),
        Some(true) if all.is_none() => {
            Err(format!("listener {}: {section} = true, but [{section}] is empty", listener.address))
        }
        _ => Ok(all.clone()),
    }
}

/// The keys of tokens, if there are any.
fn load_tokens(jwt: &Jwt, notes: &mut Vec<String>) -> Result<Option<Arc<JwtVerifier>>, String> {
    let algorithm = match jwt.secret_algorithm {
        TokenAlgorithm::Hs256 => SecretAlgorithm::Hs256,
        TokenAlgorithm::Hs384 => SecretAlgorithm::Hs384,
        TokenAlgorithm::Hs512 => SecretAlgorithm::Hs512,
    };
    let public = jwt.keys.iter().map(|file| match Path::new(file).extension() {
        Some(extension) if extension == "json" => JwtKeySource::Jwks { file: file.into() },
        _ => JwtKeySource::PublicKey { file: file.into() },
    });
    let secret = jwt.secrets.iter().map(|file| JwtKeySource::Secret { algorithm, file: file.into() });
    let keys: Vec<JwtKeySource> = public.chain(secret).collect();
    if keys.is_empty() {
        return Ok(None);
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let settings = JwtSettings {
        keys,
        issuer: given(&jwt.issuer),
        audience: given(&jwt.audience),
        user_claim: jwt.user_claim.clone(),
        require_user_match: jwt.user_name_must_match,
        publish_claim: given(&jwt.publish_claim),
        subscribe_claim: given(&jwt.subscribe_claim),
        leeway_seconds: u64::from(jwt.leeway_seconds),
        require_expiry: jwt.expiry_required,
    };
    let verifier = JwtVerifier::load(&settings).map_err(|error| format!("[jwt]: {error}"))?;
    notes.extend(verifier.left_out().iter().map(|words| format!("[jwt]: {words}")));
    Ok(Some(Arc::new(verifier)))
}

/// The client of the webhook, if there is one.
fn load_webhook(webhook: &Webhook, notes: &mut Vec<String>) -> Result<Option<Arc<WebhookClient>>, String> {
    if webhook.url.is_empty() {
        return Ok(None);
    }
    let header = match (webhook.header.as_str(), webhook.header_file.as_str()) {
        ("", "") => None,
        ("", _) | (_, "") => {
            return Err("[webhook]: header and header_file must be set together".to_owned());
        }
        (name, file) => Some(WebhookHeader { name: name.to_owned(), value_file: file.into() }),
    };
    let settings = WebhookSettings {
        url: webhook.url.clone(),
        header,
        ca_file: Some(&webhook.ca_file).filter(|file| !file.is_empty()).map(Into::into),
        connect_timeout_millis: u64::from(webhook.connect_milliseconds),
        timeout_millis: u64::from(webhook.answer_milliseconds),
        concurrent_max: webhook.requests,
        cache_seconds: u64::from(webhook.cache_seconds),
        deny_cache_millis: u64::from(webhook.refusal_cache_milliseconds),
        cache_entries_max: webhook.cache_logins,
        failures_max: webhook.failures,
        circuit_open_millis: u64::from(webhook.rest_milliseconds),
    };
    let client = WebhookClient::load(&settings).map_err(|error| format!("[webhook]: {error}"))?;
    if client.sends_passwords_in_clear() {
        notes.push(format!("[webhook]: passwords go to {} unencrypted", webhook.url));
    }
    Ok(Some(Arc::new(client)))
}

/// The users of a password file that can log in with SCRAM.
fn scram(file: &Arc<PasswordFile>) -> Result<Option<Arc<ScramUsers>>, String> {
    let mut nonce_key = [0; 32];
    getrandom::fill(&mut nonce_key).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(ScramUsers::new(file, nonce_key).map(Arc::new))
}

/// With `skips`, a wrong line is skipped and noted.
fn load_passwords(path: &Path, skips: bool, notes: &mut Vec<String>) -> Result<Arc<PasswordFile>, String> {
    if !skips {
        return PasswordFile::load(path).map(Arc::new).map_err(|errors| errors.to_string());
    }
    let (file, errors) = PasswordFile::load_lines(path).map_err(|errors| errors.to_string())?;
    let words = errors.map(|errors| errors.to_string()).unwrap_or_default();
    notes.extend(words.lines().map(|line| format!("skipped: {line}")));
    Ok(Arc::new(file))
}

/// The content of a file, which is read once. `None` for an empty name.
fn once<T: Clone>(
    read: &mut BTreeMap<String, T>,
    file: &str,
    load: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if file.is_empty() {
        return Ok(None);
    }
    if let Some(have) = read.get(file) {
        return Ok(Some(have.clone()));
    }
    let loaded = load(Path::new(file))?;
    read.insert(file.to_owned(), loaded.clone());
    Ok(Some(loaded))
}

/// Whether the name in a client's certificate is its user name on this listener.
pub fn user_of_certificate(
    listener: &Listener,
    common_name: Option<String>,
    subject: Option<String>,
) -> Option<Box<str>> {
    let name = match listener.tls_user_name {
        UserNames::None => None,
        UserNames::CommonName => common_name,
        UserNames::Subject => subject,
    };
    name.filter(|name| !name.is_empty()).map(String::into_boxed_str)
}
