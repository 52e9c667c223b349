//! What a committed entry means to an operator, in a line or two of the active controller's log however many partitions it
//! touches: who went out of service and came back, how many leaders moved, and where too few replicas are in sync.

use crate::image::{Image, Partition, Record};
use crate::{LogId, LogLevel, NodeId};

/// Partitions that a line names; the others are counted.
const NAMED_MAX: usize = 3;

/// What happened to partitions that were there before the entry.
#[derive(Default)]
struct Moves {
    /// With another leader.
    led_anew: Vec<LogId>,
    /// Without a leader now.
    lost: usize,
    /// Now under their minimum.
    under: Vec<LogId>,
    /// Not under their minimum any more.
    enough: Vec<LogId>,
}

/// The lines of an entry, from the image without it and from who is known to be stopping.
pub(super) fn of_entry(
    before: &Image,
    records: &[Record],
    is_stopping: impl Fn(NodeId) -> bool,
) -> Vec<(LogLevel, String)> {
    let mut lines = Vec::new();
    let (mut causes, mut leaving) = (Vec::new(), Vec::new());
    let mut moves = Moves::default();
    for record in records {
        match record {
            Record::RegisterBroker { node, .. } if before.unfenced(*node) => {
                causes.push(format!("broker {node} has begun anew"));
            }
            Record::FenceBroker { node, fenced: true } if is_stopping(*node) => {
                leaving.push(format!("broker {node} is about to stop"));
            }
            Record::FenceBroker { node, fenced: true } if before.unfenced(*node) => {
                causes.push(format!("broker {node} is fenced, for it was not heard in time"));
            }
            Record::FenceBroker { node, fenced: false } if !before.unfenced(*node) => {
                lines.push((LogLevel::Info, format!("broker {node} is in service")));
            }
            Record::Partition { log, partition } => moves.note(before, *log, partition),
            Record::RegisterBroker { .. }
            | Record::ConfirmBroker { .. }
            | Record::FenceBroker { .. }
            | Record::Topic { .. }
            | Record::RemoveTopic { .. }
            | Record::ProducerIds { .. } => {}
        }
    }
    let failed = !causes.is_empty() || moves.lost > 0;
    let level = if failed { LogLevel::Warn } else { LogLevel::Info };
    causes.append(&mut leaving);
    match (causes.is_empty(), moves.leaders()) {
        (true, None) => {}
        // Without a cause that says which they are.
        (true, Some(leaders)) if moves.lost == 0 => {
            lines.push((level, format!("{leaders}: {}", names(before, &moves.led_anew))));
        }
        (true, Some(leaders)) => lines.push((level, leaders)),
        (false, leaders) => {
            let leaders = leaders.unwrap_or_else(|| "no leader moves".into());
            lines.push((level, format!("{}: {leaders}", causes.join(", "))));
        }
    }
    if !moves.under.is_empty() {
        let (count, names) = (partitions(moves.under.len()), names(before, &moves.under));
        let line = format!(
            "fewer replicas of {count} are in sync than min.insync.replicas, so that acks=all is refused: {names}"
        );
        lines.push((LogLevel::Warn, line));
    }
    if !moves.enough.is_empty() {
        let (count, names) = (partitions(moves.enough.len()), names(before, &moves.enough));
        let line = format!("enough replicas of {count} are in sync again: {names}");
        lines.push((LogLevel::Info, line));
    }
    lines
}

impl Moves {
    fn note(&mut self, before: &Image, log: LogId, now: &Partition) {
        let Some((_, was)) = before.partition(log) else { return };
        match now.leader {
            None if was.leader.is_some() => self.lost += 1,
            Some(_) if was.leader != now.leader => self.led_anew.push(log),
            None | Some(_) => {}
        }
        match (is_under(was), is_under(now)) {
            (false, true) => self.under.push(log),
            (true, false) => self.enough.push(log),
            (false, false) | (true, true) => {}
        }
    }

    /// How many leaders moved; none where none did.
    fn leaders(&self) -> Option<String> {
        let is_are = |count| if count == 1 { "is" } else { "are" };
        let has_have = |count| if count == 1 { "has" } else { "have" };
        let (led, lost) = (self.led_anew.len(), self.lost);
        match (led, lost) {
            (0, 0) => None,
            (_, 0) => Some(format!("{} {} another leader", partitions(led), has_have(led))),
            (0, _) => Some(format!("{} {} offline", partitions(lost), is_are(lost))),
            (_, _) => Some(format!(
                "{} {} another leader, {lost} {} offline",
                partitions(led),
                has_have(led),
                is_are(lost)
            )),
        }
    }
}

fn is_under(partition: &Partition) -> bool {
    partition.isr.len() < usize::from(partition.min_isr)
}

fn partitions(count: usize) -> String {
    format!("{count} partition{}", if count == 1 { "" } else { "s" })
}

/// The first few by name, the others counted.
fn names(image: &Image, logs: &[LogId]) -> String {
    let name = |log: &LogId| {
        let topic = image.topics.get(&log.topic).map_or("?", |topic| topic.name.as_str());
        format!("{topic}-{}", log.partition)
    };
    let mut named: Vec<String> = logs.iter().take(NAMED_MAX).map(name).collect();
    if logs.len() > NAMED_MAX {
        named.push(format!("and {} more", logs.len() - NAMED_MAX));
    }
    named.join(", ")
}
