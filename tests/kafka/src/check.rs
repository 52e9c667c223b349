//! Our message types against Kafka's schemas: what they say of themselves, field by field and version by version, and
//! the bytes that they write and read.

use std::collections::BTreeMap;

use bytes::Bytes;
use milena_wire::sample::Source;
use milena_wire::shape::{self, Kind as OurKind};
use milena_wire::{ApiKey, Request, RequestHeader, Response};
use milena_wire::{decode_request, decode_response, encode_request, encode_response};

use crate::schema::{Field, Kind, Message};
use crate::tree;

/// Arbitrary messages per API and version whose bytes are compared.
const SAMPLES: u64 = 200;

/// All that differs, a sentence each.
pub fn check(schemas: &BTreeMap<i16, [Message; 2]>) -> Vec<String> {
    let mut found = Vec::new();
    for &api in ApiKey::ALL {
        let Some(theirs) = schemas.get(&(api as i16)) else {
            found.push(format!("{api:?}: Kafka has no API {}", api as i16));
            continue;
        };
        let (first, last) = api.versions();
        for ((message, kind), side) in theirs.iter().zip(api.shapes()).zip(["request", "response"])
        {
            if (message.versions.0, message.versions.1) != (first, last) {
                let Message { versions, .. } = message;
                found.push(format!("{api:?} {side}: versions {first}-{last}, Kafka {versions:?}"));
            }
            for version in first..=last {
                let place = format!("{api:?} {side} {version}");
                if message.flexible.has(version) != api.is_flexible(version) {
                    found.push(format!("{place}: flexible on one side only"));
                }
                compare(&place, version, &Kind::Struct(message.fields.clone()), &kind, &mut found);
            }
        }
        for version in first..=last {
            for seed in 0..SAMPLES {
                if let Err(error) = bytes(api, version, theirs, seed) {
                    found.push(format!("{api:?} {version}, sample {seed}: {error:#}"));
                    break;
                }
            }
        }
    }
    found
}

fn compare(place: &str, version: i16, theirs: &Kind, ours: &OurKind, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Kind::Plain(theirs), OurKind::Plain(ours)) => {
            // What we take as bytes and what Kafka calls records is the same on the wire.
            let plain =
                |name: &str| if name == "records" { "bytes".into() } else { name.to_owned() };
            if plain(theirs) != plain(ours) {
                found.push(format!("{place}: {ours}, Kafka {theirs}"));
            }
        }
        (Kind::Array(theirs), OurKind::Array(ours)) => {
            compare(&format!("{place}[]"), version, theirs, ours, found);
        }
        (Kind::Struct(theirs), OurKind::Struct(ours)) => {
            let has = |(first, last): (i16, i16)| (first..=last).contains(&version);
            let mut theirs = theirs.iter().filter(|field| field.versions.has(version));
            let mut ours = ours.iter().filter(|field| has(field.versions));
            loop {
                match (theirs.next(), ours.next()) {
                    (None, None) => break,
                    (Some(theirs), Some(ours)) if theirs.name == ours.name => {
                        compare_fields(
                            &format!("{place} {}", ours.name),
                            version,
                            theirs,
                            ours,
                            found,
                        );
                    }
                    (theirs, ours) => {
                        let (theirs, ours) = (theirs.map(|f| &f.name), ours.map(|f| f.name));
                        found.push(format!("{place}: field {ours:?}, Kafka {theirs:?}"));
                        break;
                    }
                }
            }
        }
        _ => found.push(format!("{place}: {ours:?}, Kafka {theirs:?}")),
    }
}

fn compare_fields(
    place: &str,
    version: i16,
    theirs: &Field,
    ours: &shape::Field,
    found: &mut Vec<String>,
) {
    let nullable = ours.nullable.is_some_and(|(first, last)| (first..=last).contains(&version));
    if nullable != theirs.nullable.has(version) {
        found.push(format!("{place}: nullable is {nullable}, Kafka's is {}", !nullable));
    }
    let tag = theirs.tagged.has(version).then_some(theirs.tag);
    if tag != ours.tag {
        found.push(format!("{place}: tag {:?}, Kafka {tag:?}", ours.tag));
    }
    let has_default = match &theirs.kind {
        // A struct's default is its fields'.
        Kind::Struct(_) => theirs.default == "null",
        // No version lacks the records, so nothing ever takes their default.
        Kind::Plain(name) => name != "records",
        Kind::Array(_) => true,
    };
    if has_default {
        let default = shown(&ours.default);
        let expected = tree::default(theirs);
        let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_owned);
        if default != expected {
            found.push(format!("{place}: default {default:?}, Kafka {expected:?}"));
        }
    }
    compare(place, version, &theirs.kind, &ours.kind, found);
}

/// A default as `Debug` shows it, in the form of a tree's.
fn shown(debug: &str) -> String {
    let inner = debug.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')'));
    let text = inner.unwrap_or(debug);
    match text {
        "None" => "null".into(),
        // How an error code shows itself.
        "NONE" => "0".into(),
        "b\"\"" => String::new(),
        "AAAAAAAAAAAAAAAAAAAAAA" => "0".repeat(32),
        _ => text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text)
            .to_owned(),
    }
}

/// An arbitrary request and response: what we write is read and written again by the schemas, to the same bytes, and what the
/// schemas write is read by us as what it was.
fn bytes(
    api: ApiKey,
    version: i16,
    [request, response]: &[Message; 2],
    seed: u64,
) -> anyhow::Result<()> {
    let through = |message: &Message, ours: &[u8]| -> anyhow::Result<()> {
        let tree = tree::decode(message, version, ours)?;
        let theirs = tree::encode(message, version, &tree)?;
        anyhow::ensure!(theirs == ours, "other bytes for {tree}");
        Ok(())
    };
    let sample = Request::sample(api, &mut Source::new(seed), version);
    through(request, &sample.encode(version).concat())?;
    let header = RequestHeader {
        api_key: api as i16,
        api_version: version,
        correlation_id: 1,
        client_id: None,
    };
    let frame = Bytes::from(encode_request(&header, &sample).concat());
    anyhow::ensure!(decode_request(frame)?.1 == sample, "the request is read otherwise");
    let sample = Response::sample(api, &mut Source::new(seed), version);
    through(response, &sample.encode(version).concat())?;
    let frame = Bytes::from(encode_response(1, version, &sample).concat());
    anyhow::ensure!(
        decode_response(api, version, frame)?.1 == sample,
        "the response is read otherwise"
    );
    Ok(())
}
