//! Rare paths that a run has taken: a simulation that never gets there proves nothing about them.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Takeover,
    TakeoverDuringInflight,
    MeshBoxFull,
    HandOver,
    HandOverCut,
    QueueFull,
    ClientResent,
    ResentQos1,
    ResentQos2,
    Qos2InResumedAtPublish,
    Qos2InResumedAtPubrel,
    Qos2OutResumed,
    ResentThoughRecorded,
    RetainedAfterLive,
    PowerCut,
    TornBatch,
    PowerCutBeforePubrec,
    IntentRecovered,
    DeliveryRecovered,
    DupAtFirst,
    Qos2OutResumedAtPubrel,
    WillDelayed,
    WillCancelled,
    GroupMemberGone,
    GroupMemberEndedAfterPowerCut,
    Backlogged,
    KeepAliveLapsed,
    SessionExpired,
    KnownRefusedTwice,
    DiskFull,
    DiskFailed,
    ClockSet,
}

pub const EVERY_MARK: &[Mark] = &[
    Mark::Takeover,
    Mark::TakeoverDuringInflight,
    Mark::MeshBoxFull,
    Mark::HandOver,
    Mark::HandOverCut,
    Mark::QueueFull,
    Mark::ClientResent,
    Mark::ResentQos1,
    Mark::ResentQos2,
    Mark::Qos2InResumedAtPublish,
    Mark::Qos2InResumedAtPubrel,
    Mark::Qos2OutResumed,
    Mark::ResentThoughRecorded,
    Mark::RetainedAfterLive,
    Mark::PowerCut,
    Mark::TornBatch,
    Mark::PowerCutBeforePubrec,
    Mark::IntentRecovered,
    Mark::DeliveryRecovered,
    Mark::Qos2OutResumedAtPubrel,
    Mark::WillDelayed,
    Mark::WillCancelled,
    Mark::GroupMemberGone,
    Mark::GroupMemberEndedAfterPowerCut,
    Mark::Backlogged,
    Mark::KeepAliveLapsed,
    Mark::SessionExpired,
    Mark::DiskFull,
    Mark::DiskFailed,
    Mark::ClockSet,
];

/// What the broker is known to do and should not: counted, so that it is seen when it is over.
pub const KNOWN_WEAKNESSES: &[Mark] = &[Mark::DupAtFirst, Mark::KnownRefusedTwice];

#[derive(Clone, Debug, Default)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    pub fn reach(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    pub fn remark(&mut self, remark: &str) {
        match remark {
            "resent_qos1" => self.reach(Mark::ResentQos1),
            "resent_qos2" => self.reach(Mark::ResentQos2),
            "resent_though_recorded" => self.reach(Mark::ResentThoughRecorded),
            "retained_after_live" => self.reach(Mark::RetainedAfterLive),
            "pubrel_again" => self.reach(Mark::Qos2OutResumedAtPubrel),
            "dup_at_first" => self.reach(Mark::DupAtFirst),
            _ => {}
        }
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
