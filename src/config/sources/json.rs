//! A list of tables in a variable: JSON, as other connectors take it. The only place that parses JSON.

use serde_json::Value as Json;

use super::super::{
    secret::SecretString,
    values::{Member, TableValue, Value},
};

/// The tables of a JSON text. Names may be written in camelCase, as in `aclAddress`. The error tells
/// what was found instead, without a character of the text.
pub(super) fn tables(text: &str) -> Result<Value, String> {
    let parsed: Json = serde_json::from_str(text).map_err(|error| {
        // The parser's message may repeat what it read.
        format!("no JSON (line {}, column {})", error.line(), error.column())
    })?;
    let Json::Array(list) = parsed else { return Err("JSON that is no list".to_owned()) };
    let tables: Option<Vec<TableValue>> = list.into_iter().map(table).collect();
    Ok(Value::Tables(tables.ok_or("a list with something else than objects")?))
}

fn table(one: Json) -> Option<TableValue> {
    let Json::Object(members) = one else { return None };
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    let members = members.map(|(name, value)| Member {
        name: snake_case(&name),
        value: translate(value),
        line: None,
    });
    Some(TableValue { line: None, members: members.collect() })
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn translate(value: Json) -> Value {
    match value {
        Json::String(text) => Value::Text(SecretString::new(text)),
        Json::Number(number) if number.is_f64() => {
            Value::Float(SecretString::new(number.to_string()))
        }
        Json::Number(number) => Value::Integer(SecretString::new(number.to_string())),
        Json::Bool(boolean) => Value::Boolean(boolean),
        Json::Array(list) => {
            let texts = list.into_iter().map(|member| {
                let Json::String(text) = member else { return None };
                Some(SecretString::new(text))
            });
            match texts.collect() {
                Some(texts) => Value::Texts(texts),
                None => Value::Other("a list with something else than texts"),
            }
        }
        Json::Object(_) => Value::Other("an object"),
        Json::Null => Value::Other("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_written_as_elsewhere() {
        assert_eq!(snake_case("chainId"), "chain_id");
        assert_eq!(snake_case("acl_address"), "acl_address");
        assert_eq!(snake_case("maxAgeSecs"), "max_age_secs");
        assert_eq!(snake_case("URL"), "u_r_l");
    }
}
