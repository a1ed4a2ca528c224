use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::json;

use super::*;

struct Fake {
    ready: Result<(), String>,
}

impl Views for Fake {
    fn metrics(&self) -> String {
        "nepenthe_generation 7\n".into()
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }

    fn status(&self) -> Value {
        json!({ "generation": 7 })
    }

    fn keys(&self) -> Value {
        json!({ "version": 1, "keys": [] })
    }

    fn latest_generation(&self) -> Option<Value> {
        self.ready.is_ok().then(|| json!({ "generation": 7 }))
    }

    fn sweeps(&self) -> Value {
        json!({ "running": null, "last": null })
    }

    fn receipt(&self, request_id: &str) -> Result<Option<Signed>, String> {
        match request_id {
            "broken" => Err("the store cannot be read".into()),
            "hanging" => panic!("a view that panics must not take the server along"),
            "r1" | "forgets/0/12" | "ä ö" => {
                let value = json!({ "request_id": request_id }).to_string().into_bytes();
                let signature = (request_id == "r1").then(|| ("k".to_owned(), "c2ln".to_owned()));
                Ok(Some(Signed { value, signature }))
            }
            _ => Ok(None),
        }
    }

    fn recommendations(&self, user: &str, n: usize) -> Result<Option<Vec<(String, f64)>>, String> {
        Ok((user == "u/7").then(|| (0..n).map(|i| (format!("i{i}"), 0.5)).collect()))
    }
}

