//! Who may come in and what they may do, as the machine asks for it: the rules of a listener, access lists, methods of
//! enhanced authentication, which addresses may connect.

pub mod access;
pub mod acl;
pub mod address_gate;
pub mod method;
