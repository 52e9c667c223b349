//! How `consume` writes a record: a text with places for its parts, in kcat's letters.

use std::io::{self, Write};
use std::str::FromStr;

use milena_wire::batch::Record;

/// What a null key or value looks like.
const NULL: &[u8] = b"(null)";

/// Text and places, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Byte(u8),
    /// A letter of [`FIELDS`].
    Field(char),
}

const FIELDS: &str = "kKsStpoTh";

impl Template {
    /// A value a line, behind its key where a separator is given.
    pub fn lines(key_separator: Option<&str>) -> Template {
        let mut pieces = Vec::new();
        if let Some(separator) = key_separator {
            pieces.push(Piece::Field('k'));
            pieces.extend(separator.bytes().map(Piece::Byte));
        }
        pieces.extend([Piece::Field('s'), Piece::Byte(b'\n')]);
        Template(pieces)
    }

    /// Writes a record.
    pub fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        partition: i32,
        record: &Record,
    ) -> io::Result<()> {
        let bytes =
            |bytes: Option<&[u8]>, out: &mut dyn Write| out.write_all(bytes.unwrap_or(NULL));
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        for piece in &self.0 {
            match piece {
                Piece::Byte(byte) => out.write_all(&[*byte])?,
                Piece::Field('k') => bytes(key, out)?,
                Piece::Field('K') => write!(out, "{}", length(key))?,
                Piece::Field('s') => bytes(value, out)?,
                Piece::Field('S') => write!(out, "{}", length(value))?,
                Piece::Field('t') => out.write_all(topic.as_bytes())?,
                Piece::Field('p') => write!(out, "{partition}")?,
                Piece::Field('o') => write!(out, "{}", record.offset)?,
                Piece::Field('T') => write!(out, "{}", record.timestamp)?,
                Piece::Field(_) => {
                    for (i, (name, value)) in record.headers.iter().enumerate() {
                        out.write_all(if i == 0 { b"" } else { b"," })?;
                        out.write_all(name)?;
                        out.write_all(b"=")?;
                        bytes(value.as_deref(), out)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut letters = text.chars();
        let mut utf8 = [0; 4];
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match letters.next() {
                    Some('%') => pieces.push(Piece::Byte(b'%')),
                    Some(field) if FIELDS.contains(field) => pieces.push(Piece::Field(field)),
                    Some(other) => return Err(format!("there is no %{other}; see --help")),
                    None => {
                        return Err("a letter is missing behind the last %; %% is a percent".into());
                    }
                },
                '\\' => pieces.push(Piece::Byte(match letters.next() {
                    Some('n') => b'\n',
                    Some('r') => b'\r',
                    Some('t') => b'\t',
                    Some('0') => 0,
                    Some('\\') => b'\\',
                    Some('x') => {
                        let digits = [letters.next(), letters.next()].map(|d| d?.to_digit(16));
                        let [Some(high), Some(low)] = digits else {
                            return Err("\\x needs two hexadecimal digits".into());
                        };
                        (high * 16 + low) as u8
                    }
                    Some(other) => return Err(format!("there is no \\{other}; see --help")),
                    None => {
                        return Err("a letter is missing behind the last \\; \\\\ is one".into());
                    }
                })),
                other => pieces.extend(other.encode_utf8(&mut utf8).bytes().map(Piece::Byte)),
            }
        }
        Ok(Template(pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_record_is_written_as_the_template_says() {
        let record = Record {
            offset: 7,
            timestamp: 1_700_000_000_000,
            key: Some(Bytes::from_static(b"k\xff")),
            value: None,
            headers: vec![
                (Bytes::from_static(b"a"), Some(Bytes::from_static(b"1"))),
                (Bytes::from_static(b"b"), None),
            ],
        };
        let written = |template: Template| {
            let mut out = Vec::new();
            template.write(&mut out, "letters", 3, &record).unwrap();
            out
        };
        let template = r"%k %K/%s %S %o %p %t %T %h 100%% é\n\r\t\0\x41\\".parse().unwrap();
        let expected = "k? 2/(null) -1 7 3 letters 1700000000000 a=1,b=(null) 100% é\n\r\t\0A\\";
        let mut expected = expected.as_bytes().to_vec();
        expected[1] = 0xff;
        assert_eq!(written(template), expected);
        assert_eq!(written(Template::lines(Some("->"))), b"k\xff->(null)\n");
    }

    #[test]
    fn a_bad_template_says_what_is_bad() {
        for (bad, said) in [
            ("%q", "%q"),
            ("50%", "%%"),
            ("\\", "\\\\"),
            ("\\y", "\\y"),
            ("\\x4", "two hexadecimal"),
            ("\\xgg", "two hexadecimal"),
            ("%é", "%é"),
        ] {
            let error = bad.parse::<Template>().unwrap_err();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
