//! Sequences of requests, sent to both brokers; every answer compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::brokers::Broker;
use crate::compare::{compare, succeeded};
use crate::generate::{self, Generator};
use crate::side::{Answer, Asked, Schemas, Side};
use crate::table::{Difference, Table};

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const CREATE_TOPICS: i16 = 19;
const DELETE_TOPICS: i16 = 20;
/// How long what acks=0 wrote may take until it is read: Kafka shows it before it is on the disk, we do not.
const UNCONFIRMED: Duration = Duration::from_millis(30);
/// Requests of one sequence.
const REQUESTS: u64 = 16;

/// Both brokers, and what is known of their answers.
pub struct Oracle<'a> {
    schemas: &'a Schemas,
    table: &'a Table,
    brokers: [Broker; 2],
    /// Apache Kafka, and us.
    sides: [Side; 2],
    apis: Vec<(i16, i16, i16)>,
    names: BTreeMap<i16, String>,
    now: i64,
    /// Names of the topics that the sequence has made.
    made: BTreeSet<String>,
    /// The APIs whose answers count; all, if none is named.
    pub only: BTreeSet<String>,
    /// Whether a report has both answers.
    pub whole: bool,
    /// Whether every request is printed with both answers as it happens.
    pub trace: bool,
    /// Requests of each API and version, and how many of them succeeded at Kafka's.
    pub counts: BTreeMap<(i16, i16), (u64, u64)>,
    /// What no row explains: the first of each kind with its seed and request, and how often it was seen.
    pub open: BTreeMap<String, (u64, String)>,
}

