//! Producer ids: given once, whatever becomes of brokers, controllers and messages.

use std::collections::{BTreeMap, BTreeSet};

use milena_core::ProducerId;
use milena_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::*;

/// Ids that a broker is given at once.
const BLOCK: i64 = 1_000;

fn request() -> InitProducerIdRequest {
    InitProducerIdRequest { transactional_id: None, ..Default::default() }
}

impl World {
    /// What a node has answered, by the number of the question.
    fn initialized(&self, node: i32) -> BTreeMap<u64, InitProducerIdResponse> {
        let answer = |(_, message): &(Place, LocalMessage)| match message {
            LocalMessage::Administered {
                id, response: Response::InitProducerId(response), ..
            } => Some((*id, response.clone())),
            _ => None,
        };
        self.up[&node].told.iter().filter_map(answer).collect()
    }

    /// Asks a node with these words and waits.
    fn initialize(
        &mut self,
        node: i32,
        asked: u64,
        request: InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        self.administer(node, asked, request.into());
        let answered = |world: &World| world.initialized(node).contains_key(&asked);
        self.until("answered", 2 * SECOND, answered);
        self.initialized(node).remove(&asked).expect("it is answered")
    }

    fn id(&mut self, node: i32, asked: u64) -> ProducerId {
        let answer = self.initialize(node, asked, request());
        assert_eq!((answer.error_code, answer.producer_epoch), (ErrorCode::NONE, 0));
        answer.producer_id
    }
}

#[test]
fn no_id_is_given_twice() {
    let mut given_in_all = 0;
    for seed in 0..10 {
        let mut world = World::new(3, 1_100 + seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        (world.lost, world.doubled) = (10, 30);
        let mut given = BTreeSet::new();
        let mut take = |world: &World, node: i32| {
            for (asked, answer) in world.initialized(node) {
                let InitProducerIdResponse { error_code, producer_id, producer_epoch, .. } = answer;
                if error_code == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
                    assert_eq!((producer_id, producer_epoch), (-1, -1));
                    continue;
                }
                assert_eq!((error_code, producer_epoch), (ErrorCode::NONE, 0));
                assert!(given.insert(producer_id), "seed {seed}: {producer_id} to {asked} too");
            }
        };
        let mut asked = 0;
        for _ in 0..40 {
            let node = 1 + (world.rng.next_u32() % 3) as i32;
            match world.rng.next_u32() % 8 {
                0 if world.up.len() > 1 && world.active().is_some() => {
                    let controller = world.active().expect("there is one");
                    take(&world, controller);
                    world.stop(controller);
                }
                1 if world.up.len() > 1 && world.up.contains_key(&node) => {
                    take(&world, node);
                    world.stop(node);
                }
                2 | 3 => {
                    let down = world.list.iter().find(|node| !world.up.contains_key(node));
                    down.copied().into_iter().for_each(|node| world.start(node));
                }
                _ if world.up.contains_key(&node) => {
                    for _ in 0..world.rng.next_u32() % 700 {
                        asked += 1;
                        world.administer(node, asked, request().into());
                    }
                }
                _ => {}
            }
            let ms = u64::from(world.rng.next_u32() % 1_500);
            world.pass(ms);
        }
        (world.lost, world.doubled) = (0, 0);
        (1..=3).for_each(|node| {
            if !world.up.contains_key(&node) {
                world.start(node);
            }
        });
        world.until("serving", 30 * SECOND, World::all_serve);
        for node in 1..=3 {
            asked += 1;
            world.id(node, asked);
            take(&world, node);
        }
        let given = given.len() as u64;
        given_in_all += given;
        // Nobody is given a block for a double or for a lost answer: a process takes those that it needs, and one ahead.
        let starts: u64 = world.starts.values().sum();
        let blocks = world.image(1).producer_ids.next as u64 / BLOCK as u64;
        assert!(blocks <= given / BLOCK as u64 + 2 * starts, "seed {seed}: {blocks} for {given}");
    }
    assert!(given_in_all > 10_000, "{given_in_all}");
}

