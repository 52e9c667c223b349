//! Where the other nodes may be reached, and which of these addresses to try next.
//!
//! Three things say where a peer is: its own hello on a connection that it has opened, the cluster's metadata, and the list
//! that this node was started with. Each may be out of date, because a node may come back at another address while this
//! one, its list, or all of the cluster sleeps. So none overrides another: all are candidates and are tried in turn, a
//! failed one later and later.
//!
//! Two processes may call themselves by one id, with disks of their own or with copies of one. Messages go to a node, so only
//! one of them can be answered: the one that was there first, while it is heard. The other one is refused at its hello, is told
//! with whom it collides, and stops when it has been told so for longer than a connection can outlive its process unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use crate::image::Image;
use crate::{Incarnation, Instant, NodeId};

/// A candidate that failed is tried again after this many milliseconds, twice as many after each further failure ...
const BACKOFF_MS_MIN: u64 = 10;
/// ... and at most after so many.
const BACKOFF_MS_MAX: u64 = 500;
/// Who refused this node at a candidate is asked again after this long, unless the peer itself is heard.
const REFUSED_MS: u64 = 10_000;
/// A connection on which nothing was heard for this long may be of a process that is gone.
const SILENT_MS: u64 = 2_000;
/// Who is refused for this long because another process has its id stops.
const DUPLICATE_MS: u64 = 5_000;
/// A peer that is heard and not reached for this long is worth a warning ...
const UNREACHED_MS: u64 = 1_000;
/// ... and another one after this long.
const WARNING_MS: u64 = 30_000;

/// Who says where a peer is, the one whose word is youngest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    /// The peer's own hello.
    Hello,
    /// The cluster's metadata.
    Image,
    /// The list that this node was started with.
    Given,
}

/// What to do about a peer that is not connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dial<'a> {
    /// When this address is to be tried now.
    Now(&'a str),
    /// When every candidate has failed, and the first of them is to be tried again then.
    At(Instant),
    /// When nobody has said where the peer is.
    Nowhere,
}

/// How an attempt to reach a peer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// When nobody answered as the peer would.
    Unreached,
    /// When somebody answered and does not want to be this node's peer.
    Refused,
    /// When somebody answered who hears another process with this node's id.
    Duplicate,
}

/// The address book of one node.
#[derive(Clone, Debug)]
pub struct Addresses {
    me: NodeId,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    candidates: BTreeMap<Source, String>,
    /// Candidates that failed since they were last good or new.
    failed: BTreeMap<String, Failed>,
    /// Connections that the peer has opened.
    heard_from: Vec<Heard>,
    /// Since when it refuses this node because another process has its id.
    duplicate_since: Option<Instant>,
    /// Since when nothing was reached.
    unreached_since: Option<Instant>,
    warned_at: Option<Instant>,
}

/// Which process has opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its disk, or the one that its directory was copied from.
    pub incarnation: Incarnation,
    /// Drawn by the process when it began.
    pub run: u64,
}

/// A connection that a peer has opened.
#[derive(Clone, Debug)]
struct Heard {
    from: String,
    process: Process,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    backoff_ms: u64,
    again_at: Instant,
}

impl Addresses {
    /// The book of a node that knows nobody yet.
    pub fn new(me: NodeId) -> Addresses {
        Addresses { me, peers: BTreeMap::new() }
    }

    /// Whom to keep a connection to.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }

    /// Whether anybody has said where a node is.
    pub fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Nodes known by their hello alone.
    pub fn strangers(&self) -> usize {
        let only_heard = |peer: &&Peer| peer.candidates.keys().all(|s| *s == Source::Hello);
        self.peers.values().filter(only_heard).count()
    }

    /// When this node was started with a list that names a peer. True if that is a new candidate.
    pub fn given(&mut self, node: NodeId, address: &str) -> bool {
        self.learn(node, Source::Given, address)
    }

    /// When the cluster's metadata has changed: the peers of which it says something new.
    pub fn on_image(&mut self, image: &Image) -> Vec<NodeId> {
        let says = |(node, broker): (&NodeId, &crate::image::Broker)| {
            self.learn(*node, Source::Image, &broker.peer).then_some(*node)
        };
        image.brokers.iter().filter_map(says).collect()
    }

