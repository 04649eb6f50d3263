use axum::http::Method;

use super::doors::door;

/// Returns every route with its methods, as the sources have them.
fn routes() -> Vec<(Method, String)> {
    let sources = [include_str!("mod.rs"), include_str!("files.rs")].join("\n");
    let mut routes = Vec::new();
    for part in sources.split(".route(").skip(1) {
        let path = part.split('"').nth(1).unwrap().to_owned();
        let methods = &part[..part.find(")\n").unwrap_or(part.len())];
        let methods = if methods.contains("methods()") {
            sources.split("let methods =").nth(1).unwrap().split(';').next().unwrap()
        } else {
            methods
        };
        let all = [
            ("get(", Method::GET),
            ("put(", Method::PUT),
            ("post(", Method::POST),
            ("patch(", Method::PATCH),
            ("delete(", Method::DELETE),
        ];
        let known = routes.len();
        for (word, method) in all {
            if methods.contains(word) {
                routes.push((method, path.clone()));
            }
        }
        assert!(routes.len() > known, "no method of {path} is understood here");
    }
    routes
}

#[test]
fn every_route_has_a_door() {
    let routes = routes();
    assert!(routes.len() > 50, "{routes:?}");
    for (method, path) in routes {
        assert!(door(&method, &path).is_some(), "{method} {path} is not among the doors");
    }
}

#[test]
fn a_route_that_is_not_known_has_none() {
    assert_eq!(door(&Method::GET, "/v1/hosts/{host}/new"), None);
}
