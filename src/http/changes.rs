//! Changes that somebody may ask about later, in the log with who asked for them: settings of tables, and
//! what deletes or takes back. The log has them whatever its level is, and whether callers are asked who they
//! are or not. Where they are, the audit log has all their requests besides.

use tracing::info;

use super::scope::RequestSender;
use crate::auth::policy::Resource;

/// The target of these lines, which no level leaves out.
pub(crate) const TARGET: &str = "zombi::changes";

impl RequestSender {
    /// Logs a change that was made: what was done, to which table or group, and what more there is to say.
    pub(super) fn log(&self, what: &str, of: Resource<'_>, detail: Option<&str>) {
        let (table, group) = match of {
            Resource::Table(name) => (Some(name.as_str()), None),
            Resource::Group(name) => (None, Some(name.as_str())),
            Resource::Server => (None, None),
        };
        // Where identity is off, the address is all that is known.
        let principal = self.caller.principal().map(ToString::to_string);
        let principal = principal.as_deref(); // a string is quoted: an issuer may name anybody anything
        let peer = self.connection.address.to_canonical();
        info!(target: TARGET, table, group, principal, %peer, detail, "{what}");
    }
}
