//! Makes the OpenAPI document from the handlers and the types, for the test that compares docs/openapi.json.
//!
//! What all routes have in common is written here once: the headers, and the problems of any request.

use std::collections::{BTreeMap, BTreeSet};

use occ_proto::error::PROBLEM_JSON;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::PROMPTS_HEADER;
use occ_proto::{
    AGENT_HEADER, API_VERSION_HEADER, IDEMPOTENCY_HEADER, KEY_HEADER, MIN_CLIENT_HEADER,
    NEW_HOST_KEY_HEADER, Problem, REPLAYED_HEADER, VERSION_HEADER, WARNING_HEADER,
};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::problems::{ANY, CODES, Codes, JSON_BODY, KEYED};
use super::routes::all;
use super::*;

const ABOUT: &str = "A per-user daemon that keeps SSH connections to hosts. HTTP/1.1 on the Unix socket \
    `$XDG_RUNTIME_DIR/occ/occd.sock`; docs/api.md has an example of everything.\n\n\
    Errors are problem documents (RFC 9457) with a stable `code`. A path that is not here is 404 `not_found`, a method \
    that is not here 405 `method_not_allowed`. New members come into answers, and new words into their enumerations, \
    without a new version: pass over what is not known.";

/// The headers that answers of many routes have.
const OF_MANY: [&str; 6] = [
    VERSION_HEADER,
    API_VERSION_HEADER,
    MIN_CLIENT_HEADER,
    WARNING_HEADER,
    NEW_HOST_KEY_HEADER,
    REPLAYED_HEADER,
];
/// Headers of HTTP's own, as documents write them.
const RETRY_AFTER: &str = "retry-after";
const CONTENT_RANGE: &str = "content-range";

/// The schema of a moment.
const MOMENT: &str = "Timestamp";

macro_rules! api_of {
    ($($module:ident::$handler:ident)+) => {
#[derive(OpenApi)]
#[openapi(
    paths($($module::$handler),+),
    info(title = "occd", description = ABOUT),
    servers((url = "http://localhost", description = "On the Unix socket, whatever the name")),
    components(schemas(Problem)),
    tags(
        (name = "daemon", description = "The daemon itself"),
        (name = "hosts", description = "The hosts of hosts.json, and their state"),
        (name = "links", description = "Connecting hosts, their keys, and what became of their links"),
        (name = "exec", description = "Running commands"),
        (name = "files", description = "Files of hosts, and of this machine"),
        (name = "sandbox", description = "The opencode sandbox of a host"),
        (name = "docker", description = "A host's Docker: its socket, and its installation"),
        (name = "sessions", description = "Programs on hosts that outlive the connection"),
        (name = "forwards", description = "Ports and sockets that lead to hosts, and from hosts to here"),
        (name = "events", description = "What changes, as it changes"),
        (name = "operations", description = "Work that goes on when its client is gone"),
        (name = "prompts", description = "Questions that wait for a person"),
        (name = "policy", description = "What may be done, and by whom"),
    )
)]
struct Api;
    };
}

all!(api_of);

/// Returns the document.
pub(super) fn document() -> Value {
    // Maps with text as their keys: this always serialises.
    let mut document = serde_json::to_value(Api::openapi()).unwrap_or_default();
    document.sort_all_objects();
    let mut shared = Map::new();
    if let Some(paths) = document["paths"].as_object_mut() {
        *paths = std::mem::take(paths)
            .into_iter()
            // How axum writes a path that goes on.
            .map(|(path, item)| (path.replace("{*", "{"), item))
            .collect();
        paths.sort_keys();
        for operation in paths.values_mut().filter_map(Value::as_object_mut) {
            for (method, operation) in operation {
                complete(method, operation);
                // What is shared is numbered as it comes.
                operation.sort_all_objects();
                share(operation, &mut shared);
            }
        }
    }
    let components = &mut document["components"];
    components["responses"] = shared.into();
    // utoipa takes a Timestamp for a String, and has every other String where it is used.
    if let Some(schemas) = components["schemas"].as_object_mut()
        && schemas.remove("String").is_some()
    {
        let about = "A moment (RFC 3339).";
        let moment = json!({"type": "string", "format": "date-time", "description": about});
        schemas.insert(MOMENT.to_owned(), moment);
    }
    components["parameters"] = parameters();
    components["headers"] = headers();
    tidy(&mut document);
    // By name, as where to look for something; the handlers' own order says nothing.
    document.sort_all_objects();
    document
}

