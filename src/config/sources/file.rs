//! A file's values, key by key, each with its line. The only place that parses TOML.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::{
    keys::{Key, TABLES, nearest},
    other_connectors,
    problems::{Place, Problem, Warning},
    secret::SecretString,
    values::{Member, TableValue, Value, has_quotes, quoted_problem, show_name},
};
use super::{Layer, Sources, line};

/// At most this many syntax errors, and this many unknown keys, are reported one by one: a file that is
/// not a configuration has one on each line.
const MAX_OF_A_KIND: usize = 20;

/// Summarises the problems that are not reported one by one. `place`: that of the first of them.
fn and_more(place: Place, more: usize, what: &str, allowed: &str) -> Problem {
    Problem {
        place,
        key: None,
        found: format!("{more} more {what} from here on"),
        allowed: allowed.to_owned(),
        advice: "Fix the first ones, or look whether this is the right file".to_owned(),
    }
}

impl Sources {
    /// Reads a file's text. Syntax errors are noted together, the first [`MAX_OF_A_KIND`] of them. A
    /// table with an error is not read further, because nothing follows from what is missing in it.
    /// Returns whether the text was TOML. Takes time linear in the text's length.
    pub fn add_file(&mut self, path: &Path, text: &str) -> bool {
        let lines = Lines::of(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            path.clone_into(&mut self.file);
            Reader::read(self, path, lines, root.get_ref());
            return true;
        }
        let at = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        let place = |error: &toml::de::Error| {
            let (line, column) = lines.position(at(error));
            Place::File { path: path.to_owned(), line: Some(line), column: Some(column) }
        };
        for error in errors.iter().take(MAX_OF_A_KIND) {
            let place = place(error);
            let problem = match duplicate(error, text) {
                Some(again) => given_twice(place, &again, root.get_ref(), &lines),
                None => syntax_error(place, error),
            };
            self.problems.push(problem);
        }
        if let Some(next) = errors.get(MAX_OF_A_KIND) {
            let more = errors.len() - MAX_OF_A_KIND;
            self.problems.push(and_more(place(next), more, "syntax errors", "TOML"));
        }
        false
    }
}

fn syntax_error(place: Place, error: &toml::de::Error) -> Problem {
    Problem {
        place,
        key: None,
        // The parser's message names what it expected, never the text that it read.
        found: format!("a syntax error ({})", error.message()),
        allowed: "TOML".to_owned(),
        advice: "Texts stand in quotes, numbers do not, tables begin with [name]".to_owned(),
    }
}

/// A key or table that the same table has already.
struct Duplicate<'a> {
    name: &'a str,
    is_table: bool,
    /// Byte offset of the name.
    at: usize,
}

/// The key that the parser refuses because it had it already. Its errors have no kinds, so this goes by
/// its message.
fn duplicate<'a>(error: &toml::de::Error, text: &'a str) -> Option<Duplicate<'a>> {
    let span = error.span().filter(|_| error.message() == "duplicate key")?;
    let name = text.get(span.clone())?.trim_matches(['"', '\'']);
    Some(Duplicate { name, is_table: text[..span.start].ends_with('['), at: span.start })
}

fn given_twice(
    place: Place,
    Duplicate { name, is_table, at }: &Duplicate<'_>,
    root: &DeTable<'_>,
    lines: &Lines<'_>,
) -> Problem {
    let what = if *is_table { "a table" } else { "a key" };
    let again = lines.position(*at).0;
    let both = last_before(root, name, *at)
        .map(|first| format!(", in lines {} and {again}", lines.position(first).0))
        .unwrap_or_default();
    Problem {
        place,
        key: Some(show_name(name)),
        found: format!("{what} that is given twice{both}"),
        allowed: "every key and table once".to_owned(),
        advice: "Keep one of the two".to_owned(),
    }
}

/// The byte offset of the last key of this name before `at`, in whatever table: between a key and its
/// repetition no other table begins.
fn last_before(table: &DeTable<'_>, name: &str, at: usize) -> Option<usize> {
    let own =
        table.iter().filter(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span().start);
    let deeper = table.values().filter_map(|value| match value.get_ref() {
        DeValue::Table(table) => last_before(table, name, at),
        DeValue::Array(list) => {
            let tables = list.iter().filter_map(|one| one.get_ref().as_table());
            tables.filter_map(|table| last_before(table, name, at)).max()
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    });
    own.chain(deeper).filter(|start| *start < at).max()
}

/// Reads the tables of one file.
struct Reader<'a> {
    sources: &'a mut Sources,
    path: &'a Path,
    lines: Lines<'a>,
    unknown: Vec<Unknown<'a>>,
}

