//! How long things may take, in one place. A value and not constants, since tests have less patience.

use std::time::Duration;

/// Bounds of all waits of a run.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// Tries to reach a service before it counts as unreachable. A dropped first packet is
    /// [`crate::connect::CONNECT_WAIT_MAX`] each.
    pub connect_tries: u32,
    /// Tries of a request that a service answered with a passing fault, or not to the end.
    pub answer_tries: u32,
    /// Pause after the first failed try; doubles.
    pub pause_first: Duration,
    /// Longest pause between tries, whatever the service asks for.
    pub pause_max: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// Between two pieces of a body.
    pub piece: Duration,
    /// A store that takes no log line for this long ends the run.
    pub store: Duration,
    /// Between two batches of the log while they are few, see [`super::log`].
    pub log_batch: Duration,
    /// The beginning of a line waits for its end at most this long.
    pub partial_line: Duration,
    /// For output that is still in the pipe once all processes have ended.
    pub drain: Duration,
    /// Between the two signals when the time limit has passed.
    pub grace: Duration,
    /// For artifacts of a run that was cancelled, and for the last words of any.
    pub farewell: Duration,
    /// Between two questions for work when the last one failed.
    pub work_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect_tries: 3,
            answer_tries: 6,
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(2),
            head: Duration::from_secs(30),
            piece: Duration::from_secs(30),
            store: Duration::from_secs(60),
            log_batch: Duration::from_millis(250),
            partial_line: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            grace: Duration::from_secs(10),
            farewell: Duration::from_secs(30),
            work_pause: Duration::from_secs(1),
        }
    }
}
