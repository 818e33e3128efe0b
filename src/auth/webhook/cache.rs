//! Recent answers, so that a fleet that reconnects does not ask the server again for each client. An answer
//! is found by a keyed hash of everything the server was sent. No password is kept. The key lives as long as
//! the process, and without it nobody can recover a password from its hash.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{DENY_CACHE_MILLIS_MAX, LoginRequest, WebhookAnswer, WebhookGrant, WebhookSettings};

/// The hash of a login.
pub(super) type LoginHash = [u8; 32];

/// Makes keys. It is separate from the tables, so that hashing holds no lock.
pub(super) struct Hasher(hmac::Key);

/// Two tables of answers. Guessed passwords fill the table of refused logins and do not evict allowed ones.
pub(super) struct Cache {
    allow_seconds: u64,
    deny_millis: u64,
    allowed: AnswerTable,
    others: AnswerTable,
}

impl Hasher {
    /// Makes a hasher with a secret of its own.
    pub(super) fn new() -> Result<Hasher, &'static str> {
        let mut secret = LoginHash::default();
        SystemRandom::new().fill(&mut secret).map_err(|_| "the system gives no random bytes")?;
        Ok(Hasher(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// Hashes every field, each with its length before it. An absent field differs from an empty one.
    pub(super) fn key(&self, login: &LoginRequest) -> LoginHash {
        let LoginRequest {
            client_id,
            username,
            password,
            peer,
            protocol_version,
            listener,
            mount,
            is_certified,
        } = login;
        let mut hash = hmac::Context::with_key(&self.0);
        let mut field = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hash.update(&length.to_le_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        field(Some(client_id.as_bytes()));
        field(username.as_deref().map(str::as_bytes));
        field(password.as_deref());
        field(Some(peer.to_string().as_bytes()));
        field(Some(&[*protocol_version]));
        field(Some(listener.as_bytes()));
        field(mount.as_deref().map(str::as_bytes));
        field(Some(&[u8::from(*is_certified)]));
        let mut key = LoginHash::default();
        key.copy_from_slice(hash.sign().as_ref());
        key
    }
}

impl Cache {
    pub(super) fn new(settings: &WebhookSettings) -> Cache {
        Cache {
            allow_seconds: settings.cache_seconds,
            deny_millis: settings.deny_cache_millis.min(DENY_CACHE_MILLIS_MAX),
            allowed: AnswerTable::new(settings.cache_entries_max),
            others: AnswerTable::new(settings.cache_entries_max),
        }
    }

    pub(super) fn get(&self, key: &LoginHash, now: Instant) -> Option<WebhookAnswer> {
        self.allowed.get(key, now).or_else(|| self.others.get(key, now))
    }

    /// Remembers an answer that came at `now`, but never longer than it is valid.
    pub(super) fn put(
        &mut self,
        key: LoginHash,
        answer: &WebhookAnswer,
        now: Instant,
        now_unix_seconds: u64,
    ) {
        // If a login was allowed and is now denied, or the reverse, only one table may answer.
        self.allowed.expire(&key, now);
        self.others.expire(&key, now);
        let (table, lifetime, bytes) = match answer {
            WebhookAnswer::Allow(grant) => {
                let left = grant.expires_at.map_or(u64::MAX, |end| end.saturating_sub(now_unix_seconds));
                (&mut self.allowed, Duration::from_secs(self.allow_seconds.min(left)), bytes_of(grant))
            }
            _ => (&mut self.others, Duration::from_millis(self.deny_millis), 0),
        };
        if let Some(until) = now.checked_add(lifetime)
            && until > now
        {
            table.put(key, Entry { answer: answer.clone(), until, bytes });
        }
    }

    pub(super) fn clear(&mut self) {
        self.allowed.clear();
        self.others.clear();
    }
}

/// A bounded map that forgets the oldest entry first.
struct AnswerTable {
    entries: HashMap<LoginHash, Entry>,
    /// The keys of `entries`, each once, in the order in which they were added.
    order: VecDeque<LoginHash>,
    bytes: usize,
    entries_max: usize,
}

struct Entry {
    answer: WebhookAnswer,
    until: Instant,
    bytes: usize,
}

impl AnswerTable {
    fn new(entries_max: usize) -> AnswerTable {
        AnswerTable { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, entries_max }
    }

    fn get(&self, key: &LoginHash, now: Instant) -> Option<WebhookAnswer> {
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| entry.answer.clone())
    }

    /// Makes an entry invalid. It keeps its place until it is the oldest.
    fn expire(&mut self, key: &LoginHash, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.until = entry.until.min(now);
        }
    }

    fn put(&mut self, key: LoginHash, entry: Entry) {
        if self.entries_max == 0 || entry.bytes > BYTES_MAX {
            return;
        }
        self.bytes += entry.bytes;
        match self.entries.insert(key, entry) {
            Some(before) => self.bytes -= before.bytes,
            None => self.order.push_back(key),
        }
        while self.order.len() > self.entries_max || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.entries.remove(&oldest) {
                self.bytes -= gone.bytes;
            }
        }
        debug_assert_eq!(self.order.len(), self.entries.len());
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

/// The bytes of a grant besides its place in the table.
fn bytes_of(grant: &WebhookGrant) -> usize {
    let lists = grant.publish.iter().chain(&grant.subscribe);
    let filters = lists.flatten().map(|filter| size_of::<String>() + filter.len());
    size_of::<WebhookGrant>() + grant.user.as_ref().map_or(0, String::len) + filters.sum::<usize>()
}

/// The largest size of all grants of a table, in bytes. Beyond that, the oldest are forgotten.
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant can't be made up, only moved")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn cache(change: impl FnOnce(&mut WebhookSettings)) -> Cache {
        let mut settings = WebhookSettings::new("http://localhost");
        change(&mut settings);
        Cache::new(&settings)
    }

