//! Reads the JSON of requests, most of whose bytes are the numbers of vectors: eight digits at a time.
//!
//! A reader beside `serde_json` that takes what is usual and gives up at everything else; then `serde_json` reads the whole text
//! and has the last word. So what is accepted, every value and every error are those of `serde_json`.

use std::fmt;

use memchr::memchr2;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Lists and objects in one another; `serde_json` goes no deeper either.
const DEPTH_MAX: u32 = 127;
/// Digits that certainly fit a `u64`.
const DIGITS_MAX: usize = 19;
/// Numbers with higher powers are rare.
const POWERS: [f64; 32] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31,
];
const SMALL_POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The value that a text is.
///
/// # Errors
/// Those of `serde_json`.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    read(text).or_else(|Unusual| serde_json::from_slice(text))
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unusual> {
    let mut reader = Reader {
        rest: text,
        depth: DEPTH_MAX,
    };
    let value = T::deserialize(&mut reader)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(Unusual),
    }
}

/// Not read here: wrong, or rare.
#[derive(Debug, PartialEq)]
struct Unusual;

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("for serde_json to read")
    }
}

impl std::error::Error for Unusual {}

impl serde::de::Error for Unusual {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Reader<'de> {
    rest: &'de [u8],
    /// How much deeper lists and objects may go.
    depth: u32,
}

