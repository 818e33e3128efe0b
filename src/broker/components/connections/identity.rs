//! The proven identity of a client, and its permissions.

use crate::base::TimerId;
use crate::policy::access::PasswordLine;
use crate::policy::acl::Permissions;
use crate::policy::method::Exchange;
use std::num::NonZeroU64;

/// The proven identity of a client, and its permissions.
#[derive(Debug, Default)]
pub(in crate::broker) struct Identity {
    /// The user name.
    pub user: Option<Box<str>>,
    /// The line of the password file that has proved it.
    pub line: Option<PasswordLine>,
    /// The permissions that came with its login.
    pub granted: Permissions,
    /// The timer for the end of these permissions.
    pub ends: Option<TimerId>,
    pub permissions: Option<Permissions>,
    /// The judgement that is checking the client's filters. Until all filters are checked, each delivery to
    /// it must be checked too.
    pub judgement: Option<NonZeroU64>,
}

/// The state of a connection with an Authentication Method.
#[derive(Debug)]
pub(in crate::broker) struct Authentication {
    /// The method of CONNECT. Every further step must have it. `[MQTT5-4.12.0-5]`
    pub method: &'static str,
    /// An exchange that waits for its second step.
    pub exchange: Option<Box<dyn Exchange>>,
    /// The Authentication Data for CONNACK.
    pub last_data: Option<Vec<u8>>,
}
