//! System calls on the lower tree: `*at` calls on directory descriptors, never paths.
