//! Checks that need the whole file: settings of a listener that require or exclude each other.

use std::net::IpAddr;

use super::{Diagnostic, ListenAddress, MosquittoConf, MosquittoListener, Problem, Spanned};

/// An error of a listener: the listener's number, the line, and the problem.
pub(super) type Found = (usize, Diagnostic, Problem);

/// Checks each listener as a whole.
pub(super) fn check(conf: &MosquittoConf) -> Vec<Found> {
    let mut found = Vec::new();
    if conf.local_only {
        // mosquitto serves none of them in this case.
        return found;
    }
    for (number, listener) in conf.listeners.iter().enumerate() {
        let mut check = Check { listener, number, found: &mut found };
        check.tls();
        check.proxy();
        check.domain();
    }
    found
}

struct Check<'a> {
    listener: &'a MosquittoListener,
    number: usize,
    found: &'a mut Vec<Found>,
}

fn is_on(setting: &Option<Spanned<bool>>) -> Option<&Spanned<bool>> {
    setting.as_ref().filter(|setting| setting.value)
}

impl Check<'_> {
    fn refuse<T>(&mut self, at: &Spanned<T>, key: &str, problem: Problem) {
        let error = Diagnostic {
            file: at.file.to_string(),
            line: Some(at.line),
            key: key.to_owned(),
            message: String::new(),
        };
        self.found.push((self.number, error, problem));
    }

    fn wrong<T>(&mut self, at: &Spanned<T>, key: &str, message: &str) {
        self.refuse(at, key, Problem::Wrong(message.to_owned()));
    }

    fn tls(&mut self) {
        let settings = &self.listener.settings;
        match (&settings.certfile, &settings.keyfile) {
            (Some(certificate), None) => self.wrong(certificate, "certfile", "needs a keyfile"),
            (None, Some(key)) => self.wrong(key, "keyfile", "needs a certfile"),
            _ => {}
        }
        for (key, authorities) in [("cafile", &settings.cafile), ("capath", &settings.capath)] {
            if let (Some(authorities), None) = (authorities, &settings.certfile) {
                self.wrong(authorities, key, "needs a certfile and a keyfile");
            }
        }
        if let (Some(required), Some(_), None, None) =
            (is_on(&settings.require_certificate), &settings.certfile, &settings.cafile, &settings.capath)
        {
            let message = "needs a cafile or a capath: without one no client's certificate counts";
            self.wrong(required, "require_certificate", message);
        }
    }

    fn proxy(&mut self) {
        let settings = &self.listener.settings;
        if settings.enable_proxy_protocol.as_ref().is_none_or(|version| version.value != 2) {
            return;
        }
        let excluded = "cannot stand beside enable_proxy_protocol 2";
        if let Some(subject) = is_on(&settings.use_subject_as_username) {
            self.wrong(subject, "use_subject_as_username", excluded);
        }
        if let Some(certificate) = &settings.certfile {
            self.wrong(certificate, "certfile", excluded);
        }
        // A header of version 2 can carry facts about the certificate that the proxy has seen. midge does not
        // read them.
        let why = "not supported beside enable_proxy_protocol 2: midge does not take a client's certificate from \
                   a proxy; leaving it out would change who may come in";
        for (key, setting) in [
            ("require_certificate", &settings.require_certificate),
            ("use_identity_as_username", &settings.use_identity_as_username),
        ] {
            if let Some(setting) = is_on(setting) {
                self.refuse(setting, key, Problem::ClosesListener(why.to_owned()));
            }
        }
    }

    /// A host name stands for all of its addresses. midge can't listen on a part of them.
    fn domain(&mut self) {
        let Some(domain) = &self.listener.settings.socket_domain else { return };
        if let ListenAddress::Port(_, Some(host)) = &self.listener.place.value
            && host.parse::<IpAddr>().is_err()
        {
            let message = "not supported beside a host name: write the address in the listener line instead";
            self.refuse(domain, "socket_domain", Problem::NotSupported(message.to_owned()));
        }
    }
}
