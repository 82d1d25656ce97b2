//! Where in the file a key stands.

use std::path::Path;

use super::ConfigError;

/// The error with the line of its key, if the file has one: a default may be wrong too.
pub(super) fn located(error: ConfigError, text: &str, path: &Path) -> ConfigError {
    let line = match &error {
        ConfigError::Value { key, .. } => line_of(text, key),
        _ => None,
    };
    match line {
        Some(line) => ConfigError::Located {
            path: path.to_owned(),
            line,
            source: Box::new(error),
        },
        None => error,
    }
}

/// The line, from 1, of `section.key` as people write it: below `[section]`, or dotted.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (wanted_section, wanted) = key.split_once('.')?;
    let mut section = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            header.trim().clone_into(&mut section);
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            let found = if section.is_empty() {
                name == key
            } else {
                section == wanted_section && name == wanted
            };
            if found {
                return Some(number);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_their_section() {
        let text = "store.directory = \"/x\"\n[log]\nlevel = \"x\" # [seal]\n[ seal ] # s\n\n device= \"d\"\n";
        assert_eq!(line_of(text, "store.directory"), Some(1));
        assert_eq!(line_of(text, "log.level"), Some(3));
        assert_eq!(line_of(text, "seal.device"), Some(6));
        assert_eq!(line_of(text, "log.device"), None);
    }
}
