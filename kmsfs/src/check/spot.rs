//! Where an object is, in the lower tree and in the mount.

use std::sync::Arc;

/// The place of an object. Shares the path of its directory.
#[derive(Debug)]
pub(crate) struct Spot {
    parent: Option<Arc<Spot>>,
    lower: Box<str>,
    plain: Option<Box<[u8]>>,
}

impl Spot {
    pub(crate) fn root() -> Arc<Spot> {
        Arc::new(Spot {
            parent: None,
            lower: "".into(),
            plain: None,
        })
    }

    /// An entry of the directory at `parent`; without a plain name if that cannot be read.
    pub(crate) fn below(parent: &Arc<Spot>, lower: &str, plain: Option<&[u8]>) -> Arc<Spot> {
        Arc::new(Spot {
            parent: Some(Arc::clone(parent)),
            lower: lower.into(),
            plain: plain.map(Into::into),
        })
    }

    pub(crate) fn lower_name(&self) -> &str {
        &self.lower
    }

    pub(crate) fn plain_name(&self) -> Option<&[u8]> {
        self.plain.as_deref()
    }

    /// The lower names from the root down, separated by slashes; `.` for the root.
    pub(crate) fn lower_path(&self) -> String {
        let mut names = Vec::new();
        let mut here = Some(self);
        while let Some(spot) = here {
            if spot.parent.is_some() {
                names.push(&*spot.lower);
            }
            here = spot.parent.as_deref();
        }
        if names.is_empty() {
            return ".".to_owned();
        }
        names.reverse();
        names.join("/")
    }

    /// The names in the mount, beginning with a slash; `?` for one that cannot be read.
    pub(crate) fn plain_path(&self) -> String {
        let mut names = Vec::new();
        let mut here = Some(self);
        while let Some(spot) = here {
            if spot.parent.is_some() {
                names.push(spot.plain.as_deref().map_or_else(|| "?".to_owned(), show));
            }
            here = spot.parent.as_deref();
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }
}

impl Drop for Spot {
    /// Not recursive: paths may be thousands of names long.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(spot) = parent.and_then(Arc::into_inner) {
            let mut spot = spot;
            parent = spot.parent.take();
        }
    }
}

/// A name as text: what is not printable UTF-8 is written `\xNN`.
pub(crate) fn show(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_mount_and_lower_tree() {
        let root = Spot::root();
        assert_eq!(
            (root.plain_path(), root.lower_path()),
            ("/".into(), ".".into())
        );
        let a = Spot::below(&root, "AAA", Some(b"a\n\xff"));
        let b = Spot::below(&a, "BBB", None);
        assert_eq!(b.plain_path(), "/a\\x0a\\xff/?");
        assert_eq!(b.lower_path(), "AAA/BBB");
    }

    #[test]
    fn very_long_paths_are_dropped_without_recursion() {
        let mut spot = Spot::root();
        for _ in 0..200_000 {
            spot = Spot::below(&spot, "x", None);
        }
        drop(spot);
    }
}
