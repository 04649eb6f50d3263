//! What changes, for whoever follows it.
//!
//! Whatever has a state says to [`Changes`] that it has changed, which costs next to nothing. One task looks at what was
//! named there and tells [`Events`] what is new (`api/events.rs`). Each client reads the events at its own pace from the one
//! list of the last ones, so that ten thousand of them cost no more than their places.

mod changes;
mod log;

pub use changes::{Changes, Topic};
pub use log::{Events, Lost, Told};
