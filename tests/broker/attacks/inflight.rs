//! Packet identifiers and inflight windows at their bounds.
