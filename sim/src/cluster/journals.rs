//! Which groups of a node's journals may be damaged such that it must be noticed.

use milena_core::disk::{Command, FileName};

/// A group of a journal, as its write command showed it.
#[derive(Clone, Copy, Debug)]
struct Group {
    file: FileName,
    offset: u64,
    length: u64,
    written: bool,
    synced: bool,
    /// Groups up to this number were synced when this one was written, so that its mark covers them.
    covers: usize,
    number: usize,
}

/// Which groups of a node's journals a mark on the disk covers, seen from the commands alone.
///
/// A group is covered once a later one of the same journal, written after the sync of the first had returned, is synced
/// itself: the later one carries the mark. Damage to such a group must be noticed; damage to another may look like a torn tail.
#[derive(Clone, Debug, Default)]
pub struct JournalGroups {
    watching: bool,
    groups: Vec<Group>,
    next: usize,
}

impl JournalGroups {
    /// Groups of a run in which journals will be damaged; others need not be watched.
    pub fn watching(watching: bool) -> JournalGroups {
        JournalGroups { watching, ..JournalGroups::default() }
    }

    /// A command has come out of the node.
    pub fn on_issued(&mut self, command: &Command) {
        if !self.watching {
            return;
        }
        let Command::Write { file: file @ FileName::Journal { .. }, offset, data } = command else {
            return;
        };
        let length: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        let end = offset + length;
        self.groups.retain(|group| {
            group.file != *file || group.offset + group.length <= *offset || group.offset >= end
        });
        let covers = self
            .groups
            .iter()
            .filter(|group| same_journal(group.file, *file) && group.synced)
            .map(|group| group.number)
            .max()
            .unwrap_or(0);
        self.next += 1;
        self.groups.push(Group {
            file: *file,
            offset: *offset,
            length,
            written: false,
            synced: false,
            covers,
            number: self.next,
        });
    }

    /// A command is done.
    pub fn on_done(&mut self, command: &Command, well: bool) {
        if !self.watching {
            return;
        }
        match command {
            Command::Write { file, offset, .. } => {
                let found = self.groups.iter_mut().find(|g| g.file == *file && g.offset == *offset);
                if let Some(group) = found {
                    group.written = well;
                }
            }
            Command::Sync { file } if well => {
                self.groups
                    .iter_mut()
                    .filter(|group| group.file == *file && group.written)
                    .for_each(|group| group.synced = true);
            }
            Command::Create { file } | Command::Remove { file } => {
                self.groups.retain(|group| group.file != *file);
            }
            _ => {}
        }
    }

    /// The disk is another one.
    pub fn forget(&mut self) {
        self.groups.clear();
    }

    /// The process is gone: what was not synced is not known any more.
    pub fn on_stop(&mut self) {
        self.groups.retain(|group| group.synced);
    }

    /// Covered groups, oldest first: file, position, length.
    pub fn covered(&self) -> Vec<(FileName, u64, u64)> {
        self.groups
            .iter()
            .filter(|group| {
                group.synced
                    && self.groups.iter().any(|later| {
                        later.synced
                            && same_journal(later.file, group.file)
                            && later.covers >= group.number
                    })
            })
            .map(|group| (group.file, group.offset, group.length))
            .collect()
    }
}

fn same_journal(a: FileName, b: FileName) -> bool {
    match (a, b) {
        (
            FileName::Journal { layout, journal, .. },
            FileName::Journal { layout: other_layout, journal: other_journal, .. },
        ) => layout == other_layout && journal == other_journal,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn write(index: u32, offset: u64) -> Command {
        let file = FileName::Journal { layout: 1, journal: 1, index };
        Command::Write { file, offset, data: vec![Bytes::from_static(&[7; 100])] }
    }

    fn sync(index: u32) -> Command {
        Command::Sync { file: FileName::Journal { layout: 1, journal: 1, index } }
    }

    #[test]
    fn a_group_is_covered_by_one_written_after_its_sync_returned() {
        let mut groups = JournalGroups::watching(true);
        let all = |groups: &mut JournalGroups, command: &Command| {
            groups.on_issued(command);
            groups.on_done(command, true);
        };
        all(&mut groups, &write(0, 0));
        // Written before the sync of the first returned: its mark does not cover the first.
        groups.on_issued(&write(0, 4096));
        all(&mut groups, &sync(0));
        groups.on_done(&write(0, 4096), true);
        all(&mut groups, &sync(0));
        assert!(groups.covered().is_empty());
        all(&mut groups, &write(1, 0));
        assert!(groups.covered().is_empty(), "not synced yet");
        all(&mut groups, &sync(1));
        assert_eq!(groups.covered().len(), 2);
        groups.on_issued(&write(0, 0));
        assert_eq!(groups.covered().len(), 1, "overwritten by a recycled file");
    }
}
