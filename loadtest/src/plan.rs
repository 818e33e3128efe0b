//! The plan of a traffic scenario: who publishes what to whom, and when.

use crate::connector::{ClientSpec, Identity};

/// Who publishes what to whom. Clients are numbered: subscribers first, then publishers.
pub(crate) struct Plan {
    pub(crate) identity: Identity,
    pub(crate) qos: u8,
    pub(crate) payload: usize,
    pub(crate) run: u32,
    /// The topic of each stream.
    pub(crate) topics: Vec<String>,
    pub(crate) subscribers: Vec<SubscriberPlan>,
    pub(crate) publishers: Vec<PublisherPlan>,
    /// The subscribers are the members of one group, all with the same streams. Each message goes
    /// to one of them.
    pub(crate) shared: bool,
    /// The sessions outlive their connection.
    pub(crate) kept: bool,
    /// Number of filters in one SUBSCRIBE.
    pub(crate) batch: usize,
}

/// The filters of a subscriber, and the streams that it must receive completely.
pub(crate) struct SubscriberPlan {
    pub(crate) filters: Filters,
    pub(crate) streams: Streams,
    /// Stops reading for most of the run. The run does not wait for it. It is no fault if the
    /// broker disconnects it or, at QoS 0, drops its messages.
    pub(crate) slow: bool,
}

/// The filters of a subscriber by number, `None` after the last. They are created when they are
/// sent, because ten million of them would need more memory than the broker.
pub(crate) type Filters = Box<dyn Fn(usize) -> Option<String>>;

/// A single filter.
pub(crate) fn one_filter(filter: String) -> Filters {
    Box::new(move |at| (at == 0).then(|| filter.clone()))
}

/// The streams that a subscriber gets.
#[derive(Clone, Debug)]
pub(crate) enum Streams {
    Range(std::ops::Range<u32>),
    /// In ascending order.
    Listed(Box<[u32]>),
}

impl Streams {
    pub(crate) fn len(&self) -> usize {
        match self {
            Streams::Range(range) => range.len(),
            Streams::Listed(list) => list.len(),
        }
    }

    /// The index of `stream` among these streams, or `None` if it is not one of them.
    #[inline]
    pub(crate) fn index_of(&self, stream: u32) -> Option<usize> {
        match self {
            Streams::Range(range) => range.contains(&stream).then(|| (stream - range.start) as usize),
            Streams::Listed(list) => list.binary_search(&stream).ok(),
        }
    }

    /// The stream at an index.
    pub(crate) fn get(&self, index: usize) -> u32 {
        match self {
            Streams::Range(range) => range.start + index as u32,
            Streams::Listed(list) => list[index],
        }
    }
}

/// The streams that one publisher sends on in turn. Each message goes to `fan_out` subscribers.
#[derive(Clone, Debug)]
pub(crate) struct PublisherPlan {
    pub(crate) streams: std::ops::Range<u32>,
    pub(crate) fan_out: u32,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    Closed { window: u16, burst: u16 },
    Open { per_second: f64 },
}

impl ClientSpec for Plan {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        let name = match id.checked_sub(self.subscribers.len()) {
            None => format!("s{id}"),
            Some(publisher) => format!("p{publisher}"),
        };
        if self.kept {
            self.identity.put_resume(out, &name, None);
        } else {
            self.identity.put_connect(out, &name);
        }
    }

    fn filters(&self, id: usize, from: usize) -> Vec<String> {
        let Some(subscriber) = self.subscribers.get(id) else { return Vec::new() };
        (from..from + self.batch).map_while(&subscriber.filters).collect()
    }

    fn subscribe_qos(&self) -> u8 {
        self.qos
    }
}
