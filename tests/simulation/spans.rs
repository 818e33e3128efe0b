//! Times in which something was out of order, so that what it excuses is excused for no longer.

#[derive(Debug, Default)]
pub struct Spans {
    over: Vec<(u64, u64)>,
    since: Option<u64>,
}

impl Spans {
    pub fn begin(&mut self, now: u64) {
        self.since.get_or_insert(now);
    }

    pub fn end(&mut self, now: u64) {
        if let Some(since) = self.since.take() {
            self.over.push((since, now));
        }
    }

    /// Is it out of order now?
    pub fn is_open(&self) -> bool {
        self.since.is_some()
    }

    /// Was it at any time from the one to the other?
    pub fn touch(&self, from: u64, to: u64) -> bool {
        self.since.is_some_and(|since| since <= to)
            || self.over.iter().any(|&(since, until)| since <= to && until >= from)
    }
}
