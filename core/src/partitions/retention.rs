//! Retention by size and time: leaders trim, followers follow the leader's log start. Of producers that are silent for long each
//! replica forgets those that it knows.

use super::{Key, Partitions};
use crate::replica::Context;
use crate::{Outputs, Timer};

/// When retention is looked at first, milliseconds after a start (`log.initial.task.delay.ms`).
const FIRST_LOOK_MS: u64 = 30_000;

impl<W: Copy + Ord> Partitions<W> {
    /// Looks at every log; rare enough that a pass over all of them costs nothing.
    pub(super) fn retain(&mut self, out: &mut Outputs) {
        for (log, replica) in &mut self.replicas {
            let leads = replica.leading(&self.host.store).is_ok();
            let mut cx = Context { now: self.now, host: &mut self.host, out };
            replica.expire_producers(&mut cx);
            if !leads {
                continue;
            }
            replica.retain(&mut cx);
            self.touched.insert(*log);
        }
        self.schedule_retention();
    }

    pub(super) fn schedule_retention(&mut self) {
        self.look_at_retention_in(self.host.config.storage.retention_check_ms);
    }

    /// Looks for the first time soon after a start: whoever starts often would never come to it.
    pub(super) fn begin_retention(&mut self) {
        self.look_at_retention_in(self.host.config.storage.retention_check_ms.min(FIRST_LOOK_MS));
    }

    fn look_at_retention_in(&mut self, ms: u64) {
        let at = self.now.mono.after_ms(ms);
        self.timers.set(Key::Retention, Some(at), Timer::Retention);
    }
}
