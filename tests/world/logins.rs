//! Logins that must be checked: a test examines and answers them.

use midge::control::access_policies::AccessPolicies;
use midge::control::logins::CheckLogins;
use midge::policy::access::{Login, Verdict};
use std::sync::{Arc, Mutex, PoisonError};

/// A login that waits for its answer.
pub struct AskedLogin {
    pub login: Box<Login>,
    pub done: Arc<dyn Fn(Verdict) + Send + Sync>,
}

/// Logins that nobody has examined yet. Clones share them.
#[derive(Clone, Default)]
pub struct AskedLogins(Arc<Mutex<Vec<AskedLogin>>>);

impl AskedLogins {
    /// Takes them, the oldest first.
    pub fn take(&self) -> Vec<AskedLogin> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CheckLogins for AskedLogins {
    fn at_once(&self, _: usize) -> usize {
        usize::MAX
    }

    fn check(
        &self,
        _: &AccessPolicies,
        login: Box<Login>,
        done: Arc<dyn Fn(Verdict) + Send + Sync>,
    ) -> Result<(), Verdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(AskedLogin { login, done });
        Ok(())
    }
}
