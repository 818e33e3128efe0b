//! What happens in a shard, one file for each thing. A flow owns nothing: it sees the components, and says in which order
//! they are asked.

pub(super) mod admission;
pub(super) mod authentication;
pub(super) mod backlog;
pub(super) mod behind;
pub(super) mod budget;
pub(super) mod client_id;
pub(super) mod connect;
pub(super) mod convoy;
pub(super) mod deliver;
pub(super) mod detail;
pub(super) mod enqueue;
pub(super) mod full_disk;
pub(super) mod groups;
pub(super) mod inbound;
pub(super) mod keep;
pub(super) mod losses;
pub(super) mod memory;
pub(super) mod mount;
pub(super) mod pace;
pub(super) mod pause;
pub(super) mod penalty;
pub(super) mod publish;
pub(super) mod read;
pub(super) mod refused_filters;
pub(super) mod replay;
pub(super) mod reply;
pub(super) mod restart;
pub(super) mod source;
pub(super) mod subscribe;
pub(super) mod sys;
pub(super) mod timers;
pub(super) mod turn;
