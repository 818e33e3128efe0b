//! What can be checked only when everything is read: settings of a listener that need or exclude each other.

use std::net::IpAddr;

use super::{ConfError, MosquittoConf, MosquittoListener, Place, Spanned};

/// Adds what is wrong with listeners as a whole.
pub(super) fn check(conf: &MosquittoConf, errors: &mut Vec<ConfError>) {
    if conf.local_only {
        // mosquitto serves none of them then.
        return;
    }
    for listener in &conf.listeners {
        check_tls(listener, errors);
        check_proxy(listener, errors);
        check_domain(listener, errors);
    }
}

fn refuse<T>(errors: &mut Vec<ConfError>, at: &Spanned<T>, key: &str, message: &str) {
    errors.push(ConfError {
        file: at.file.to_string(),
        line: Some(at.line),
        key: key.to_owned(),
        message: message.to_owned(),
    });
}

fn is_on(setting: &Option<Spanned<bool>>) -> Option<&Spanned<bool>> {
    setting.as_ref().filter(|setting| setting.value)
}

fn check_tls(listener: &MosquittoListener, errors: &mut Vec<ConfError>) {
    let settings = &listener.settings;
    match (&settings.certfile, &settings.keyfile) {
        (Some(certificate), None) => refuse(errors, certificate, "certfile", "needs a keyfile"),
        (None, Some(key)) => refuse(errors, key, "keyfile", "needs a certfile"),
        _ => {}
    }
    if let (Some(authorities), None) = (&settings.cafile, &settings.certfile) {
        refuse(errors, authorities, "cafile", "needs a certfile and a keyfile");
    }
    if let (Some(required), Some(_), None) =
        (is_on(&settings.require_certificate), &settings.certfile, &settings.cafile)
    {
        let message = "needs a cafile: without one no client's certificate counts";
        refuse(errors, required, "require_certificate", message);
    }
}

fn check_proxy(listener: &MosquittoListener, errors: &mut Vec<ConfError>) {
    let settings = &listener.settings;
    if settings.enable_proxy_protocol.as_ref().is_none_or(|version| version.value != 2) {
        return;
    }
    let excluded = "cannot stand beside enable_proxy_protocol 2";
    if let Some(subject) = is_on(&settings.use_subject_as_username) {
        refuse(errors, subject, "use_subject_as_username", excluded);
    }
    if let Some(certificate) = &settings.certfile {
        refuse(errors, certificate, "certfile", excluded);
    }
    // The header of version 2 can tell of the certificate that the proxy has seen; midge does not look there.
    let why = "not supported beside enable_proxy_protocol 2: midge does not take a client's certificate from \
               a proxy; leaving it out would change who may come in";
    for (key, setting) in [
        ("require_certificate", &settings.require_certificate),
        ("use_identity_as_username", &settings.use_identity_as_username),
    ] {
        if let Some(setting) = is_on(setting) {
            refuse(errors, setting, key, why);
        }
    }
}

/// A name stands for all its addresses; midge can't take a part of them.
fn check_domain(listener: &MosquittoListener, errors: &mut Vec<ConfError>) {
    let Some(domain) = &listener.settings.socket_domain else { return };
    if let Place::Port(_, Some(host)) = &listener.place.value
        && host.parse::<IpAddr>().is_err()
    {
        let message = "not supported beside a host name: write the address in the listener line instead";
        refuse(errors, domain, "socket_domain", message);
    }
}
