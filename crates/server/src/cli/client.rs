//! The command line's own HTTP client: a few calls to a running server.

use std::time::Duration;

use serde_json::Value;

/// A server that the command line talks to.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    api_key: Option<String>,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:6333`. The key, if any, comes from `PROXIMADB_API_KEY`.
    pub fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_secs(600)));
        let api_key = std::env::var("PROXIMADB_API_KEY").ok();
        Self {
            agent: config.build().into(),
            base: base.trim_end_matches('/').to_owned(),
            api_key,
        }
    }

    /// `GET path`; returns the answer's `result`.
    ///
    /// # Errors
    /// A sentence with the URL and the server's reason.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let mut request = self.agent.get(self.url(path));
        if let Some(key) = &self.api_key {
            request = request.header("api-key", key);
        }
        self.answer(path, request.call())
    }

    /// `DELETE path`; returns the answer's `result`.
    ///
    /// # Errors
    /// A sentence with the URL and the server's reason.
    pub fn delete(&self, path: &str) -> Result<Value, String> {
        let mut request = self.agent.delete(self.url(path));
        if let Some(key) = &self.api_key {
            request = request.header("api-key", key);
        }
        self.answer(path, request.call())
    }

    /// `POST path` with a JSON body; returns the answer's `result`.
    ///
    /// # Errors
    /// A sentence with the URL and the server's reason.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(self.agent.post(self.url(path)), path, body)
    }

    /// `PUT path` with a JSON body; returns the answer's `result`.
    ///
    /// # Errors
    /// A sentence with the URL and the server's reason.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(self.agent.put(self.url(path)), path, body)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn send(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let request = match &self.api_key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        self.answer(path, request.send_json(body))
    }

    fn answer(
        &self,
        path: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, String> {
        let url = self.url(path);
        let mut answer = answer.map_err(|error| format!("{url}: {error}"))?;
        let status = answer.status();
        // Scrolled pages with vectors can be large; the server bounds its own answers.
        let body = answer
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_vec()
            .map_err(|error| format!("{url}: {error}"))?;
        let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(body["result"].take());
        }
        let reason = body["status"]["error"].as_str().unwrap_or("no reason given");
        Err(format!("{url}: {status}: {reason}"))
    }
}

/// A name as one segment of a URL path.
pub fn encode_segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encode = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    name.bytes().map(encode).collect()
}
