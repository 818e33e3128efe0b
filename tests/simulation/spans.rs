//! Periods in which something was out of order. They excuse deviations, but only for their own time.

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

    /// Whether it is out of order now.
    pub fn is_open(&self) -> bool {
        self.since.is_some()
    }

    /// Whether it was out of order at any time between these two.
    pub fn touch(&self, from: u64, to: u64) -> bool {
        self.since.is_some_and(|since| since <= to)
            || self.over.iter().any(|&(since, until)| since <= to && until >= from)
    }
}
