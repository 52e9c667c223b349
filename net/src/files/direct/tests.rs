//! Disk commands against a model, with so few open files that most commands open one and close another.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, mpsc};
use std::thread;

use milena_core::disk::DiskError;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 8;
const FILES: u32 = 24;
const LONG: Duration = Duration::from_secs(20);

fn name(index: u32) -> FileName {
    FileName::Journal { layout: 1, journal: 0, index }
}

fn sync(file: u32) -> Command {
    Command::Sync { file: name(file) }
}

fn write(file: u32, offset: u64, bytes: &[u8]) -> Command {
    Command::Write { file: name(file), offset, data: vec![Bytes::copy_from_slice(bytes)] }
}

fn read(file: u32) -> Command {
    Command::Read { file: name(file), offset: 0, length: 100 }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u32),
    Write(u32, usize, u8),
    Fill(u32, usize),
    Read(u32),
    Sync(u32),
    Rename(u32, u32),
    Remove(u32),
    /// As `Rename`, and the file system refuses.
    RenameRefused(u32, u32),
    /// As `Remove`, and the file system refuses.
    RemoveRefused(u32),
    CloseWhatIsSynced,
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..FILES;
    let offset = || 0..40_usize;
    prop_oneof![
        4 => file().prop_map(Step::Create),
        8 => (file(), offset(), any::<u8>()).prop_map(|(f, at, byte)| Step::Write(f, at, byte)),
        1 => (file(), offset()).prop_map(|(f, at)| Step::Fill(f, at)),
        4 => file().prop_map(Step::Read),
        4 => file().prop_map(Step::Sync),
        2 => (file(), file()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => file().prop_map(Step::Remove),
        1 => (file(), file()).prop_map(|(from, to)| Step::RenameRefused(from, to)),
        1 => file().prop_map(Step::RemoveRefused),
        1 => Just(Step::CloseWhatIsSynced),
    ]
}

/// What the kernel knows of a file.
#[derive(Default)]
struct Inode {
    /// What a power loss would leave.
    media: Vec<u8>,
    /// What was there when it last tried to write everything to the media: it will not try that again.
    tried: Vec<u8>,
    has_failed: bool,
}

/// A kernel whose syncs may fail, as Linux's do: what could not be written counts as clean, and the next sync says yes.
#[derive(Default)]
struct Kernel {
    inodes: HashMap<u64, Inode>,
    /// Whether the next syncs succeed; all do after these.
    fates: VecDeque<bool>,
}

impl Kernel {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mut now = vec![0; metadata.len() as usize];
        file.read_exact_at(&mut now, 0)?;
        let inode = self.inodes.get_mut(&metadata.ino()).expect("a file that was created");
        let succeeds = self.fates.pop_front().unwrap_or(true);
        if succeeds {
            inode.media.resize(now.len(), 0);
            for (at, byte) in now.iter().enumerate() {
                if inode.tried.get(at) != Some(byte) {
                    inode.media[at] = *byte;
                }
            }
        }
        inode.has_failed |= !succeeds;
        inode.tried = now;
        if succeeds { Ok(()) } else { Err(Errno::IO.into()) }
    }
}

#[derive(Clone, Default)]
struct Model {
    bytes: Vec<u8>,
    number: u64,
    /// Whether it was said that a sync failed: what the next ones say is nobody's promise.
    told: bool,
}

struct World {
    direct: Direct,
    kernel: Arc<Mutex<Kernel>>,
    model: BTreeMap<u32, Model>,
}

