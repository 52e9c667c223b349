//! L15 to L19, L22: somebody does not go on although nothing keeps it.

use milena_core::NodeId;
use milena_core::config::QuorumConfig;
use milena_sim::check::liveness::{Look, Standing};
use milena_sim::queue::{MS, Time};

use crate::{LOG, Stage, nodes};

/// Longer than any bound of the configuration here.
const LONG: Time = 60_000 * MS;

/// Three nodes that are well, the first leading the quorum.
fn looks() -> [Look; 3] {
    let standing = Standing::Well;
    let well = Look { standing, life: 1, deaf: false, leads: None, proposals: Vec::new() };
    [Look { leads: Some(4), ..well.clone() }, well.clone(), well]
}

fn away(node: usize, standing: Standing) -> [Look; 3] {
    let mut looks = looks();
    looks[node].standing = standing;
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
