//! Clients that stand still, slowly read, slowly write, or vanish.
