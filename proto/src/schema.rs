//! The schemas of the types whose form on the wire is written by hand, for the daemon's OpenAPI document.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::exec::Bytes;
use crate::forward::Endpoint;
use crate::log::LogFilter;
use crate::policy::Permission;
use crate::session::SessionHost;
use crate::{Address, Code, GroupName, HostName, Secret, UserName};

/// What `is_unprintable` in `name.rs` refuses, as a class of characters; its tail is beyond the basic plane.
const UNPRINTABLE: &str = r"\u0000-\u0020\u007f-\u00a0\u00ad\u061c\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufe00-\ufe0f\ufeff\ufff9-\ufffb";

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

fn name(description: &str, pattern: String) -> RefOr<Schema> {
    text(description).min_length(Some(1)).max_length(Some(253)).pattern(Some(pattern)).into()
}

impl PartialSchema for HostName {
    fn schema() -> RefOr<Schema> {
        let about = "The name under which a host is configured: the key in hosts.json. One that begins with `via:` is a \
                     jump host that no name was given to, and ends in its destination.";
        let taken = r"(?!(?:local|none|all|auto)$)";
        let usual = format!(r"[^-.'`\x22\\$;&<>|(){{}},/%#?*!@\[\]{UNPRINTABLE}]");
        let next = format!(r"[^'`\x22\\$;&<>|(){{}},/%#?*!@\[\]{UNPRINTABLE}]*");
        let via = format!(r"via:[^'`\x22\\$;&<>|(){{}},/%#?*!{UNPRINTABLE}]*");
        name(about, format!("^{taken}(?:{usual}{next}|{via})$"))
    }
}

impl ToSchema for HostName {
    fn name() -> Cow<'static, str> {
        "HostName".into()
    }
}

impl PartialSchema for Address {
    fn schema() -> RefOr<Schema> {
        let about = "A DNS name, an IPv4 address, or an IPv6 address without brackets.";
        let first = format!(r"[^-'`\x22\\$;&<>|(){{}},/#?*!@\[\]{UNPRINTABLE}]");
        let next = format!(r"[^'`\x22\\$;&<>|(){{}},/#?*!@\[\]{UNPRINTABLE}]*");
        name(about, format!("^{first}{next}$"))
    }
}

impl ToSchema for Address {
    fn name() -> Cow<'static, str> {
        "Address".into()
    }
}

impl PartialSchema for UserName {
    fn schema() -> RefOr<Schema> {
        let first = format!(r"[^-'`\x22;&<>|(){{}}$/{UNPRINTABLE}]");
        let next = format!(r"[^'`\x22;&<>|(){{}}$/{UNPRINTABLE}]*");
        name("The name of a user on a host.", format!("^{first}{next}$"))
    }
}

impl ToSchema for UserName {
    fn name() -> Cow<'static, str> {
        "UserName".into()
    }
}

impl PartialSchema for GroupName {
    fn schema() -> RefOr<Schema> {
        let pattern = r"^(?=.*\S)[^\u0000-\u001f\u007f-\u009f]+$";
        text("The name of a group of hosts.").min_length(Some(1)).pattern(Some(pattern)).into()
    }
}

impl ToSchema for GroupName {
    fn name() -> Cow<'static, str> {
        "GroupName".into()
    }
}

impl PartialSchema for SessionHost {
    fn schema() -> RefOr<Schema> {
        text("The name of a host, or `local`: this machine.").min_length(Some(1)).into()
    }
}

impl ToSchema for SessionHost {
    fn name() -> Cow<'static, str> {
        "SessionHost".into()
    }
}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        let password = SchemaFormat::KnownFormat(KnownFormat::Password);
        text("A text that is written nowhere.").format(Some(password)).into()
    }
}

impl ToSchema for Secret {
    fn name() -> Cow<'static, str> {
        "Secret".into()
    }
}

impl PartialSchema for Bytes {
    fn schema() -> RefOr<Schema> {
        let base64 =
            "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
        let b64 = text("In base64.").pattern(Some(base64));
        let encoded = ObjectBuilder::new().property("b64", b64).required("b64");
        OneOfBuilder::new()
            .item(text("The text, where the bytes are UTF-8."))
            .item(encoded)
            .description(Some("Bytes: a text, or base64 of what is none."))
            .into()
    }
}

impl ToSchema for Bytes {
    fn name() -> Cow<'static, str> {
        "Bytes".into()
    }
}

impl PartialSchema for Endpoint {
    fn schema() -> RefOr<Schema> {
        text("`HOST:PORT`, `[IPV6]:PORT`, or the path of a Unix socket.").into()
    }
}

impl ToSchema for Endpoint {
    fn name() -> Cow<'static, str> {
        "Endpoint".into()
    }
}

impl PartialSchema for Permission {
    fn schema() -> RefOr<Schema> {
        text("What a grant gives: `read`, `write`, `exec`, or `exec:PROGRAM`.")
            .pattern(Some("^(?:read|write|exec(?::[^\\n]+)?)$"))
            .into()
    }
}

impl ToSchema for Permission {
    fn name() -> Cow<'static, str> {
        "Permission".into()
    }
}

impl PartialSchema for LogFilter {
    fn schema() -> RefOr<Schema> {
        let (name, level) = ("[A-Za-z_][A-Za-z0-9_]*", "(?:off|error|warn|info|debug|trace)");
        let part = format!("(?:{name}(?:::{name})*=)?{level}");
        text("A level, and levels for single modules, by comma: `warn,occd::ssh=trace`.")
            .pattern(Some(format!("^{part}(?:,{part})*$")))
            .max_length(Some(512))
            .into()
    }
}

impl ToSchema for LogFilter {
    fn name() -> Cow<'static, str> {
        "LogFilter".into()
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let about = "What went wrong, as a stable word. A newer daemon may have more of them.";
        text(about).enum_values(Some(Code::ALL.iter().map(|code| code.as_str()))).into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "Code".into()
    }
}
