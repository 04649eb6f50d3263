//! The list of all routes. Each is a handler that describes itself: path and method are taken from its description, so
//! that there is no route that the document does not have.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::Path;
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::Operation;

use super::taken::Taken;

use super::*;

/// Gives the list to a macro: a function cannot be given what stands beside a handler, its description.
macro_rules! all {
    ($with:ident) => {
        $with! {
            daemon::health
            daemon::version
            metrics::show
            hand_over::hand_over
            log_level::show
            log_level::set
            events::events
            document::show
            hosts::list
            hosts::add
            hosts::show
            hosts::edit
            hosts::remove
            default_host::show
            default_host::set
            default_host::clear
            ssh_config::list
            ssh_config::import
            links::connect
            links::disconnect
            links::reconnect
            test::run
            password::forget
            trust::review
            trust::trust
            exec_ws::upgrade
            exec::run
            container::show
            sandbox::start
            sandbox::stop
            sandbox::restart
            sandbox::update
            sandbox::spec
            sandbox::sync
            sandbox::cockpit
            sandbox::password
            logs::show
            docker_socket::show
            docker_socket::open
            docker_socket::close
            docker_setup::show
            docker_setup::install
            file_reads::read
            files::write
            files::act
            files::remove
            policy::show
            policy::check
            grants::list
            grants::add
            grants::revoke
            history::show
            trace::start
            trace::end
            audit::show
            workspaces::show
            sessions::list
            sessions::start
            sessions::show
            sessions::edit
            sessions::remove
            sessions::start_again
            session_events::output
            sessions::input
            sessions::signal
            session_ws::upgrade
            forwards::list
            forwards::add
            forwards::show
            forwards::remove
            operations::list
            operations::show
            operations::cancel
            operations::events
            prompts::list
            prompts::answer
            prompts::unlock
        }
    };
}

#[cfg(test)]
pub(super) use all;

macro_rules! routes_of {
    ($($module:ident::$handler:ident)+) => {{
        let mut routes = Routes::default();
        pastey::paste! {
            $(routes.add::<$module::[<__path_ $handler>]>(|filter| on(filter, $module::$handler));)+
        }
        routes
    }};
}

/// The path of the sign of life.
pub const ALIVE: &str = "/healthz";
/// The one path that goes on, and the same without a path, the home directory, which axum takes for another route. A file
/// that is sent may be of any length.
const FILES: &str = "/v1/hosts/{host}/files/{*path}";
const HOME: [&str; 2] = ["/v1/hosts/{host}/files", "/v1/hosts/{host}/files/"];

/// The routes, and what each takes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) router: Router<Arc<App>>,
    /// The one that is served without waiting for a place.
    pub(super) alive: Router<Arc<App>>,
    pub(super) taken: Taken,
}

impl Routes {
    /// Returns them all.
    pub(super) fn all() -> Self {
        all!(routes_of)
    }

    fn add<P: Path>(&mut self, handler: impl FnOnce(MethodFilter) -> MethodRouter<Arc<App>>) {
        let path = P::path();
        let Some((method, filter)) = P::methods().first().and_then(method) else { return };
        let handler = handler(filter);
        if path == FILES {
            let handler = handler.layer(DefaultBodyLimit::disable());
            for path in HOME.into_iter().chain([FILES]) {
                self.route(path.to_owned(), method.clone(), handler.clone(), P::operation);
            }
        } else {
            self.route(path, method, handler, P::operation);
        }
    }

    fn route(
        &mut self,
        path: String,
        method: Method,
        handler: MethodRouter<Arc<App>>,
        describe: fn() -> Operation,
    ) {
        let router = if path == ALIVE { &mut self.alive } else { &mut self.router };
        *router = std::mem::take(router).route(&path, handler);
        self.taken.add(path, method, describe);
    }
}

/// Returns a method as axum has it; nothing for one that no route takes.
fn method(method: &HttpMethod) -> Option<(Method, MethodFilter)> {
    Some(match method {
        HttpMethod::Get => (Method::GET, MethodFilter::GET),
        HttpMethod::Put => (Method::PUT, MethodFilter::PUT),
        HttpMethod::Post => (Method::POST, MethodFilter::POST),
        HttpMethod::Patch => (Method::PATCH, MethodFilter::PATCH),
        HttpMethod::Delete => (Method::DELETE, MethodFilter::DELETE),
        HttpMethod::Head | HttpMethod::Options | HttpMethod::Trace => return None,
    })
}
