//! What each route takes, as its description has it: its methods, and what their queries may say. Whatever else comes is
//! refused before anybody is asked about it: a filter that is passed over lets everything through.

use std::collections::HashMap;
use std::sync::OnceLock;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use occ_proto::Code;
use occ_proto::files::decode_path;
use utoipa::openapi::path::{Operation, ParameterIn};

use super::error::ApiError;

/// What all routes take.
#[derive(Debug, Default)]
pub(super) struct Taken(HashMap<String, Vec<Taking>>);

/// A method of a route.
#[derive(Debug)]
struct Taking {
    method: Method,
    /// Describes it. Most routes are never asked for with a query, and are then not described at all.
    describe: fn() -> Operation,
    /// The names in its query.
    query: OnceLock<Vec<String>>,
}

impl Taking {
    fn query(&self) -> &[String] {
        self.query.get_or_init(|| {
            let parameters = (self.describe)().parameters.into_iter().flatten();
            let in_query = |at: &ParameterIn| matches!(at, ParameterIn::Query);
            parameters.filter(|one| in_query(&one.parameter_in)).map(|one| one.name).collect()
        })
    }
}

impl Taken {
    /// Adds a method of a route.
    pub(super) fn add(&mut self, route: String, method: Method, describe: fn() -> Operation) {
        let taking = Taking { method, describe, query: OnceLock::new() };
        self.0.entry(route).or_default().push(taking);
    }

    /// Returns all routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Refuses a method or a query that a route does not take.
    ///
    /// # Errors
    /// The answer that says what it takes.
    pub(super) fn check(&self, route: &str, request: &Request) -> Result<(), Box<Response>> {
        let all = self.0.get(route).map_or(&[][..], Vec::as_slice);
        let method = as_answered(request.method());
        let Some(taking) = all.iter().find(|taking| taking.method == method) else {
            return Err(Box::new(wrong_method(request.method(), all)));
        };
        let Some(query) = request.uri().query() else { return Ok(()) };
        let names = query.split('&');
        let names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
        let is_taken = |name: &&str| {
            let name = decode_path(name);
            taking.query().iter().any(|one| name.as_deref() == Some(one.as_bytes()))
        };
        match names.filter(|name| !name.is_empty()).find(|name| !is_taken(name)) {
            Some(unknown) => Err(Box::new(wrong_query(unknown, taking.query()).into_response())),
            None => Ok(()),
        }
    }
}

/// Returns the method that a request is answered as: a HEAD as a GET is.
pub(super) fn as_answered(method: &Method) -> Method {
    if method == Method::HEAD { Method::GET } else { method.clone() }
}

/// Returns the problem of a method that a route does not take.
pub(super) fn takes_no(method: &Method) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::MethodNotAllowed,
        format!("This route does not take {method}."),
    )
}

fn wrong_method(method: &Method, taken: &[Taking]) -> Response {
    let mut response = takes_no(method).into_response();
    let mut words: Vec<&str> = taken.iter().map(|taking| taking.method.as_str()).collect();
    if words.contains(&"GET") {
        words.push("HEAD");
    }
    if let Ok(allow) = HeaderValue::from_str(&words.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn wrong_query(unknown: &str, taken: &[String]) -> ApiError {
    let takes = match taken {
        [] => "its query takes nothing".to_owned(),
        names => format!("its query takes {}", names.join(", ")),
    };
    ApiError::bad_request(format!(
        "The query has {unknown:?}, which this route does not know: {takes}."
    ))
}