fn start(ready: Result<(), String>) -> Server {
    Server::start((Ipv4Addr::LOCALHOST, 0).into(), Guard::open(), Arc::new(Fake { ready })).unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The header's value; names are case-insensitive, and hyper writes them in lower case.
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn is_problem(&self, status: u16, detail: &str) {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{}", self.body);
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")));
        assert!(problem["title"].is_string() && problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
}

fn ask(server: &Server, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn get(server: &Server, path: &str) -> Answer {
    ask(server, "GET", path)
}

#[test]
fn views_answer_their_routes() {
    let server = start(Ok(()));
    let metrics = get(&server, "/metrics");
    assert_eq!((metrics.status, metrics.body.as_str()), (200, "nepenthe_generation 7\n"));
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(get(&server, "/livez").json(), json!({ "live": true }));
    assert_eq!(get(&server, "/readyz").json(), json!({ "ready": true }));
    assert_eq!(get(&server, "/v1/status").json(), json!({ "generation": 7 }));
    assert_eq!(get(&server, "/v1/generations/latest").json(), json!({ "generation": 7 }));
    assert_eq!(get(&server, "/v1/sweeps").json(), json!({ "running": null, "last": null }));
    server.stop();
}

#[test]
fn a_receipt_is_found_by_any_id() {
    let server = start(Ok(()));
    for (path, id) in [("r1", "r1"), ("forgets/0/12", "forgets/0/12"), ("forgets%2F0%2F12", "forgets/0/12"), ("%C3%A4%20%C3%B6", "ä ö")] {
        assert_eq!(get(&server, &format!("/v1/receipts/{path}")).json(), json!({ "request_id": id }));
    }
    let signed = get(&server, "/v1/receipts/r1");
    assert_eq!((signed.header("nepenthe-signature"), signed.header("nepenthe-key-id")), (Some("c2ln"), Some("k")));
    assert_eq!((signed.body.as_str(), signed.header("content-type")), (r#"{"request_id":"r1"}"#, Some("application/json")));
    assert_eq!(get(&server, "/v1/receipts/forgets/0/12").header("nepenthe-signature"), None);
    assert_eq!(get(&server, "/v1/keys").json(), json!({ "version": 1, "keys": [] }));
    get(&server, "/v1/receipts/r2").is_problem(404, "no request of this id");
    get(&server, "/v1/receipts/").is_problem(404, "no such page");
    get(&server, "/v1/receipts/%FF").is_problem(400, "percent-encoded UTF-8");
    get(&server, "/v1/receipts/broken").is_problem(503, "the store cannot be read");
    get(&server, "/v1/receipts/hanging").is_problem(500, "the log says why");
    assert_eq!(get(&server, "/livez").status, 200);
}

#[test]
fn recommendations_take_a_number() {
    let server = start(Ok(()));
    let usual = get(&server, "/v1/users/u%2F7/recommendations").json();
    assert_eq!((&usual["user"], &usual["items"][9]), (&json!("u/7"), &json!({ "item": "i9", "score": 0.5 })));
    assert_eq!(usual["items"].as_array().unwrap().len(), 10);
    let most = get(&server, "/v1/users/u%2F7/recommendations?x=1&n=1000").json();
    assert_eq!(most["items"].as_array().unwrap().len(), 1000);
    for n in ["0", "1001", "-1", "ten", ""] {
        get(&server, &format!("/v1/users/u%2F7/recommendations?n={n}")).is_problem(400, "from 1 to 1000");
    }
    get(&server, "/v1/users/u8/recommendations").is_problem(404, "no such user");
}

#[test]
fn not_ready_says_why_and_stays_alive() {
    let server = start(Err("no broker answers".into()));
    get(&server, "/readyz").is_problem(503, "no broker answers");
    get(&server, "/v1/generations/latest").is_problem(404, "no generation");
    assert_eq!(get(&server, "/livez").status, 200);
}

#[test]
fn what_is_not_there_or_not_read_only_is_a_problem() {
    let server = start(Ok(()));
    get(&server, "/favicon.ico").is_problem(404, "no such page");
    for path in ["/", "/metrics", "/v1/status", "/v1/receipts/r1"] {
        let refused = ask(&server, "POST", path);
        refused.is_problem(405, "use GET");
        assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    }
    let head = ask(&server, "HEAD", "/readyz");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn every_answer_is_guarded_and_never_cached() {
    let server = start(Ok(()));
    for path in routes::PAGE.map(|(path, ..)| path).into_iter().chain(["/metrics", "/nowhere", "/v1/status"]) {
        let answer = get(&server, path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn the_page_asks_nobody_else_and_finds_its_parts() {
    let server = start(Ok(()));
    let page = get(&server, "/").body;
    let mut scripts = String::new();
    for (path, content_type, body) in routes::PAGE {
        let answer = get(&server, path);
        assert_eq!((answer.header("content-type"), answer.body.as_str()), (Some(content_type), body), "{path}");
        // The icon has a namespace, which nobody fetches.
        assert!(path == "/icon.svg" || !["https:", "http:", "//cdn"].iter().any(|elsewhere| body.contains(elsewhere)), "{path}");
        if path.ends_with(".js") {
            scripts += body;
        }
    }
    // The policy forbids what is written into the page itself.
    assert!(!page.contains("style=") && !page.contains("<style") && !page.contains("onclick") && !page.contains("<script>"));
    let ids = scripts.split("put(\"").skip(1).chain(scripts.split("at(\"").skip(1)).map(|rest| rest.split('"').next().unwrap());
    for id in ids {
        assert!(page.contains(&format!("id=\"{id}\"")), "the page has no {id}");
    }
}

#[test]
fn an_address_in_use_is_named_with_the_remedy() {
    let server = start(Ok(()));
    let Err(error) = Server::start(server.local_addr(), Guard::open(), Arc::new(Fake { ready: Ok(()) })) else {
        panic!("two servers on one address")
    };
    let message = error.to_string();
    assert!(message.contains(&server.local_addr().to_string()) && message.contains("http.listen"), "{message}");
}

#[test]
fn stop_frees_the_address_though_a_client_says_nothing() {
    let server = start(Ok(()));
    let address = server.local_addr();
    let _silent = TcpStream::connect(address).unwrap();
    assert_eq!(get(&server, "/livez").status, 200);
    server.stop();
    drop(Server::start(address, Guard::open(), Arc::new(Fake { ready: Ok(()) })).unwrap());
}

#[test]
fn a_guarded_server_asks_for_the_token() {
    let guard = Guard::with_token("0123456789abcdef").unwrap();
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), guard, Arc::new(Fake { ready: Ok(()) })).unwrap();
    for path in ["/", "/page.js", "/metrics", "/v1/status", "/v1/receipts/r1", "/absent"] {
        let refusal = get(&server, path);
        refusal.is_problem(401, "http.token_file");
        assert!(refusal.header("www-authenticate").unwrap().contains("Bearer"), "{}", refusal.head);
    }
    assert_eq!((get(&server, "/livez").status, get(&server, "/readyz").status), (200, 200));
    let shown = "/v1/status HTTP/1.1\r\nAuthorization: Bearer 0123456789abcdef\r\nX-Rest:";
    assert_eq!(get(&server, shown).json(), json!({ "generation": 7 }));
}

#[test]
fn fuzz_requests() {
    let server = start(Ok(()));
    let seeds = [
        "GET /v1/users/u%2F7/recommendations?n=3 HTTP/1.0\r\nHost: x\r\n\r\n",
        "GET /v1/receipts/forgets/0/12 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "HEAD /metrics HTTP/1.0\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n",
        "POST /livez HTTP/1.0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    ];
    crate::fuzz::fuzz_costly("requests", &seeds, |bytes| {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        // A server that has heard enough may close before everything is said.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_eq!(get(&server, "/livez").status, 200, "the server lives");
}
