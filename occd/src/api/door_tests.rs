use axum::http::Method;

use super::document::document;
use super::doors::door;

/// Returns every route with its methods, as the document has them.
fn routes() -> Vec<(Method, String)> {
    let document = document();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys();
        let methods = methods.map(|method| method.to_uppercase().parse().unwrap());
        // The one path that goes on, which is two routes more.
        match path.strip_suffix("/{path}") {
            None => routes.extend(methods.map(|method| (method, path.clone()))),
            Some(files) => {
                for method in methods {
                    for end in ["", "/", "/{*path}"] {
                        routes.push((Method::clone(&method), format!("{files}{end}")));
                    }
                }
            }
        }
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
