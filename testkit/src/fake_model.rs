//! [`FakeModel`]: the model server of an agent's conversation, which says half of its answer and waits.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

/// The two halves of every answer.
pub const HALVES: [&str; 2] = ["The first half, ", "and the second."];

/// A server with as much of OpenAI's API as a conversation takes: `/v1/responses` and `/v1/chat/completions`, both
/// streamed. Between the halves of an answer it waits to be let go.
#[derive(Debug)]
pub struct FakeModel {
    addr: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Answers that have said their first half, and those that may say the second.
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Gate {
    /// Waits for the turn of the next answer.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        let turn = state.0;
        drop(self.changed.wait_while(state, |(_, let_go)| *let_go < turn).unwrap());
    }
}

impl FakeModel {
    /// Starts one on a free port of loopback. It ends with the process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = Arc::clone(&shared);
                // A client that leaves in the middle is no concern of ours.
                thread::spawn(move || drop(serve(stream, &gate)));
            }
        });
        Self { addr, gate }
    }

    /// Returns the address that an agent's settings want: `http://…/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Returns how many answers have been begun.
    pub fn begun(&self) -> usize {
        self.gate.state.lock().unwrap().0
    }

    /// Lets one more answer say its second half.
    pub fn let_go(&self) {
        self.gate.state.lock().unwrap().1 += 1;
        self.gate.changed.notify_all();
    }
}

/// Answers one request, and closes.
fn serve(stream: TcpStream, gate: &Gate) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    let mut out = Answer(stream);
    match first.split(' ').nth(1) {
        Some("/v1/responses") => out.responses(gate),
        Some("/v1/chat/completions") => out.completions(gate),
        _ => out.plain(&json!({"object": "list", "data": []})),
    }
}

struct Answer(TcpStream);

impl Answer {
    fn plain(&mut self, value: &Value) -> std::io::Result<()> {
        let body = value.to_string();
        write!(
            self.0,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn begin(&mut self) -> std::io::Result<()> {
        self.0.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        )
    }

    /// Sends an event; one without a name has none.
    fn event(&mut self, name: &str, mut data: Value) -> std::io::Result<()> {
        if !name.is_empty() {
            data["type"] = name.into();
            writeln!(self.0, "event: {name}")?;
        }
        write!(self.0, "data: {data}\n\n")?;
        self.0.flush()
    }

    fn responses(&mut self, gate: &Gate) -> std::io::Result<()> {
        let item = |text: &str| {
            json!({"type": "message", "role": "assistant", "id": "m1",
                   "content": [{"type": "output_text", "text": text}]})
        };
        let delta = |text: &str| json!({"item_id": "m1", "output_index": 0, "content_index": 0, "delta": text});
        self.begin()?;
        self.event("response.created", json!({"response": {"id": "r1"}}))?;
        self.event("response.output_item.added", json!({"output_index": 0, "item": item("")}))?;
        self.event("response.output_text.delta", delta(HALVES[0]))?;
        gate.pass();
        self.event("response.output_text.delta", delta(HALVES[1]))?;
        let whole = item(&HALVES.concat());
        self.event("response.output_item.done", json!({"output_index": 0, "item": whole}))?;
        let usage = json!({"input_tokens": 1, "output_tokens": 1, "total_tokens": 2});
        self.event("response.completed", json!({"response": {"id": "r1", "usage": usage}}))
    }

    fn completions(&mut self, gate: &Gate) -> std::io::Result<()> {
        let chunk = |delta: Value, finish: Value| {
            json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "fake",
                   "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        };
        self.begin()?;
        self.event("", chunk(json!({"role": "assistant", "content": HALVES[0]}), Value::Null))?;
        gate.pass();
        self.event("", chunk(json!({"content": HALVES[1]}), Value::Null))?;
        self.event("", chunk(json!({}), "stop".into()))?;
        self.0.write_all(b"data: [DONE]\n\n")
    }
}
