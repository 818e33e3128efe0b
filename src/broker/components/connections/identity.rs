//! What a client has proved, and what it may do.

use crate::base::TimerId;
use crate::policy::access::PasswordLine;
use crate::policy::acl::Permissions;
use crate::policy::method::Exchange;
use std::num::NonZeroU64;

/// What a client has proved, and what it may do.
#[derive(Debug, Default)]
pub(in crate::broker) struct Identity {
    /// User name.
    pub user: Option<Box<str>>,
    /// The line of the password file that has proved it.
    pub line: Option<PasswordLine>,
    /// What came with its login.
    pub granted: Permissions,
    /// When that ends.
    pub ends: Option<TimerId>,
    pub permissions: Option<Permissions>,
    /// The mark that what it gets must be looked at stands until all filters were looked at, in this judgement.
    pub judgement: Option<NonZeroU64>,
}

/// What a connection with an Authentication Method keeps.
#[derive(Debug)]
pub(in crate::broker) struct Authentication {
    /// Of CONNECT: every further step has it. `[MQTT5-4.12.0-5]`
    pub method: &'static str,
    /// An exchange whose second step has not come.
    pub exchange: Option<Box<dyn Exchange>>,
    /// Authentication Data that CONNACK is to carry.
    pub last_data: Option<Vec<u8>>,
}
