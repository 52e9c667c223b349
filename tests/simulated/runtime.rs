//! What the driver's runtime is under every simulated network: local tasks in the place of threads, and tokio's clock, which
//! the simulator moves. The module that takes this file in has the sockets, the wall clock and the entropy. The names are
//! those of `net/src/runtime.rs`; everything else of the driver is compiled as it is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use milena_core::{Instant, Now};

use super::{TcpListener, TcpStream, wall};

pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::select;
pub use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
pub use tokio::task::AbortHandle;

/// How long the simulated disk takes for what it is given at once.
const DISK_LATENCY: Duration = Duration::from_micros(200);

/// A node's clock.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock { origin: tokio::time::Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall().as_millis() as i64 }
    }

    /// Reads the monotonic one.
    pub fn mono(&self) -> Instant {
        Instant(self.origin.elapsed().as_nanos() as u64)
    }

    /// Waits until a moment on this clock; for ever where there is none.
    pub async fn sleep_until(&self, moment: Option<Instant>) {
        match moment {
            Some(moment) => {
                tokio::time::sleep_until(self.origin + Duration::from_nanos(moment.0)).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Waits.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Blocks, for want of something to wait on: the real disk under a simulated node has nothing to give just now.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs a future beside the others of this node.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(future).abort_handle()
}

/// A worker: a local task, since a simulated node is one thread.
pub struct Thread;

impl Thread {
    /// Starts it.
    pub fn start<F: Future<Output = ()> + 'static>(
        _name: String,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Thread> {
        tokio::task::spawn_local(make());
        Ok(Thread)
    }

    /// A node ends as a whole.
    pub fn join(self) -> bool {
        true
    }
}

/// A disk that takes simulated time: a local task that does its work in order.
pub struct WorkThread<W> {
    sender: mpsc::UnboundedSender<W>,
}

impl<W: Send + 'static> WorkThread<W> {
    /// Starts it; it ends when this is dropped and all that was sent is done.
    pub fn start(_name: String, mut work: impl FnMut(W) + Send + 'static) -> io::Result<Self> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Some(piece) = receiver.recv().await {
                tokio::time::sleep(DISK_LATENCY).await;
                work(piece);
            }
        });
        Ok(WorkThread { sender })
    }

    /// Sends it work.
    pub fn send(&self, work: W) {
        // The task ends before this only with its node.
        let _ = self.sender.send(work);
    }
}

/// A connection on its way to another worker, which is on the same thread here.
pub struct Detached(TcpStream);

impl Detached {
    /// Takes a connection.
    pub fn new(stream: TcpStream) -> io::Result<Detached> {
        Ok(Detached(stream))
    }

    /// Gives it.
    pub fn attach(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

/// An address that will be listened on.
pub struct Bound(String);

impl Bound {
    /// The address it got.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no address"))
    }
}

/// Notes the address; a simulated network binds when it listens.
pub fn bind(address: &str) -> io::Result<Bound> {
    Ok(Bound(address.into()))
}

/// Listens.
pub async fn listen(bound: Bound) -> io::Result<TcpListener> {
    TcpListener::bind(bound.0).await
}
