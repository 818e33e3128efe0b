//! Checks the values of a line and stores them as settings of the broker, of a listener, or of who may
//! connect.

use super::line::{INT, Line, text};
use super::{
    Global, ListenAddress, ListenerSettings, MosquittoListener, Problem, Protocol, Security, SocketDomain,
    Spanned, keys,
};
use crate::settings::TlsMinimum;
use crate::settings::value::quoted;

pub(super) fn set_global(global: &mut Global, line: &Line<'_>) -> Result<(), String> {
    match line.key {
        "check_retain_source" => global.check_retain_source = Some(line.boolean()?),
        "clientid_prefixes" => global.clientid_prefixes = Some(line.text()?),
        "connection_messages" => global.connection_messages = Some(line.boolean()?),
        "global_max_clients" => global.global_max_clients = Some(line.limit()?),
        "global_max_connections" => global.global_max_connections = Some(line.limit()?),
        "max_inflight_bytes" => global.max_inflight_bytes = Some(line.limit()?),
        "max_inflight_messages" => {
            let number = line.integer(*INT.start()..=65_535)?;
            let limit = u32::try_from(number).ok().filter(|number| (1..65_535).contains(number));
            global.max_inflight_messages = Some(line.at(limit));
        }
        "max_keepalive" => {
            line.integer(0..=65_535)?;
            global.max_keepalive = Some(line.limit()?);
        }
        "max_packet_size" => global.max_packet_size = Some(line.unsigned(20..=INT_MAX)?),
        "max_queued_bytes" => global.max_queued_bytes = Some(line.limit()?),
        "max_queued_messages" => global.max_queued_messages = Some(line.limit()?),
        "memory_limit" => {
            let bytes = line.integer(0..=i64::MAX)?;
            global.memory_limit = Some(line.at(bytes.unsigned_abs()));
        }
        "message_size_limit" => {
            line.integer(0..=PAYLOAD_BYTES_MAX)?;
            global.message_size_limit = Some(line.limit()?);
        }
        "persistence" | "retained_persistence" => global.persistence = Some(line.boolean()?),
        "persistence_file" => once(&mut global.persistence_file, line)?,
        "persistence_location" => once(&mut global.persistence_location, line)?,
        "persistent_client_expiration" => {
            let seconds = duration_seconds(line.word()?)?;
            global.persistent_client_expiration = Some(line.at(seconds));
        }
        "queue_qos0_messages" => global.queue_qos0_messages = Some(line.boolean()?),
        "retain_available" => global.retain_available = Some(line.boolean()?),
        "sys_interval" => global.sys_interval = Some(line.unsigned(0..=65_535)?),
        "upgrade_outgoing_qos" => global.upgrade_outgoing_qos = Some(line.boolean()?),
        "websockets_headers_size" => global.websockets_headers_size = Some(line.unsigned(0..=65_535)?),
        key => return Err(keys::unknown(key)),
    }
    Ok(())
}

const INT_MAX: u32 = i32::MAX as u32;

/// The largest payload of a PUBLISH, in bytes.
const PAYLOAD_BYTES_MAX: i64 = 268_435_455;

pub(super) fn set_security(security: &mut Security, line: &Line<'_>) -> Result<(), String> {
    match line.key {
        "acl_file" => security.acl_file = Some(line.text()?),
        "allow_anonymous" => security.allow_anonymous = Some(line.boolean()?),
        "allow_zero_length_clientid" => security.allow_zero_length_clientid = Some(line.boolean()?),
        "auto_id_prefix" => prefix(&mut security.auto_id_prefix, line)?,
        "password_file" => security.password_file = Some(line.text()?),
        key => return Err(keys::unknown(key)),
    }
    Ok(())
}

