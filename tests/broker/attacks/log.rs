//! Floods of the log.