/// Returns the headers that many routes take, by their names here.
fn parameters() -> Value {
    json!({
        "client": {
            "name": CLIENT_HEADER,
            "in": "header",
            "description": "Of what kind the client is, for policies; `api` unless given.",
            "schema": {"$ref": "#/components/schemas/ClientKind"},
        },
        "key": {
            "name": IDEMPOTENCY_HEADER,
            "in": "header",
            "description": "A word of the client's own making: a request that is sent again with it is not done again.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        },
        "prompts": {
            "name": PROMPTS_HEADER,
            "in": "header",
            "description": "A word that nobody can guess: the client listens for questions with it.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"},
        },
        "agent": {
            "name": AGENT_HEADER,
            "in": "header",
            "description": "The path of the socket of the client's ssh-agent.",
            "schema": {"type": "string"},
        },
        "sshKey": {
            "name": KEY_HEADER,
            "in": "header",
            "description": "A private key in base64, for this request alone.",
            "schema": {"type": "string", "format": "password"},
        },
    })
}

/// Returns the headers that many answers have.
fn headers() -> Value {
    let header = |about: &str, schema: Value| json!({"description": about, "schema": schema});
    json!({
        VERSION_HEADER: header("The version of the daemon.", json!({"type": "string"})),
        API_VERSION_HEADER:
            header("The version of the API.", json!({"type": "string", "pattern": "^[0-9]+$"})),
        MIN_CLIENT_HEADER: header(
            "The version of the oldest `occ` that the daemon serves in full.",
            json!({"type": "string"}),
        ),
        WARNING_HEADER: header(
            "What is wrong with hosts.json or occd.toml on the disk, as a text in JSON; one for each. Where the answer is about hosts.",
            json!({"type": "string"}),
        ),
        NEW_HOST_KEY_HEADER: header(
            "A host key that was recorded for this request, a `NewHostKey` as JSON; one for each.",
            json!({"type": "string"}),
        ),
        REPLAYED_HEADER: header(
            "The answer is that of the same request before, by its `Idempotency-Key`.",
            json!({"type": "string", "enum": ["true"]}),
        ),
        RETRY_AFTER: header(
            "When to come again, in seconds; where that is known.",
            json!({"type": "string", "pattern": "^[0-9]+$"}),
        ),
        CONTENT_RANGE: header(
            "How many bytes there are: `bytes */N`.",
            json!({"type": "string", "pattern": "^bytes \\*/[0-9]+$"}),
        ),
    })
}

/// Adds what all routes have in common.
fn complete(method: &str, operation: &mut Value) {
    let mut body = operation.get_mut("requestBody");
    let schema =
        body.as_mut().and_then(|body| body.pointer_mut("/content/application~1json/schema"));
    let takes_json = schema.is_some();
    if let Some(schema) = schema {
        // One that may be left out is not null for that.
        not_null(schema);
    }
    add(operation, ANY);
    if takes_json {
        add(operation, JSON_BODY);
    }
    // Whether the daemon lives is said to anybody, without a look at who asks.
    let is_for_all = operation["operationId"] == "health";
    let mut names: Vec<&str> = if is_for_all { vec![] } else { vec!["client"] };
    if method == "post" {
        add(operation, KEYED);
        names.push("key");
    }
    let codes = &operation["responses"]["503"][CODES];
    let dials =
        codes.as_array().is_some_and(|codes| codes.iter().any(|code| code == "host_unreachable"));
    if dials {
        names.extend(["prompts", "agent", "sshKey"]);
    }
    let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    for parameter in &mut parameters {
        // It is there or it is not: nothing in a query or a header is null.
        not_null(&mut parameter["schema"]);
    }
    let common = |name: &str| json!({"$ref": format!("#/components/parameters/{name}")});
    parameters.extend(names.into_iter().map(common));
    operation["parameters"] = parameters.into();
    let mut headers = vec![VERSION_HEADER, API_VERSION_HEADER, MIN_CLIENT_HEADER];
    if !is_for_all {
        headers.push(WARNING_HEADER);
    }
    if dials {
        headers.push(NEW_HOST_KEY_HEADER);
    }
    if method == "post" {
        headers.push(REPLAYED_HEADER);
    }
    let responses = operation["responses"].as_object_mut().into_iter().flatten();
    for (status, response) in responses {
        let of_status = match status.as_str() {
            "408" | "429" | "503" => Some(RETRY_AFTER),
            "416" => Some(CONTENT_RANGE),
            _ => None,
        };
        // Problems have them all, so that one is the same on every route, and is written once.
        let is_problem = response[CODES].as_array().is_some_and(|codes| !codes.is_empty());
        let headers = if is_problem { &OF_MANY[..] } else { &headers };
        finish(response, headers.iter().copied().chain(of_status));
    }
}

fn add(operation: &mut Value, codes: &[Codes]) {
    for (status, codes) in codes {
        let response = &mut operation["responses"][status.to_string()];
        let mut all: Vec<Value> = response[CODES].as_array().cloned().unwrap_or_default();
        all.extend(codes.iter().map(|code| json!(code)));
        response[CODES] = all.into();
    }
}

