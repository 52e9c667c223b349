//! Turns to ask: how many replicas of a shard wait at once for an answer of one follower, or of the controller.
//!
//! What is asked and not answered in time is asked again. Where a broker comes back that holds a hundred thousand partitions, all
//! of their leaders ask it where it stands, and the controller to let it into their sets; asked all at once, it would answer
//! none of them in time, be asked again before it is through, and so for ever. So a few ask, and the others stand in line.
//!
//! A turn lasts from the question to its answer. Who has not been answered by a follower in time gives the turn to the next and
//! goes to the end of the line: another one may be answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{LogId, NodeId};

/// Whom a leader asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    /// The controller, for another in-sync set.
    Controller,
    /// A follower, where it stands.
    Follower(NodeId),
}

/// Who may ask whom now.
#[derive(Debug)]
pub struct Turns {
    max: usize,
    lines: BTreeMap<Asked, Line>,
    /// Who got a turn and does not know it yet.
    granted: Vec<LogId>,
}

#[derive(Debug, Default)]
struct Line {
    taken: BTreeSet<LogId>,
    waiting: VecDeque<LogId>,
    /// Those that wait, each of them once.
    stands: BTreeSet<LogId>,
}

impl Turns {
    /// So many ask one of those asked at a time.
    pub fn new(max: usize) -> Turns {
        Turns { max, lines: BTreeMap::new(), granted: Vec::new() }
    }

    /// Whether a log's leader may ask; where it may not it stands in line from now on.
    pub fn take(&mut self, asked: Asked, log: LogId) -> bool {
        let line = self.lines.entry(asked).or_default();
        if line.taken.contains(&log) {
            return true;
        }
        if line.taken.len() < self.max && line.waiting.is_empty() {
            return line.taken.insert(log);
        }
        if line.stands.insert(log) {
            line.waiting.push_back(log);
        }
        false
    }

    /// Whether a log's leader stands in line: it hears when its turn has come, and needs no deadline until then.
    pub fn stands(&self, asked: Asked, log: LogId) -> bool {
        self.lines.get(&asked).is_some_and(|line| line.stands.contains(&log))
    }

    /// Ends a log's turn, if it has one: the next in line gets it.
    pub fn give_back(&mut self, asked: Asked, log: LogId) {
        let Some(line) = self.lines.get_mut(&asked) else { return };
        if line.taken.remove(&log)
            && let Some(next) = line.waiting.pop_front()
        {
            line.stands.remove(&next);
            line.taken.insert(next);
            self.granted.push(next);
        }
    }

    /// Ends those turns of a log in which nothing waits for an answer.
    pub fn keep(&mut self, log: LogId, waits: impl Fn(Asked) -> bool) {
        let idle = |(asked, line): (&Asked, &Line)| {
            (line.taken.contains(&log) && !waits(*asked)).then_some(*asked)
        };
        while let Some(asked) = self.lines.iter().find_map(idle) {
            self.give_back(asked, log);
        }
    }

    /// Somebody who got a turn since this was last asked. Whoever has no use for it gives it back.
    pub fn pop_granted(&mut self) -> Option<LogId> {
        self.granted.pop()
    }

    /// Asserts what always holds between steps.
    pub fn check_invariants(&self, waits: impl Fn(LogId, Asked) -> bool) {
        assert!(self.granted.is_empty(), "who gets a turn is told in the same step");
        for (asked, line) in &self.lines {
            assert!(line.taken.len() <= self.max, "so many ask at a time");
            assert!(
                line.taken.len() == self.max || line.waiting.is_empty(),
                "no turn is left over"
            );
            assert_eq!(line.waiting.len(), line.stands.len(), "each stands in line once");
            for log in &line.taken {
                assert!(
                    waits(*log, *asked),
                    "{log:?} has a turn to ask {asked:?} and waits for nothing"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicId;

    fn log(partition: i32) -> LogId {
        LogId { topic: TopicId([1; 16]), partition }
    }

    #[test]
    fn turns_go_round_in_the_order_of_the_line() {
        let mut turns = Turns::new(2);
        let one = Asked::Follower(NodeId(1));
        let may: Vec<_> = (0..5).map(|number| turns.take(one, log(number))).collect();
        assert_eq!(may, [true, true, false, false, false]);
        assert!(turns.take(one, log(0)), "it has its turn");
        assert!(turns.take(Asked::Controller, log(4)), "of somebody else");
        assert!(!turns.take(one, log(3)), "it stands in line already");
        assert!(turns.stands(one, log(3)) && !turns.stands(one, log(1)));

        turns.give_back(one, log(0));
        assert!(!turns.take(one, log(0)), "others come first");
        assert_eq!((turns.pop_granted(), turns.pop_granted()), (Some(log(2)), None));
        turns.give_back(one, log(1));
        turns.give_back(one, log(2));
        turns.give_back(one, log(3));
        let granted = std::iter::from_fn(|| turns.pop_granted()).collect::<BTreeSet<_>>();
        assert_eq!(granted, [0, 3, 4].map(log).into());
        turns.check_invariants(|_, _| true);
    }

    #[test]
    fn who_waits_for_nothing_has_no_turn() {
        let mut turns = Turns::new(1);
        let (one, two) = (Asked::Follower(NodeId(1)), Asked::Follower(NodeId(2)));
        assert!(turns.take(one, log(0)) && turns.take(two, log(0)));
        assert!(!turns.take(one, log(1)) && !turns.take(two, log(1)));
        turns.keep(log(0), |asked| asked == two);
        assert_eq!((turns.pop_granted(), turns.pop_granted()), (Some(log(1)), None));
        assert!(turns.take(one, log(1)) && !turns.take(two, log(1)));
    }
}