#[test]
fn the_next_block_is_there_before_the_last_id_of_one_is_given() {
    let mut world = World::new(1, 21);
    world.until("serving", 20 * SECOND, World::all_serve);
    let quiet = world.image(1).end;
    world.pass(10 * SECOND);
    assert_eq!(world.image(1).end, quiet, "no producer, no ids");
    for asked in 0..BLOCK {
        world.administer(1, asked as u64, request().into());
    }
    world.pass(SECOND);
    let began = world.now;
    assert_eq!(world.id(1, BLOCK as u64), BLOCK);
    assert_eq!(world.now, began, "nothing had to be waited for");
    assert_eq!(world.image(1).producer_ids.next, 2 * BLOCK);
    let quiet = world.image(1).end;
    world.pass(10 * SECOND);
    assert_eq!(world.image(1).end, quiet, "one block ahead is enough");
}

#[test]
fn a_process_knows_nothing_of_the_ids_of_the_one_before() {
    let mut world = World::new(3, 22);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.id(1, 1), 0);
    assert_eq!(world.id(2, 2), BLOCK);
    world.stop(1);
    world.start(1);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.id(1, 3), 2 * BLOCK);
    assert_eq!(world.id(2, 4), BLOCK + 1);
}

#[test]
fn a_producer_waits_for_an_id_no_longer_than_a_second() {
    let mut world = World::new(3, 23);
    world.until("serving", 20 * SECOND, World::all_serve);
    let active = world.active().unwrap();
    let others: Vec<i32> = (1..=3).filter(|node| *node != active).collect();
    others.iter().for_each(|node| world.stop(*node));
    let began = world.now;
    let answer = world.initialize(active, 1, request());
    assert_eq!(answer.error_code, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    assert_eq!((answer.producer_id, world.now.ms_since(began)), (-1, 1_000));
    others.iter().for_each(|node| world.start(*node));
    world.until("serving", 20 * SECOND, World::all_serve);
    // Asked for before, and given late.
    assert!(world.id(active, 2) <= BLOCK);
}

/// A crowd is told to come again, rather than kept without bound.
#[test]
fn too_many_that_wait_are_told_to_come_again() {
    let mut world = World::new(3, 24);
    world.until("serving", 20 * SECOND, World::all_serve);
    for asked in 0..1_500 {
        world.administer(1, asked, request().into());
    }
    let at_once = world.initialized(1);
    assert_eq!(at_once.len(), 500);
    let busy = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    assert!(at_once.values().all(|answer| answer.error_code == busy));
    world.until("answered", SECOND, |world| world.initialized(1).len() == 1_500);
    let given = world.initialized(1).into_values().filter(|answer| answer.error_code.is_none());
    assert_eq!(given.count(), 1_000);
}

#[test]
fn strange_requests_are_refused_and_cost_no_id() {
    let mut world = World::new(1, 25);
    world.until("serving", 20 * SECOND, World::all_serve);
    let named =
        |id, epoch| InitProducerIdRequest { producer_id: id, producer_epoch: epoch, ..request() };
    let transactional = |id: &str| InitProducerIdRequest {
        transactional_id: Some(id.into()),
        ..Default::default()
    };
    let refused = [
        (named(7, -1), ErrorCode::INVALID_REQUEST),
        (named(-1, 7), ErrorCode::INVALID_REQUEST),
        (transactional(""), ErrorCode::INVALID_REQUEST),
        (transactional("t"), ErrorCode::UNSUPPORTED_VERSION),
    ];
    for (asked, (request, error_code)) in (0..).zip(refused) {
        let answer = world.initialize(1, asked, request);
        let none = InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() };
        assert_eq!(answer, none);
    }
    assert_eq!(world.image(1).producer_ids.next, 0);
    // Who names an id gets another one.
    let answer = world.initialize(1, 10, named(i64::MAX, i16::MAX));
    assert_eq!((answer.error_code, answer.producer_id), (ErrorCode::NONE, 0));
}