impl<'de> Reader<'de> {
    /// The next byte that is no white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        match self.rest {
            [first, ..] if *first > b' ' => Some(*first),
            // What is usual behind a comma.
            [b' ', rest @ ..] if rest.first() > Some(&b' ') => {
                self.rest = rest;
                rest.first().copied()
            }
            _ => self.skip_white_space(),
        }
    }

    #[cold]
    fn skip_white_space(&mut self) -> Option<u8> {
        while let Some((first, rest)) = self.rest.split_first() {
            if !matches!(first, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(*first);
            }
            self.rest = rest;
        }
        None
    }

    /// Goes past `text`.
    fn take(&mut self, text: &[u8]) -> Result<(), Unusual> {
        self.rest = self.rest.strip_prefix(text).ok_or(Unusual)?;
        Ok(())
    }

    /// Goes past a byte; not as a text of one, whose comparison is a call.
    #[inline]
    fn take_byte(&mut self, byte: u8) -> Result<(), Unusual> {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => self.rest = rest,
            _ => return Err(Unusual),
        }
        Ok(())
    }

    /// The text from the opening quotation mark to the closing one, and whether something in it is escaped.
    fn quoted(&mut self) -> Result<(&'de [u8], bool), Unusual> {
        let (mut escaped, mut end) = (false, 1);
        let quoted = loop {
            let after = self.rest.get(end..).ok_or(Unusual)?;
            end += memchr2(b'"', b'\\', after).ok_or(Unusual)? + 1;
            let (quoted, rest) = self.rest.split_at_checked(end).ok_or(Unusual)?;
            if quoted.ends_with(b"\"") {
                self.rest = rest;
                break quoted;
            }
            // Whatever is escaped does not end the text.
            (escaped, end) = (true, end + 1);
        };
        // Not `any`, which would look at one byte at a time.
        if quoted.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
            return Err(Unusual);
        }
        Ok((quoted, escaped))
    }

    fn string<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Unusual> {
        let (quoted, escaped) = self.quoted()?;
        if escaped {
            let text = serde_json::from_slice(quoted).map_err(|_| Unusual)?;
            return visitor.visit_string(text);
        }
        let text = quoted.get(1..quoted.len() - 1).ok_or(Unusual)?;
        visitor.visit_borrowed_str(std::str::from_utf8(text).map_err(|_| Unusual)?)
    }

    /// Reads what stands between brackets.
    fn nested<T>(&mut self, read: impl FnOnce(Items<'_, 'de>) -> Result<T, Unusual>, end: u8) -> Result<T, Unusual> {
        self.depth = self.depth.checked_sub(1).ok_or(Unusual)?;
        self.rest = self.rest.get(1..).ok_or(Unusual)?;
        let first = true;
        let value = read(Items {
            reader: self,
            end,
            first,
        })?;
        self.peek();
        self.take_byte(end)?;
        self.depth += 1;
        Ok(value)
    }

    #[inline]
    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Unusual> {
        if let Some((value, rest)) = fraction(self.rest) {
            self.rest = rest;
            return visitor.visit_f64(value);
        }
        let (number, rest) = number(self.rest).or_else(|Unusual| rare_number(self.rest))?;
        self.rest = rest;
        match number {
            Number::Unsigned(value) => visitor.visit_u64(value),
            Number::Signed(value) => visitor.visit_i64(value),
            Number::Float(value) => visitor.visit_f64(value),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// The number at the front of a text, if it is one as vectors have most: `0.` or `-0.`, fewer than 24 places and at most 18 digits
/// behind zeros, not near the end of the text; and what follows it. Without a branch that depends on the digits, or on the sign, which nobody can predict.
#[inline(always)]
fn fraction(text: &[u8]) -> Option<(f64, &[u8])> {
    let negative = text.first() == Some(&b'-');
    let places = text.get(usize::from(negative)..)?.strip_prefix(b"0.")?;
    let (words, _) = places.first_chunk::<24>()?.as_chunks();
    let [first, second, third] = words else { return None };
    let [first, second, third] = [first, second, third].map(|word| without_zero(*word));
    let (value, count) = match (leading_digits(first), leading_digits(second), leading_digits(third)) {
        (count @ 1..8, ..) => (few_digits(first, count), count),
        (8, count @ ..8, _) => {
            let tail = few_digits(second, count);
            (eight_digits(first) * SMALL_POWERS[count] + tail, 8 + count)
        }
        (8, 8, count @ ..8) => {
            let first = eight_digits(first);
            // More than 18 digits that are no zeros at the front.
            if count > 2 && first >= SMALL_POWERS[10 - count] {
                return None;
            }
            let value = first * SMALL_POWERS[8] + eight_digits(second);
            (value * SMALL_POWERS[count] + few_digits(third, count), 16 + count)
        }
        _ => return None,
    };
    let rest = &places[count..];
    if matches!(rest.first(), Some(b'e' | b'E')) {
        return None;
    }
    // The same roundings that `serde_json` makes; as a signed number, which is converted sooner.
    let value = value as i64 as f64 / POWERS[count];
    let sign = u64::from(negative) << 63;
    Some((f64::from_bits(value.to_bits() | sign), rest))
}

/// The number at the front of a text, and what follows it.
fn number(text: &[u8]) -> Result<(Number, &[u8]), Unusual> {
    let (negative, text) = match text.split_first() {
        Some((b'-', unsigned)) => (true, unsigned),
        _ => (false, text),
    };
    let (whole, mut rest) = single_digits(0, text);
    let mut count = text.len() - rest.len();
    if count == 0 || count > 1 && text.starts_with(b"0") {
        return Err(Unusual);
    }
    let (mut value, mut power) = (whole, 0);
    if let Some((b'.', fraction)) = rest.split_first() {
        (value, rest) = digits(whole, fraction);
        let places = fraction.len() - rest.len();
        if places == 0 {
            return Err(Unusual);
        }
        count += places;
        if count > DIGITS_MAX && whole == 0 {
            count = places - fraction.iter().take_while(|digit| **digit == b'0').count();
        }
        power = -(places as i64);
    }
    if let Some((b'e' | b'E', after)) = rest.split_first() {
        let (exponent, after) = exponent(after)?;
        power += exponent;
        rest = after;
    } else if power == 0 {
        return match (negative, i64::try_from(value)) {
            _ if count > DIGITS_MAX => Err(Unusual),
            (false, _) => Ok((Number::Unsigned(value), rest)),
            (true, Ok(value @ 1..)) => Ok((Number::Signed(-value), rest)),
            (true, _) => Err(Unusual),
        };
    }
    if count > DIGITS_MAX {
        return Err(Unusual);
    }
    // The same roundings that `serde_json` makes.
    let scale = POWERS.get(power.unsigned_abs() as usize).ok_or(Unusual)?;
    let value = value as f64;
    let value = if power < 0 { value / scale } else { value * scale };
    Ok((Number::Float(if negative { -value } else { value }), rest))
}

/// The same for a number with many digits or a high power.
#[cold]
fn rare_number(text: &[u8]) -> Result<(Number, &[u8]), Unusual> {
    let of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text.iter().take_while(|byte| of_number(byte)).count();
    let (number, rest) = text.split_at(length);
    let number: serde_json::Number = serde_json::from_slice(number).map_err(|_| Unusual)?;
    let number = match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), ..) => Number::Unsigned(value),
        (_, Some(value), _) => Number::Signed(value),
        (.., value) => Number::Float(value.ok_or(Unusual)?),
    };
    Ok((number, rest))
}

/// What follows the `e` of a number, and the rest.
fn exponent(text: &[u8]) -> Result<(i64, &[u8]), Unusual> {
    let unsigned = text.strip_prefix(b"-");
    let text = unsigned.or(text.strip_prefix(b"+")).unwrap_or(text);
    let (value, rest) = single_digits(0, text);
    match text.len() - rest.len() {
        1..=3 if unsigned.is_some() => Ok((-(value as i64), rest)),
        1..=3 => Ok((value as i64, rest)),
        _ => Err(Unusual),
    }
}

