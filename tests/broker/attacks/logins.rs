//! Guesses and half handshakes: the logins of others go on.
