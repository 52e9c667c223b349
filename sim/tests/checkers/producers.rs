//! I3: a replica knows other producers than its log has; I7: it forgets somebody before the time; L25: and somebody never.

use milena_core::storage::{KnownBatch, ProducerView};
use milena_core::trace::Event;
use milena_core::{Offset, ProducerId, Timestamp};

use crate::{LOG, Stage, appended};

const HOUR: Timestamp = 3_600_000;

fn forgot(producer: ProducerId) -> Event {
    Event::Forgot { log: LOG, producer }
}

impl Stage {
    /// A log of one batch of each of these, in an hour of its own, in which each partition knows three for two hours.
    fn written_by(producers: &[ProducerId]) -> Stage {
        let mut stage = Stage::with_partition();
        let storage = &mut stage.checks.storage;
        (storage.producer_ids_max, storage.producer_id_expiration_ms) = (3, 2 * HOUR);
        for (base, producer) in (0..).zip(producers) {
            stage.checks.clocks.wall = (base + 1) * HOUR;
            let (mut event, _) = appended(LOG, base, 1, 1, true);
            let Event::Appended { produced, .. } = &mut event else { unreachable!("it is one") };
            *produced = Some((*producer, 0, 10));
            stage.ok(0, event);
        }
        stage
    }

    /// Whether it may know these, each by the base of its one batch.
    fn may_know(&self, known: &[(ProducerId, Offset)]) -> bool {
        let batches: Vec<[KnownBatch; 1]> = known
            .iter()
            .map(|(_, base)| {
                [KnownBatch { base_sequence: 10, base: *base, ..KnownBatch::default() }]
            })
            .collect();
        let views = known.iter().zip(&batches);
        let views = views.map(|((id, _), batches)| ProducerView {
            id: *id,
            epoch: 0,
            appended: 0,
            batches,
        });
        self.checks.knows_producers(0, LOG, views).is_ok()
    }

    fn at(mut self, wall: Timestamp) -> Stage {
        self.checks.clocks.wall = wall;
        self
    }
}

#[test]
fn i7_a_producer_is_forgotten_that_has_just_appended() {
    let stage = || Stage::written_by(&[7, 8]);
    stage().trips_as("I7", "forgets producer 7", 0, forgot(7));
    stage().at(3 * HOUR).ok(0, forgot(7));
    stage().at(3 * HOUR).trips("I7", 0, forgot(8));
    stage().at(9 * HOUR).trips_as("I7", "producer 9", 0, forgot(9));
}

#[test]
fn i7_a_producer_is_forgotten_for_too_few_others() {
    let stage = |producers: &[ProducerId]| Stage::written_by(producers).at(0);
    stage(&[1, 2, 3, 4]).ok(0, forgot(1));
    stage(&[1, 2, 3, 4]).trips_as("I7", "2 others", 0, forgot(2));
    stage(&[1, 2, 2, 3]).trips("I7", 0, forgot(1));
    stage(&[1, 2, 1, 3]).trips("I7", 0, forgot(1));
}

#[test]
fn i3_only_those_are_missing_who_were_forgotten() {
    let mut stage = Stage::written_by(&[7, 8]).at(3 * HOUR);
    let all = [(7, 0), (8, 1)];
    assert!(stage.may_know(&all) && !stage.may_know(&all[1..]));
    assert!(!stage.may_know(&[(7, 0), (8, 1), (9, 0)]) && !stage.may_know(&[(7, 0), (8, 0)]));
    stage.ok(0, forgot(7));
    assert!(stage.may_know(&all[1..]) && !stage.may_know(&all[..1]));
}

#[test]
fn l25_a_producer_is_known_for_too_long() {
    let stage = Stage::written_by(&[]);
    let batches = [0, 1].map(|base| KnownBatch { base, ..KnownBatch::default() });
    let view = |id, base: usize, appended| ProducerView {
        id,
        epoch: 0,
        appended,
        batches: &batches[base..=base],
    };
    let overdue = |wall| {
        let views = [view(1, 1, 0), view(2, 0, HOUR)];
        stage.checks.known_too_long(wall, views.into_iter())
    };
    let slack = 2 * stage.checks.storage.retention_check_ms as i64;
    assert_eq!(
        overdue(3 * HOUR + slack),
        None,
        "who appended earlier and stands higher waits for it"
    );
    assert!(overdue(3 * HOUR + slack + 1).is_some_and(|story| story.contains("producer 2")));
}
