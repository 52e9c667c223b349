//! What goes from node to node: whether the sender finds its peer, when the network brings it, and that its encoding gives it back.

use std::sync::Arc;

use bytes::BytesMut;
use milena_core::NodeId;
use milena_core::addresses::{Dial, Failure};
use milena_core::peer::{FrameError, PeerMessage, decode, encode, joined};

use super::{Cluster, Happening, clipped};
use crate::addresses::id;
use crate::check::{Checked, Violation};
use crate::node::SimNode;

/// Of so many peer messages one is encoded, decoded and compared.
const ENCODING_SAMPLE: u64 = 61;

impl Cluster {
    /// A node has something to say to another.
    pub(super) fn send(&mut self, from: usize, to: NodeId, message: PeerMessage) -> Checked {
        let Some(to) = usize::try_from(to.0 - 1).ok().filter(|to| *to < self.nodes.len()) else {
            return Ok(());
        };
        self.messages += 1;
        if self.messages.is_multiple_of(ENCODING_SAMPLE) {
            self.compare_encoding(&message)?;
        }
        if self.tracing {
            let text = format!("{message:?}");
            self.trace(from, &format!("  -> node {}: {}", to + 1, clipped(&text)));
        }
        if !self.finds(from, to) {
            return Ok(());
        }
        self.deliver(from, to, Some(message));
        Ok(())
    }

    /// Whether a node that has something to send finds its peer.
    fn finds(&mut self, from: usize, to: usize) -> bool {
        let now = self.nodes[from].clocks(self.now).mono;
        let is_up = self.nodes[to].is_up();
        let book = &mut self.nodes[from].contacts.book;
        let tried = match book.dial(now, id(to)) {
            Dial::Now(tried) if is_up && *tried == *self.homes.all()[to] => {
                book.reached(id(to), &self.homes.all()[to]);
                return true;
            }
            Dial::Now(tried) => tried.to_string(),
            Dial::At(_) | Dial::Nowhere => return false,
        };
        let answers = |(sim, address): (&SimNode, &Arc<str>)| sim.is_up() && **address == *tried;
        let somebody = self.nodes.iter().zip(self.homes.all()).any(answers);
        let how = if somebody { Failure::Refused } else { Failure::Unreached };
        let line = self.nodes[from].contacts.book.failed(now, id(to), &tried, how);
        self.trace(from, &format!("  node {} is not at {tried}: {how:?}", to + 1));
        if let Some(line) = line {
            self.trace(from, &format!("  log Warn: {line}"));
        }
        false
    }

    /// Every node connects to those whom it knows and who have not heard of this life of it.
    pub(super) fn connect_nodes(&mut self) {
        for from in 0..self.nodes.len() {
            let sim = &self.nodes[from];
            if !sim.is_up() || sim.paused_until > self.now {
                continue;
            }
            for to in 0..self.nodes.len() {
                let life = self.nodes[from].life;
                let is_connected = self.nodes[to].contacts.has_heard(from, life);
                let knows = self.nodes[from].contacts.book.knows(id(to));
                if knows && !is_connected && self.finds(from, to) {
                    self.deliver(from, to, None);
                }
            }
        }
    }

    /// Puts a message on its way, or only a connection.
    fn deliver(&mut self, from: usize, to: usize, message: Option<PeerMessage>) {
        let hello = self.homes.hello(from, self.nodes[from].life);
        let verdict = self.network.send(self.now, from, to);
        let link = verdict.life;
        if let Some(at) = verdict.again {
            let (hello, message) = (hello.clone(), message.clone().map(Box::new));
            self.queue.push(at, Happening::Peer { from, to, link, hello, message });
        }
        if let Some(at) = verdict.arrives {
            let message = message.map(Box::new);
            self.queue.push(at, Happening::Peer { from, to, link, hello, message });
        }
    }

    fn compare_encoding(&mut self, message: &PeerMessage) -> Checked {
        self.counts.encodings_compared += 1;
        let mut frame = BytesMut::new();
        encode(message).iter().for_each(|piece| frame.extend_from_slice(piece));
        came_back(message, &decode(frame.freeze()))
    }
}

/// Whether what the encoding of a message gives back is the message.
fn came_back(message: &PeerMessage, back: &Result<PeerMessage, FrameError>) -> Checked {
    if back.as_ref().ok().map(|back| joined(back.clone())) == Some(joined(message.clone())) {
        return Ok(());
    }
    let text = format!("{message:?}");
    Err(Violation::new("encoding", format!("{} came back as {back:?}", clipped(&text))))
}

#[cfg(test)]
mod tests {
    use milena_core::BrokerEpoch;
    use milena_core::controller::message::ControllerMessage;

    use super::*;

    #[test]
    fn a_message_that_comes_back_as_another_is_noticed() {
        let heartbeat =
            |epoch| PeerMessage::from(ControllerMessage::Heartbeat { epoch: BrokerEpoch(epoch) });
        assert_eq!(came_back(&heartbeat(1), &Ok(heartbeat(1))), Ok(()));
        for back in [Ok(heartbeat(2)), Err(FrameError::Malformed)] {
            assert_eq!(came_back(&heartbeat(1), &back).unwrap_err().property, "encoding");
        }
    }
}
