//! Messages as trees, read and written by Kafka's own schemas: a codec that knows nothing of ours.
//!
//! A struct is an object, bytes and records are hexadecimal text, a uuid likewise. A field that a version lacks is absent.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Message};

/// Reads a body. All of it must be taken.
pub fn decode(message: &Message, version: i16, bytes: &[u8]) -> Result<Value> {
    let mut reader = Reader { bytes, version, flexible: message.flexible.has(version) };
    let value = reader.fields(&message.fields)?;
    ensure!(reader.bytes.is_empty(), "{} bytes follow the message", reader.bytes.len());
    Ok(value)
}

/// Writes a body.
pub fn encode(message: &Message, version: i16, value: &Value) -> Result<Vec<u8>> {
    let mut writer = Writer { out: Vec::new(), version, flexible: message.flexible.has(version) };
    writer.fields(&message.fields, value)?;
    Ok(writer.out)
}

/// Bytes as hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What [`hex`] has written.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "{text} is not hexadecimal");
    let pairs = (0..text.len()).step_by(2);
    Ok(pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect::<Result<_, _>>()?)
}

/// The value of a field that a message leaves out.
pub fn default(field: &Field) -> Value {
    match &field.kind {
        _ if field.default == "null" => Value::Null,
        Kind::Array(_) => Value::Array(Vec::new()),
        Kind::Struct(fields) => {
            Value::Object(fields.iter().map(|field| (field.name.clone(), default(field))).collect())
        }
        Kind::Plain(name) => match name.as_str() {
            "bool" => Value::Bool(field.default == "true"),
            "string" => Value::String(field.default.clone()),
            "bytes" | "records" => Value::String(String::new()),
            "uuid" => Value::String("0".repeat(32)),
            "float64" => Value::from(field.default.parse::<f64>().unwrap_or(0.0)),
            _ => Value::from(integer(&field.default)),
        },
    }
}

/// An integer as schemas write it: decimal, `0x...`, or nothing for 0.
fn integer(text: &str) -> i64 {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).expect("a hexadecimal default"),
        None if text.is_empty() => 0,
        None => text.parse().expect("a decimal default"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    version: i16,
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.split_off(..count);
        taken.with_context(|| format!("{count} bytes are missing"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a varint without an end")
    }

    /// A length, or none for null.
    fn length(&mut self, short: bool) -> Result<Option<usize>> {
        let length = match (self.flexible, short) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, true) => i64::from(i16::from_be_bytes(self.array()?)),
            (false, false) => i64::from(i32::from_be_bytes(self.array()?)),
        };
        ensure!((-1..=self.bytes.len() as i64).contains(&length), "a length of {length}");
        Ok(usize::try_from(length).ok())
    }

    fn fields(&mut self, fields: &[Field]) -> Result<Value> {
        let (mut object, version) = (Map::new(), self.version);
        for field in fields.iter().filter(|field| field.versions.has(version)) {
            let tagged = field.tagged.has(version);
            let value = if tagged { default(field) } else { self.field(field)? };
            object.insert(field.name.clone(), value);
        }
        if self.flexible {
            for _ in 0..self.varint()? {
                let (tag, size) = (self.varint()?, self.varint()? as usize);
                let bytes = self.take(size)?;
                let known = |field: &&Field| field.tagged.has(self.version) && field.tag == tag;
                let field = fields.iter().find(known).with_context(|| format!("tag {tag}"))?;
                let mut inner = Reader { bytes, ..*self };
                let value = inner.field(field)?;
                ensure!(inner.bytes.is_empty(), "tag {tag} is longer than its value");
                object.insert(field.name.clone(), value);
            }
        }
        Ok(Value::Object(object))
    }

    fn field(&mut self, field: &Field) -> Result<Value> {
        let nullable = field.nullable.has(self.version);
        let value = self.value(&field.kind, nullable).with_context(|| field.name.clone())?;
        ensure!(nullable || !value.is_null(), "{} is null", field.name);
        Ok(value)
    }

    fn value(&mut self, kind: &Kind, nullable: bool) -> Result<Value> {
        Ok(match kind {
            Kind::Struct(_) if nullable && i8::from_be_bytes(self.array()?) < 0 => Value::Null,
            Kind::Struct(fields) => self.fields(fields)?,
            Kind::Array(element) => match self.length(false)? {
                None => Value::Null,
                Some(count) => {
                    let elements = (0..count).map(|_| self.value(element, false));
                    Value::Array(elements.collect::<Result<_>>()?)
                }
            },
            Kind::Plain(name) => match name.as_str() {
                "bool" => Value::Bool(self.array::<1>()? != [0]),
                "int8" => i8::from_be_bytes(self.array()?).into(),
                "int16" => i16::from_be_bytes(self.array()?).into(),
                "uint16" => u16::from_be_bytes(self.array()?).into(),
                "int32" => i32::from_be_bytes(self.array()?).into(),
                "uint32" => u32::from_be_bytes(self.array()?).into(),
                "int64" => i64::from_be_bytes(self.array()?).into(),
                "float64" => f64::from_be_bytes(self.array()?).into(),
                "uuid" => hex(self.take(16)?).into(),
                "string" => match self.length(true)? {
                    None => Value::Null,
                    Some(length) => str::from_utf8(self.take(length)?)?.into(),
                },
                "bytes" | "records" => match self.length(false)? {
                    None => Value::Null,
                    Some(length) => hex(self.take(length)?).into(),
                },
                other => bail!("no type {other}"),
            },
        })
    }
}

