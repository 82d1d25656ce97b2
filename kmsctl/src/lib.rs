//! kmsctl: the administrator's tool for kmsd and kmsfs.
