//! Wills of clients whose right was withdrawn, and wills over a restart.