pub(super) fn set_listener(listener: &mut MosquittoListener, line: &Line<'_>) -> Result<(), Problem> {
    let settings = &mut listener.settings;
    match line.key {
        "accept_protocol_versions" => settings.accept_protocol_versions = Some(versions(line)?),
        "bind_interface" => once(&mut settings.bind_interface, line)?,
        "cafile" => settings.cafile = Some(line.text()?),
        "capath" => settings.capath = Some(line.text()?),
        "certfile" => settings.certfile = Some(line.text()?),
        "crlfile" => settings.crlfile = Some(line.text()?),
        "disable_client_cert_date_checks" => settings.disable_client_cert_date_checks = Some(line.boolean()?),
        "enable_proxy_protocol" => settings.enable_proxy_protocol = Some(line.unsigned(1..=2)?),
        "keyfile" => settings.keyfile = Some(line.text()?),
        "listener_allow_anonymous" => {
            settings.listener_allow_anonymous = Some(line.boolean()?);
            listener.security.allow_anonymous = None;
        }
        "listener_auto_id_prefix" => {
            refuse_second(listener.security.auto_id_prefix.as_ref())?;
            prefix(&mut settings.listener_auto_id_prefix, line)?;
        }
        "max_connections" => settings.max_connections = Some(line.limit()?),
        "max_qos" | "maximum_qos" => settings.max_qos = Some(line.unsigned(0..=2)?),
        "max_topic_alias" => settings.max_topic_alias = Some(line.unsigned(0..=65_535)?),
        "max_topic_alias_broker" => settings.max_topic_alias_broker = Some(line.unsigned(0..=65_535)?),
        "mount_point" => settings.mount_point = Some(mount_point(line)?),
        "protocol" => settings.protocol = Some(protocol(line)?),
        "require_certificate" => settings.require_certificate = Some(line.boolean()?),
        "socket_domain" => settings.socket_domain = Some(socket_domain(line)?),
        "tls_version" => {
            let version = tls_version(line)?;
            refuse_second(settings.tls_version.as_ref())?;
            settings.tls_version = Some(version);
        }
        "use_identity_as_username" => settings.use_identity_as_username = Some(line.boolean()?),
        "use_subject_as_username" => settings.use_subject_as_username = Some(line.boolean()?),
        "use_username_as_clientid" => settings.use_username_as_clientid = Some(line.boolean()?),
        "websockets_origin" => listener.websockets_origins.push(line.text()?),
        key => return Err(Problem::Wrong(keys::unknown(key))),
    }
    Ok(())
}

pub(super) fn listener_at(line: &Line<'_>, place: ListenAddress) -> MosquittoListener {
    MosquittoListener {
        place: line.at(place),
        opened_by: line.key.to_owned(),
        settings: ListenerSettings::default(),
        security: Security::default(),
        websockets_origins: Vec::new(),
    }
}

/// `listener PORT [ADDRESS]` or `listener 0 PATH`.
pub(super) fn listener_place(line: &Line<'_>) -> Result<ListenAddress, String> {
    let port = port_of(line, 0)?;
    let second = line.words().nth(1).filter(|word| !word.starts_with('#'));
    match (port, second) {
        (0, Some(path)) => Ok(ListenAddress::Socket(text(path)?)),
        (0, None) => Err("port 0 stands for a Unix socket: its path must follow".to_owned()),
        (port, Some(host)) => Ok(ListenAddress::Port(port, Some(host_of(host)?))),
        (port, None) => Ok(ListenAddress::Port(port, None)),
    }
}

pub(super) fn port_of(line: &Line<'_>, min: i64) -> Result<u16, String> {
    let port = line.integer(min..=65_535)?;
    u16::try_from(port).map_err(|_| "is no port".to_owned())
}

/// Checks that midge can listen on an address.
pub(super) fn host_of(host: &str) -> Result<String, String> {
    use crate::settings::Address;

    let bracketed = if host.contains(':') { format!("[{host}]:1") } else { format!("{host}:1") };
    match Address::parse(&bracketed) {
        Some(_) => Ok(host.to_owned()),
        None => Err(format!("got {}; allowed is an IP address or a host name", quoted(host))),
    }
}

