//! A broker that runs out of producer ids is given a block of them.

use crate::image::{Image, Record};
use crate::{BrokerEpoch, NodeId, ProducerId};

/// The record that gives a broker its next block. None where the block that it has is another one than it speaks of, or it
/// has registered again: what it asks for was given, or would be given to nobody. None either where no block is left.
pub fn allocate_producer_ids(
    image: &Image,
    node: NodeId,
    epoch: BrokerEpoch,
    after: Option<ProducerId>,
) -> Option<Record> {
    let registered = image.brokers.get(&node).is_some_and(|broker| broker.epoch == epoch);
    let ids = &image.producer_ids;
    let next = ids.end_of_next_block().filter(|_| registered && ids.last_of(node) == after)?;
    Some(Record::ProducerIds { node, epoch, next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;
    use crate::image::ProducerIds;

    const NODE: NodeId = NodeId(1);

    fn register(image: &mut Image) -> BrokerEpoch {
        let record = Record::RegisterBroker {
            node: NODE,
            incarnation: Incarnation(1),
            kafka: ("localhost".into(), 9092),
            peer: "localhost:7000".into(),
            rack: None,
        };
        let epoch = BrokerEpoch(image.end);
        image.apply(image.end, 1, &[record]);
        epoch
    }

    #[test]
    fn a_block_is_given_once_to_a_registration_in_force() {
        let mut image = Image::default();
        assert_eq!(allocate_producer_ids(&image, NODE, BrokerEpoch(0), None), None);
        let epoch = register(&mut image);
        let ask = |image: &Image, after| allocate_producer_ids(image, NODE, epoch, after);
        let record = ask(&image, None).expect("the first");
        image.apply(image.end, 1, &[record]);
        assert_eq!(ask(&image, None), None, "a double");
        let record = ask(&image, Some(0)).expect("the second");
        image.apply(image.end, 1, &[record]);
        assert_eq!(image.producer_ids.blocks[&NODE], 1_000..2_000);
        let later = register(&mut image);
        assert_eq!(ask(&image, Some(1_000)), None, "it has registered again");
        assert!(allocate_producer_ids(&image, NODE, later, None).is_some());
    }

    #[test]
    fn ids_end_before_they_begin_again() {
        let mut image = Image::default();
        let epoch = register(&mut image);
        let mut ask = |next| {
            image.producer_ids = ProducerIds { next, ..ProducerIds::default() };
            allocate_producer_ids(&image, NODE, epoch, None)
        };
        let last = Record::ProducerIds { node: NODE, epoch, next: i64::MAX };
        assert_eq!(ask(i64::MAX - 1_000), Some(last));
        assert_eq!(ask(i64::MAX - 999), None);
    }
}
