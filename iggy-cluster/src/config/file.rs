//! From the text of a file to a table that can be a configuration, with everything that is
//! wrong on the way.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Table;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::ClusterConfig;
use super::nearest::distance;

/// What of a file can be read.
pub(super) struct FileTable {
    /// Without the keys and values that are wrong.
    pub(super) table: Table,
    /// Whether the list of nodes is as it was written.
    pub(super) nodes_are_complete: bool,
}

/// Reads as much of a file as possible. What is wrong is added to `wrong`.
pub(super) fn read(path: &Path, text: &str, wrong: &mut Vec<String>) -> FileTable {
    let path = path.display();
    let (mut document, errors) = DeTable::parse_recoverable(text);
    // What was recovered around an error of the syntax may mean something else.
    if !errors.is_empty() {
        for mut error in errors {
            error.set_input(Some(text));
            wrong.push(format!("{path}: {}", error.to_string().trim_end()));
        }
        return FileTable {
            table: Table::new(),
            nodes_are_complete: false,
        };
    }
    let mut nodes_are_complete = true;
    while let Err(mut error) = ClusterConfig::deserialize(Deserializer::from(document.clone())) {
        let span = error.span();
        error.set_input(Some(text));
        let explained = explain(error.to_string().trim_end());
        wrong.push(format!("{path}: {explained}"));
        let removed = span.and_then(|span| remove(document.get_mut(), &span));
        match removed {
            Some(keys) => nodes_are_complete &= !keys.starts_with(&nodes()),
            // The rest cannot be separated from what is wrong.
            None => {
                return FileTable {
                    table: Table::new(),
                    nodes_are_complete: false,
                };
            }
        }
    }
    FileTable {
        table: Table::deserialize(Deserializer::from(document)).unwrap_or_default(),
        nodes_are_complete,
    }
}

fn nodes() -> [String; 2] {
    ["cluster", "nodes"].map(str::to_owned)
}

/// Removes the innermost key or value that an error is about, and returns the keys that lead
/// to it. An element of a list is removed without a key.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    for (key, value) in table.iter_mut() {
        if let Some(mut keys) = remove_in(value.get_mut(), span) {
            keys.insert(0, key.get_ref().to_string());
            return Some(keys);
        }
    }
    let is_it = |outer: Range<usize>| contains(&outer, span);
    let found = table
        .iter()
        .find(|(key, value)| is_it(key.span()) || is_it(value.span()));
    let name = found.map(|(key, _)| key.get_ref().to_string())?;
    table.remove(name.as_str());
    Some(vec![name])
}

fn contains(outer: &Range<usize>, span: &Range<usize>) -> bool {
    outer.start <= span.start && span.end <= outer.end
}

fn remove_in(value: &mut DeValue<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    match value {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(items) => {
            if let Some(keys) = items
                .iter_mut()
                .find_map(|item| remove_in(item.get_mut(), span))
            {
                return Some(keys);
            }
            let before = items.len();
            let others = std::mem::replace(items, DeArray::new())
                .into_iter()
                .filter(|item| !contains(&item.span(), span));
            *items = others.collect();
            (items.len() < before).then(Vec::new)
        }
        _ => None,
    }
}

/// Adds the most similar known key to an error about an unknown one.
fn explain(error: &str) -> String {
    let unknown = error
        .split_once("unknown field `")
        .and_then(|(_, rest)| rest.split_once('`'))
        .map(|(field, _)| field);
    let known = error
        .split_once("expected one of ")
        .or_else(|| error.split_once("expected "))
        .map(|(_, known)| known);
    let nearest = unknown.zip(known).and_then(|(unknown, known)| {
        known
            .split('`')
            .filter(|word| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !word.is_empty()
            })
            .map(|word| (distance(unknown, word), word))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, word)| word)
    });
    match nearest {
        Some(nearest) => format!("{error}\ndid you mean `{nearest}`?"),
        None => error.to_owned(),
    }
}
