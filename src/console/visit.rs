//! A page that is being made: what it asks the API, and how it is answered.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{
    api::{ApiMetrics, ApiProblem},
    base::{Console, PATH},
    browsers::of_console,
    view::{
        self, NavItem, PageFrame,
        text::{query_value, shell_quoted},
    },
};
use crate::{
    auth::sessions,
    http::pages::{self, ApiAnswer, Visitor},
};

/// How long a page waits for a place.
const PATIENCE: Duration = Duration::from_secs(5);

/// A page that is being made.
pub(super) struct Visit<'a> {
    pub(super) console: &'a Console,
    pub(super) visitor: &'a Visitor,
    /// What was asked, as commands that ask the same.
    commands: Vec<String>,
    /// The command that follows what is live.
    live: Option<String>,
    /// Taken when the first answer comes: whatever waits for S3 holds no place that other pages need.
    place: Option<SemaphorePermit<'a>>,
}

/// What a page shows.
pub(super) struct Shown {
    pub(super) title: String,
    pub(super) body: Markup,
}

/// A refusal of the API.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) problem: Box<ApiProblem>,
}

impl Refused {
    /// Whether the visitor lacks the right.
    pub(super) fn is_no_right(&self) -> bool {
        matches!(self.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
    }
}

impl Console {
    /// Begins a page.
    pub(super) fn visit<'a>(&'a self, visitor: &'a Visitor) -> Visit<'a> {
        Visit { console: self, visitor, commands: Vec::new(), live: None, place: None }
    }

    /// Whether the visitor's cookie may go over TLS only.
    pub(super) fn is_secure(&self, visitor: &Visitor) -> bool {
        self.has_tls || visitor.says_https
    }

    /// The scheme, the name and the port by which the visitor came.
    pub(super) fn origin(&self, visitor: &Visitor) -> String {
        let scheme = if self.is_secure(visitor) { "https" } else { "http" };
        format!("{scheme}://{}", visitor.host)
    }
}

impl Visit<'_> {
    /// Asks for JSON. `path` has its query; it stands at the foot of the page.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Refused> {
        self.commands.push(self.command(path, None));
        self.ask(path, None).await
    }

    /// Asks for more of what is shown by a command already, or perhaps not at all.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn more<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Refused> {
        self.ask(path, None).await
    }

    /// Puts the command that asks for a path at the foot of the page.
    pub(super) fn note(&mut self, path: &str) {
        self.commands.push(self.command(path, None));
    }

    /// Puts the command that follows a path there, for while the page is live.
    pub(super) fn note_live(&mut self, path: &str) {
        self.live = Some(self.curl("-sN -H 'Accept: text/event-stream'", path, ""));
    }

    /// Asks for the metrics.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn metrics(&mut self) -> Result<ApiMetrics, Refused> {
        self.commands.push(self.command("/metrics", None));
        let answer = self.answered("/metrics", None).await?;
        if answer.status.is_success() {
            Ok(ApiMetrics::new(String::from_utf8_lossy(&answer.body).into_owned()))
        } else {
            Err(refused(answer.status, &answer.body))
        }
    }

    /// Posts JSON, and asks for JSON.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Refused> {
        let body = body.to_string();
        self.commands.push(self.command(path, Some(&body)));
        self.ask(path, Some(body.into_bytes())).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, path: &str, body: Option<Vec<u8>>) -> Result<T, Refused> {
        let answer = self.answered(path, body).await?;
        // A probe that does not pass is an answer, too.
        if (answer.status.is_success() || path.starts_with("/readyz"))
            && let Ok(value) = serde_json::from_slice(&answer.body)
        {
            return Ok(value);
        }
        Err(refused(answer.status, &answer.body))
    }

    /// The answer of the API, read when there is a place for it.
    async fn answered(&mut self, path: &str, body: Option<Vec<u8>>) -> Result<ApiAnswer, Refused> {
        let response = self.console.api.ask(self.visitor, path, body).await;
        if self.place.is_none() {
            let place = timeout(PATIENCE, self.console.places.acquire()).await;
            self.place = place.ok().and_then(Result::ok);
        }
        if self.place.is_none() {
            let problem = ApiProblem {
                title: "Busy".to_owned(),
                detail: "Too many pages are being made. Load this one again in a moment.".to_owned(),
                ..ApiProblem::default()
            };
            return Err(Refused { status: StatusCode::SERVICE_UNAVAILABLE, problem: Box::new(problem) });
        }
        Ok(ApiAnswer::read(response).await)
    }

    /// The command that asks for a path.
    pub(super) fn command(&self, path: &str, body: Option<&str>) -> String {
        let body = body.map(|body| format!(" --json {}", shell_quoted(body))).unwrap_or_default();
        self.curl("-s", path, &body)
    }

    fn curl(&self, flags: &str, path: &str, body: &str) -> String {
        let url = shell_quoted(&format!("{}{path}", self.console.origin(self.visitor)));
        let token =
            if self.console.state.ops.gate.is_some() { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
        format!("curl {flags} {url}{token}{body}")
    }

    /// The page as an answer. Whoever is not known is asked to sign in.
    pub(super) fn answer(&self, place: NavItem, shown: Result<Shown, Refused>) -> Response {
        let (status, shown) = match shown {
            Ok(shown) => (StatusCode::OK, shown),
            Err(refused) if refused.status == StatusCode::UNAUTHORIZED => {
                return see(&way_in(&self.visitor.address));
            }
            Err(refused) => {
                let title = refused.problem.title.clone();
                (refused.status, Shown { title, body: refusal(&refused.problem) })
            }
        };
        let gate = self.console.state.ops.gate.as_ref();
        let session = sessions::cookie(self.visitor.headers());
        let principal = gate.zip(session).and_then(|(gate, id)| gate.signed_in(id));
        // Whoever is let in without a name may have one.
        let is_nobody = gate.is_some() && principal.is_none() && place != NavItem::SignIn;
        let frame = PageFrame {
            place,
            title: &shown.title,
            sign_in: is_nobody.then(|| way_in(&self.visitor.address)),
            live: self.live.as_deref(),
            principal: principal.map(|principal| principal.to_string()),
            address: format!("{}{}", self.console.origin(self.visitor), self.visitor.address),
            commands: &self.commands,
        };
        of_console(pages::page(status, view::layout(&frame, &shown.body)))
    }
}

