//! An absent or full subscriber, and what its publishers see.
