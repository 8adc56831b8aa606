//! Code for an external transformer that is pointed at this node (processor.md 5.3, 7.2; security.md 1): a listener of
//! its own, off unless `ConfigBackend.listen` is set.
//!
//! In: GET requests for a version of a transformation, a library or a tracking plan. Out: that document from the
//! workspace in force, or 404. Nothing else can be read here: no credentials, sources or destinations; nothing can be
//! written.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::code::camel_case;
use crate::backend_config::{Library, Snapshot, Snapshots};

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 64;
/// Longest wait for the head of a request; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, for example when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The bound listener.
#[derive(Debug)]
pub struct CodeListener(TcpListener);

impl CodeListener {
    /// Binds the address.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<CodeListener> {
        if !is_near(address.ip()) {
            tracing::warn!(
                %address,
                "everybody who reaches this address can read the code of transformations; bind ConfigBackend.listen to a loopback or private address"
            );
        }
        Ok(CodeListener(TcpListener::bind(address).await?))
    }

    /// The address that it got.
    ///
    /// # Errors
    /// The system does not tell it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until `stop`. Connections end with it.
    pub async fn serve(self, config: Snapshots, stop: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.0.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // One too many is closed at once.
                    if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
                        tokio::spawn(converse(stream, config.clone(), permit, stop.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the listener for code cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether only this machine or its own network reaches the address.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

async fn converse(stream: TcpStream, config: Snapshots, permit: OwnedSemaphorePermit, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let snapshot = config.borrow().clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            Ok::<_, Infallible>(answer(request.method(), request.uri().path(), query, snapshot.as_deref()))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection for code ended early");
            }
        }
    }
    drop(permit);
}

fn answer(method: &Method, path: &str, query: &str, snapshot: Option<&Snapshot>) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return told(StatusCode::METHOD_NOT_ALLOWED, &json!({"message": "only GET"}));
    }
    // Asked again later, as for any configuration that is not there yet.
    let Some(snapshot) = snapshot else {
        return told(StatusCode::SERVICE_UNAVAILABLE, &json!({"message": "no configuration yet"}));
    };
    match document(path, query, snapshot) {
        Some(document) => told(StatusCode::OK, &document),
        None => told(StatusCode::NOT_FOUND, &json!({"message": "not found"})),
    }
}

fn told(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The document at a path; `None` when there is none.
fn document(path: &str, query: &str, snapshot: &Snapshot) -> Option<Value> {
    let parts: Vec<_> = path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy()).collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let asked = |name: &str| {
        let mut parameters = url::form_urlencoded::parse(query.as_bytes());
        parameters.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
    };
    match parts.as_slice() {
        ["transformation", "getByVersionId"] => transformation(snapshot, &asked("versionId")?),
        ["transformationLibrary", "getByVersionId"] => {
            let version_id = asked("versionId")?;
            let library = libraries(snapshot).find(|library| library.version_id == version_id)?;
            let import_name = specifier(library);
            Some(json!({
                "versionId": library.version_id,
                "name": library.name,
                "handleName": import_name,
                "importName": import_name,
                "language": "javascript",
                "code": library.text,
            }))
        }
        ["rudderstackTransformationLibraries", name] => {
            let import_name = format!("@rs/{name}/{}", asked("version")?);
            let library = libraries(snapshot).find(|library| library.import_name == import_name)?;
            Some(json!({"importName": import_name, "code": library.text}))
        }
        ["workspaces", workspace_id, "tracking-plans", id] => {
            let version = asked("version")?.parse().ok()?;
            let plan = snapshot.workspaces.get(*workspace_id)?.tracking_plan(id, version)?;
            Some(Value::Object(plan.document.clone()))
        }
        _ => None,
    }
}

fn transformation(snapshot: &Snapshot, version_id: &str) -> Option<Value> {
    let mut known = snapshot.destination_by_id.values().flat_map(|destination| {
        destination.transformations.iter().map(move |transformation| (transformation, &destination.workspace_id))
    });
    let (transformation, workspace_id) =
        known.find(|(transformation, _)| transformation.version_id == version_id && transformation.code.is_some())?;
    let code = transformation.code.as_ref()?;
    let language = Some(transformation.language.as_str()).filter(|language| !language.is_empty());
    Some(json!({
        "id": transformation.id,
        "versionId": version_id,
        "name": code.name,
        "code": code.text,
        "codeVersion": code.code_version,
        "language": language.unwrap_or("javascript"),
        "workspaceId": workspace_id,
    }))
}