/// Where to sign in, and then to go on with an address of ours.
pub(super) fn way_in(next: &str) -> String {
    format!("{PATH}/sign-in?next={}", query_value(next))
}

/// A refusal, as a page shows it.
fn refusal(problem: &ApiProblem) -> Markup {
    let ApiProblem { title, detail, code, request_id, .. } = problem;
    html! {
        h1 { (title) }
        div.notice.bad role="alert" {
            p { (detail) }
            @if !code.is_empty() {
                p.muted {
                    "Code " a href=(format!("/docs/errors#{code}")) { code { (code) } }
                    ", request " code { (request_id) }
                }
            }
        }
        p { a href=(PATH) { "To the overview" } }
    }
}

/// The page of an error that comes before any of our pages, or instead of it.
pub(super) fn error_page(status: StatusCode, problem: &[u8]) -> Response {
    let Refused { problem, .. } = refused(status, problem);
    let frame = PageFrame {
        place: NavItem::Elsewhere,
        title: &problem.title,
        principal: None,
        sign_in: None,
        address: String::new(),
        commands: &[],
        live: None,
    };
    of_console(pages::page(status, view::layout(&frame, &refusal(&problem))))
}

fn refused(status: StatusCode, body: &[u8]) -> Refused {
    let mut problem: ApiProblem = serde_json::from_slice(body).unwrap_or_default();
    if problem.title.is_empty() {
        status.canonical_reason().unwrap_or("Error").clone_into(&mut problem.title);
    }
    if problem.detail.is_empty() {
        "The answer broke off, or it is too long to be shown.".clone_into(&mut problem.detail);
    }
    let status = if status.is_success() { StatusCode::BAD_GATEWAY } else { status };
    Refused { status, problem: Box::new(problem) }
}

/// Leads the browser to another page.
pub(super) fn see(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static(PATH));
    of_console((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response())
}
