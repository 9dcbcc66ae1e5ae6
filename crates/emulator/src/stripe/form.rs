//! Reads Stripe's parameters: form pairs with nested brackets become one JSON tree.
//!
//! Every leaf stays the text the caller sent; turning it into a number or a boolean, and refusing it, is the
//! operation's business. Nothing here knows an endpoint.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::error::Failure;

/// How deep brackets may nest; Stripe's own parameters stay under six.
const DEPTH_MAX: usize = 8;
/// How many pairs one request may carry; the longest real form (100 items with prices) stays under this.
const PAIRS_MAX: usize = 4096;

/// Decodes `a=b&c[d]=e` into a tree of objects, arrays and texts.
///
/// `x[]=` and `x[0]=` both make arrays; an empty text stays an empty text, because it unsets a field.
///
/// # Errors
/// Refuses text that is not UTF-8 after decoding, too many pairs and brackets that nest too deep.
pub(crate) fn parse(text: &str) -> Result<Value, Failure> {
    let mut tree = Value::Object(Map::new());
    for (count, pair) in text.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count >= PAIRS_MAX {
            return Err(Failure::invalid("Too many parameters."));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        let value = decode(value)?;
        insert(&mut tree, &name, value)?;
    }
    Ok(tree)
}

/// Builds the tree from pairs that are already decoded, as the story methods take them.
pub(crate) fn from_pairs(pairs: &[(&str, &str)]) -> Result<Value, Failure> {
    let mut tree = Value::Object(Map::new());
    for (name, value) in pairs {
        insert(&mut tree, name, (*value).to_owned())?;
    }
    Ok(tree)
}

fn decode(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| Failure::invalid("Invalid request: parameters are not valid UTF-8."))
}

fn insert(tree: &mut Value, name: &str, value: String) -> Result<(), Failure> {
    let (head, rest) = match name.find('[') {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    let mut keys = vec![head];
    for part in rest.split('[').skip(1) {
        keys.push(part.strip_suffix(']').ok_or_else(|| {
            Failure::invalid(format!("Invalid hash: the parameter name {name} has unbalanced brackets."))
        })?);
    }
    if keys.len() > DEPTH_MAX {
        return Err(Failure::invalid("Parameters nest too deep."));
    }
    place(tree, &keys, value);
    Ok(())
}

fn place(node: &mut Value, keys: &[&str], value: String) {
    let Some((key, rest)) = keys.split_first() else {
        *node = Value::String(value);
        return;
    };
    let listed = key.is_empty() || (key.len() < 5 && key.bytes().all(|byte| byte.is_ascii_digit()));
    if listed && !matches!(node, Value::Object(map) if !map.is_empty()) {
        if !node.is_array() {
            *node = Value::Array(Vec::new());
        }
        if let Value::Array(list) = node {
            let at = key.parse::<usize>().unwrap_or_else(|_| next_index(list, rest));
            // Indices that leave holes close up: Stripe reads them as an ordered list too.
            let at = at.min(list.len());
            if at == list.len() {
                list.push(Value::Null);
            }
            if let Some(slot) = list.get_mut(at) {
                place(slot, rest, value);
            }
        }
        return;
    }
    if !node.is_object() {
        *node = Value::Object(Map::new());
    }
    if let Value::Object(map) = node {
        place(map.entry((*key).to_owned()).or_insert(Value::Null), rest, value);
    }
}

/// Chooses the element that `x[][k]=` writes to: the last one while it lacks `k`, else a new one.
fn next_index(list: &[Value], rest: &[&str]) -> usize {
    match (list.last(), rest.first()) {
        (Some(Value::Object(last)), Some(key)) if !last.contains_key(*key) => list.len() - 1,
        _ => list.len(),
    }
}

/// Gives the text of a parameter; absent and structured ones are `None`.
pub(crate) fn text<'a>(params: &'a Value, name: &str) -> Option<&'a str> {
    params.get(name).and_then(Value::as_str)
}

/// Reads a whole number.
///
/// # Errors
/// `parameter_invalid_integer` when the text is none.
pub(crate) fn integer(params: &Value, name: &str) -> Result<Option<i64>, Failure> {
    match text(params, name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Failure::invalid(format!("Invalid integer: {text}")).code("parameter_invalid_integer").param(name)
        }),
    }
}

/// Reads a boolean.
///
/// # Errors
/// Refuses anything but `true` and `false`.
pub(crate) fn boolean(params: &Value, name: &str) -> Result<Option<bool>, Failure> {
    match text(params, name) {
        None | Some("") => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Failure::invalid(format!("Invalid boolean: {other}")).param(name)),
    }
}

/// Gives the texts of a list parameter, also when a single text was sent.
pub(crate) fn texts(params: &Value, name: &str) -> Vec<String> {
    match params.get(name) {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(form: &str, tree: Value) {
        assert_eq!(parse(form).ok(), Some(tree), "{form}");
    }

    #[test]
    fn brackets_become_a_tree() {
        check("email=a%40example.com&metadata[k]=v", json!({"email": "a@example.com", "metadata": {"k": "v"}}));
        check("items[0][price]=p1&items[1][price]=p2", json!({"items": [{"price": "p1"}, {"price": "p2"}]}));
        check("expand[]=a&expand[]=b.c", json!({"expand": ["a", "b.c"]}));
        check("expand%5B0%5D=a&expand%5B1%5D=b", json!({"expand": ["a", "b"]}));
        check(
            "items[][price]=a&items[][quantity]=1&items[][price]=b",
            json!({"items": [{"price": "a", "quantity": "1"}, {"price": "b"}]}),
        );
        check("name=&a+b=c+d", json!({"name": "", "a b": "c d"}));
        check("created%5Bgte%5D=5&created[lt]=9", json!({"created": {"gte": "5", "lt": "9"}}));
        check("metadata[x]=1&metadata[2]=3", json!({"metadata": {"x": "1", "2": "3"}}));
    }

    #[test]
    fn bad_forms_are_refused() {
        assert!(parse("a[b=c").is_err());
        assert!(parse("a=%ff").is_err());
        assert!(parse("a[b][c][d][e][f][g][h][i]=1").is_err());
    }

    #[test]
    fn leaves_are_read_strictly() {
        let tree = json!({"n": "12", "bad": "x", "yes": "true", "odd": "1"});
        assert_eq!(integer(&tree, "n").ok(), Some(Some(12)));
        assert!(integer(&tree, "bad").is_err());
        assert_eq!(boolean(&tree, "yes").ok(), Some(Some(true)));
        assert!(boolean(&tree, "odd").is_err());
        assert_eq!(boolean(&tree, "none").ok(), Some(None));
    }
}