fn libraries(snapshot: &Snapshot) -> impl Iterator<Item = &Library> {
    snapshot.workspaces.values().flat_map(|workspace| workspace.libraries.iter().map(AsRef::as_ref))
}

/// What `import ... from` says to get the library.
fn specifier(library: &Library) -> String {
    if library.import_name.is_empty() { camel_case(&library.name) } else { library.import_name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::{Destination, Source, TrackingPlan, Transformation, TransformationCode, Workspace};

    fn snapshot() -> Snapshot {
        let code = TransformationCode::new("v1", "Mine", "", "export const a = 1".to_owned());
        let with_code = Transformation {
            id: "t1".to_owned(),
            version_id: "v1".to_owned(),
            code: Some(Arc::new(code)),
            ..Transformation::default()
        };
        let without = Transformation { version_id: "v2".to_owned(), ..Transformation::default() };
        let destination = |id: &str, transformation| {
            Arc::new(Destination {
                id: id.to_owned(),
                workspace_id: "w".to_owned(),
                transformations: vec![transformation],
                ..Destination::default()
            })
        };
        let source = Source {
            id: "s".to_owned(),
            destinations: vec![destination("d1", with_code), destination("d2", without)],
            ..Source::default()
        };
        let plan = json!({"rules": {"events": []}}).as_object().unwrap().clone();
        Snapshot::new(
            vec![Workspace {
                id: "w".to_owned(),
                sources: vec![Arc::new(source)],
                libraries: vec![
                    Arc::new(Library::new("l1", "My Lib 1", "", "export const b = 2".to_owned())),
                    Arc::new(Library::new("l2", "geo", "@rs/geo/v1", "export const c = 3".to_owned())),
                ],
                tracking_plans: [(("tp".to_owned(), 3), Arc::new(TrackingPlan::new("tp", 3, plan)))].into(),
                ..Workspace::default()
            }],
            0,
        )
    }

    #[test]
    fn code_is_found_under_its_ids_and_nothing_else_is() {
        let snapshot = snapshot();
        let found = |path: &str, query: &str| document(path, query, &snapshot);
        assert_eq!(
            found("/transformation/getByVersionId", "versionId=v1"),
            Some(json!({
                "id": "t1", "versionId": "v1", "name": "Mine", "code": "export const a = 1", "codeVersion": "1",
                "language": "javascript", "workspaceId": "w",
            }))
        );
        let library = found("/transformationLibrary/getByVersionId", "versionId=l1").unwrap();
        assert_eq!((&library["importName"], &library["code"]), (&json!("myLib1"), &json!("export const b = 2")));
        assert_eq!(
            found("/rudderstackTransformationLibraries/geo", "version=v1"),
            Some(json!({"importName": "@rs/geo/v1", "code": "export const c = 3"}))
        );
        assert_eq!(found("/workspaces/w/tracking-plans/tp", "version=3"), Some(json!({"rules": {"events": []}})));
        for (path, query) in [
            ("/transformation/getByVersionId", "versionId=v2"),
            ("/transformation/getByVersionId", "versionId="),
            ("/transformation/getByVersionId", ""),
            ("/transformationLibrary/getByVersionId", "versionId=v1"),
            ("/rudderstackTransformationLibraries/geo", "version=v2"),
            ("/workspaces/w/tracking-plans/tp", "version=4"),
            ("/workspaces/w/tracking-plans/tp", "version=x"),
            ("/workspaces/x/tracking-plans/tp", "version=3"),
            ("/workspaceConfig", ""),
            ("/", ""),
            ("/transformation/..%2f..%2fetc/passwd", "versionId=v1"),
        ] {
            assert_eq!(found(path, query), None, "{path}?{query}");
        }
    }

    #[test]
    fn only_reading_is_possible_and_only_with_a_configuration() {
        let snapshot = snapshot();
        let status = |method: Method, snapshot: Option<&Snapshot>| {
            answer(&method, "/transformation/getByVersionId", "versionId=v1", snapshot).status().as_u16()
        };
        assert_eq!(status(Method::GET, Some(&snapshot)), 200);
        assert_eq!(status(Method::HEAD, Some(&snapshot)), 200);
        assert_eq!((status(Method::POST, Some(&snapshot)), status(Method::DELETE, Some(&snapshot))), (405, 405));
        assert_eq!(status(Method::GET, None), 503);
    }

    #[test]
    fn an_address_that_others_reach_is_warned_of() {
        for (address, near) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("::1", true),
            ("fd00::1", true),
            ("0.0.0.0", false),
            ("8.8.8.8", false),
            ("::", false),
        ] {
            assert_eq!(is_near(address.parse().unwrap()), near, "{address}");
        }
    }
}
