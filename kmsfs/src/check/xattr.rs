//! Extended attributes in the namespace `user.`.

use kms_format::xattr;

use super::Check;
use super::finding::{Code, Outcome, Severity};
use super::spot::{Spot, show};
use crate::backing::xattr::Target;
use crate::errno::Errno;
use crate::fs::attributes::AttributeKeys;

impl Check<'_> {
    /// The attributes of an object; without keys only whether they are ours.
    pub(super) fn xattrs(
        &mut self,
        target: &Target<'_>,
        keys: Option<&AttributeKeys>,
        spot: &Spot,
    ) {
        let list = match target.list() {
            Ok(list) => list,
            Err(Errno::OPNOTSUPP) => return,
            Err(errno) => {
                let what = format!("extended attributes: {errno}");
                self.found(Code::Unreadable, Severity::Damage, spot, what);
                return;
            }
        };
        let names = list.split(|byte| *byte == 0);
        for name in names.filter(|name| xattr::is_encrypted(name)) {
            if !name.starts_with(xattr::PREFIX.as_bytes()) {
                self.found(Code::XattrForeign, Severity::Note, spot, show(name));
                continue;
            }
            let Some(keys) = keys else { continue };
            let value = match target.get(name) {
                Ok(value) => value,
                Err(errno) => {
                    let what = format!("{}: {errno}", show(name));
                    self.found(Code::Unreadable, Severity::Damage, spot, what);
                    continue;
                }
            };
            if let Err(error) = keys.open(name, &value) {
                let detail = format!("{}: {error}", show(name));
                let what = (Code::Xattr, Severity::Damage);
                self.mended(what, spot, detail, Outcome::Quarantined, |mender| {
                    mender.keep_xattr(spot, name, &value)?;
                    target.remove(name)
                });
            }
        }
    }
}
