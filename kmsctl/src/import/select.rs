//! What of the source is wanted: patterns, and the border of its file system.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns of `--exclude`.
///
/// A pattern with a slash is compared with the whole path below the source, one without with every name. `*` and `?` do
/// not match a slash, `**` does.
#[derive(Debug)]
pub(crate) struct Excludes {
    paths: GlobSet,
    names: GlobSet,
}

impl Excludes {
    /// Compiles patterns.
    pub(crate) fn new(patterns: &[String]) -> Result<Excludes, globset::Error> {
        let (mut paths, mut names) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let text = pattern.strip_suffix('/').unwrap_or(pattern);
            let glob = |text: &str| {
                let mut builder = GlobBuilder::new(text);
                builder
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
            };
            if text.contains('/') {
                paths.add(glob(text.strip_prefix('/').unwrap_or(text))?);
            } else {
                names.add(glob(text)?);
            }
        }
        Ok(Excludes {
            paths: paths.build()?,
            names: names.build()?,
        })
    }

    /// Whether an entry is left out. What is in a directory that is left out is never asked for.
    pub(crate) fn matches(&self, below: &Path) -> bool {
        let name = below.file_name().unwrap_or_default();
        self.names.is_match(name) || self.paths.is_match(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_anywhere_and_paths_from_the_root() {
        let patterns = ["*.o", "/cache", "a/*/tmp", "deep/**", "\\*"];
        let excludes = Excludes::new(&patterns.map(str::to_owned)).unwrap();
        for out in ["x.o", "a/b/x.o", "cache", "a/b/tmp", "deep/x/y", "z/*"] {
            assert!(excludes.matches(Path::new(out)), "{out}");
        }
        for stays in ["x.oo", "b/cache", "a/b/c/tmp", "deep", "z/any"] {
            assert!(!excludes.matches(Path::new(stays)), "{stays}");
        }
        Excludes::new(&["[".to_owned()]).unwrap_err();
    }
}
