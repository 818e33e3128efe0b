//! The users of a password file who can log in with SCRAM-SHA-256, and the secrets that their exchanges need.
//!
//! The inputs are a file, 32 random bytes, the first message of a client and the number of its exchange. The
//! output is the exchange.
//!
//! The nonce of an exchange is a keyed hash of its number. Without the key it looks random, and it does not
//! repeat while the key stays the same. So the machine needs no random numbers of its own, which would have
//! to be secure. Each time the file is read, a new key is drawn.

use super::password_file::PasswordFile;
use super::scram::{self, FakeUsers, ScramFailure, ScramServer, ServerNonce, hmac};
use crate::policy::method::{Exchange, ExchangeId, Method, MethodFailure, Proved};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The common state of a listener's exchanges. Its `Debug` shows no secret.
pub struct ScramUsers {
    file: Arc<PasswordFile>,
    fakes: FakeUsers,
    nonce_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for ScramUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramUsers").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ScramUsers {
    /// The users of a file. `None` if it has no SCRAM user. `nonce_key` must be random and must not be used
    /// elsewhere.
    pub fn new(file: &Arc<PasswordFile>, nonce_key: [u8; 32]) -> Option<ScramUsers> {
        let fakes = file.fake_users()?;
        Some(ScramUsers { file: Arc::clone(file), fakes, nonce_key: Zeroizing::new(nonce_key) })
    }

    /// Handles the client's first message. Returns the exchange and the answer for AUTH 0x18.
    ///
    /// # Errors
    /// [`ScramFailure`]. An unknown user is not an error here.
    pub fn first(&self, client_first: &[u8], id: ExchangeId) -> Result<(ScramServer, Vec<u8>), ScramFailure> {
        ScramServer::first(client_first, &self.nonce(id), |user| self.file.scram_keys(user), &self.fakes)
    }

    fn nonce(&self, id: ExchangeId) -> ServerNonce {
        let hash = hmac(&*self.nonce_key, &[&id.shard.to_be_bytes(), &id.number.to_be_bytes()]);
        let mut bytes = [0; 18];
        bytes.copy_from_slice(&hash[..18]);
        ServerNonce::from_random(&bytes)
    }
}

impl Method for ScramUsers {
    fn name(&self) -> &'static str {
        scram::METHOD
    }

    fn begin(
        &self,
        data: Option<&[u8]>,
        id: ExchangeId,
    ) -> Result<(Box<dyn Exchange>, Vec<u8>), MethodFailure> {
        let data = data.ok_or(MethodFailure::Malformed("SCRAM begins with data of the client"))?;
        let (server, challenge) = self.first(data, id)?;
        Ok((Box::new(server), challenge))
    }
}

impl Exchange for ScramServer {
    fn is_by(&self, user: &str) -> bool {
        scram::prepare(user).is_some_and(|user| user == self.claimed_user())
    }

    fn finish(self: Box<Self>, data: Option<&[u8]>) -> Result<Proved, MethodFailure> {
        let data = data.ok_or(MethodFailure::Malformed("SCRAM ends with data of the client"))?;
        let accepted = ScramServer::finish(*self, data)?;
        Ok(Proved {
            user: Some(accepted.user.into()),
            line: Some(accepted.line),
            data: Some(accepted.server_final),
        })
    }
}

impl From<ScramFailure> for MethodFailure {
    fn from(failure: ScramFailure) -> MethodFailure {
        match failure {
            ScramFailure::Malformed(_) | ScramFailure::Mismatch => MethodFailure::Malformed(failure.words()),
            ScramFailure::Proof => MethodFailure::Proof,
            ScramFailure::ChannelBinding | ScramFailure::Extension | ScramFailure::Authorization => {
                MethodFailure::Refused(failure.words())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hash::{PasswordHash, Scheme};
    use std::collections::BTreeSet;

    fn file(scheme: Scheme) -> Arc<PasswordFile> {
        let hash = PasswordHash::new(scheme, b"pencil", &[7; 16]).unwrap();
        Arc::new(PasswordFile::parse(&format!("user:{}\n", *hash.to_text()), "users").unwrap())
    }

    fn scram() -> Arc<PasswordFile> {
        file(Scheme::ScramSha256 { iterations: 4096 })
    }

    fn first(users: &ScramUsers, message: &str, shard: u16, number: u64) -> String {
        let (_, answer) = users.first(message.as_bytes(), ExchangeId { shard, number }).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn file_without_scram_has_no_scram_users() {
        assert!(ScramUsers::new(&file(Scheme::Sha512), [1; 32]).is_none());
        assert!(ScramUsers::new(&Arc::default(), [1; 32]).is_none());
        assert!(ScramUsers::new(&scram(), [1; 32]).is_some());
    }

    #[test]
    fn nonce_is_another_one_for_each_exchange_shard_and_key() {
        let (one, two) =
            (ScramUsers::new(&scram(), [1; 32]).unwrap(), ScramUsers::new(&scram(), [2; 32]).unwrap());
        let nonce = |users: &ScramUsers, shard, number| {
            let answer = first(users, "n,,n=user,r=abc", shard, number);
            let nonce = answer.split(',').next().unwrap().strip_prefix("r=abc").unwrap();
            assert_eq!(nonce.len(), 24, "18 bytes");
            nonce.to_owned()
        };
        let mut seen = BTreeSet::new();
        for users in [&one, &two] {
            for shard in 0..3 {
                seen.extend((0..100).map(|number| nonce(users, shard, number)));
            }
        }
        assert_eq!(seen.len(), 600);
    }

    #[test]
    fn strangers_look_the_same_to_every_broker_with_the_file() {
        let salt = |key, user| {
            let users = ScramUsers::new(&scram(), [key; 32]).unwrap();
            let answer = first(&users, &format!("n,,n={user},r=abc"), 0, 1);
            answer.split(",s=").nth(1).unwrap().to_owned()
        };
        assert_eq!(salt(1, "stranger"), salt(2, "stranger"));
        assert_ne!(salt(1, "stranger"), salt(1, "strangest"));
        assert_eq!(salt(1, "user"), salt(2, "user"));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let users = ScramUsers::new(&scram(), [77; 32]).unwrap();
        assert_eq!(format!("{users:?}"), "ScramUsers { file: PasswordFile { users: 1, .. }, .. }");
    }
}
