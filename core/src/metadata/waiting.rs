//! A node without a controller says so: once it has waited for a while, and seldom after that, with whom it hears.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Instant, NodeId};

/// An election that takes longer than this is worth a line, milliseconds.
const PATIENCE_MS: u64 = 2_000;
/// The next lines come this far apart, milliseconds.
const EVERY_MS: u64 = 60_000;

/// Whether there is a controller, and which nodes were heard lately.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    heard: BTreeMap<NodeId, Instant>,
    /// When to speak; none while there is a controller.
    line_at: Option<Instant>,
    /// Whether this wait was spoken of.
    told: bool,
}

impl Waiting {
    /// When one of the controllers sent something.
    pub fn heard(&mut self, now: Instant, node: NodeId) {
        self.heard.insert(node, now);
    }

    /// When to call [`Waiting::line`].
    pub fn line_at(&self) -> Option<Instant> {
        self.line_at
    }

    /// The line that is due, if one is, where `controllers` could lead and `leader` does.
    pub fn line(
        &mut self,
        now: Instant,
        me: NodeId,
        controllers: &BTreeSet<NodeId>,
        leader: Option<NodeId>,
    ) -> Option<String> {
        if let Some(leader) = leader {
            self.line_at = None;
            let told = std::mem::take(&mut self.told);
            return told.then(|| format!("node {leader} is the active controller"));
        }
        let at = *self.line_at.get_or_insert(now.after_ms(PATIENCE_MS));
        if now < at {
            return None;
        }
        self.line_at = Some(now.after_ms(EVERY_MS));
        self.told = true;
        let lately = |at: &Instant| now.ms_since(*at) <= PATIENCE_MS;
        let is_heard = |node: &NodeId| *node == me || self.heard.get(node).is_some_and(lately);
        let (heard, silent): (Vec<NodeId>, Vec<NodeId>) =
            controllers.iter().copied().partition(is_heard);
        let (count, all) = (heard.len(), controllers.len());
        let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        let line =
            format!("waiting for a majority of the controllers: heard from {count} of {all}");
        Some(match silent.as_slice() {
            [] => format!("{line}, and none of them leads"),
            [one] => format!("{line}, not from node {one}"),
            many => format!("{line}, not from nodes {}", many.join(" and ")),
        })
    }
}