    /// When a peer has opened a connection, from somewhere, and said where it can be reached: all that failed is worth
    /// another try, for the peer lives.
    ///
    /// # Errors
    ///
    /// A line for both logs where another process has its id: the connection is to be refused with it.
    pub fn opened(
        &mut self,
        now: Instant,
        node: NodeId,
        from: &str,
        process: Process,
        address: &str,
    ) -> Result<(), String> {
        let known = self.peers.get(&node).into_iter().flat_map(|peer| &peer.heard_from);
        let lives = |heard: &&Heard| now.ms_since(heard.at) < SILENT_MS;
        if let Some(other) = known.filter(lives).find(|heard| heard.process != process) {
            let (with, hint) = if other.process.incarnation == process.incarnation {
                (
                    "with copies of one directory",
                    "stop one for good, and never start a copied directory",
                )
            } else {
                ("each with a directory of its own", "check --node-id of both")
            };
            return Err(format!(
                "two processes call themselves node {node}, {with}, one heard from {} and this one, from {from}, which says \
                 that it is reached at {address}; {hint}",
                other.from
            ));
        }
        self.learn(node, Source::Hello, address);
        let peer = self.peers.entry(node).or_default();
        peer.failed.clear();
        peer.heard_from.push(Heard { from: from.to_string(), process, at: now });
        Ok(())
    }

    /// When a connection that a peer has opened shows that it lives.
    pub fn heard(&mut self, now: Instant, node: NodeId, from: &str) {
        let known = self.peers.get_mut(&node).into_iter().flat_map(|peer| &mut peer.heard_from);
        known.filter(|heard| heard.from == from).for_each(|heard| heard.at = now);
    }

    /// When a connection that a peer has opened is gone. Where it said it was stays a candidate.
    pub fn closed(&mut self, node: NodeId, from: &str) {
        if let Some(peer) = self.peers.get_mut(&node)
            && let Some(at) = peer.heard_from.iter().position(|heard| heard.from == from)
        {
            peer.heard_from.remove(at);
        }
    }

    /// Whether it is this process of a peer that is heard, on a connection that it has opened: the last one, of two.
    pub fn hears(&self, node: NodeId, process: Process) -> bool {
        let last = self.peers.get(&node).and_then(|peer| peer.heard_from.last());
        last.is_some_and(|heard| heard.process == process)
    }

    /// Whether a peer has been refusing this node for so long that the other process with its id lives.
    pub fn is_duplicate(&self, now: Instant, node: NodeId) -> bool {
        let since = self.peers.get(&node).and_then(|peer| peer.duplicate_since);
        since.is_some_and(|since| now.ms_since(since) >= DUPLICATE_MS)
    }

    fn learn(&mut self, node: NodeId, source: Source, address: &str) -> bool {
        if node == self.me || address.is_empty() {
            return false;
        }
        let peer = self.peers.entry(node).or_default();
        if peer.candidates.get(&source).is_some_and(|known| known == address) {
            return false;
        }
        let is_new = !peer.candidates.values().any(|known| known == address);
        peer.candidates.insert(source, address.to_string());
        let candidates: BTreeSet<&String> = peer.candidates.values().collect();
        peer.failed.retain(|failed, _| candidates.contains(failed));
        is_new
    }