/// Completes a response: that of a problem gets its words and its body, all get those headers.
fn finish(response: &mut Value, headers: impl Iterator<Item = &'static str>) {
    let codes = response[CODES].as_array().cloned().unwrap_or_default();
    if let Some(response) = response.as_object_mut().filter(|_| codes.is_empty()) {
        response.remove(CODES);
    }
    if !codes.is_empty() {
        let mut seen = BTreeSet::new();
        let codes: Vec<&str> =
            codes.iter().filter_map(Value::as_str).filter(|code| seen.insert(*code)).collect();
        let words: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let schema = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
        response["description"] = words.join(", ").into();
        response["content"] = json!({ PROBLEM_JSON: schema });
        response[CODES] = json!(codes);
    }
    for header in headers {
        response["headers"][header] = json!({"$ref": format!("#/components/headers/{header}")});
    }
}

/// Writes the problems of an operation once for all that have the same.
fn share(operation: &mut Value, shared: &mut Map<String, Value>) {
    let responses = operation["responses"].as_object_mut().into_iter().flatten();
    for (status, response) in responses.filter(|(_, response)| response.get(CODES).is_some()) {
        let known =
            shared.iter().find(|(_, known)| *known == response).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| {
            let same = shared.keys().filter(|name| name.contains(status.as_str())).count();
            let name = format!("Problem{status}_{}", same + 1);
            shared.insert(name.clone(), response.take());
            name
        });
        *response = json!({"$ref": format!("#/components/responses/{name}")});
    }
}

fn not_null(schema: &mut Value) {
    let kind =
        schema["type"].as_array().and_then(|kinds| kinds.iter().find(|kind| *kind != "null"));
    if let Some(kind) = kind.cloned() {
        schema["type"] = kind;
    }
    let one =
        schema["oneOf"].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"));
    if let Some(one) = one.cloned() {
        *schema = one;
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|_, value| !value.is_null());
    }
}

/// Makes what was written for Rust readable for others, and says how far numbers go.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(tidy),
        Value::Object(members) => {
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = plain(text);
            }
            if let Some(Value::String(to)) = members.get_mut("$ref")
                && to == "#/components/schemas/String"
            {
                *to = format!("#/components/schemas/{MOMENT}");
            }
            any_of(members);
            bound(members);
            members.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

/// Says `anyOf` of what utoipa has as `oneOf` for an enum without a tag: nothing keeps a value from being several of those.
fn any_of(members: &mut Map<String, Value>) {
    let is_untagged = |all: &Value| {
        all.as_array().is_some_and(|all| all.iter().all(|one| one["$ref"].is_string()))
    };
    if let Some(all) = members.get("oneOf").filter(|all| is_untagged(all)).cloned() {
        members.remove("oneOf");
        members.insert("anyOf".to_owned(), all);
    }
}

/// Takes the links of rustdoc out of a text.
fn plain(text: &str) -> String {
    let (mut rest, mut plain) = (text, String::new());
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        plain.push_str(&format!("{before}`{name}`"));
        let to = after.strip_prefix('(').and_then(|to| to.split_once(')'));
        rest = to.map_or(after, |(_, after)| after);
    }
    plain + rest
}

/// Says how far a number goes, and writes its format as the registry of OpenAPI has it.
fn bound(members: &mut Map<String, Value>) {
    let (format, most) = match members.get("format").and_then(Value::as_str) {
        Some("u-int8") => ("uint8", u64::from(u8::MAX)),
        Some("u-int16") => ("uint16", u64::from(u16::MAX)),
        Some("u-int32") => ("uint32", u64::from(u32::MAX)),
        Some("u-int64") => ("uint64", u64::MAX),
        _ => return,
    };
    members.insert("format".to_owned(), format.into());
    members.entry("maximum").or_insert_with(|| most.into());
}

mod tests {
    use std::path::Path;

