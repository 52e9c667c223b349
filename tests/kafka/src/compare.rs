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
            let mut alike = BTreeMap::<_, [Vec<&Value>; 2]>::new();
            for (side, elements) in [&theirs, &ours].into_iter().enumerate() {
                for element in elements {
                    alike.entry(identity(element)).or_default()[side].push(element);
                }
            }
            for (key, [theirs, ours]) in alike {
                elements(&format!("{field}[]"), key.is_some(), theirs, ours, found);
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

/// Elements of one identity: those are compared with each other that differ least, since Kafka shuffles some of its answers.
/// What has no identity is compared in order.
fn elements(
    place: &str,
    shuffled: bool,
    mut theirs: Vec<&Value>,
    mut ours: Vec<&Value>,
    found: &mut Vec<(String, Value, Value)>,
) {
    // What is there again under the same identity has a place of its own.
    let mut again = false;
    while !theirs.is_empty() && !ours.is_empty() {
        let mut best: Option<(usize, usize, Vec<_>)> = None;
        let several = shuffled && (theirs.len() > 1 || ours.len() > 1);
        let [among_theirs, among_ours] =
            [&theirs, &ours].map(|all| if several { all.len() } else { 1 });
        for (i, j) in (0..among_theirs).flat_map(|i| (0..among_ours).map(move |j| (i, j))) {
            let mut differences = Vec::new();
            trees(place, theirs[i], ours[j], &mut differences);
            if best.as_ref().is_none_or(|(_, _, least)| differences.len() < least.len()) {
                best = Some((i, j, differences));
            }
        }
        let Some((i, j, differences)) = best else { break };
        theirs.remove(i);
        ours.remove(j);
        found.extend(differences);
        again = true;
    }
    let absent = || Value::from("absent");
    let left = theirs.into_iter().map(|kafka| (kafka.clone(), absent()));
    for (kafka, milena) in left.chain(ours.into_iter().map(|milena| (absent(), milena.clone()))) {
        let named = if again { format!("{place} again") } else { place.to_owned() };
        found.push((named, kafka, milena));
        again = true;
    }
}
