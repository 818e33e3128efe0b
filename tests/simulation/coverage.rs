//! The rare paths that a run has taken. A simulation that never reaches them proves nothing about them.

use std::collections::BTreeMap;

macro_rules! marks {
    ($($mark:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($mark),*
        }

        impl Mark {
            /// All marks.
            pub const EVERY: &[Mark] = &[$(Mark::$mark),*];
        }
    };
}

marks! {
    Takeover,
    TakeoverDuringInflight,
    MeshBoxFull,
    HandOver,
    HandOverCut,
    TlsHandshake,
    TlsResumed,
    TlsHandOver,
    TlsHandshakeWaits,
    TlsHandshakeCut,
    QueueFull,
    ClientResent,
    ResentQos1,
    ResentQos2,
    Qos2InResumedAtPublish,
    Qos2InResumedAtPubrel,
    Qos2OutResumed,
    Qos2OutResumedAtPubrel,
    ResentThoughRecorded,
    RetainedAfterLive,
    PowerCut,
    TornBatch,
    PowerCutBeforePubrec,
    IntentRecovered,
    DeliveryRecovered,
    WillDelayed,
    WillCancelled,
    GroupMemberGone,
    GroupMemberEndedAfterPowerCut,
    Backlogged,
    KeepAliveLapsed,
    SessionExpired,
    DiskFull,
    DiskFailed,
    ClockSet,
}

#[derive(Clone, Debug, Default)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    pub fn reach(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    pub fn add(&mut self, other: &Marks) {
        for (&mark, &count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }
}
