//! The driver's runtime under turmoil: simulated network and time, one thread for everything. Each name means what it means
//! in the driver's own `runtime.rs`.
//!
//! Files are real ones in a temporary directory; a disk lane is a task that takes a moment for each piece of work.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

use milena_core::{Instant, Now};

pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::select;
pub use tokio::sync::{Notify, mpsc};
pub use tokio::task::{AbortHandle, yield_now};
pub use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub use turmoil::net::{TcpListener, TcpStream};

/// A disk's answer takes this long.
const DISK: Duration = Duration::from_millis(1);
/// Wall clock at the start, milliseconds.
const EPOCH: i64 = 1_700_000_000_000;

#[derive(Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { origin: tokio::time::Instant::now() }
    }

    pub fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: EPOCH + turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64,
        }
    }

    pub fn mono(&self) -> Instant {
        Instant(self.origin.elapsed().as_nanos() as u64)
    }

    pub async fn sleep_until(&self, moment: Option<Instant>) {
        match moment {
            Some(moment) => {
                tokio::time::sleep_until(self.origin + Duration::from_nanos(moment.0)).await;
            }
            None => std::future::pending().await,
        }
    }
}

pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub fn spawn(future: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(future).abort_handle()
}

pub struct Thread;

impl Thread {
    pub fn start<F: Future<Output = ()> + 'static>(
        _name: String,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Thread> {
        spawn(make());
        Ok(Thread)
    }

    pub fn join(self) -> bool {
        true
    }
}

pub struct DiskThread<W> {
    sender: mpsc::UnboundedSender<W>,
}

impl<W: Send + 'static> DiskThread<W> {
    pub fn start(_name: String, mut work: impl FnMut(W) + Send + 'static) -> io::Result<Self> {
        let (sender, mut receiver) = mpsc::unbounded_channel::<W>();
        spawn(async move {
            while let Some(piece) = receiver.recv().await {
                sleep(DISK).await;
                work(piece);
            }
        });
        Ok(DiskThread { sender })
    }

    pub fn send(&self, work: W) {
        let _ = self.sender.send(work);
    }
}

pub struct Detached(TcpStream);

impl Detached {
    pub fn new(stream: TcpStream) -> io::Result<Detached> {
        Ok(Detached(stream))
    }

    pub fn attach(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

pub struct Bound(String);

pub fn bind(address: &str) -> io::Result<Bound> {
    Ok(Bound(address.into()))
}

pub async fn listen(bound: Bound) -> io::Result<TcpListener> {
    TcpListener::bind(bound.0.as_str()).await
}

/// Different at each call, the same in each run.
pub fn entropy() -> io::Result<[u8; 32]> {
    thread_local!(static CALLS: Cell<u8> = const { Cell::new(0) });
    let call = CALLS.get() + 1;
    CALLS.set(call);
    Ok([call; 32])
}
