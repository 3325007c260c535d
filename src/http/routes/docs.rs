//! Pages for people. They load nothing from other servers.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::http::{
    code::{Code, NO_REQUEST},
    error::Problem,
    params::{NoParams, Params},
};

const STYLE: &str = "\
    body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
    h2{font:600 1.1rem ui-monospace,monospace;margin:2rem 0 0}\
    code{font-family:ui-monospace,monospace}\
    p{margin:.3rem 0}";

/// `GET /docs/errors`: the `type` of every problem points here.
pub(crate) async fn errors(Params(NoParams {}): Params<NoParams>) -> Result<Markup, Problem> {
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Zombi: errors" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Errors" }
                p {
                    "Every error has a " code { "code" } ", a " code { "detail" } " and the "
                    code { "request_id" } ", which is in the log too. "
                    "On writes " code { "outcome" } " says what to do: after " code { "not_written" }
                    " you may send it again or not; after "
                    code { "unknown" } ", send it again with the same idempotency key."
                }
                p { (marked(NO_REQUEST)) }
                @for code in Code::ALL {
                    h2 id=(code.name()) { (code.name()) }
                    p { (code.status().to_string()) }
                    p { (marked(code.cause())) }
                    p { (marked(code.cure())) }
                }
            }
        }
    })
}

/// A text whose parts between backquotes are code.
fn marked(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}
