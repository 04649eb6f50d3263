//! What became of what was to be removed or ended: with `--json`, one document for all commands that do that.

use serde::Serialize;
use serde_json::Value;

use super::{Ui, problem};
use crate::error::CliError;

/// What was done with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    Removed,
    /// It ran, and runs no more.
    Ended,
    /// It was sent a signal, and what it makes of that is its own affair.
    Signalled,
    Cancelled,
    /// It was not there, or was over before.
    Absent,
    Failed,
    /// Its turn never came, as something before it failed; or somebody said no; or it is somebody else's.
    Untouched,
}

/// What became of one thing.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    name: String,
    done: Done,
    /// What it was, or is now, as other commands show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
}

impl Item {
    fn of(name: String, done: Done) -> Self {
        Self { name, done, about: None, problem: None }
    }

    fn failed(name: String, error: &CliError) -> Self {
        let problem = serde_json::from_str(&problem::json(error)).ok();
        Self { problem, ..Self::of(name, Done::Failed) }
    }
}

/// What became of each.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Removal {
    items: Vec<Item>,
}

/// What was done, and what there is to say about it.
pub(crate) type Deed = (Done, Option<Value>);

/// Does something with each, one after the other up to the first that fails, and returns the exit code. With `--json`,
/// what became of each is told also when one failed.
pub(crate) async fn each<T>(
    ui: &Ui,
    things: impl IntoIterator<Item = (String, T)>,
    work: impl AsyncFn(T) -> Result<Deed, CliError>,
) -> Result<u8, CliError> {
    let mut told = Removal::default();
    let mut failure = None;
    for (name, thing) in things {
        told.items.push(match failure {
            Some(_) => Item::of(name, Done::Untouched),
            None => match Box::pin(work(thing)).await {
                Ok((done, about)) => Item { about, ..Item::of(name, done) },
                Err(error) => {
                    let item = Item::failed(name, &error);
                    failure = Some(error);
                    item
                }
            },
        });
    }
    if ui.json {
        ui.value(&told)?;
    }
    failure.map_or(Ok(0), Err)
}

/// The same with one thing.
pub(crate) fn one(
    ui: &Ui,
    name: impl Into<String>,
    work: impl Future<Output = Result<Deed, CliError>>,
) -> impl Future<Output = Result<u8, CliError>> {
    // Boxed: it is large, and each that passes it on would have it in itself.
    let things = [(name.into(), Box::pin(work))];
    each(ui, things, async |work| work.await)
}

impl Removal {
    /// Returns the document about one thing.
    pub(crate) fn of(name: impl Into<String>, done: Done) -> Self {
        Self { items: vec![Item::of(name.into(), done)] }
    }
}