    /// Where to look for a peer now. Of the candidates that may be tried, the one that failed least, then the youngest word.
    pub fn dial(&self, now: Instant, node: NodeId) -> Dial<'_> {
        let Some(peer) = self.peers.get(&node) else { return Dial::Nowhere };
        let again_at = |address: &&String| {
            peer.failed.get(*address).map_or(Instant(0), |failed| failed.again_at)
        };
        match peer.candidates.values().min_by_key(again_at) {
            None => Dial::Nowhere,
            Some(address) if again_at(&address) <= now => Dial::Now(address),
            Some(address) => Dial::At(again_at(&address)),
        }
    }

    /// When the peer itself has answered at an address.
    pub fn reached(&mut self, node: NodeId, address: &str) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.failed.remove(address);
            peer.unreached_since = None;
            peer.duplicate_since = None;
        }
    }

    /// When it was not reached at an address. A line for the log where it can be heard all the same, now and then.
    pub fn failed(
        &mut self,
        now: Instant,
        node: NodeId,
        address: &str,
        how: Failure,
    ) -> Option<String> {
        let peer = self.peers.get_mut(&node)?;
        let since = *peer.unreached_since.get_or_insert(now);
        peer.duplicate_since =
            (how == Failure::Duplicate).then(|| peer.duplicate_since.unwrap_or(now));
        if peer.candidates.values().any(|candidate| candidate == address) {
            let before = peer.failed.get(address).map_or(0, |failed| failed.backoff_ms);
            let backoff_ms = (before * 2).clamp(BACKOFF_MS_MIN, BACKOFF_MS_MAX);
            let pause_ms = if how == Failure::Refused { REFUSED_MS } else { backoff_ms };
            let again_at = now.after_ms(pause_ms);
            peer.failed.insert(address.to_string(), Failed { backoff_ms, again_at });
        }
        let all_failed = peer.candidates.values().all(|known| peer.failed.contains_key(known));
        let said_lately = peer.warned_at.is_some_and(|at| now.ms_since(at) < WARNING_MS);
        let from = &peer.heard_from.last()?.from;
        if !all_failed || said_lately || now.ms_since(since) < UNREACHED_MS {
            return None;
        }
        peer.warned_at = Some(now);
        let tried: BTreeSet<&str> = peer.candidates.values().map(String::as_str).collect();
        let tried = Vec::from_iter(tried).join(" nor at ");
        Some(format!(
            "node {node} is heard from {from} but not reached at {tried}: it cannot be answered; check the address that it \
             was started with, and the way there from this host"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const FIRST: Process = Process { incarnation: Incarnation(7), run: 1 };

    fn at(ms: u64) -> Instant {
        Instant(0).after_ms(ms)
    }

    /// A book that has the peer's address from all three, as an image that is behind would have it.
    fn book() -> Addresses {
        let mut book = Addresses::new(NodeId(1));
        assert!(book.given(PEER, "given"));
        assert!(book.learn(PEER, Source::Image, "image"));
        book
    }

    #[test]
    fn every_candidate_is_tried_in_turn_and_the_one_that_answers_is_kept() {
        let mut book = book();
        assert_eq!(book.dial(at(0), PEER), Dial::Now("image"));
        book.failed(at(0), PEER, "image", Failure::Unreached);
        assert_eq!(book.dial(at(0), PEER), Dial::Now("given"));
        book.failed(at(0), PEER, "given", Failure::Unreached);
        assert_eq!(book.dial(at(0), PEER), Dial::At(at(BACKOFF_MS_MIN)));
        book.failed(at(10), PEER, "image", Failure::Unreached);
        assert_eq!(book.dial(at(10), PEER), Dial::Now("given"));
        book.reached(PEER, "given");
        assert_eq!(book.dial(at(10), PEER), Dial::Now("given"), "the other one has failed");
    }

    #[test]
    fn a_hello_is_tried_first_and_one_that_refuses_does_not_hold_up_the_others() {
        let mut book = book();
        assert_eq!(book.opened(at(0), PEER, "somewhere", FIRST, "hello"), Ok(()));
        assert_eq!(book.dial(at(0), PEER), Dial::Now("hello"));
        for address in ["hello", "image"] {
            book.failed(at(0), PEER, address, Failure::Refused);
        }
        assert_eq!(book.dial(at(0), PEER), Dial::Now("given"));
        book.failed(at(0), PEER, "given", Failure::Unreached);
        assert_eq!(book.dial(at(10), PEER), Dial::Now("given"));
        assert_eq!(book.opened(at(10), PEER, "elsewhere", FIRST, "hello"), Ok(()));
        assert_eq!(book.dial(at(10), PEER), Dial::Now("hello"), "it lives");
    }

    #[test]
    fn who_is_heard_and_not_reached_is_warned_about_once_in_a_while() {
        let mut book = book();
        let fail = |book: &mut Addresses, ms| {
            let first = book.failed(at(ms), PEER, "given", Failure::Unreached);
            first.or(book.failed(at(ms), PEER, "image", Failure::Unreached))
        };
        assert_eq!(fail(&mut book, 0), None);
        assert_eq!(fail(&mut book, 5_000), None, "it may be down");
        assert_eq!(book.opened(at(0), PEER, "somewhere", FIRST, "given"), Ok(()));
        let line = fail(&mut book, 6_000).expect("it lives");
        assert!(["somewhere", "given", "image"].iter().all(|part| line.contains(part)), "{line}");
        assert_eq!(fail(&mut book, 7_000), None);
        assert!(fail(&mut book, 36_000).is_some());
        book.closed(PEER, "somewhere");
        assert_eq!(fail(&mut book, 99_000), None);
    }

    #[test]
    fn nobody_dials_itself_and_what_is_said_twice_is_no_news() {
        let mut book = book();
        assert!(!book.given(NodeId(1), "me") && !book.knows(NodeId(1)));
        assert!(!book.given(PEER, "given") && !book.learn(PEER, Source::Given, "image"));
        assert_eq!(book.opened(at(0), NodeId(3), "somewhere", FIRST, "there"), Ok(()));
        assert_eq!((book.strangers(), book.peers().count()), (1, 2));
        assert_eq!(book.dial(at(0), NodeId(4)), Dial::Nowhere);
    }

    #[test]
    fn of_two_processes_with_one_id_the_later_one_is_refused_while_the_other_is_heard() {
        let other = Process { incarnation: Incarnation(8), ..FIRST };
        let copy = Process { run: 2, ..FIRST };
        let mut book = book();
        assert_eq!(book.opened(at(0), PEER, "here", FIRST, "hello"), Ok(()));
        assert_eq!(book.opened(at(0), PEER, "here again", FIRST, "hello"), Ok(()));
        book.heard(at(1_000), PEER, "here");
        let line = book.opened(at(2_999), PEER, "there", other, "elsewhere").unwrap_err();
        assert!(["here", "there", "elsewhere"].iter().all(|place| line.contains(place)), "{line}");
        assert!(line.contains("--node-id"), "{line}");
        let line = book.opened(at(2_999), PEER, "there", copy, "elsewhere").unwrap_err();
        assert!(line.contains("copies of one directory"), "{line}");
        assert_eq!(book.dial(at(2_999), PEER), Dial::Now("hello"), "neither is believed");
        assert!(book.hears(PEER, FIRST) && !book.hears(PEER, other));
        assert_eq!(book.opened(at(3_000), PEER, "there", other, "elsewhere"), Ok(()), "silence");
        assert!(book.hears(PEER, other) && !book.hears(PEER, FIRST));

        book.closed(PEER, "there");
        assert!(book.hears(PEER, FIRST) && !book.hears(PEER, other));
        book.heard(at(4_000), PEER, "here");
        book.closed(PEER, "here");
        assert_eq!(book.opened(at(4_000), PEER, "there", other, "elsewhere"), Ok(()), "it went");
    }

    #[test]
    fn who_is_refused_as_a_duplicate_stops_when_that_lasts() {
        let mut book = book();
        let fail = |book: &mut Addresses, ms, how| {
            book.failed(at(ms), PEER, "given", how);
            book.is_duplicate(at(ms), PEER)
        };
        assert!(!fail(&mut book, 0, Failure::Duplicate));
        assert!(!fail(&mut book, 4_999, Failure::Duplicate));
        assert!(!fail(&mut book, 6_000, Failure::Unreached), "nobody says so now");
        assert!(!fail(&mut book, 7_000, Failure::Duplicate));
        assert!(fail(&mut book, 12_000, Failure::Duplicate));
        book.reached(PEER, "given");
        assert!(!book.is_duplicate(at(12_000), PEER));
    }
}