    fn allow(expires_at: Option<u64>, publish: Option<Vec<String>>) -> WebhookAnswer {
        WebhookAnswer::Allow(Arc::new(WebhookGrant { expires_at, publish, ..WebhookGrant::default() }))
    }

    fn key(number: u16) -> LoginHash {
        let mut key = LoginHash::default();
        key[..2].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn an_allow_counts_for_the_time_set_and_never_past_its_end() {
        let mut cache = cache(|settings| settings.cache_seconds = 60);
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        cache.put(key(1), &allow(None, None), now, 1_000);
        assert!(cache.get(&key(1), after(59_999)).is_some());
        assert!(cache.get(&key(1), after(60_000)).is_none());
        assert!(cache.get(&key(2), now).is_none());
        cache.put(key(2), &allow(Some(1_010), None), now, 1_000);
        assert!(cache.get(&key(2), after(9_999)).is_some());
        assert!(cache.get(&key(2), after(10_000)).is_none());
        cache.put(key(3), &allow(Some(1_000), None), now, 1_000);
        assert!(cache.get(&key(3), now).is_none());
        cache.clear();
        assert!(cache.get(&key(1), now).is_none());
    }

    #[test]
    fn a_deny_counts_for_two_seconds_at_most_and_replaces_an_allow() {
        let mut cache = cache(|settings| settings.deny_cache_millis = 1_000_000);
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        cache.put(key(1), &allow(None, None), now, 0);
        cache.put(key(1), &WebhookAnswer::Deny, now, 0);
        assert_eq!(cache.get(&key(1), after(1_999)), Some(WebhookAnswer::Deny));
        assert_eq!(cache.get(&key(1), after(2_000)), None);
        cache.put(key(1), &allow(None, None), now, 0);
        assert_eq!(cache.get(&key(1), now), Some(allow(None, None)));
    }

    #[test]
    fn nothing_is_remembered_where_the_time_is_zero() {
        let mut cache = cache(|settings| {
            settings.cache_seconds = 0;
            settings.deny_cache_millis = 0;
        });
        let now = Instant::now();
        cache.put(key(1), &allow(None, None), now, 0);
        cache.put(key(2), &WebhookAnswer::Ignore, now, 0);
        assert_eq!(cache.get(&key(1), now), None);
        assert_eq!(cache.get(&key(2), now), None);
    }

    #[test]
    fn the_oldest_goes_first_in_number_and_in_bytes_and_refusals_push_no_allow_out() {
        let mut cache = cache(|settings| settings.cache_entries_max = 10);
        let now = Instant::now();
        for number in 0..30 {
            cache.put(key(number), &allow(None, None), now, 0);
            cache.put(key(number), &allow(None, None), now, 0);
        }
        for number in 1_000..2_000 {
            cache.put(key(number), &WebhookAnswer::Deny, now, 0);
        }
        let kept: Vec<u16> = (0..30).filter(|&number| cache.get(&key(number), now).is_some()).collect();
        assert_eq!(kept, (20..30).collect::<Vec<u16>>());
        assert_eq!((cache.allowed.entries.len(), cache.others.entries.len()), (10, 10));

        let large = allow(None, Some(vec!["x".repeat(BYTES_MAX / 2)]));
        for number in 100..103 {
            cache.put(key(number), &large, now, 0);
            assert!(cache.allowed.bytes <= BYTES_MAX);
        }
        assert!(cache.get(&key(102), now).is_some());
        assert!(cache.get(&key(101), now).is_none());
        let larger = allow(None, Some(vec!["x".repeat(BYTES_MAX)]));
        cache.put(key(104), &larger, now, 0);
        assert!(cache.get(&key(102), now).is_some() && cache.get(&key(104), now).is_none());
    }

    #[test]
    fn every_field_of_a_login_is_in_its_hash() {
        let hasher = Hasher::new().unwrap();
        let login = LoginRequest {
            client_id: "c".into(),
            username: Some("u".into()),
            password: Some(b"p".to_vec()),
            peer: [127, 0, 0, 1].into(),
            protocol_version: 5,
            listener: "l".into(),
            mount: Some("m".into()),
            is_certified: true,
        };
        let key = hasher.key(&login);
        assert_eq!(key, hasher.key(&login.clone()));
        let changes: [fn(&mut LoginRequest); 13] = [
            |login| login.client_id = "d".into(),
            |login| login.username = None,
            |login| login.username = Some(String::new()),
            |login| login.password = Some(b"q".to_vec()),
            |login| login.password = None,
            |login| login.password = Some(Vec::new()),
            |login| login.peer = [127, 0, 0, 2].into(),
            |login| login.protocol_version = 4,
            |login| login.listener = "k".into(),
            |login| login.mount = None,
            |login| login.is_certified = false,
            |login| (login.client_id, login.username) = ("cu".into(), Some(String::new())),
            |login| (login.username, login.password) = (Some("up".into()), Some(Vec::new())),
        ];
        let mut keys: Vec<LoginHash> = vec![key];
        for change in changes {
            let mut other = login.clone();
            change(&mut other);
            keys.push(hasher.key(&other));
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_ne!(key, Hasher::new().unwrap().key(&login), "each process has its own secret");
    }
}
