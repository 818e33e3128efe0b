//! Who may connect, and what clients may do: the rules of a listener, access lists, methods of enhanced
//! authentication, and the gate for addresses.

pub mod access;
pub mod acl;
pub mod address_gate;
pub mod method;