/// An unknown key or table.
struct Unknown<'a> {
    /// Byte offset of its name.
    at: usize,
    name: Cow<'a, str>,
    /// The table that contains it.
    scope: Option<&'static str>,
}

impl<'a> Reader<'a> {
    /// Adds the values in `root`, the file's top-level table, to `sources`.
    fn read(sources: &'a mut Sources, path: &'a Path, lines: Lines<'a>, root: &DeTable<'a>) {
        let mut reader = Self { sources, path, lines, unknown: Vec::new() };
        reader.table(root, None);
        reader.tell_unknown();
    }

    fn table(&mut self, table: &DeTable<'a>, scope: Option<&'static str>) {
        for (name, value) in table {
            self.entry(name, value, scope);
        }
    }

    fn entry(
        &mut self,
        name: &Spanned<Cow<'a, str>>,
        value: &Spanned<DeValue<'a>>,
        scope: Option<&'static str>,
    ) {
        let word = name.get_ref().as_ref();
        // A member of the table that contains it.
        let member = match scope {
            Some(scope) => Key::from_name(&format!("{scope}.{word}")),
            None => Key::from_name(word),
        };
        // A table, or a top-level key below a table's header.
        let table = TABLES.into_iter().find(|table| *table == word);
        let top_level = Key::from_name(word);
        if member.is_none() && table.is_none() && top_level.is_none() {
            let (at, name) = (name.span().start, name.get_ref().clone());
            self.unknown.push(Unknown { at, name, scope });
            return;
        }
        let place = self.place(&name.span());
        if let Some(key) = member {
            self.give(key, value.get_ref(), place);
            return;
        }
        if let Some(scope) = scope {
            self.sources.warnings.push(Warning {
                place: place.clone(),
                key: Some(word.to_owned()),
                message: format!(
                    "stands below [{scope}], where TOML makes it a part of that table; it is taken \
                     as the top-level key. Move it above the first [table]"
                ),
            });
        }
        if let Some(word) = table {
            match value.get_ref().as_table() {
                Some(table) => self.table(table, Some(word)),
                None => self.sources.problems.push(Problem {
                    place,
                    key: Some(word.to_owned()),
                    found: type_name(value.get_ref()).to_owned(),
                    allowed: "a table".to_owned(),
                    advice: format!("Write [{word}] and its keys below"),
                }),
            }
        } else if let Some(key) = top_level {
            self.give(key, value.get_ref(), place);
        }
    }

    fn give(&mut self, key: Key, value: &DeValue<'_>, place: Place) {
        if let Some(earlier) = self.sources.origin(Layer::File, key) {
            let (earlier, here) = (line(earlier).unwrap_or_default(), line_of(&place));
            let (first, second) = (earlier.min(here), earlier.max(here));
            self.sources.problems.push(Problem {
                place,
                key: Some(key.name().to_owned()),
                found: format!("a key that is given twice, in lines {first} and {second}"),
                allowed: "every key once".to_owned(),
                advice:
                    "A key below [aws_kms_config] or [s3_config] that is no part of that table \
                         counts as top-level; keep one of the two"
                        .to_owned(),
            });
            return;
        }
        let value = if key.is_list_of_tables()
            && let Some(tables) = self.tables(value)
        {
            Value::Tables(tables)
        } else {
            translate(value)
        };
        if is_quoted(&value) {
            self.sources.problems.push(quoted_problem(place, Some(key.name().to_owned())));
            return;
        }
        let Some(value) = self.sources.read_tables(key, value, &place) else { return };
        self.sources.give(Layer::File, key, value, &place.to_string());
    }

