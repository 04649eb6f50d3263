//! A line of the log in its parts, and the same as JSON.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};

/// What an event says.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut record = Self::default();
        event.record(&mut record);
        record
    }

    /// Returns the whole in one line.
    pub(super) fn line(&self) -> String {
        let mut line = self.message.clone();
        for (name, value) in &self.fields {
            // To a String it cannot fail.
            let _ = match value {
                Value::String(text) if !text.contains([' ', '"', '\n']) => {
                    write!(line, " {name}={text}")
                }
                value => write!(line, " {name}={value}"),
            };
        }
        line
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

/// The members that every line has; a field of such a name gets a `_`.
const OWN: [&str; 4] = ["time", "level", "target", "message"];

/// Returns a line of JSON, with its end.
pub(super) fn json(level: &str, target: &str, record: Record) -> String {
    let own = [Timestamp::now().to_string(), level.to_lowercase(), target.into(), record.message];
    let own = OWN.iter().map(|name| (*name).to_owned()).zip(own.map(Value::String));
    let fields = record.fields.into_iter().map(|(name, value)| {
        (if OWN.contains(&name) { format!("{name}_") } else { name.to_owned() }, value)
    });
    let line: Map<String, Value> = own.chain(fields).collect();
    format!("{}\n", Value::Object(line))
}

/// Writes an object a line.
#[derive(Debug)]
pub(super) struct JsonLines<W>(pub(super) W);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let line = json(metadata.level().as_str(), metadata.target(), Record::of(event));
        // There is nowhere else to say it.
        let _ = self.0.make_writer().write_all(line.as_bytes());
    }
}
