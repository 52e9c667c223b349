//! Two answers, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::side::Answer;

/// What identifies an element of an array; Kafka lists most things in the order of a hash map.
const KEYS: [&str; 12] = [
    "name",
    "topic",
    "topic_name",
    "topic_id",
    "partition_index",
    "partition",
    "index",
    "api_key",
    "broker_id",
    "resource_name",
    "key",
    "node_id",
];

/// Where they differ: field, Kafka's value, ours.
pub fn compare(kafka: &Answer, milena: &Answer) -> Vec<(String, Value, Value)> {
    let mut found = Vec::new();
    let whole = |answer: &Answer| match answer {
        Answer::Body(_) => "answered",
        Answer::Closed => "closed",
        Answer::Nothing => "nothing",
    };
    match (kafka, milena) {
        (Answer::Body(kafka), Answer::Body(milena)) => trees("", kafka, milena, &mut found),
        _ if kafka != milena => {
            found.push((String::new(), whole(kafka).into(), whole(milena).into()));
        }
        _ => {}
    }
    found
}

/// Whether an answer reports no error anywhere.
pub fn succeeded(answer: &Answer) -> bool {
    fn clean(value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields.iter().all(|(name, value)| {
                name != "error_code" && clean(value) || name == "error_code" && *value == 0
            }),
            Value::Array(all) => all.iter().all(clean),
            _ => true,
        }
    }
    match answer {
        Answer::Body(body) => clean(body),
        Answer::Closed => false,
        Answer::Nothing => true,
    }
}

fn trees(field: &str, kafka: &Value, milena: &Value, found: &mut Vec<(String, Value, Value)>) {
    match (kafka, milena) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, kafka) in theirs {
                let place = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                trees(&place, kafka, ours.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            let (theirs, ours) = (joined(theirs), joined(ours));
            let (theirs, mut ours) = (keyed(&theirs), keyed(&ours));
            let place = format!("{field}[]");
            // What is there again under the same identity has a place of its own.
            let named = |key: &(_, usize)| match key.1 {
                0 => place.clone(),
                _ => format!("{place} again"),
            };
            for (key, kafka) in &theirs {
                match ours.remove(key) {
                    Some(milena) => trees(&place, kafka, milena, found),
                    None => found.push((named(key), (*kafka).clone(), "absent".into())),
                }
            }
            for (key, milena) in ours {
                found.push((named(&key), "absent".into(), milena.clone()));
            }
        }
        _ if kafka != milena => found.push((field.to_owned(), kafka.clone(), milena.clone())),
        _ => {}
    }
}

/// What identifies an element of an array: the first of the keys that it has.
pub fn identity(element: &Value) -> Option<String> {
    let mut parts = KEYS.iter().filter_map(|key| element.get(key));
    parts.find(|part| !part.is_null()).map(Value::to_string)
}

/// Topics with all of their partitions: Kafka lists one twice, once with those that it has and once with the others.
fn joined(elements: &[Value]) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::with_capacity(elements.len());
    for element in elements {
        let key = identity(element);
        let known = joined.iter_mut().find(|known| key.is_some() && identity(known) == key);
        let known = known.and_then(|known| known.get_mut("partitions")?.as_array_mut());
        match (known, element.get("partitions").and_then(Value::as_array)) {
            (Some(known), Some(more)) => known.extend(more.iter().cloned()),
            _ => joined.push(element.clone()),
        }
    }
    joined
}

/// Elements by what identifies them, and by how many of that identity came before; those of one identity in the order of what
/// they say, since Kafka shuffles some of its answers.
fn keyed(elements: &[Value]) -> BTreeMap<(Option<String>, usize), &Value> {
    let mut seen = BTreeMap::new();
    let mut keyed = BTreeMap::new();
    let mut elements: Vec<_> = elements.iter().collect();
    elements.sort_by_cached_key(|one| identity(one).map(|_| one.to_string()));
    for element in elements {
        let key = identity(element);
        let count: &mut usize = seen.entry(key.clone()).or_default();
        keyed.insert((key, *count), element);
        *count += 1;
    }
    keyed
}
