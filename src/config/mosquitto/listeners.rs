//! Writes the listeners of a [`Mapping`](super::Mapping): their addresses, their protocol, and their
//! settings.

use super::mapping::{SettingOrigin, TomlTable, TomlValue, Writer, from, line};
use super::{ListenAddress, MosquittoListener, Protocol, SocketDomain};
use crate::settings::TlsMinimum;

/// Bytes for the request line and the names of the headers.
const WEBSOCKET_NAMES_BYTES: u64 = 4096;

/// The default of `websocket_header_bytes`.
const HEADER_BYTES_DEFAULT: u64 = 16_384;

impl Writer<'_> {
    pub(super) fn write_listeners(&mut self) {
        let conf = self.conf;
        if conf.local_only {
            for listener in &conf.listeners {
                let text = "without a listener or port line mosquitto serves this machine alone, and passes \
                            over the keys of listeners, from this line on";
                self.note(line(&listener.place, &listener.opened_by), text);
            }
            let (port, origin) = match conf.port_override {
                Some(port) => (port, SettingOrigin::CommandLine),
                None => (1883, SettingOrigin::Default),
            };
            for host in if conf.has_ipv6 { &["127.0.0.1", "[::1]"][..] } else { &["127.0.0.1"] } {
                self.begin_listener();
                self.put("address", TomlValue::Text(format!("{host}:{port}")), origin.clone());
            }
            return;
        }
        for listener in &conf.listeners {
            let addresses = addresses(listener, conf.has_ipv6);
            if !matches!(listener.opened_by.as_str(), "listener" | "port" | "bind_address") {
                let text = "no listener stands above this line: it opens mosquitto's default listener";
                self.note(line(&listener.place, &listener.opened_by), text);
            }
            for address in &addresses {
                self.begin_listener();
                self.write_listener(listener, address, addresses.len() > 1);
            }
            self.note_without_effect(listener);
        }
    }

    fn begin_listener(&mut self) {
        self.table = TomlTable::Listener(self.listeners);
        self.listeners += 1;
    }

    fn write_listener(&mut self, listener: &MosquittoListener, address: &str, is_one_of_two: bool) {
        let settings = &listener.settings;
        self.put("address", TomlValue::Text(address.to_owned()), line(&listener.place, &listener.opened_by));
        self.write_web(listener);
        self.write_tls(listener);
        if let Some((version, origin)) = from!(settings, enable_proxy_protocol) {
            let every = ["0.0.0.0/0", "::/0"].map(str::to_owned).to_vec();
            let trusted = self.put("proxy_trusted", TomlValue::Texts(every), origin);
            trusted.is_vital = true;
            trusted.comment = Some(format!(
                "mosquitto believes every client that connects: name your proxies here. midge takes both versions of the \
                 header, not {version} alone."
            ));
        }
        if let Some((Some(limit), origin)) = from!(settings, max_connections) {
            let setting = self.put("connections", TomlValue::Integer(limit.into()), origin);
            setting.is_vital = true;
            if is_one_of_two {
                let text = "For IPv4 and IPv6 each; mosquitto counts both together.";
                setting.comment = Some(text.to_owned());
            }
        }
        if let Some((versions, origin)) = from!(settings, accept_protocol_versions) {
            let words = versions.iter().filter_map(|version| match version {
                3 => Some("3.1".to_owned()),
                4 => Some("3.1.1".to_owned()),
                5 => Some("5.0".to_owned()),
                _ => None,
            });
            self.put("versions", TomlValue::Texts(words.collect()), origin).is_vital = true;
        }
        if let Some((mount_point, origin)) = from!(settings, mount_point) {
            self.put("mount_point", TomlValue::Text(mount_point), origin).is_vital = true;
        }
        if let Some((qos, origin)) = from!(settings, max_qos) {
            self.put("maximum_qos", TomlValue::Integer(qos.into()), origin).is_vital = qos < 2;
        }
        if let Some((aliases, origin)) = from!(settings, max_topic_alias) {
            self.put("topic_alias_maximum", TomlValue::Integer(aliases.into()), origin);
        }
        if let Some((aliases, origin)) = from!(settings, max_topic_alias_broker) {
            self.put("topic_alias_maximum_out", TomlValue::Integer(aliases.into()), origin);
        }
        if let Some((true, origin)) = from!(settings, use_username_as_clientid) {
            self.put("user_name_as_client_id", TomlValue::Boolean(true), origin).is_vital = true;
        }
        if let Some((interface, origin)) = from!(settings, bind_interface) {
            self.put("interface", TomlValue::Text(interface), origin).is_vital = true;
        }
        if let Some((prefix, origin)) = from!(settings, listener_auto_id_prefix) {
            self.put("assigned_client_id_prefix", TomlValue::Text(prefix), origin);
        }
        self.write_listener_access(listener);
    }

    fn write_web(&mut self, listener: &MosquittoListener) {
        let Some((Protocol::Websockets, origin)) = from!(listener.settings, protocol) else { return };
        let websocket = TomlValue::Text("websocket".to_owned());
        self.put("protocol", websocket, origin).is_vital = true;
        if let Some((bytes, origin)) = from!(self.conf.global, websockets_headers_size) {
            // libwebsockets counts the header values only; midge counts the whole request. A bound below
            // midge's default would protect nothing.
            let bytes = u64::from(bytes) + WEBSOCKET_NAMES_BYTES;
            let bytes = bytes.max(HEADER_BYTES_DEFAULT);
            self.put("websocket_header_bytes", TomlValue::Integer(bytes), origin);
        }
        if let Some(first) = listener.websockets_origins.first() {
            let origins = listener.websockets_origins.iter().map(|origin| origin.value.clone()).collect();
            let setting =
                self.put("websocket_origins", TomlValue::Texts(origins), line(first, "websockets_origin"));
            setting.is_vital = true;
        }
    }

    fn write_tls(&mut self, listener: &MosquittoListener) {
        let settings = &listener.settings;
        let (Some((certificate, at_certificate)), Some((key, at_key))) =
            (from!(settings, certfile), from!(settings, keyfile))
        else {
            return;
        };
        self.put("tls_certificates", TomlValue::Texts(vec![certificate]), at_certificate).is_vital = true;
        self.put("tls_keys", TomlValue::Texts(vec![key]), at_key).is_vital = true;
        if let Some((authorities, origin)) = from!(settings, cafile) {
            self.put("tls_chain", TomlValue::Text(authorities), origin);
        }
        let requires = settings.require_certificate.as_ref().is_some_and(|setting| setting.value);
        if let Some((directory, origin)) = from!(settings, capath) {
            let setting = self.put("tls_ca_directory", TomlValue::Text(directory), origin);
            setting.is_vital = requires;
            setting.comment = Some(
                "mosquitto reads only files there that are named by a hash (openssl rehash), and reads them when a client \
                 connects; midge reads every file with certificates, at its start and at SIGHUP."
                    .to_owned(),
            );
        }
        if let Some((true, origin)) = from!(settings, require_certificate) {
            if let Some((authorities, origin)) = from!(settings, cafile) {
                self.put("tls_client_ca", TomlValue::Text(authorities), origin).is_vital = true;
            }
            let required = TomlValue::Text("required".to_owned());
            self.put("tls_client_certificate", required, origin).is_vital = true;
            let rules = TomlValue::Text("openssl".to_owned());
            let setting = self.put("tls_client_certificate_rules", rules, SettingOrigin::Default);
            setting.is_vital = true;
            setting.comment = Some(
                "Takes client certificates of X.509 version 1, and self-signed ones that are in the CA file, as \
                 mosquitto does. \"standard\" refuses them."
                    .to_owned(),
            );
            if let Some((revoked, origin)) = from!(settings, crlfile) {
                self.put("tls_crl", TomlValue::Text(revoked), origin.clone()).is_vital = true;
                let scope = TomlValue::Text("client".to_owned());
                self.put("tls_crl_scope", scope, origin).is_vital = true;
            }
            if let Some((true, origin)) = from!(settings, disable_client_cert_date_checks) {
                self.put("tls_client_certificate_dates", TomlValue::Boolean(false), origin).is_vital = true;
            }
        }
        // If both are on, mosquitto uses the common name.
        let common_name = from!(settings, use_identity_as_username).map(|on| (on, "common_name"));
        let subject = from!(settings, use_subject_as_username).map(|on| (on, "subject"));
        let user_name = [common_name, subject].into_iter().flatten().find(|((on, _), _)| *on);
        if let Some(((_, origin), word)) = user_name {
            self.put("tls_user_name", TomlValue::Text(word.to_owned()), origin).is_vital = true;
        }
        if let Some((version, origin)) = from!(settings, tls_version) {
            let word = match version {
                TlsMinimum::V12 => "1.2",
                TlsMinimum::V13 => "1.3",
            };
            self.put("tls_minimum", TomlValue::Text(word.to_owned()), origin).is_vital =
                version == TlsMinimum::V13;
        }
    }

    /// Adds notes about TLS settings that have no effect in mosquitto either.
    fn note_without_effect(&mut self, listener: &MosquittoListener) {
        let settings = &listener.settings;
        let has_tls = settings.certfile.is_some();
        let requires = settings.require_certificate.as_ref().is_some_and(|setting| setting.value);
        if has_tls && !requires {
            let text = "without effect, in mosquitto either, as long as require_certificate is off";
            if let Some((_, origin)) = from!(settings, crlfile) {
                self.note(origin, text);
            }
        }
        if !has_tls {
            let text = "without effect, in mosquitto either, as long as the listener has no certfile";
            let on = [
                from!(settings, require_certificate),
                from!(settings, use_identity_as_username),
                from!(settings, use_subject_as_username),
                from!(settings, disable_client_cert_date_checks),
            ];
            for (_, origin) in on.into_iter().flatten().filter(|(on, _)| *on) {
                self.note(origin, text);
            }
            if let Some((_, origin)) = from!(settings, crlfile) {
                self.note(origin, text);
            }
        }
    }

    fn write_listener_access(&mut self, listener: &MosquittoListener) {
        if let Some((allowed, origin)) = from!(listener.settings, listener_allow_anonymous) {
            self.put("allow_anonymous", TomlValue::Boolean(allowed), origin).is_vital = true;
        }
        if !self.is_per_listener() {
            return;
        }
        let security = &listener.security;
        if let Some((allowed, origin)) = from!(security, allow_anonymous) {
            self.put("allow_anonymous", TomlValue::Boolean(allowed), origin).is_vital = true;
        }
        if let Some((file, origin)) = from!(security, password_file) {
            self.put("password_file", TomlValue::Text(file), origin).is_vital = true;
        }
        if let Some((file, origin)) = from!(security, acl_file) {
            self.put("acl_file", TomlValue::Text(file), origin).is_vital = true;
        }
        self.write_client_ids(security);
    }
}

/// The addresses of a listener. If it has none, mosquitto opens a socket for each address family of the
/// machine.
fn addresses(listener: &MosquittoListener, has_ipv6: bool) -> Vec<String> {
    let domain = listener.settings.socket_domain.as_ref().map(|domain| domain.value);
    match (&listener.place.value, domain) {
        (ListenAddress::Socket(path), _) => vec![format!("unix:{path}")],
        (ListenAddress::Port(port, Some(host)), _) if host.contains(':') => vec![format!("[{host}]:{port}")],
        (ListenAddress::Port(port, Some(host)), _) => vec![format!("{host}:{port}")],
        (ListenAddress::Port(port, None), Some(SocketDomain::Ipv4)) => vec![format!("0.0.0.0:{port}")],
        (ListenAddress::Port(port, None), Some(SocketDomain::Ipv6)) => vec![format!("[::]:{port}")],
        (ListenAddress::Port(port, None), None) if has_ipv6 => {
            vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")]
        }
        (ListenAddress::Port(port, None), None) => vec![format!("0.0.0.0:{port}")],
    }
}
