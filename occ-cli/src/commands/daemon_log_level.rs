//! `occ daemon log-level`: how much the daemon logs.

use hyper::Method;
use jiff::tz::TimeZone;
use occ_proto::log::{LogLevel, SetLogLevel};

use super::Context;
use crate::cli::DaemonLogLevelArgs;
use crate::error::CliError;

const PATH: &str = "/v1/log-level";

pub(super) async fn run(context: &Context<'_>, args: &DaemonLogLevelArgs) -> Result<u8, CliError> {
    let client = context.client().await?;
    let reply = match args.level.clone() {
        None => client.get(PATH).await?,
        Some(level) => {
            let wanted = SetLogLevel { level, for_ms: args.time };
            client.request(Method::PUT, PATH, Some(&wanted), None).await?
        }
    };
    if context.ui.json {
        return context.ui.document(&reply.body).map(|()| 0);
    }
    let now: LogLevel = reply.parse()?;
    let until = now.until.map_or_else(String::new, |until| {
        let until = until.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        format!(" until {until}, then {}", now.at_start)
    });
    context.ui.say(&format!("{}{until}", now.level))?;
    Ok(0)
}
