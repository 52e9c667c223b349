//! Waiting for a cluster that is not there just now: how often to ask, for how long, and what to tell who waits.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::Result;

/// After the first failure; each further one doubles it.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Between two attempts at most.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What lasts longer than this is said.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// What asking again does not mend. Every other error of a request may pass.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Final(pub String);

/// An error that [`Patience::failed`] does not try again.
pub fn finally(line: impl Into<String>) -> anyhow::Error {
    Final(line.into()).into()
}

/// Says, once for each wait, what is waited for, also while a call blocks: it has a thread of its own, which starts with
/// the first wait.
pub(super) struct Watch {
    tell: fn(&str),
    waits: Option<mpsc::Sender<Event>>,
}

enum Event {
    Began { what: String, why: Arc<Mutex<String>>, limit: Duration },
    Ended,
}

impl Watch {
    pub(super) fn new(tell: fn(&str)) -> Watch {
        Watch { tell, waits: None }
    }

    fn send(&mut self, event: Event) {
        let tell = self.tell;
        let waits = self.waits.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel();
            crate::runtime::aside(move || watch(&receiver, tell));
            sender
        });
        // Without its thread nothing is said, and nothing else is lost.
        let _ = waits.send(event);
    }
}

fn watch(events: &mpsc::Receiver<Event>, tell: fn(&str)) {
    while let Ok(event) = events.recv() {
        let Event::Began { what, why, limit } = event else { continue };
        if events.recv_timeout(SILENT_FOR) != Err(mpsc::RecvTimeoutError::Timeout) {
            continue;
        }
        let why = why.lock().map(|why| why.clone()).unwrap_or_default();
        let why = if why.is_empty() { "no answer yet".into() } else { why };
        tell(&format!("waiting to {what}, for up to {} s: {why}", limit.as_secs_f32()));
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// One wait: from a first attempt to its success, or to the end of its time.
pub struct Patience {
    end: Instant,
    pause: Duration,
    why: Arc<Mutex<String>>,
}

impl Patience {
    pub(super) fn begin(watch: &mut Watch, what: &str, limit: Duration) -> Patience {
        let why = Arc::new(Mutex::new(String::new()));
        watch.send(Event::Began { what: what.into(), why: why.clone(), limit });
        Patience { end: Instant::now() + limit, pause: PAUSE_FIRST, why }
    }

    pub(super) fn ended(watch: &mut Watch) {
        watch.send(Event::Ended);
    }

    /// Pauses after an attempt that failed, or gives its error back where another would not help or the time is over.
    pub fn failed(&mut self, error: anyhow::Error) -> Result<()> {
        let pause = self.pause.mul_f32(jitter());
        if error.is::<Final>() || Instant::now() + pause >= self.end {
            return Err(error);
        }
        if let Ok(mut why) = self.why.lock() {
            *why = format!("{error:#}");
        }
        crate::runtime::pause(pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Between a half and one, so that many clients do not come back at once.
fn jitter() -> f32 {
    use std::hash::{BuildHasher, RandomState};
    0.5 + (RandomState::new().hash_one(0) % 1024) as f32 / 2048.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn a_wait_ends_with_a_final_error_or_its_time_and_is_told_once() {
        let mut watch = Watch::new(|line| TOLD.lock().unwrap().push(line.into()));
        let mut patience = Patience::begin(&mut watch, "see it end", Duration::from_secs(9));
        let error = Err::<(), _>(finally("no")).context("asked").unwrap_err();
        assert_eq!(format!("{:#}", patience.failed(error).unwrap_err()), "asked: no");
        Patience::ended(&mut watch);

        let mut patience = Patience::begin(&mut watch, "wait", Duration::from_millis(1_800));
        let began = Instant::now();
        while patience.failed(anyhow!("not yet")).is_ok() {}
        assert!(
            (Duration::from_millis(1_200)..Duration::from_millis(2_500)).contains(&began.elapsed())
        );
        Patience::ended(&mut watch);
        assert_eq!(*TOLD.lock().unwrap(), ["waiting to wait, for up to 1.8 s: not yet"]);
    }
}
