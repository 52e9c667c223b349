//! What clients judge of the answers they are given.

use milena_sim::client::{Client, Consumer, Producer, Role, Wish};
use milena_sim::history::History;
use milena_sim::rng::{Concern, Stream};
use milena_sim::schedule::{ConsumerSetup, ProducerSetup};
use milena_wire::messages::metadata::{
    MetadataResponse, MetadataResponsePartition, MetadataResponseTopic,
};
use milena_wire::messages::{CreateTopicsResponse, FetchResponse, ListOffsetsResponse};
use milena_wire::{Request, Response};

/// A client that has learnt of one partition, led by the one broker, until it asks for something; the number of that.
fn asking(role: Role) -> (Client, History, u64) {
    let (mut client, mut history) =
        (Client::new(Stream::new(1, Concern::Client(0)), 1, role), History::default());
    for now in (0..100).map(|step| step * 100_000_000) {
        client.act(now, &mut history);
        for wish in client.take_wishes() {
            let Wish::Send { id, request, .. } = wish else { continue };
            if !matches!(request, Request::Metadata(_)) {
                return (client, history, id);
            }
            let partition = MetadataResponsePartition {
                leader_id: 1,
                leader_epoch: 1,
                ..MetadataResponsePartition::default()
            };
            let topic = MetadataResponseTopic {
                name: Some("t".into()),
                partitions: vec![partition],
                ..MetadataResponseTopic::default()
            };
            let known = MetadataResponse { topics: vec![topic], ..MetadataResponse::default() };
            client.on_reply(now, id, Some(known.into()), &mut history).expect("it is learnt");
        }
    }
    panic!("it never asks for anything");
}

fn answered(role: Role, response: impl Into<Response>) -> String {
    let (mut client, mut history, id) = asking(role);
    let told = client.on_reply(0, id, Some(response.into()), &mut history);
    told.map_or_else(|violation| violation.property.to_owned(), |()| "fine".to_owned())
}

#[test]
fn an_answer_to_something_else() {
    let producer =
        |acks| Role::Producer(Producer::new(ProducerSetup { acks, ..ProducerSetup::default() }));
    let consumer = || Role::Consumer(Consumer::new(ConsumerSetup::default()));
    let mut admin = milena_sim::client::Admin::default();
    admin.delete("t", &mut History::default());
    assert_eq!(answered(producer(-1), FetchResponse::default()), "answer");
    assert_eq!(answered(producer(0), FetchResponse::default()), "fine", "nobody looks at it");
    assert_eq!(answered(consumer(), FetchResponse::default()), "answer");
    assert_eq!(answered(consumer(), ListOffsetsResponse::default()), "fine");
    assert_eq!(answered(Role::Admin(admin), CreateTopicsResponse::default()), "answer");
}
