//! The differences that stay, each with its reason.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::schema::Versions;

/// A place where two answers differ. What only one of them has is `absent` on the other side.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Of the request.
    pub api: String,
    /// Of the request.
    pub version: i16,
    /// Such as `topics[].partitions[].error_code`; empty for the answer as a whole.
    pub field: String,
    /// What Apache Kafka answers.
    pub kafka: Value,
    /// What we answer.
    pub milena: Value,
    /// The request.
    pub asked: Value,
}

/// One row of the table.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Row {
    api: String,
    /// As in Kafka's schemas.
    versions: String,
    /// The field. Here as in what follows, a `*` stands for anything.
    field: String,
    /// What Apache Kafka answers, as JSON; anything if left out.
    kafka: Option<String>,
    /// What we answer, in the same way.
    milena: Option<String>,
    /// What stands somewhere in the request, as JSON; any request's if left out.
    asked: Option<String>,
    /// Names of elements that are not meant: those that both should have.
    #[serde(default)]
    except: Vec<String>,
    /// Whether the brokers hold different things from here on, so that the sequence ends.
    #[serde(default)]
    parts: bool,
    /// Why it stays.
    reason: String,
    #[serde(skip)]
    used: Cell<u64>,
}

#[derive(Deserialize)]
struct File {
    difference: Vec<Row>,
}

/// All rows.
pub struct Table(Vec<Row>);

impl Table {
    /// Reads the file beside this crate.
    pub fn load() -> Result<Table> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("differences.toml");
        let text = fs::read_to_string(&path)?;
        let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        for row in &file.difference {
            Versions::parse(&row.versions)?;
            let values = [&row.kafka, &row.milena].into_iter().flatten();
            for value in values.filter(|value| !value.contains('*')) {
                serde_json::from_str::<Value>(value).with_context(|| format!("{row:?}"))?;
            }
            anyhow::ensure!(row.reason.len() > 20, "a row without a reason: {row:?}");
        }
        Ok(Table(file.difference))
    }

    /// Whether a row has this difference, and then whether the brokers part there.
    pub fn explains(&self, difference: &Difference) -> Option<bool> {
        let row = self.0.iter().find(|row| row.has(difference))?;
        row.used.set(row.used.get() + 1);
        Some(row.parts)
    }

    /// Rows that no difference needed.
    pub fn unused(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|row| row.used.get() == 0)
    }

    /// How often each API's rows were needed.
    pub fn uses(&self) -> BTreeMap<&str, u64> {
        let mut uses = BTreeMap::new();
        for row in &self.0 {
            *uses.entry(&*row.api).or_default() += row.used.get();
        }
        uses
    }
}

impl Row {
    fn has(&self, difference: &Difference) -> bool {
        let is = |wanted: &Option<String>, value: &Value| {
            wanted.as_ref().is_none_or(|wanted| match wanted.contains('*') {
                true => alike(wanted, &value.to_string()),
                false => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *value),
            })
        };
        let asked = self.asked.as_ref();
        let one = |value: &Value| {
            value["name"].as_str().is_some_and(|n| self.except.iter().any(|e| e == n))
        };
        alike(&self.field, &difference.field)
            && ![&difference.kafka, &difference.milena].into_iter().any(one)
            && self.api == difference.api
            && Versions::parse(&self.versions)
                .is_ok_and(|versions| versions.has(difference.version))
            && is(&self.kafka, &difference.kafka)
            && is(&self.milena, &difference.milena)
            && asked.is_none_or(|part| alike(&format!("*{part}*"), &difference.asked.to_string()))
    }
}

/// Whether a text is as a pattern, in which a `*` stands for anything.
fn alike(pattern: &str, text: &str) -> bool {
    let Some((beginning, pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(beginning) else { return false };
    let (between, end) = pattern.rsplit_once('*').unwrap_or(("", pattern));
    for part in between.split('*') {
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.ends_with(end)
}
