//! Kafka's own schemas of its messages, as its clients' jar holds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// An inclusive range of versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions(pub i16, pub i16);

impl Versions {
    const NONE: Versions = Versions(0, -1);

    /// As schemas write it: `3+`, `3-7`, `3` or `none`.
    pub fn parse(text: &str) -> Result<Versions> {
        let number = |part: &str| part.parse::<i16>().with_context(|| format!("versions {text}"));
        Ok(match (text, text.split_once('-')) {
            ("none", _) => Versions::NONE,
            (_, Some((first, last))) => Versions(number(first)?, number(last)?),
            (_, None) => match text.strip_suffix('+') {
                Some(first) => Versions(number(first)?, i16::MAX),
                None => Versions(number(text)?, number(text)?),
            },
        })
    }

    /// Whether `version` is one of them.
    pub fn has(self, version: i16) -> bool {
        (self.0..=self.1).contains(&version)
    }
}

/// A message: a request or a response.
#[derive(Debug)]
pub struct Message {
    /// Kafka's number of the API.
    pub api_key: i16,
    /// Those that are served: not the last one where Kafka calls it unstable.
    pub versions: Versions,
    /// Those with compact lengths and tagged fields.
    pub flexible: Versions,
    /// In wire order.
    pub fields: Vec<Field>,
}

/// A field of a message or of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in the manner of Rust, `error_code`.
    pub name: String,
    /// Its type, whether or not it may be null.
    pub kind: Kind,
    /// The versions that have it.
    pub versions: Versions,
    /// Those in which it may be null.
    pub nullable: Versions,
    /// Those in which it is tagged, and the tag.
    pub tagged: Versions,
    /// The tag, where it is tagged.
    pub tag: u32,
    /// Its default as the schema writes it; empty for none.
    pub default: String,
}

/// The type of a field.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `int16`, `string` and the like, by Kafka's name.
    Plain(String),
    /// An array of something.
    Array(Box<Kind>),
    /// Fields in wire order.
    Struct(Vec<Field>),
}

/// Request and response of each API that clients may ask a broker for, by number.
pub fn load(folder: &Path) -> Result<BTreeMap<i16, [Message; 2]>> {
    let mut halves: BTreeMap<i16, [Option<Message>; 2]> = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let schema: Value = serde_json::from_str(&without_comments(&text))
            .with_context(|| format!("{}", path.display()))?;
        let side = match schema["type"].as_str() {
            Some("request") => 0,
            Some("response") => 1,
            _ => continue,
        };
        // An API that is gone keeps its number and nothing else.
        if schema["validVersions"] == "none" {
            continue;
        }
        let message = message(&schema).with_context(|| format!("{}", path.display()))?;
        let half = &mut halves.entry(message.api_key).or_default()[side];
        *half = Some(message);
    }
    ensure!(halves.len() > 50, "{} holds only {} APIs", folder.display(), halves.len());
    let whole = |(api_key, [request, response]): (i16, [Option<Message>; 2])| {
        let (request, mut response) = (request?, response?);
        // Only the request's schema says that the last version is unstable.
        response.versions.1 = response.versions.1.min(request.versions.1);
        Some((api_key, [request, response]))
    };
    Ok(halves.into_iter().filter_map(whole).collect())
}

/// JSON has no comments; these files do, each to the end of its line.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (mut quoted, mut end) = (false, line.len());
        for (at, character) in line.char_indices() {
            match character {
                '"' => quoted = !quoted,
                '/' if !quoted && line[at..].starts_with("//") => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

fn message(schema: &Value) -> Result<Message> {
    let mut common = BTreeMap::new();
    for shared in schema["commonStructs"].as_array().into_iter().flatten() {
        common.insert(text(shared, "name")?.to_owned(), shared["fields"].clone());
    }
    let Versions(first, last) = Versions::parse(text(schema, "validVersions")?)?;
    let unstable = schema["latestVersionUnstable"].as_bool().unwrap_or(false);
    Ok(Message {
        api_key: schema["apiKey"].as_i64().context("apiKey")? as i16,
        versions: Versions(first, last - i16::from(unstable)),
        flexible: Versions::parse(text(schema, "flexibleVersions")?)?,
        fields: fields(&schema["fields"], &common)?,
    })
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("{name} of {value}"))
}

fn fields(list: &Value, common: &BTreeMap<String, Value>) -> Result<Vec<Field>> {
    list.as_array().into_iter().flatten().map(|one| field(one, common)).collect()
}

fn field(schema: &Value, common: &BTreeMap<String, Value>) -> Result<Field> {
    let versions = |name: &str| match schema[name].as_str() {
        Some(text) => Versions::parse(text),
        None => Ok(Versions::NONE),
    };
    let default = match &schema["default"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(Field {
        name: snake(text(schema, "name")?),
        kind: kind(text(schema, "type")?, &schema["fields"], common)?,
        versions: versions("versions")?,
        nullable: versions("nullableVersions")?,
        tagged: versions("taggedVersions")?,
        tag: schema["tag"].as_u64().unwrap_or(0) as u32,
        default,
    })
}

fn kind(name: &str, inline: &Value, common: &BTreeMap<String, Value>) -> Result<Kind> {
    if let Some(element) = name.strip_prefix("[]") {
        return Ok(Kind::Array(Box::new(kind(element, inline, common)?)));
    }
    const PLAIN: [&str; 13] = [
        "bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "float64", "uuid", "string",
        "bytes", "records", "float32",
    ];
    if PLAIN.contains(&name) {
        return Ok(Kind::Plain(name.to_owned()));
    }
    let list = if inline.is_array() { inline } else { common.get(name).unwrap_or(&Value::Null) };
    if list.is_null() {
        bail!("no fields of {name}");
    }
    Ok(Kind::Struct(fields(list, common)?))
}

/// `ThrottleTimeMs` becomes `throttle_time_ms`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, character) in name.char_indices() {
        if character.is_ascii_uppercase()
            && at > 0
            && !name[..at].ends_with(|c: char| c.is_ascii_uppercase())
        {
            out.push('_');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}