impl World {
    fn new(root: &Path, fates: Vec<bool>) -> World {
        let kernel = Kernel { fates: fates.into(), ..Kernel::default() };
        let kernel = Arc::new(Mutex::new(kernel));
        let syncing = kernel.clone();
        let sync = move |file: &File| syncing.lock().unwrap().sync(file);
        let open = OpenFiles::new(LIMIT, Box::new(sync));
        World { direct: Direct::over(root.to_path_buf(), open), kernel, model: BTreeMap::new() }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Create(file) => {
                // The number of a file that is gone may be used again.
                std::fs::create_dir_all(self.direct.folder(Directory::Journal)).unwrap();
                let path = self.direct.path(name(file));
                let made = File::create(&path).unwrap();
                let number = made.metadata().unwrap().ino();
                self.kernel.lock().unwrap().inodes.insert(number, Inode::default());
                self.done(&Command::Create { file: name(file) });
                self.model.insert(file, Model { number, ..Model::default() });
            }
            Step::Write(file, offset, byte) => {
                let bytes = [byte, !byte, byte, byte, 1];
                if self
                    .on_file(file, &write(file, offset as u64, &bytes))
                    .is_some_and(|o| o.is_ok())
                {
                    self.wrote(file, offset, &bytes);
                }
            }
            Step::Fill(file, offset) => {
                let fill = Command::Fill { file: name(file), offset: offset as u64, length: 9 };
                if let Some(outcome) = self.on_file(file, &fill) {
                    self.wrote(file, offset, &[0; 9]);
                    self.check_sync(file, outcome);
                }
            }
            Step::Read(file) => {
                let length = Command::Length { file: name(file) };
                let length = self.on_file(file, &length);
                let bytes = self.on_file(file, &read(file));
                let Some(model) = self.model.get(&file) else { return };
                assert_eq!(length, Some(Ok(Success::Length(model.bytes.len() as u64))));
                assert_eq!(bytes, Some(Ok(Success::Bytes(model.bytes.clone().into()))));
            }
            Step::Sync(file) => {
                if let Some(outcome) = self.on_file(file, &sync(file)) {
                    self.check_sync(file, outcome);
                }
            }
            Step::Rename(from, to) => {
                let rename = Command::Rename { from: name(from), to: name(to) };
                if let Some(outcome) = self.on_file(from, &rename) {
                    assert_eq!(outcome, Ok(Success::Done));
                    let moved = self.model.remove(&from).unwrap();
                    self.model.insert(to, moved);
                }
            }
            Step::Remove(file) => {
                self.done(&Command::Remove { file: name(file) });
                self.model.remove(&file);
            }
            Step::RenameRefused(from, to) => {
                if self.model.contains_key(&from) && from != to {
                    self.refused(to, &Command::Rename { from: name(from), to: name(to) });
                }
            }
            Step::RemoveRefused(file) => self.refused(file, &Command::Remove { file: name(file) }),
            Step::CloseWhatIsSynced => self.direct.open.close_what_is_synced(),
        }
    }

    fn done(&self, command: &Command) {
        assert_eq!(self.direct.execute(command), Ok(Success::Done), "{command:?}");
    }

    /// Runs a command of a file; none where the file is not there, which the command must say.
    fn on_file(&self, file: u32, command: &Command) -> Option<Outcome> {
        let outcome = self.direct.execute(command);
        if self.model.contains_key(&file) {
            return Some(outcome);
        }
        assert_eq!(outcome, Err(DiskError::NotFound), "{command:?}");
        None
    }

    /// Runs a command that the file system refuses, for a folder stands where the command's file should.
    fn refused(&self, file: u32, command: &Command) {
        let path = self.direct.path(name(file));
        let aside = self.direct.root().join("aside");
        let is_there = self.model.contains_key(&file);
        if is_there {
            std::fs::rename(&path, &aside).unwrap();
        }
        std::fs::create_dir_all(path.join("full")).unwrap();
        assert!(matches!(self.direct.execute(command), Err(DiskError::Io(_))), "{command:?}");
        std::fs::remove_dir_all(&path).unwrap();
        if is_there {
            std::fs::rename(&aside, &path).unwrap();
        }
    }

    fn wrote(&mut self, file: u32, offset: usize, bytes: &[u8]) {
        let model = self.model.get_mut(&file).unwrap();
        let end = offset + bytes.len();
        model.bytes.resize(model.bytes.len().max(end), 0);
        model.bytes[offset..end].copy_from_slice(bytes);
    }

    /// A sync that says yes has everything on the media, whatever happened since the file was created; one that says no has a
    /// reason.
    fn check_sync(&mut self, file: u32, outcome: Outcome) {
        let model = self.model.get_mut(&file).unwrap();
        let inode = &self.kernel.lock().unwrap().inodes[&model.number];
        match outcome {
            Ok(_) => assert!(model.told || inode.media == model.bytes, "{file}: not on the media"),
            Err(error) => {
                assert_eq!(error, DiskError::Io(5));
                assert!(inode.has_failed, "{file}: no sync has failed");
                model.told = true;
            }
        }
    }

    fn check(&self) {
        let kernel = self.kernel.lock().unwrap();
        for (file, model) in &self.model {
            let is_synced = kernel.inodes[&model.number].tried == model.bytes;
            let is_open = self.direct.open.is_open(name(*file));
            assert!(is_synced || is_open, "{file}: closed before its sync");
        }
        let failed = self.model.values().filter(|m| kernel.inodes[&m.number].has_failed).count();
        let most = LIMIT.max(failed + 1);
        assert!(self.direct.open.len() <= most, "{} are open", self.direct.open.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever is created, written, renamed, removed and synced, with files opened and closed all the time and syncs that fail
    /// when nobody has asked: files read as they were written, and no sync says yes to what the media doesn't have.
    #[test]
    fn open_files_come_and_go_unseen(
        fates in prop::collection::vec(prop::bool::weighted(0.8), 0..60),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::new(directory.path(), fates);
        (0..FILES / 2).for_each(|file| world.run(&Step::Create(file)));
        for step in &steps {
            world.run(step);
            world.check();
        }
        for file in 0..FILES {
            world.run(&Step::Read(file));
            world.run(&Step::Sync(file));
        }
    }
}

/// A file is closed to make room for another, and its sync takes long: commands of other files are not kept waiting. A sync of
/// this file that is asked for meanwhile is, and hears of the failure, which the kernel tells once.
#[test]
fn a_slow_sync_before_closing_keeps_nobody_waiting_and_tells_its_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (begun, begins) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let goes = Mutex::new(Some(goes));
    let first_sync = move |_: &File| {
        let Some(goes) = goes.lock().unwrap().take() else { return Ok(()) };
        begun.send(()).unwrap();
        goes.recv_timeout(LONG).unwrap();
        Err(Errno::IO.into())
    };
    let open = OpenFiles::new(LIMIT, Box::new(first_sync));
    let direct = &Direct::over(directory.path().to_path_buf(), open);
    for file in 0..LIMIT as u32 {
        assert_eq!(direct.execute(&Command::Create { file: name(file) }), Ok(Success::Done));
    }
    let create = Command::Create { file: name(LIMIT as u32) };
    thread::scope(|scope| {
        let closing = scope.spawn(move || direct.execute(&create));
        begins.recv_timeout(LONG).unwrap();
        // The first file is the one that was used least recently. None of these needs it.
        let (others_done, others) = mpsc::channel();
        scope.spawn(move || {
            let outcomes = [write(1, 0, b"x"), read(1), sync(2)].map(|c| direct.execute(&c));
            others_done.send(outcomes).unwrap();
        });
        let outcomes = others.recv_timeout(LONG).expect("commands of other files go on");
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let (asked_done, asked) = mpsc::channel();
        scope.spawn(move || asked_done.send(direct.execute(&sync(0))).unwrap());
        assert!(asked.recv_timeout(Duration::from_millis(50)).is_err(), "it waits for the other");
        go.send(()).unwrap();
        assert_eq!(asked.recv_timeout(LONG), Ok(Err(DiskError::Io(5))));
        assert_eq!(closing.join().unwrap(), Ok(Success::Done), "it is not the one to be told");
    });
    assert!(direct.open.is_open(name(0)), "not closed before it is created anew or removed");
    assert_eq!(direct.open.len(), LIMIT);
}
