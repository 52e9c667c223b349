//! L15 to L19, L22 to L24: somebody does not go on although nothing keeps it.

use milena_core::NodeId;
use milena_core::config::QuorumConfig;
use milena_sim::check::liveness::{Look, Standing};
use milena_sim::queue::{MS, Time};
use milena_wire::messages::produce::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use milena_wire::{ErrorCode, Response, Uuid};

use crate::{LOG, Stage, TOPIC, nodes};

/// Longer than any bound of the configuration here.
const LONG: Time = 60_000 * MS;

/// Three nodes that are well, the first leading the quorum.
fn looks() -> [Look; 3] {
    let standing = Standing::Well;
    let cut_from = Vec::new();
    let well =
        Look { standing, life: 1, cut_from, deaf: false, leads: None, proposals: Vec::new() };
    [Look { leads: Some(4), ..well.clone() }, well.clone(), well]
}

fn away(node: usize, standing: Standing) -> [Look; 3] {
    let mut looks = looks();
    looks[node].standing = standing;
    looks
}

/// The second node leads the quorum, and the first and third do not reach each other.
fn cut() -> [Look; 3] {
    let mut looks = looks();
    (looks[0].leads, looks[1].leads) = (None, Some(4));
    (looks[0].cut_from, looks[2].cut_from) = (vec![2], vec![0]);
    looks
}

fn silent(node: usize) -> [Look; 3] {
    away(node, Standing::Silent)
}

impl Stage {
    fn look(&mut self, now: Time, looks: &[Look]) -> Result<(), String> {
        let looked = self.checks.must_go_on(now, &QuorumConfig::default(), looks);
        looked.map_err(|violation| self.noted(violation))
    }

    /// Things are so for a long time.
    fn stay(&mut self, looks: &[Look]) -> Result<(), String> {
        self.look(0, looks).expect("it has just begun");
        self.look(LONG, looks)
    }
}

#[test]
fn l15_a_leader_that_hears_nobody_stays() {
    let mut looks = looks();
    looks[0].deaf = true;
    looks[2].standing = Standing::Hindered;
    let mut stage = Stage::with_partition();
    assert_eq!(stage.stay(&looks), Err("L15".into()));
    looks[0].leads = None;
    assert_eq!(Stage::with_partition().stay(&looks), Ok(()));
}

#[test]
fn l16_who_is_away_is_not_fenced() {
    let fence = |stage: &mut Stage| {
        let mut partition = stage.partition();
        (partition.partition_epoch, partition.isr) = (2, nodes(&[1, 2]));
        stage.show_with(partition, |brokers| {
            brokers.get_mut(&NodeId(3)).expect("three brokers").fenced = true;
        })
    };
    for standing in [Standing::Silent, Standing::Deaf] {
        let looks = away(2, standing);
        assert_eq!(Stage::with_partition().stay(&looks), Err("L16".into()));
        let mut stage = Stage::with_partition();
        fence(&mut stage).expect("it may be fenced");
        assert_eq!(stage.stay(&looks), Ok(()));
    }
    // Where something else is the matter it need not be.
    let mut looks = silent(2);
    looks[1].standing = Standing::Hindered;
    assert_eq!(Stage::with_partition().stay(&looks), Ok(()));
    let mut stage = Stage::with_partition();
    stage.look(0, &looks).expect("it has just begun");
    stage.look(LONG, &silent(2)).expect("until now it was hindered");
}

#[test]
fn l17_nobody_leads() {
    let mut looks = looks();
    looks[0].leads = None;
    assert_eq!(Stage::with_partition().stay(&looks), Err("L17".into()), "the quorum");
    let mut stage = Stage::with_partition();
    stage.show(|partition| partition.leader = None).expect("it may be offline");
    assert_eq!(stage.stay(&self::looks()), Err("L17".into()), "the partition");
}

#[test]
fn l18_a_proposal_that_does_not_end() {
    let mut looks = looks();
    looks[1].proposals = vec![(LOG, 1)];
    assert_eq!(Stage::with_partition().stay(&looks), Err("L18".into()));
    let mut stage = Stage::with_partition();
    stage.look(0, &looks).expect("it has just begun");
    looks[1].proposals = vec![(LOG, 2)];
    assert_eq!(stage.look(LONG, &looks), Ok(()), "the first has ended");
}

