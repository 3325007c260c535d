//! Writes: single events and CloudEvents, many at once, streams of lines, bodies that are not records.

mod answer;
mod append;
mod batch;
pub(crate) mod bulk;
pub(crate) mod cloudevents;
mod lines;
pub(crate) mod raw;
mod rejected;
mod stream;
pub(crate) mod write;