fn versions(line: &Line<'_>) -> Result<Spanned<Vec<u8>>, String> {
    let words = line.rest().split([',', ' ', '\t']).filter(|word| !word.is_empty());
    let mut versions = Vec::new();
    for word in words {
        // Other words are ignored, as in mosquitto.
        let version = match word {
            "3" => 3,
            "4" => 4,
            "5" => 5,
            _ => continue,
        };
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions.sort_unstable();
    if versions.is_empty() {
        return Err(
            "names no version; allowed is a list of 3, 4 and 5, for MQTT 3.1, 3.1.1 and 5.0".to_owned()
        );
    }
    Ok(line.at(versions))
}

fn mount_point(line: &Line<'_>) -> Result<Spanned<String>, String> {
    let mount_point = line.text()?;
    if mount_point.value.contains(['+', '#']) {
        return Err(format!("got {}; wildcards are not allowed", quoted(&mount_point.value)));
    }
    Ok(mount_point)
}

fn protocol(line: &Line<'_>) -> Result<Spanned<Protocol>, Problem> {
    match line.word()? {
        "mqtt" => Ok(line.at(Protocol::Mqtt)),
        "websockets" => Ok(line.at(Protocol::Websockets)),
        "http_api" => {
            let why = "not supported: midge has no HTTP interface; remove this listener";
            Err(Problem::ClosesListener(why.to_owned()))
        }
        other => Err(format!("got {}; allowed is mqtt or websockets", quoted(other)))?,
    }
}

fn socket_domain(line: &Line<'_>) -> Result<Spanned<SocketDomain>, String> {
    match line.word()? {
        "ipv4" => Ok(line.at(SocketDomain::Ipv4)),
        "ipv6" => Ok(line.at(SocketDomain::Ipv6)),
        other => Err(format!("got {}; allowed is ipv4 or ipv6", quoted(other))),
    }
}

fn tls_version(line: &Line<'_>) -> Result<Spanned<TlsMinimum>, Problem> {
    match line.text()?.value.as_str() {
        "tlsv1.2" => Ok(line.at(TlsMinimum::V12)),
        "tlsv1.3" => Ok(line.at(TlsMinimum::V13)),
        "tlsv1.1" => {
            let why = "not supported: midge speaks TLS 1.2 and 1.3, and clients that can't would be left out; say \
                       tlsv1.2 if there are none";
            Err(Problem::NotSupported(why.to_owned()))
        }
        other => Err(format!("got {}; allowed is tlsv1.2 or tlsv1.3", quoted(other)))?,
    }
}

/// Reads a whole number with the letter of its unit: `14d`.
fn duration_seconds(word: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "got {}; allowed is a whole number above 0 with a unit: s, h, d, w, m or y, such as 14d",
            quoted(word)
        )
    };
    let unit = match word.as_bytes().last() {
        Some(b's') => 1,
        Some(b'h') => 3600,
        Some(b'd') => 86_400,
        Some(b'w') => 86_400 * 7,
        Some(b'm') => 86_400 * 30,
        Some(b'y') => 86_400 * 365,
        _ => return Err(refused()),
    };
    let number = word.get(..word.len() - 1).and_then(|number| number.parse::<u32>().ok());
    number.filter(|number| *number > 0).map(|number| u64::from(number) * unit).ok_or_else(refused)
}

/// Sets a text that may be set once only.
fn once(slot: &mut Option<Spanned<String>>, line: &Line<'_>) -> Result<(), String> {
    refuse_second(slot.as_ref())?;
    *slot = Some(line.text()?);
    Ok(())
}

pub(super) fn refuse_second<T>(first: Option<&Spanned<T>>) -> Result<(), String> {
    first.map_or(Ok(()), |first| Err(second_time(&first.file, first.line)))
}

pub(super) fn second_time(file: &str, line: usize) -> String {
    format!("is already set in {file}:{line}")
}

/// The longest prefix of an assigned identifier, in bytes.
const PREFIX_BYTES_MAX: usize = 50;

fn prefix(slot: &mut Option<Spanned<String>>, line: &Line<'_>) -> Result<(), String> {
    let prefix = line.text()?;
    if prefix.value.len() > PREFIX_BYTES_MAX {
        return Err(format!("is longer than {PREFIX_BYTES_MAX} bytes"));
    }
    once(slot, line)
}