    use super::*;

    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        let mut all = Vec::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                all.push((method.clone(), path.clone(), operation));
            }
        }
        all
    }

    #[test]
    fn the_document_in_docs_is_that_of_the_sources() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let why =
            "docs/openapi.json is another: `UPDATE=1 cargo test -p occd --lib describe` writes it";
        assert!(there == text, "{why}");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_is() {
        let document = document();
        let all = operations(&document);
        assert!(all.len() > 60, "{}", all.len());
        let mut names = BTreeSet::new();
        for (method, path, operation) in &all {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is there twice");
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{path}");
            for part in path.split('{').skip(1) {
                let name = part.split('}').next().unwrap();
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(
                    parameters.iter().any(|one| one["in"] == "path" && one["name"] == name),
                    "{method} {path}: {name}"
                );
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Array(all) => all.iter().for_each(|one| walk(one, document)),
                Value::Object(members) => {
                    if let Some(Value::String(to)) = members.get("$ref") {
                        let to = to.strip_prefix('#').unwrap();
                        assert!(document.pointer(to).is_some(), "{to}");
                    }
                    members.values().for_each(|one| walk(one, document));
                }
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }

    /// What tells the values of a schema from those of another.
    #[derive(Default)]
    struct Shape {
        types: BTreeSet<String>,
        known: BTreeSet<String>,
        required: BTreeSet<String>,
        /// The words that a required member may have.
        words: BTreeMap<String, Vec<Value>>,
    }

    impl Shape {
        fn of(schema: &Value, document: &Value) -> Self {
            if let Some(to) = schema["$ref"].as_str() {
                return Self::of(document.pointer(&to[1..]).unwrap(), document);
            }
            let texts = |value: &Value| -> BTreeSet<String> {
                let all = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let (types, required) = (texts(&schema["type"]), texts(&schema["required"]));
            let known = schema["properties"].as_object().into_iter().flatten();
            let known = known.map(|(name, _)| name.clone()).collect();
            let mut shape = Self { types, known, required, words: BTreeMap::new() };
            for name in &shape.required {
                if let Some(words) = schema["properties"][name]["enum"].as_array() {
                    shape.words.insert(name.clone(), words.clone());
                }
            }
            for part in schema["allOf"].as_array().into_iter().flatten() {
                let Self { types, known, required, words } = Self::of(part, document);
                shape.types.extend(types);
                shape.known.extend(known);
                shape.required.extend(required);
                shape.words.extend(words);
            }
            // What is one of several has a type of theirs.
            for several in ["oneOf", "anyOf"] {
                for part in schema[several].as_array().into_iter().flatten() {
                    shape.types.extend(Self::of(part, document).types);
                }
            }
            shape
        }

        /// Returns whether no value that the daemon knows is of both: by its type, by a word, or by a member of each that the
        /// other does not have.
        fn is_apart_from(&self, other: &Self) -> bool {
            let has_types = !self.types.is_empty() && !other.types.is_empty();
            let by_type = has_types && self.types.is_disjoint(&other.types);
            let by_word = self.words.iter().any(|(name, words)| {
                let others = other.words.get(name);
                others.is_some_and(|others| !words.iter().any(|word| others.contains(word)))
            });
            let needs_more = |one: &Self, other: &Self| !one.required.is_subset(&other.known);
            let by_member = needs_more(self, other) && needs_more(other, self);
            by_type || by_word || by_member
        }
    }

    #[test]
    fn what_can_be_one_of_several_is_never_two() {
        fn walk(value: &Value, document: &Value, seen: &mut usize) {
            if let Value::Array(all) = value {
                all.iter().for_each(|one| walk(one, document, seen));
            }
            let Value::Object(members) = value else { return };
            members.values().for_each(|one| walk(one, document, seen));
            let Some(Value::Array(all)) = members.get("oneOf") else { return };
            *seen += 1;
            let shapes: Vec<Shape> = all.iter().map(|one| Shape::of(one, document)).collect();
            for (n, shape) in shapes.iter().enumerate() {
                let apart = |other: &Shape| shape.is_apart_from(other);
                assert!(shapes[n + 1..].iter().all(apart), "two may match: {value:#}");
            }
        }
        let document = document();
        let mut seen = 0;
        walk(&document, &document, &mut seen);
        assert!(seen > 20, "{seen}");
        // These two have an event of the same name and members.
        let of = |name: &str| Shape::of(&document["components"]["schemas"][name], &document);
        assert!(!of("WatchEvent").is_apart_from(&of("SearchEvent")));
    }

    /// Of two types of one name the document has one, in the place of both.
    #[test]
    fn an_event_and_a_change_of_a_link_are_not_taken_for_each_other() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let words: BTreeSet<&str> = schemas["Change"]["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| {
                let parts =
                    one["allOf"].as_array().map_or(std::slice::from_ref(one), Vec::as_slice);
                parts.iter().find_map(|part| part["properties"]["event"]["enum"][0].as_str())
            })
            .collect();
        assert!(["snapshot", "gap", "host"].iter().all(|word| words.contains(word)), "{words:?}");
        assert!(schemas["LinkChange"]["required"].as_array().unwrap().contains(&json!("link")));
    }

    #[test]
    fn links_of_rustdoc_are_taken_out() {
        assert_eq!(plain("see [`A`](crate::a::A) and [`B`]."), "see `A` and `B`.");
        assert_eq!(plain("a[0] and `[`"), "a[0] and `[`");
    }
}