/// Appends the digits at the front of a text to `value`, and returns what follows them. Overflows silently.
fn digits(mut value: u64, mut text: &[u8]) -> (u64, &[u8]) {
    while let Some((word, rest)) = text.split_first_chunk() {
        let word = without_zero(*word);
        match leading_digits(word) {
            8 => value = value.wrapping_mul(SMALL_POWERS[8]).wrapping_add(eight_digits(word)),
            count => {
                let tail = few_digits(word, count);
                value = value.wrapping_mul(SMALL_POWERS[count]).wrapping_add(tail);
                return (value, &text[count..]);
            }
        }
        text = rest;
    }
    single_digits(value, text)
}

/// Eight bytes as a word, the first one lowest, of which those of digits are their value.
#[inline(always)]
fn without_zero(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes) ^ u64::from_le_bytes([b'0'; 8])
}

/// How many bytes at the front of such a word are digits.
#[inline(always)]
fn leading_digits(word: u64) -> usize {
    // A byte of more than nine has its highest bit now, and the first such byte is the lowest.
    let others = (word | word.wrapping_add(u64::from_le_bytes([0x76; 8]))) & u64::from_le_bytes([0x80; 8]);
    others.trailing_zeros() as usize / 8
}

/// The number whose digits are the first bytes of such a word, fewer than eight.
#[inline(always)]
fn few_digits(word: u64, count: usize) -> u64 {
    eight_digits((word << 8) << (56 - 8 * count))
}

/// The same, one at a time: faster where there are few.
#[inline]
fn single_digits(mut value: u64, mut text: &[u8]) -> (u64, &[u8]) {
    while let Some((digit @ b'0'..=b'9', rest)) = text.split_first() {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        text = rest;
    }
    (value, text)
}

