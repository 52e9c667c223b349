//! A stop in good order under way. First this node gives the quorum's leadership to another voter, so that whoever decides who
//! takes over from its broker is there afterwards and tells everyone; then the controller lets others take over what the broker
//! leads. It takes so long at most, and ends early where there is nobody to ask.

use crate::{Instant, Offset};

/// How a stop in good order ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// When others have taken over all that they could.
    InGoodOrder,
    /// When there is no controller that could see to it.
    Alone,
    /// When it took too long.
    Late,
}

/// A node's wish to stop.
#[derive(Debug)]
pub(super) struct Departure {
    /// When it stops in any case.
    until: Instant,
    /// Metadata up to here shows who has taken over, once that is known.
    granted: Option<Offset>,
    /// Whether the driver was told to stop.
    over: bool,
}

impl Departure {
    /// One that ends at `until` in any case.
    pub fn new(until: Instant) -> Departure {
        Departure { until, granted: None, over: false }
    }

    /// When others have taken over, in the metadata below `end`.
    pub fn grant(&mut self, end: Offset) {
        self.granted.get_or_insert(end);
    }

    /// When it ends in any case; none once it has.
    pub fn until(&self) -> Option<Instant> {
        (!self.over).then_some(self.until)
    }

    /// Whether it has ended, once. `asks`: whether there is anybody who may still grant it.
    pub fn ended(&mut self, now: Instant, asks: bool, shown: Offset) -> Option<Ended> {
        let ended = if self.over {
            return None;
        } else if self.granted.is_some_and(|end| shown >= end) {
            Ended::InGoodOrder
        } else if !asks {
            Ended::Alone
        } else if now >= self.until {
            Ended::Late
        } else {
            return None;
        };
        self.over = true;
        Some(ended)
    }
}