struct Writer {
    out: Vec<u8>,
    version: i16,
    flexible: bool,
}

impl Writer {
    fn varint(&mut self, mut value: u32) {
        while value > 0x7f {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, length: Option<usize>, short: bool) {
        let length = length.map_or(-1, |length| length as i32);
        match (self.flexible, short) {
            (true, _) => self.varint((length + 1) as u32),
            (false, true) => self.out.extend((length as i16).to_be_bytes()),
            (false, false) => self.out.extend(length.to_be_bytes()),
        }
    }

    fn fields(&mut self, fields: &[Field], value: &Value) -> Result<()> {
        let (mut tagged, version) = (Vec::new(), self.version);
        for field in fields.iter().filter(|field| field.versions.has(version)) {
            let absent = default(field);
            let value = value.get(&field.name).unwrap_or(&absent);
            if field.tagged.has(version) {
                // As in Kafka, a tagged field travels only when it differs from its default.
                if *value != absent {
                    tagged.push((field, value.clone()));
                }
            } else {
                self.field(field, value)?;
            }
        }
        if self.flexible {
            tagged.sort_by_key(|(field, _)| field.tag);
            self.varint(tagged.len() as u32);
            for (field, value) in tagged {
                let mut inner = Writer { out: Vec::new(), ..*self };
                inner.field(field, &value)?;
                self.varint(field.tag);
                self.varint(inner.out.len() as u32);
                self.out.extend(inner.out);
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: &Value) -> Result<()> {
        let nullable = field.nullable.has(self.version);
        self.value(&field.kind, nullable, value)
            .with_context(|| format!("{} as {value}", field.name))
    }

    fn value(&mut self, kind: &Kind, nullable: bool, value: &Value) -> Result<()> {
        let whole = || value.as_i64().context("an integer");
        match kind {
            Kind::Struct(fields) => {
                if nullable {
                    self.out.push(if value.is_null() { 0xff } else { 1 });
                }
                if !value.is_null() {
                    self.fields(fields, value)?;
                }
            }
            Kind::Array(element) => {
                let elements = value.as_array();
                self.length(elements.map(Vec::len), false);
                for value in elements.into_iter().flatten() {
                    self.value(element, false, value)?;
                }
            }
            Kind::Plain(name) => match name.as_str() {
                "bool" => self.out.push(value.as_bool().context("a truth")?.into()),
                "int8" => self.out.extend((whole()? as i8).to_be_bytes()),
                "int16" => self.out.extend((whole()? as i16).to_be_bytes()),
                "uint16" => self.out.extend((whole()? as u16).to_be_bytes()),
                "int32" => self.out.extend((whole()? as i32).to_be_bytes()),
                "uint32" => self.out.extend((whole()? as u32).to_be_bytes()),
                "int64" => self.out.extend(whole()?.to_be_bytes()),
                "float64" => self.out.extend(value.as_f64().context("a number")?.to_be_bytes()),
                "uuid" => self.out.extend(unhex(value.as_str().context("a uuid")?)?),
                "string" => {
                    self.length(value.as_str().map(str::len), true);
                    self.out.extend(value.as_str().unwrap_or_default().as_bytes());
                }
                "bytes" | "records" => {
                    let bytes = value.as_str().map(unhex).transpose()?;
                    self.length(bytes.as_ref().map(Vec::len), false);
                    self.out.extend(bytes.unwrap_or_default());
                }
                other => bail!("no type {other}"),
            },
        }
        Ok(())
    }
}