    /// The tables of a list of tables, each member with its line.
    fn tables(&self, value: &DeValue<'_>) -> Option<Vec<TableValue>> {
        let list = value.as_array()?;
        let line = |span: Range<usize>| Some(self.lines.position(span.start).0);
        let table = |one: &Spanned<DeValue<'_>>| {
            let members = one.get_ref().as_table()?.iter().map(|(name, value)| Member {
                name: name.get_ref().clone().into_owned(),
                value: translate(value.get_ref()),
                line: line(name.span()),
            });
            let members: Vec<Member> = members.collect();
            // A header stands above its members.
            let first = members.iter().filter_map(|member| member.line).min();
            Some(TableValue { line: first.or_else(|| line(one.span())), members })
        };
        let tables: Option<Vec<_>> = list.iter().map(table).collect();
        tables.filter(|tables| !tables.is_empty())
    }

    /// Reports unknown keys in the order of the file.
    fn tell_unknown(&mut self) {
        let mut unknown = std::mem::take(&mut self.unknown);
        unknown.sort_by_key(|one| one.at);
        for one in unknown.iter().take(MAX_OF_A_KIND) {
            let (problem, meant) = self.problem_of(one);
            self.sources.problems.push(problem);
            self.sources.mistyped.extend(meant);
        }
        if let Some(next) = unknown.get(MAX_OF_A_KIND) {
            let (place, more) = (self.place(&(next.at..next.at)), unknown.len() - MAX_OF_A_KIND);
            let allowed = "the keys of config-base.toml";
            self.sources.problems.push(and_more(place, more, "unknown keys", allowed));
        }
    }

    /// The problem, and the key that is meant, as far as the names tell.
    fn problem_of(&self, Unknown { at, name, scope }: &Unknown<'_>) -> (Problem, Option<Key>) {
        let full = match scope {
            Some(scope) => format!("{scope}.{name}"),
            None => name.clone().into_owned(),
        };
        let names = Key::ALL.iter().map(|key| key.name().to_owned());
        let tables = TABLES.iter().map(|table| (*table).to_owned());
        let hint = other_connectors::hint_for(&full);
        let near = if hint.is_none() { nearest(&full, names.chain(tables)) } else { None };
        let meant = Key::ALL.iter().copied().find(|key| near.as_deref() == Some(key.name()));
        let advice = hint.unwrap_or_else(|| match near {
            Some(name) => format!("Did you mean {name}?"),
            None => "config-base.toml lists every key; remove this one".to_owned(),
        });
        let problem = Problem {
            place: self.place(&(*at..*at)),
            key: Some(show_name(&full)),
            found: "an unknown key".to_owned(),
            allowed: match scope {
                Some(scope) => format!("the keys of [{scope}]"),
                None => "the keys of config-base.toml".to_owned(),
            },
            advice,
        };
        (problem, meant)
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let (line, _) = self.lines.position(span.start);
        Place::File { path: self.path.to_owned(), line: Some(line), column: None }
    }
}

fn is_quoted(value: &Value) -> bool {
    let in_quotes = |text: &SecretString| has_quotes(text.expose().trim());
    match value {
        Value::Text(text) => in_quotes(text),
        Value::Texts(texts) => texts.iter().any(in_quotes),
        Value::Tables(tables) => {
            tables.iter().flat_map(|table| &table.members).any(|member| is_quoted(&member.value))
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Other(_) => false,
    }
}

fn line_of(place: &Place) -> usize {
    match place {
        Place::File { line, .. } => line.unwrap_or_default(),
        Place::Configuration | Place::Variable(_) => 0,
    }
}

fn translate(value: &DeValue<'_>) -> Value {
    let text = |text: &str| SecretString::new(text.to_owned());
    match value {
        DeValue::String(string) => Value::Text(text(string)),
        DeValue::Integer(integer) => {
            // Other radixes and signs: i128 holds every value near an allowed range.
            let digits = integer.as_str().trim_start_matches('+');
            match i128::from_str_radix(digits, integer.radix()) {
                Ok(number) => Value::Integer(SecretString::new(number.to_string())),
                Err(_) => Value::Integer(text(digits)),
            }
        }
        DeValue::Float(float) => Value::Float(text(float.as_str())),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Array(list) => {
            let texts = list.iter().map(|member| Some(text(member.get_ref().as_str()?)));
            match texts.collect() {
                Some(texts) => Value::Texts(texts),
                None => Value::Other("a list with something else than texts"),
            }
        }
        DeValue::Datetime(_) | DeValue::Table(_) => Value::Other(type_name(value)),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Line starts of a text.
struct Lines<'a> {
    text: &'a str,
    /// Byte offsets, ascending; never empty.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one() {
        let position = |text, offset| Lines::of(text).position(offset);
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("a\nbc", 3), (2, 2));
        assert_eq!(position("é\né", 4), (2, 1)); // inside a character
        assert_eq!(position("a\n", 99), (2, 1));
    }
}
