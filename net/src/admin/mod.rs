//! The admin listener: HTTP for those who watch a node, `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever starts,
//! stops or routes to it.
//!
//! It has a thread of its own and only asks, so that whatever a client does here delays nobody who produces or fetches. There is
//! no authentication, and nothing that can be changed.

mod exposition;
mod health;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tracing::debug;

use crate::accept::Acceptor;
use crate::runtime::{self, Bound, HttpIo, HttpTimer, Semaphore, TcpStream, select};
use crate::watch::Watch;

/// Connections at a time; more of them wait to be accepted.
const CONNECTIONS: usize = 16;
/// Scrapes at a time, until the client has taken its text: no number of clients asks more of the workers, or of memory.
const SCRAPES: usize = 4;
/// The head of a request must be there within this time.
const HEAD: Duration = Duration::from_secs(5);
/// The most that the head of a request may have, bytes.
const HEAD_BYTES: usize = 16 << 10;
/// A connection is closed after this long, whatever its client does.
const CONNECTION: Duration = Duration::from_secs(30);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: &str = "/metrics";
const PATHS: &str = "there are /metrics, /healthz and /readyz\n";

/// One node's admin listener.
struct Admin {
    watch: Watch,
    scrapes: Arc<Semaphore>,
}

/// Serves a node's admin listener for as long as its thread lives.
pub async fn serve(bound: Bound, watch: Watch) {
    let listener = match runtime::listen(bound).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the admin listener cannot run: {error}"),
    };
    let (clock, warnings) = (watch.clock, watch.warnings());
    let acceptor = Acceptor { listener, whom: "admin clients", clock, warnings };
    let admin = Rc::new(Admin { watch, scrapes: Arc::new(Semaphore::new(SCRAPES)) });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        // That there are no descriptors is for the listeners that the node is there for to judge.
        let Ok((stream, address)) = acceptor.next().await else { continue };
        let admin = admin.clone();
        runtime::spawn(async move {
            select! {
                () = admin.converse(stream, address) => {}
                () = runtime::sleep(CONNECTION) => debug!("admin client {address} took too long"),
            }
            drop(place);
        });
    }
}

impl Admin {
    /// One request of one client, and its answer.
    async fn converse(self: Rc<Self>, stream: TcpStream, address: SocketAddr) {
        // What a scrape takes is given back when its client has it all, or has gone.
        let taken = Rc::new(Cell::new(None));
        let service = service_fn(|request: Request<Incoming>| {
            let (admin, taken) = (self.clone(), taken.clone());
            async move {
                if request.uri().path() == METRICS {
                    taken.set(admin.scrapes.clone().acquire_owned().await.ok());
                }
                Ok::<_, Infallible>(admin.answer(&request).await)
            }
        });
        let served = http1::Builder::new()
            .timer(HttpTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(HttpIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!("admin client {address}: {error}");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            METRICS => self.metrics().await,
            "/healthz" => judged(health::silent(&self.watch.reports().await)),
            "/readyz" => {
                let reports = self.watch.reports().await;
                judged(health::waits_for(self.watch.node, self.watch.broker, &reports))
            }
            _ => text(StatusCode::NOT_FOUND, PATHS.into()),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let reports = self.watch.reports().await;
        let mut workers = Vec::new();
        for (worker, report) in reports.into_iter().enumerate() {
            let partitions = match &report {
                Some(report) if report.shard.is_some() => self.watch.partitions(worker).await,
                Some(_) => Some(Vec::new()),
                None => None,
            };
            workers.push(report.zip(partitions));
        }
        let scrape = exposition::Scrape {
            node: self.watch.node,
            workers,
            load: self.watch.load(),
            sync_times: self.watch.sync_times(),
            process: exposition::Process::now(),
        };
        let mut response = text(StatusCode::OK, exposition::encode(scrape));
        let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// All is well, or what is not.
fn judged(complaint: Option<String>) -> Response<Full<Bytes>> {
    match complaint {
        None => text(StatusCode::OK, "ok\n".into()),
        Some(complaint) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{complaint}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use milena_core::{NodeId, View};

    use super::*;
    use crate::files::{Files, Unsynced};
    use crate::host::Mail;
    use crate::kafka::{Counts, Limits};
    use crate::metrics::Traffic;
    use crate::report;
    use crate::runtime::{Clock, mpsc};

    /// A worker that answers, one that has ended, and one that does nothing any more.
    #[test]
    fn a_silent_worker_is_waited_for_a_little_and_the_others_are_heard() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap());
        let (answers, mut mail) = mpsc::unbounded_channel();
        let (ended, _) = mpsc::unbounded_channel();
        let (silent, _kept) = mpsc::unbounded_channel();
        let limits = Limits::default();
        let watched = Watch {
            node: NodeId(1),
            broker: true,
            clock: Clock::start(),
            mailboxes: vec![silent, answers, ended],
            files,
            counts: Arc::new(Counts::new(&limits)),
            limits,
        };
        let (reports, partitions, took) = runtime::block_on(async move {
            runtime::spawn(async move {
                while let Some(Mail::Ask(ask)) = mail.recv().await {
                    report::answer(ask, View::Nothing, Traffic::default);
                }
            });
            let began = watched.clock.mono();
            let reports = watched.reports().await;
            let took = watched.clock.mono().ms_since(began);
            let partitions = [
                watched.partitions(0).await.map(|all| all.len()),
                watched.partitions(1).await.map(|all| all.len()),
                watched.partitions(2).await.map(|all| all.len()),
            ];
            (reports, partitions, took)
        })
        .unwrap();
        let there: Vec<bool> = reports.iter().map(Option::is_some).collect();
        assert_eq!(there, [false, true, false]);
        assert_eq!(partitions, [None, Some(0), None]);
        assert!((1_000..10_000).contains(&took), "{took} ms");
    }
}
