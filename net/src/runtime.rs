//! The only place that names the async runtime, its sockets, its clock and threads. Another runtime is another version of
//! this file: everything else in the driver is written against these few names.
//!
//! The shape: a thread per worker, each with a single-threaded runtime; nothing is spawned across threads. A disk lane is a
//! plain thread that blocks.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena_core::{Instant, Now};

pub use hyper_util::rt::{TokioIo as HttpIo, TokioTimer as HttpTimer};
pub use tokio::io::{AsyncReadExt, AsyncWriteExt};
pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub use tokio::net::{TcpListener, TcpStream};
pub use tokio::select;
pub use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
pub use tokio::task::{AbortHandle, yield_now};

/// The node's clock, started once.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that reads zero now. All of a node's machines share one.
    pub fn start() -> Clock {
        Clock { origin: tokio::time::Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: wall.as_millis() as i64 }
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

/// Runs a future on this thread beside the others. It ends with its thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> AbortHandle {
    tokio::task::spawn_local(future).abort_handle()
}

/// A thread with a runtime of its own, to be waited for.
pub struct Thread(thread::JoinHandle<()>);

impl Thread {
    /// Starts it; the future is made and run there, and what it spawned ends with it.
    pub fn start<F: Future<Output = ()>>(
        name: String,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Thread> {
        let body =
            move || block_on(make()).unwrap_or_else(|error| tracing::error!("runtime: {error}"));
        thread::Builder::new().name(name).spawn(body).map(Thread)
    }

    /// Waits for its end; whether it ended well.
    pub fn join(self) -> bool {
        self.0.join().is_ok()
    }
}

/// Runs a future to its end on this thread, with all that it spawns.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

/// A thread that blocks on the disk, or computes for long: takes work in order, one piece after the other.
pub struct WorkThread<W> {
    sender: blocking::Sender<W>,
}

impl<W: Send + 'static> WorkThread<W> {
    /// Starts it; it ends when this is dropped and all that was sent is done.
    pub fn start(name: String, mut work: impl FnMut(W) + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = blocking::channel::<W>();
        let body = move || receiver.iter().for_each(&mut work);
        thread::Builder::new().name(name).spawn(body)?;
        Ok(WorkThread { sender })
    }

    /// Sends it work.
    pub fn send(&self, work: W) {
        // The thread ends before this only if it panicked; its worker then waits for it and acknowledges nothing.
        let _ = self.sender.send(work);
    }
}

/// A connection on its way to another thread.
pub struct Detached(std::net::TcpStream);

impl Detached {
    /// Takes a connection from this thread's runtime.
    pub fn new(stream: TcpStream) -> io::Result<Detached> {
        stream.into_std().map(Detached)
    }

    /// Gives it to this thread's runtime.
    pub fn attach(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0)
    }
}

/// A listener that has its port and belongs to no thread yet.
pub struct Bound(std::net::TcpListener);

impl Bound {
    /// The address it got.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Binds a listener; the error is the operating system's.
pub fn bind(address: &str) -> io::Result<Bound> {
    use std::net::ToSocketAddrs;
    let address = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such host"))?;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(Bound(socket.into()))
}

/// Gives a bound listener to this thread's runtime.
pub async fn listen(bound: Bound) -> io::Result<TcpListener> {
    TcpListener::from_std(bound.0)
}

/// Comes back when the process is asked to end: Ctrl-C or SIGTERM.
pub async fn asked_to_stop() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Bytes that nobody can guess.
pub fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Does something on a thread that nobody waits for; where there can be none, it is left out.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().spawn(work);
}

/// Blocks this thread.
pub fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// What the first of several futures that is done gives.
pub async fn first<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(context) {
                return std::task::Poll::Ready(output);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Does something on several threads at once; the results in order.
pub fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || work(i))).collect();
        threads.into_iter().map(|t| t.join().expect("a panic ends the process")).collect()
    })
}
