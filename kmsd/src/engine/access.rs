//! What decisions need to know of the host.

use kms_core::kms::RoleNames;

use super::Engine;

impl Engine {
    /// Tells who has the policies that come with kmsd, and which boot of the host this is.
    pub fn know_host(&self, roles: RoleNames) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let mut current = self.shared.kms.write();
        current.kms.set_role_names(roles);
        current
            .kms
            .set_boot_id(boot.map(|id| id.trim().to_owned().into()));
    }
}