/// The number whose digits are the bytes of a word, the first one lowest: pairs are put together, then fours, then all.
#[inline]
fn eight_digits(word: u64) -> u64 {
    let pairs = (word.wrapping_mul(10) + (word >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs.wrapping_mul(100) + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours.wrapping_mul(10_000) + (fours >> 32)) & 0xFFFF_FFFF
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Unusual;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.peek().ok_or(Unusual)? {
            b'-' | b'0'..=b'9' => self.number(visitor),
            b'[' => self.nested(|items| visitor.visit_seq(items), b']'),
            b'{' => self.nested(|items| visitor.visit_map(items), b'}'),
            b'"' => self.string(visitor),
            b't' => self.take(b"true").and_then(|()| visitor.visit_bool(true)),
            b'f' => self.take(b"false").and_then(|()| visitor.visit_bool(false)),
            _ => self.take(b"null").and_then(|()| visitor.visit_unit()),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unusual> {
        match self.peek() {
            Some(b'n') => self.take(b"null").and_then(|()| visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unusual> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unusual> {
        match self.peek() {
            Some(b'{') => self.nested(|items| visitor.visit_enum(MapAccessDeserializer::new(items)), b'}'),
            _ => Err(Unusual),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// What stands between brackets.
struct Items<'a, 'de> {
    reader: &'a mut Reader<'de>,
    /// The closing bracket.
    end: u8,
    first: bool,
}

impl Items<'_, '_> {
    /// Goes to the next item; `None` at the end.
    #[inline]
    fn next(&mut self) -> Result<Option<()>, Unusual> {
        let byte = self.reader.peek().ok_or(Unusual)?;
        if byte == self.end {
            return Ok(None);
        }
        if !std::mem::take(&mut self.first) {
            self.reader.take_byte(b',')?;
            if self.reader.peek() == Some(self.end) {
                return Err(Unusual);
            }
        }
        Ok(Some(()))
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Unusual;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unusual> {
        self.next()?.map(|()| seed.deserialize(&mut *self.reader)).transpose()
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = Unusual;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unusual> {
        if self.next()?.is_none() {
            return Ok(None);
        }
        match self.reader.peek() {
            Some(b'"') => seed.deserialize(&mut *self.reader).map(Some),
            _ => Err(Unusual),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unusual> {
        self.reader.peek();
        self.reader.take_byte(b':')?;
        seed.deserialize(&mut *self.reader)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use serde_json::{Value, json};

    use super::*;

    /// What is read here is what `serde_json` reads; returns whether it was.
    #[track_caller]
    fn check(text: &[u8]) -> bool {
        let (Ok(value), theirs) = (read::<Value>(text), serde_json::from_slice::<Value>(text)) else {
            return false;
        };
        let shown = String::from_utf8_lossy(text);
        let theirs = theirs.unwrap_or_else(|error| panic!("{shown}: read although {error}"));
        assert_eq!(value, theirs, "{shown}");
        assert_eq!(value.to_string(), theirs.to_string(), "{shown}");
        true
    }

    #[test]
    fn usual_texts_are_read_here() {
        for text in [
            " { \"a\" : [ ] , \"b\":{},\"c\":[1,-2 ,\t3.5],\"d\":null,\"e\":[true,false,[[\"\"]]]}\r\n",
            "[0,1,12,123456789,9999999999999999999,-1,-9223372036854775807]",
            "[0.0,-0.0,0.5,-0.25,1.0,123.456,0.03475949168205261,-0.0034759491682052612,0.00000012345678901234567]",
            "[12345678.12345678,1234567.1234567,0.1,0.12,0.1234567,0.12345678,0.123456789,0.1234567890123456789]",
            "[1e5,1E5,1.5e+3,1.2345678901234567e-05,2.5E-14,0e0,1e-31,0.000e1]",
            "\"\"",
            "\"ü \\\" \\u00fc \\\\\"",
            "7 ",
        ] {
            assert!(check(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn numbers_with_any_number_of_places_are_those_of_serde_json() {
        let mut random = StdRng::seed_from_u64(3);
        for places in 1..26 {
            for _ in 0..500 {
                let zeros = random.random_range(0..=places);
                let digits = (0..places).map(|at| {
                    if at < zeros {
                        '0'
                    } else {
                        random.random_range('0'..='9')
                    }
                });
                let digits: String = digits.collect();
                let sign = if random.random() { "-" } else { "" };
                for tail in ["", "e1", "E-3"] {
                    let text = format!("[{sign}0.{digits}{tail},{sign}0.{digits}{tail} , \"{:24}\"]", "");
                    assert!(check(text.as_bytes()), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_serde_json_refuses_is_not_read() {
        for text in [
            "",
            " ",
            "[",
            "]",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{1:2}",
            "{a:1}",
            "01",
            "-",
            "-01",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e+",
            "1.e5",
            "00.5",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "0x10",
            "1_000",
            "tru",
            "nul",
            "True",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"a\nb\"",
            "\"\u{0}\"",
            "1 1",
            "[] x",
            "\u{feff}1",
            "'a'",
        ] {
            let Err(theirs) = serde_json::from_slice::<Value>(text.as_bytes()) else {
                panic!("{text}")
            };
            assert_eq!(
                from_slice::<Value>(text.as_bytes()).unwrap_err().to_string(),
                theirs.to_string()
            );
        }
        assert!(from_slice::<Value>(b"\"\xff\"").is_err());
    }

    #[test]
    fn rare_numbers_are_those_of_serde_json() {
        for text in [
            "-0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "1e40",
            "1e-320",
            "-1.3570634123022058e-33",
            "0.12345678901234567890123",
            "123456789012345678901234567890.5",
            "1.5e0001",
        ] {
            assert!(check(format!("[{text},{text}]").as_bytes()), "{text}");
        }
    }

    #[test]
    fn depth_is_limited_as_in_serde_json() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat().into_bytes();
        assert!(check(&nested(127)));
        assert!(!check(&nested(128)));
        assert!(serde_json::from_slice::<Value>(&nested(128)).is_err());
        assert!(from_slice::<Value>(&nested(1_000_000)).is_err());
    }

    #[test]
    fn damaged_texts_are_read_as_serde_json_reads_them() {
        let numbers = [
            "0.1234567890",
            "-12.5",
            "1e-05",
            "-0.00012345678901234567",
            "3",
            "1.5E+2",
            "4294967296",
        ];
        let body = json!({"points": [{"id": 1, "vector": "#", "payload": {"a": "ü\"\\", "b": [null, true, {}]}}, {"id": "x"}]});
        let body = body.to_string().replace("\"#\"", &format!("[{}]", numbers.join(", ")));
        let mut random = StdRng::seed_from_u64(1);
        let bytes = b"0123456789.eE+-,[]{}:\"\\ntf \n\x00\xff";
        let mut read = 0;
        for _ in 0..20_000 {
            let mut text = body.clone().into_bytes();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..text.len());
                match random.random_range(0..3) {
                    0 => text[at] = *bytes.choose(&mut random).unwrap(),
                    1 => text.insert(at, *bytes.choose(&mut random).unwrap()),
                    _ => drop(text.remove(at)),
                }
            }
            read += usize::from(check(&text));
        }
        assert!(read > 1_000, "{read}");
    }

    #[test]
    fn every_float_comes_back() {
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..20_000 {
            let float = f32::from_bits(random.random());
            if float.is_finite() {
                for text in [float.to_string(), format!("{float:e}"), f64::from(float).to_string()] {
                    check(text.as_bytes());
                    let read: f64 = from_slice(text.as_bytes()).unwrap();
                    assert_eq!(read as f32, float, "{text}");
                    // In the middle of a text it may be read in another way.
                    let list: Vec<f64> = from_slice(format!("[{text}, {text}{:24}]", "").as_bytes()).unwrap();
                    assert_eq!(list, [read; 2], "{text}");
                }
            }
        }
    }
}
