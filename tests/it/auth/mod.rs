//! Who is let in, and what each may do: over HTTP, with static tokens and with those of an issuer, and with
//! the files of the policy and the tokens as Kubernetes mounts them. What is not allowed by name is refused,
//! and changes nothing.

mod answered;
mod attacks;
mod audit;
mod audit_decided;
mod cli;
mod federated;
mod jwt_carriage;
mod jwt_claims;
mod jwt_ends;
mod jwt_headers;
mod jwt_keys;
mod jwt_secrets;
mod jwt_source;
mod jwt_subjects;
mod kept_alive;
mod lists;
mod minted;
mod policy;
mod policy_files;
mod probes;
mod quotas;
mod reload;
mod routes;
pub(crate) mod secured;
mod tokens;