impl<'a> Oracle<'a> {
    /// Asks both what they speak.
    pub fn new(schemas: &'a Schemas, table: &'a Table, brokers: [Broker; 2]) -> Result<Oracle<'a>> {
        let [kafka, milena] = &brokers;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let latest = now + generate::AROUND_MS;
        let mut sides =
            [Side::new(kafka.port, schemas, latest)?, Side::new(milena.port, schemas, latest)?];
        let body = json!({"client_software_name": "oracle", "client_software_version": "1"});
        let asked = Asked { api: 18, version: 3, body };
        let [theirs, ours] = &mut sides;
        let theirs = versions(&theirs.ask(schemas, &asked)?)?;
        let ours = versions(&ours.ask(schemas, &asked)?)?;
        for key_type in [0, 1] {
            sides[0].find_coordinator(schemas, key_type)?;
        }
        sides[0].find_producer_id(schemas)?;
        let mut apis = Vec::new();
        for (api, (first, last)) in ours {
            let known = theirs.get(&api).with_context(|| format!("Kafka has no API {api}"))?;
            ensure!(*known == (first, last), "API {api}: {first}-{last}, Kafka {known:?}");
            // Kafka advertises versions of Produce that it does not have.
            apis.push((api, first.max(schemas[&api][0].versions.0), last));
        }
        let names = milena_wire::ApiKey::ALL.iter().map(|api| (*api as i16, format!("{api:?}")));
        let (counts, open, made) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Oracle {
            schemas,
            table,
            brokers,
            sides,
            apis,
            names: names.collect(),
            now,
            made,
            only: BTreeSet::new(),
            whole: false,
            trace: false,
            counts,
            open,
        })
    }

    /// Runs the sequence of a seed.
    pub fn sequence(&mut self, seed: u64) -> Result<()> {
        let apis = self.apis.clone();
        let mut generator = Generator::new(seed, self.schemas, &apis, self.now);
        self.sides.iter_mut().for_each(Side::begin);
        let mut together = self.exchange(seed, &[generator.topics()])?;
        let mut left = REQUESTS;
        while together && left > 0 {
            let mut group = vec![generator.request()];
            while group.len() < 4 && generator.pipelined() && !writes(group.last()) {
                let mut next = generator.request();
                if group.iter().any(|asked| asked.api == FETCH) {
                    leave_session(&mut next);
                }
                if writes(Some(&next)) {
                    group.iter_mut().for_each(wait_for_nothing);
                }
                group.push(next);
            }
            left = left.saturating_sub(group.len() as u64);
            together = self.exchange(seed, &group).with_context(|| {
                let words = self.brokers.each_ref().map(Broker::last_words);
                format!("seed {seed}, {group:?}\n{}\n{}", words[0], words[1])
            })?;
        }
        self.clear()
    }

    /// Sends some requests in one go and compares the answers. Whether the brokers still hold the same.
    fn exchange(&mut self, seed: u64, group: &[Asked]) -> Result<bool> {
        for side in &mut self.sides {
            for asked in group {
                side.send(self.schemas, asked)?;
            }
        }
        let mut together = true;
        let mut closed = false;
        for asked in group {
            let [theirs, ours] = &mut self.sides;
            let answers =
                [theirs.receive(self.schemas, asked)?, ours.receive(self.schemas, asked)?];
            if closed {
                // What was in flight behind a request that cost the connection may or may not have happened.
                return Ok(false);
            }
            closed = answers.contains(&Answer::Closed);
            self.settle(asked, &answers)?;
            let [theirs, ours] = &self.sides;
            let masked = |side: &Side, answer: &Answer| match answer {
                Answer::Body(body) => Answer::Body(side.masked("", body)),
                other => other.clone(),
            };
            let both = [masked(theirs, &answers[0]), masked(ours, &answers[1])];
            let [kafka, milena] = &both;
            if self.trace {
                let answers = both_answers(&both);
                println!("{} {}, {}{answers}", self.names[&asked.api], asked.version, asked.body);
            }
            let count = self.counts.entry((asked.api, asked.version)).or_default();
            count.0 += 1;
            count.1 += u64::from(succeeded(kafka));
            for (field, kafka, milena) in compare(kafka, milena) {
                let [kafka, milena] = [kafka, milena].map(|value| of_any_sequence(seed, &value));
                let api = self.names[&asked.api].clone();
                let version = asked.version;
                let body = asked.body.clone();
                let difference = Difference { api, version, field, kafka, milena, asked: body };
                match self.table.explains(&difference) {
                    Some(parts) => together &= !parts,
                    None => {
                        // What reads leaves both as they were.
                        together &= !writes(Some(asked));
                        let answers = self.whole.then_some(&both);
                        self.report(seed, difference, answers);
                    }
                }
            }
        }
        Ok(together)
    }

    fn report(&mut self, seed: u64, difference: Difference, answers: Option<&[Answer; 2]>) {
        let Difference { api, version, field, kafka, milena, asked } = difference;
        if !self.only.is_empty() && !self.only.contains(&api) {
            return;
        }
        let kind = format!("{api} {field}: Kafka {}, Milena {}", short(&kafka), short(&milena));
        let mut first = format!("seed {seed}, version {version}, {asked}");
        first += &answers.map(both_answers).unwrap_or_default();
        self.open.entry(kind).or_insert((0, first)).0 += 1;
    }

    /// Waits on either side for what it says that it has changed, and learns ids.
    fn settle(&mut self, asked: &Asked, answers: &[Answer; 2]) -> Result<()> {
        if asked.api == PRODUCE && asked.body["acks"] == 0 {
            std::thread::sleep(UNCONFIRMED);
        }
        if !changes(Some(asked)) || asked.body["validate_only"] == true {
            return Ok(());
        }
        for (side, answer) in self.sides.iter_mut().zip(answers) {
            let Answer::Body(body) = answer else { continue };
            let mut names = BTreeMap::new();
            for topic in
                ["topics", "responses"].iter().filter_map(|list| body[list].as_array()).flatten()
            {
                if topic["error_code"] == 0 {
                    side.learn(topic);
                    let name = topic["name"].as_str().unwrap_or_default().to_owned();
                    if asked.api == CREATE_TOPICS {
                        self.made.insert(name.clone());
                    }
                    names.insert(name, asked.api == CREATE_TOPICS);
                }
            }
            side.settle(self.schemas, &names)?;
        }
        Ok(())
    }

    /// Deletes what a sequence has made.
    fn clear(&mut self) -> Result<()> {
        let names = std::mem::take(&mut self.made);
        let body = json!({"topic_names": names, "timeout_ms": 10_000});
        let asked = Asked { api: DELETE_TOPICS, version: 5, body };
        for side in &mut self.sides {
            side.begin();
            side.end_sessions(self.schemas)?;
        }
        let [theirs, ours] = &mut self.sides;
        theirs.send(self.schemas, &asked)?;
        ours.send(self.schemas, &asked)?;
        let answers = [theirs.receive(self.schemas, &asked)?, ours.receive(self.schemas, &asked)?];
        self.settle(&asked, &answers)
    }

    /// Sequences of the seeds from `first` on, until so many are done or the time is over; how many were run.
    pub fn run(&mut self, first: u64, count: u64, time: Duration) -> Result<u64> {
        let begun = Instant::now();
        for index in 0..count {
            if begun.elapsed() > time {
                return Ok(index);
            }
            self.sequence(first + index)?;
            ensure!(
                self.brokers.iter_mut().all(Broker::lives),
                "a broker has ended at seed {}",
                first + index
            );
        }
        Ok(count)
    }
}

