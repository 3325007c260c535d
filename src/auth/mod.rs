//! Who a caller is, what the caller may do, and how much of it: credentials, policy, quotas, audit.

pub mod audit;
pub mod bad_file;
mod bearer;
pub(crate) mod caller;
mod fields;
pub mod files;
pub mod gate;
mod identity;
pub mod jwt;
pub mod policy;
pub mod principal;
pub mod quotas;
pub mod refusal;
pub(crate) mod sender;
pub(crate) mod sessions;
pub mod settings;
pub mod tokens;
pub mod verb;