#[test]
fn l19_one_that_hears_nobody_deposes_leaders() {
    let mut looks = looks();
    looks[2].standing = Standing::Deaf;
    let mut stage = Stage::with_partition();
    let mut partition = stage.partition();
    (partition.partition_epoch, partition.isr) = (2, nodes(&[1, 2]));
    let fenced = stage.show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(3)).expect("three brokers").fenced = true;
    });
    fenced.expect("it may be fenced");
    stage.look(0, &looks).expect("it has just begun");
    looks[0].leads = Some(5);
    assert_eq!(stage.look(LONG, &looks), Ok(()), "the others needed time for it");
    assert_eq!(stage.look(LONG, &looks), Ok(()));
    looks[0].leads = Some(6);
    assert_eq!(stage.look(LONG, &looks), Err("L19".into()));
    // Two that are away may take a majority with them.
    looks[1].standing = Standing::Silent;
    looks[0].leads = None;
    assert_eq!(Stage::with_partition().stay(&looks), Ok(()));
}

#[test]
fn l22_a_client_has_no_answer() {
    let asked = |then: &[Look], at| {
        let mut stage = Stage::with_partition();
        stage.look(0, &looks()).expect("it has just begun");
        stage.look(MS, then).expect("it has just begun");
        stage.checks.must_answer(1, at, "").map_err(|violation| stage.noted(violation))
    };
    assert_eq!(asked(&looks(), LONG), Err("L22".into()));
    assert_eq!(asked(&looks(), MS), Ok(()), "it had just begun");
    let mut changed = looks();
    changed[0].standing = Standing::Hindered;
    assert_eq!(asked(&changed, LONG), Err("L22".into()), "whatever others do");
    changed[1].life = 2;
    assert_eq!(asked(&changed, LONG), Err("L22".into()), "also in its next life");
    assert_eq!(asked(&changed, MS), Ok(()), "which has just begun");
    changed[1].standing = Standing::Hindered;
    assert_eq!(asked(&changed, LONG), Ok(()));
}

#[test]
fn l23_who_does_not_follow_stays_in_the_set() {
    let mut stage = Stage::with_partition();
    assert_eq!(stage.stay(&cut()), Ok(()), "it misses nothing");
    stage.append(0, LOG, 0, 1, 1);
    assert_eq!(stage.look(LONG + MS, &cut()), Ok(()), "now it does");
    assert_eq!(stage.look(2 * LONG, &cut()), Err("L23".into()));
    stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("it has left");
    assert_eq!(stage.look(2 * LONG, &cut()), Ok(()));
    // A leader takes its set to no less than the minimum.
    let mut stage = Stage::with_partition();
    stage.show(|partition| partition.min_isr = 3).expect("it may be that many");
    stage.stay(&cut()).expect("it misses nothing");
    stage.append(0, LOG, 0, 1, 1);
    stage.look(LONG + MS, &cut()).expect("now it does");
    assert_eq!(stage.look(2 * LONG, &cut()), Ok(()));
}

#[test]
fn l23_who_follows_stays_out_of_the_set() {
    let mut stage = Stage::with_partition();
    stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("one has left");
    assert_eq!(stage.stay(&looks()), Err("L23".into()));
}

#[test]
fn l16_who_does_not_reach_the_quorums_leader_is_not_fenced() {
    let mut looks = cut();
    (looks[1].leads, looks[2].leads) = (None, Some(4));
    assert_eq!(
        Stage::with_partition().stay(&looks),
        Err("L16".into()),
        "it leads and is not fenced"
    );
}

#[test]
fn l24_a_leader_refuses_for_ever() {
    let refused = |stage: &mut Stage, at, error_code| {
        let partition = PartitionProduceResponse { error_code, ..Default::default() };
        let topic = TopicProduceResponse {
            topic_id: Uuid(TOPIC.0),
            partition_responses: vec![partition],
            ..Default::default()
        };
        let answer = ProduceResponse { responses: vec![topic], ..Default::default() };
        let served = stage.checks.must_serve(at, 0, Some(&Response::Produce(answer)));
        served.map_err(|violation| stage.noted(violation))
    };
    let refuses = |stage: &mut Stage, error| {
        (0..100).try_for_each(|look| refused(stage, LONG + look * 10 * MS, error))
    };
    let settled = || {
        let mut stage = Stage::with_partition();
        stage.stay(&looks()).expect("all is well");
        stage
    };
    let error = ErrorCode::NOT_ENOUGH_REPLICAS;
    assert_eq!(refuses(&mut settled(), error), Err("L24".into()));
    assert_eq!(refuses(&mut settled(), ErrorCode::INVALID_RECORD), Ok(()), "no client tries again");
    let mut stage = Stage::with_partition();
    stage.stay(&cut()).expect("who is cut off misses nothing");
    assert_eq!(refuses(&mut stage, error), Ok(()), "it waits for one that it does not reach");
    let mut stage = settled();
    stage.show(|partition| partition.isr = nodes(&[1])).expect("the others have left");
    assert_eq!(refuses(&mut stage, error), Ok(()), "too few are in sync");
    let mut stage = settled();
    stage.look(2 * LONG, &silent(2)).expect("it has just begun");
    assert_eq!(refuses(&mut stage, error), Ok(()), "something has just changed");
}