/// A value as it stands in the name of a kind of difference: elements that one side lacks are of one kind, whatever they are.
fn short(value: &Value) -> String {
    match value {
        Value::Object(_) => "an element".into(),
        other => other.to_string().chars().take(160).collect(),
    }
}

/// Both answers, each on a line of its own.
fn both_answers(answers: &[Answer; 2]) -> String {
    let said = ["Kafka", "Milena"].iter().zip(answers).map(|(who, answer)| match answer {
        Answer::Body(body) => format!("\n         {who}: {body}"),
        other => format!("\n         {who}: {other:?}"),
    });
    said.collect()
}

/// A value in which the names of a sequence's topics say no longer which sequence it is.
fn of_any_sequence(seed: u64, value: &Value) -> Value {
    match value {
        Value::String(text) => text.replace(&format!("s{seed}-"), "s-").into(),
        Value::Array(all) => all.iter().map(|one| of_any_sequence(seed, one)).collect(),
        Value::Object(fields) => {
            let each = |(name, value): (&String, _)| (name.clone(), of_any_sequence(seed, value));
            fields.iter().map(each).collect()
        }
        other => other.clone(),
    }
}

fn changes(asked: Option<&Asked>) -> bool {
    asked.is_some_and(|asked| [CREATE_TOPICS, DELETE_TOPICS].contains(&asked.api))
}

/// Whether what comes after it may see something else. What is pipelined behind such a request is served beside it here and
/// after it by Kafka, which no client may count on.
fn writes(asked: Option<&Asked>) -> bool {
    changes(asked) || asked.is_some_and(|asked| asked.api == PRODUCE)
}

/// Has a fetch do without a session: of a session's fetches one is in flight at a time. Two would be answered beside each other
/// here, and one after the other by Kafka.
fn leave_session(asked: &mut Asked) {
    if asked.api == FETCH && asked.body.get("session_id").is_some() {
        asked.body["session_id"] = 0.into();
        asked.body["session_epoch"] = (-1).into();
    }
}

/// Has a request wait for nothing, since what follows it writes: that is carried out here while a fetch waits or a time is looked
/// up on the disk, and Kafka carries out nothing meanwhile.
fn wait_for_nothing(asked: &mut Asked) {
    if let Some(wait) = asked.body.get_mut("max_wait_ms") {
        *wait = 0.into();
    }
    if asked.api == LIST_OFFSETS {
        let topics = asked.body["topics"].as_array_mut().into_iter().flatten();
        let partitions = topics.filter_map(|topic| topic["partitions"].as_array_mut()).flatten();
        partitions.for_each(|partition| partition["timestamp"] = (-1).into());
    }
}

fn versions(answer: &Answer) -> Result<BTreeMap<i16, (i16, i16)>> {
    let Answer::Body(body) = answer else { anyhow::bail!("ApiVersions is not answered") };
    let number = |row: &Value, name: &str| row[name].as_i64().context("a number").map(|n| n as i16);
    let rows = body["api_keys"].as_array().context("api_keys")?.iter();
    rows.map(|row| {
        Ok((number(row, "api_key")?, (number(row, "min_version")?, number(row, "max_version")?)))
    })
    .collect()
}
