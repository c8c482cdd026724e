//! Talking with a running server over its control socket: JSON lines, one request, one or many answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use moat_host::world::Failure;
use serde_json::{Value, json};

use crate::environment::Environment;

/// A connection. What the server lends for a command (a place) is lent as long as this lives.
#[derive(Debug)]
pub(crate) struct Control {
    lines: BufReader<UnixStream>,
}

impl Control {
    /// To a running environment.
    pub(crate) fn connect(environment: &Environment) -> Result<Self, Failure> {
        let stream = environment.connect_control().map_err(|error| match environment.running() {
            Err(not_running) => not_running,
            Ok(_) => Failure::new(
                format!("environment `{}` runs but does not answer: {error}", environment.name),
                format!("see `{}`", environment.log_path().display()),
            ),
        })?;
        Ok(Control { lines: BufReader::new(stream) })
    }

    /// One request, one answer.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, Failure> {
        self.send(method, params)?;
        self.next()?.ok_or_else(closed)
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, method: &str, params: &Value) -> Result<(), Failure> {
        let line = format!("{}\n", json!({ "method": method, "params": params }));
        self.lines.get_mut().write_all(line.as_bytes()).map_err(|_| closed())
    }

    /// The next answer; `None` when there are no more.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Failure> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).map_err(|_| closed())? == 0 {
            return Ok(None);
        }
        let mut answer: Value = serde_json::from_str(&line).map_err(|_| closed())?;
        if let Some(ok) = answer.get_mut("ok") {
            return Ok(Some(ok.take()));
        }
        let text = |name: &str| answer.pointer(&format!("/error/{name}")).and_then(Value::as_str).map(str::to_owned);
        Err(Failure { what: text("message").unwrap_or_else(|| "the server refused".to_owned()), help: text("help") })
    }
}

fn closed() -> Failure {
    Failure::new("the environment closed the connection", "`moat status` shows whether it still runs; its log says why")
}
