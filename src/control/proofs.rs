//! The proofs of identity that one listener accepts: a password, a token, or the answer of the operator's own
//! server.
//!
//! The input is a login, the output a verdict. [`Proofs::check`] computes, for a tenth of a second at most.
//! If it can't decide, [`Proofs::ask`] asks the server and waits for the answer. Both run on the threads of
//! `control::logins`.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::auth::hash::HashScratch;
use crate::auth::jwt::{JwtVerifier, TokenRefusal};
use crate::auth::password_file::PasswordFile;
use crate::auth::webhook::{LoginRequest, WebhookAnswer, WebhookClient, WebhookRefusal};
use crate::control::login_counts::LoginMethod;
use crate::mqtt::ProtocolVersion;
use crate::policy::access::{Grant, Login, PasswordLines, Verdict};
use crate::policy::acl::Permissions;

/// The proofs that a listener accepts. A proof that is `None` is not asked for.
#[derive(Clone, Default)]
pub struct Proofs {
    /// User names and the hashes of their passwords.
    pub passwords: Option<Arc<PasswordFile>>,
    /// The keys of tokens.
    pub tokens: Option<Arc<JwtVerifier>>,
    /// The client of the webhook.
    pub webhook: Option<Arc<WebhookClient>>,
    /// The listener's address, for the webhook.
    pub listener: String,
    /// The listener's mount point, for the webhook.
    pub mount_point: Option<String>,
}

const BAD_PASSWORD: &str = "unknown user or wrong password";

impl Proofs {
    /// Checks everything that needs no other server. Returns `None` if the webhook must be asked. If the
    /// listener accepts tokens, a password that looks like a token is checked as one. An unknown user and a
    /// wrong password take the same time.
    pub fn check(&self, login: &Login) -> Option<(LoginMethod, Verdict)> {
        thread_local! {
            static SCRATCH: RefCell<HashScratch> = RefCell::new(HashScratch::default());
        }
        if !login.is_certified {
            let password = login.password();
            match (&self.tokens, password) {
                (Some(tokens), Some(token)) if looks_like_token(token) => {
                    return Some((LoginMethod::Token, by_token(tokens, login, token, unix_seconds())));
                }
                _ => {}
            }
            if let (Some(file), Some(user)) = (&self.passwords, login.user.as_deref()) {
                // A missing password is not an empty one, but the check takes the same time.
                let given = password.unwrap_or_default();
                let good = SCRATCH.with_borrow_mut(|scratch| file.verify_with(user, given, scratch));
                if good && password.is_some() {
                    let (user, line) = (login.user.clone(), file.line(user));
                    let grant = Grant { user, line, ..Grant::default() };
                    return Some((LoginMethod::Password, Verdict::Good(grant)));
                }
            }
        }
        let Some(webhook) = &self.webhook else {
            return Some(match self.passwords.is_some() {
                true => (LoginMethod::Password, Verdict::Bad(BAD_PASSWORD)),
                false => (LoginMethod::Token, Verdict::Bad(TokenRefusal::Malformed.words())),
            });
        };
        let remembered = webhook.remembered(&self.request(login), instant())?;
        Some((LoginMethod::Webhook, by_webhook(remembered, login, unix_seconds())))
    }

    /// Asks the webhook. Waits for `webhook.timeout_milliseconds` at most.
    pub fn ask(&self, login: &Login) -> Verdict {
        let Some(webhook) = &self.webhook else { return Verdict::Bad(BAD_PASSWORD) };
        let now = unix_seconds();
        match webhook.check(&self.request(login), now) {
            Ok(answer) => by_webhook(answer, login, now),
            Err(WebhookRefusal::Busy) => Verdict::Busy,
            Err(WebhookRefusal::Resting) => Verdict::Unavailable,
            Err(WebhookRefusal::Unreachable(words)) => {
                // This can't log a line for every login: after some failures in a row the server is not asked
                // for a while.
                tracing::warn!("webhook: {words}; the login is refused");
                Verdict::Unavailable
            }
        }
    }

    fn request(&self, login: &Login) -> LoginRequest {
        LoginRequest {
            client_id: login.client_id.to_string(),
            username: login.user.as_deref().map(str::to_owned),
            password: login.password().map(<[u8]>::to_vec),
            peer: login.peer.ip(),
            protocol_version: match login.version {
                ProtocolVersion::V31 => 3,
                ProtocolVersion::V311 => 4,
                ProtocolVersion::V5 => 5,
            },
            listener: self.listener.clone(),
            mount: self.mount_point.clone(),
            is_certified: login.is_certified,
        }
    }
}

/// Whether a password has three parts and begins with the base64 of a JSON object.
fn looks_like_token(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && password.iter().filter(|&&byte| byte == b'.').count() == 2
}

fn by_token(tokens: &JwtVerifier, login: &Login, token: &[u8], now: u64) -> Verdict {
    let granted = match tokens.verify(token, login.user.as_deref(), &login.client_id, now) {
        Ok(granted) => granted,
        Err(refusal) => return Verdict::Bad(refusal.words()),
    };
    match Permissions::of_lists(granted.publish.as_deref(), granted.subscribe.as_deref()) {
        Ok(permissions) => Verdict::Good(Grant {
            user: Some(granted.user.into()),
            line: None,
            seconds: granted.expires_at.map(|end| end.saturating_sub(now)),
            permissions,
        }),
        Err(_) => Verdict::Bad("a claim of the token has an invalid topic filter"),
    }
}

fn by_webhook(answer: WebhookAnswer, login: &Login, now: u64) -> Verdict {
    let granted = match answer {
        WebhookAnswer::Allow(granted) => granted,
        WebhookAnswer::Deny => return Verdict::Bad("the webhook denies it"),
        WebhookAnswer::Ignore => return Verdict::Bad(BAD_PASSWORD),
    };
    match Permissions::of_lists(granted.publish.as_deref(), granted.subscribe.as_deref()) {
        Ok(permissions) => Verdict::Good(Grant {
            user: granted.user.as_deref().map(Box::from).or_else(|| login.user.clone()),
            line: None,
            seconds: granted.expires_at.map(|end| end.saturating_sub(now)),
            permissions,
        }),
        Err(error) => {
            tracing::warn!("webhook: its answer has an invalid topic filter: {error}; the login is refused");
            Verdict::Unavailable
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "tokens and grants end by the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[allow(clippy::disallowed_methods, reason = "the age of what is remembered")]
fn instant() -> Instant {
    Instant::now()
}
