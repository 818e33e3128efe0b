//! The means by which the clients of a listener can prove who they are, as far as the configuration alone
//! shows.

use std::fmt;

use super::{Config, Listener, UserNames};

/// The means of proof of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Means {
    /// A password file.
    pub passwords: bool,
    /// Keys of tokens.
    pub tokens: bool,
    /// The webhook.
    pub webhook: bool,
    /// The names of client certificates.
    pub certificates: bool,
}

impl Means {
    /// Whether there is any means of proof.
    pub fn any(self) -> bool {
        self != Means::default()
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Means { passwords, tokens, webhook, certificates } = *self;
        let all = [
            (certificates, "client certificate"),
            (passwords, "password"),
            (tokens, "token"),
            (webhook, "webhook"),
        ];
        let mut there = all.iter().filter(|(is_there, _)| *is_there).map(|(_, name)| *name);
        f.write_str(there.next().unwrap_or("nothing"))?;
        there.try_for_each(|name| write!(f, " or {name}"))
    }
}

impl Config {
    /// The means of proof that a listener accepts. An access list is not one: it says what a client may do,
    /// not who it is.
    pub fn means(&self, listener: &Listener) -> Means {
        let has_keys = !self.jwt.keys.is_empty() || !self.jwt.secrets.is_empty();
        Means {
            passwords: !listener.password_file.as_ref().unwrap_or(&self.auth.password_file).is_empty(),
            tokens: has_keys && listener.jwt != Some(false),
            webhook: !self.webhook.url.is_empty() && listener.webhook != Some(false),
            certificates: listener.tls_user_name != UserNames::None,
        }
    }

    /// Whether clients may connect to a listener without proving who they are. If the option is left out,
    /// they may only if the listener has no means of proof and no other machine can reach it. A load balancer
    /// on this machine connects clients from other machines.
    pub(super) fn allows_anonymous(&self, listener: &Listener) -> bool {
        let chosen = listener.allow_anonymous.or(self.auth.allow_anonymous);
        chosen.unwrap_or_else(|| {
            listener.address.is_loopback() && listener.proxy_trusted.is_empty() && !self.means(listener).any()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Address;

    fn is_open(set: impl FnOnce(&mut Config)) -> bool {
        let mut config = Config::default();
        set(&mut config);
        config.terms(&config.listeners[0]).allow_anonymous
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn left_out_allow_anonymous_is_true_only_where_nothing_proves_and_no_other_machine_comes_in() {
        assert!(is_open(|_| ()));
        for local in ["[::1]:1883", "localhost:1883", "127.8.8.8:1", "unix:/run/midge.sock"] {
            assert!(is_open(|config| config.listeners[0].address = address(local)), "{local}");
        }
        for far in ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:1883", "example.org:1883"] {
            assert!(!is_open(|config| config.listeners[0].address = address(far)), "{far}");
        }
        type Change = fn(&mut Config);
        let closing: [(&str, Change); 8] = [
            ("auth.password_file", |config| config.auth.password_file = "p".into()),
            ("password_file", |config| config.listeners[0].password_file = Some("p".into())),
            ("jwt.keys", |config| config.jwt.keys = vec!["k".into()]),
            ("jwt.secrets", |config| config.jwt.secrets = vec!["s".into()]),
            ("webhook.url", |config| config.webhook.url = "http://h/".into()),
            ("tls_user_name", |config| config.listeners[0].tls_user_name = UserNames::CommonName),
            ("tls_user_name", |config| config.listeners[0].tls_user_name = UserNames::Subject),
            ("proxy_trusted", |config| config.listeners[0].proxy_trusted = vec!["127.0.0.1".into()]),
        ];
        for (name, close) in closing {
            assert!(!is_open(close), "{name}");
            let asked_for = |config: &mut Config| {
                close(config);
                config.auth.allow_anonymous = Some(true);
            };
            assert!(is_open(asked_for), "{name}, and allow_anonymous = true");
        }
    }

    #[test]
    fn a_means_that_the_listener_wants_none_of_does_not_count() {
        assert!(is_open(|config| {
            config.auth.password_file = "p".into();
            config.listeners[0].password_file = Some(String::new());
            config.jwt.keys = vec!["k".into()];
            config.listeners[0].jwt = Some(false);
            config.webhook.url = "http://h/".into();
            config.listeners[0].webhook = Some(false);
            config.acl.file = "an access list proves nothing".into();
        }));
    }

    #[test]
    fn means_are_named() {
        let all = Means { passwords: true, tokens: true, webhook: true, certificates: true };
        assert_eq!(all.to_string(), "client certificate or password or token or webhook");
        assert_eq!(Means { tokens: true, ..Means::default() }.to_string(), "token");
        assert!(!Means::default().any());
    }
}
