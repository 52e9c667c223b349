//! The fingerprint of a run: a hash chain over every input and output of every machine. The same schedule gives the same
//! fingerprint, in another process and on another day; where it does not, something in the core reads what it must not.
//!
//! An input is hashed by who took it and when; its content is some earlier output, already hashed, or a client's draw.

use bytes::Bytes;
use milena_core::disk::{Command, FileName, Outcome, Success};
use milena_core::local::{Caller, LocalMessage};
use milena_core::peer::PeerMessage;
use milena_core::replica::message::ReplicaMessage;
use milena_core::{Output, Place};

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A running hash.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    state: u64,
    scratch: Vec<u8>,
}

impl Fingerprint {
    /// The hash so far.
    pub fn value(&self) -> u64 {
        self.state
    }

    /// Adds a number.
    #[inline]
    pub fn number(&mut self, number: u64) {
        self.state = (self.state ^ number).wrapping_mul(MIX).rotate_left(29) ^ number;
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.number(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes));
    }

    /// Adds one output of a machine.
    pub fn output(&mut self, output: &Output) {
        match output {
            Output::Send { to, message } => {
                self.number(0x100 + to.0 as u64);
                self.message(message);
            }
            Output::Local { to, message } => {
                self.number(match to {
                    Place::Metadata => 0x200,
                    Place::Shard(shard) => 0x201 + u64::from(*shard),
                });
                self.local(message);
            }
            Output::Reply { client, id, response } => {
                self.number(0x300 + u64::from(response.is_some()));
                self.number(client.0);
                self.number(*id);
            }
            Output::Close { client, id, .. } => {
                self.number(0x400);
                self.number(client.0);
                self.number(*id);
            }
            Output::Disk { op, command } => {
                self.number(0x500);
                self.number(op.0);
                self.command(command);
            }
            Output::Work { op, work } => self.numbers([0x800, op.0, work.size() as u64]),
            Output::Log { line, .. } => self.bytes(line.as_bytes()),
            Output::Halt(_) => self.number(0x600),
            Output::Stop => self.number(0x700),
        }
    }

    fn message(&mut self, message: &PeerMessage) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch = postcard::to_extend(message, scratch).expect("a message of ours has bytes");
        self.bytes(&scratch);
        self.scratch = scratch;
        if let PeerMessage::Replica(ReplicaMessage::Push(push)) = message {
            self.pieces(&push.records);
        }
    }

    fn local(&mut self, message: &LocalMessage) {
        match message {
            LocalMessage::Image(image) => {
                self.number(1);
                self.number(image.hash);
                self.number(image.end as u64);
            }
            LocalMessage::Serving(epoch) => {
                self.number(2);
                self.number(epoch.map_or(u64::MAX, |e| e.0 as u64));
            }
            LocalMessage::AlterPartition(alter) => {
                self.number(3);
                self.number(alter.leader_epoch as u64);
                self.number(alter.partition_epoch as u64);
                alter.isr.iter().for_each(|member| self.number(member.node.0 as u64));
            }
            LocalMessage::Damaged { replica, .. } => self.number(0x40 + u64::from(replica.0)),
            LocalMessage::Administer { client, id, .. } => self.numbers([5, client.0, *id]),
            LocalMessage::Administered { client, id, .. } => self.numbers([6, client.0, *id]),
            LocalMessage::Scatter { caller, .. } => self.caller(7, caller),
            LocalMessage::Gather { caller, .. } => self.caller(8, caller),
            LocalMessage::Abandon { caller } => self.caller(9, caller),
            LocalMessage::Stop => self.number(11),
            LocalMessage::Hasten { caller } => self.caller(10, caller),
        }
    }

    fn caller(&mut self, kind: u64, caller: &Caller) {
        self.numbers([kind, caller.client.0, caller.id]);
    }

    fn numbers(&mut self, numbers: [u64; 3]) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    fn pieces(&mut self, pieces: &[Bytes]) {
        pieces.iter().for_each(|piece| self.bytes(piece));
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Create { file } => self.file(1, file),
            Command::Write { file, offset, data } => {
                self.file(2, file);
                self.number(*offset);
                self.pieces(data);
            }
            Command::Read { file, offset, length } => {
                self.file(3, file);
                self.number(*offset);
                self.number(u64::from(*length));
            }
            Command::Length { file } => self.file(4, file),
            Command::Sync { file } => self.file(5, file),
            Command::Fill { file, offset, length } => {
                self.file(10, file);
                self.number(*offset);
                self.number(*length);
            }
            Command::Rename { from, to } => {
                self.file(7, from);
                self.file(8, to);
            }
            Command::Remove { file } => self.file(9, file),
            Command::SyncDirectory { directory } => self.number(0x10 + *directory as u64),
            Command::List { directory } => self.number(0x20 + *directory as u64),
            Command::FreeSpace => self.number(0x30),
        }
    }

    fn file(&mut self, kind: u64, file: &FileName) {
        let (a, b) = match file {
            FileName::Superblock { copy } => (1, u64::from(*copy)),
            FileName::Checkpoint { layout, journal, slot } => {
                (2 + u64::from(*slot), (u64::from(*layout) << 16) | u64::from(*journal))
            }
            FileName::Journal { layout, journal, index } => {
                (4, (u64::from(*layout) << 40) | (u64::from(*journal) << 24) | u64::from(*index))
            }
            FileName::Segment { log, base, .. } => (5 + log.partition as u64, *base as u64),
            FileName::Index { log, base, .. } => (0x8000 + log.partition as u64, *base as u64),
            FileName::Snapshot { end, whole, .. } => (0x4000 + u64::from(*whole), *end as u64),
        };
        self.numbers([kind, a, b]);
    }

    /// Adds what came of a disk command.
    pub fn outcome(&mut self, outcome: &Outcome) {
        self.number(match outcome {
            Ok(Success::Done) => 1,
            Ok(Success::Bytes(bytes)) => 0x1_0000_0000 + bytes.len() as u64,
            Ok(Success::Length(length)) => 0x2_0000_0000 + *length,
            Ok(Success::Names(names)) => 0x3_0000_0000 + names.len() as u64,
            Ok(Success::Free(bytes)) => 0x4_0000_0000 ^ *bytes,
            Err(_) => 2,
        });
    }
}
