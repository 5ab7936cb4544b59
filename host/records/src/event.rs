//! [`Event`]: what happened to the run between its requests.

use crate::header::is_zero;
use serde::{Deserialize, Serialize};

/// Something that happened to the run. Times are nanoseconds since its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A stage began or ended.
    Stage(StagePhase),
    /// How the load generator fared, about once a second.
    Client(ClientSample),
    /// Of several load generators one did not send its part as planned.
    Astray(Astray),
    /// A thread of the load path broke down.
    BrokeDown(BrokeDown),
    /// Load ended. A file without this line comes from a run that was killed.
    End {
        /// When.
        at: u64,
        /// Why.
        reason: EndReason,
        /// Why, in words, where the reason needs them.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
}

/// The two ends of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum StagePhase {
    /// It began.
    Begin(StageBegin),
    /// It ended, its drain included.
    End(StageEnd),
}

/// A stage began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageBegin {
    /// When.
    pub at: u64,
    /// Index in [`crate::Header::stages`].
    pub stage: u32,
}

/// A stage ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEnd {
    /// When its last request ended.
    pub at: u64,
    /// Index in [`crate::Header::stages`].
    pub stage: u32,
    /// End of the measured window: the stage's planned end where time ended it, else the end of
    /// its last request.
    pub window_end: u64,
    /// First turns that the schedule wanted out before the stage's end. None in a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<u64>,
    /// Of these, the ones that never left (the stage was cut, or a limit in flight held them).
    #[serde(default)]
    pub unsent: u64,
    /// First turns that had to wait for a limit of sessions or requests under way.
    #[serde(default)]
    pub capped: u64,
    /// The workload had no further session, though the stage was to go on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exhausted: bool,
}

/// What a load generator did not send as planned: it was lost, or began stages without the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Astray {
    /// When something was heard of it last.
    pub at: u64,
    /// Which one, from 0.
    pub generator: u32,
    /// How many made the load together.
    pub of: u32,
    /// Index in [`crate::Header::stages`] of the first stage that it did not bring to its end, or began by itself.
    pub stage: u32,
}

/// A thread of the load path broke down: what it had under way is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokeDown {
    /// When that was noticed.
    pub at: u64,
    /// "load-0", as samples name it.
    pub thread: String,
}

/// How the load generator fared since the sample before.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClientSample {
    /// When.
    pub at: u64,
    /// When the time of which it tells began. None: it does not say, which counts as a second before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Of several load generators, the one that it tells of; counts are those of all. None: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<u32>,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests sent since the start.
    pub sent: u64,
    /// Requests ended well since the start.
    pub succeeded: u64,
    /// Requests failed since the start.
    pub failed: u64,
    /// Due sessions that found the supply of the workload empty, since the start.
    pub starved: u64,
    /// Connections opened since the start.
    pub connections: u64,
    /// What each thread of the load path did since the sample before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<ThreadSample>,
    /// By how much arrivals may have been stamped late since the sample before: the longest lag of
    /// a bucket in nanoseconds, and how many fell into it; only buckets with any, rising. All
    /// files have the same buckets, so that counts add up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stamp_lag: Vec<(u64, u64)>,
    /// Time in which the limit of a control group kept threads from running, per time; over all
    /// its processors, so that it can be more than 1. None: the operating system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<f64>,
    /// Share of the machine's processor time that its hypervisor gave to others. None: the
    /// operating system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    /// Time in nanoseconds in which the client stood still: by so much a thread that sleeps for 50 ms at a time overslept,
    /// where it was by 100 ms or more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stopped: u64,
}

/// What a thread of the load path did in the time of a sample.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ThreadSample {
    /// "pacer", "load-0".
    pub name: String,
    /// Share of the time that it ran, 0 to 1.
    pub cpu: f64,
    /// Share of the time that it could have run and did not, 0 to 1.
    pub waiting: f64,
}

/// Why load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Everything was done.
    Completed,
    /// The user stopped it.
    Interrupted,
    /// Too much failed.
    Aborted,
    /// A plugin failed while load ran.
    PluginFailed,
}

/// How the message of a run begins that was aborted because a thread of its load generator broke down. Files of before
/// the event of that name have it alone, and as the whole message.
pub const BROKE_DOWN: &str = "a load thread broke down";

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
