//! What pages load: a script, a style sheet, and uPlot, which draws graphs. A name has a hash of what it
//! names, so browsers may keep it for ever.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{base::PATH, browsers::of_console};
use crate::http::pages::Visitor;
use contracts::hex::hex;

/// Characters of a hash in a name.
const HASH_CHARS: usize = 16;

/// All of them.
pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    script: Asset::new("console", "js", include_bytes!("assets/console.js")),
    style: Asset::new("console", "css", include_bytes!("assets/console.css")),
    icon: Asset::new("zombi", "svg", include_bytes!("assets/zombi.svg")),
    plot_script: Asset::new("uplot", "js", include_bytes!("assets/vendor/uPlot.iife.min.js")),
    plot_style: Asset::new("uplot", "css", include_bytes!("assets/vendor/uPlot.min.css")),
});

/// What pages load.
pub(super) struct Assets {
    pub(super) script: Asset,
    pub(super) style: Asset,
    pub(super) icon: Asset,
    pub(super) plot_script: Asset,
    pub(super) plot_style: Asset,
}

/// One file.
pub(super) struct Asset {
    name: String,
    media_type: &'static str,
    content: &'static [u8],
}

impl Asset {
    fn new(stem: &str, extension: &str, content: &'static [u8]) -> Self {
        let media_type = match extension {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        let hash = hex(&Sha256::digest(content));
        Self { name: format!("{stem}-{}.{extension}", &hash[..HASH_CHARS]), media_type, content }
    }

    /// Where it is.
    pub(super) fn path(&self) -> String {
        format!("{PATH}/assets/{}", self.name)
    }
}

impl Assets {
    fn all(&self) -> [&Asset; 5] {
        let Self { script, style, icon, plot_script, plot_style } = self;
        [script, style, icon, plot_script, plot_style]
    }
}

/// `GET /console/assets/{name}`.
pub(super) async fn asset(visitor: Visitor) -> Response {
    let Some(asset) = ASSETS.all().into_iter().find(|asset| asset.name == visitor.named()) else {
        return of_console(StatusCode::NOT_FOUND.into_response());
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    of_console((headers, Bytes::from_static(asset.content)).into_response())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn names_tell_what_is_in_them() {
        let assets = ASSETS.all();
        let names: std::collections::BTreeSet<_> = assets.iter().map(|asset| &asset.name).collect();
        assert_eq!(names.len(), assets.len());
        assert!(ASSETS.script.path().starts_with("/console/assets/console-"));
        assert!(ASSETS.script.path().ends_with(".js"));
        assert_ne!(Asset::new("a", "js", b"1").name, Asset::new("a", "js", b"2").name);
    }

    #[test]
    fn what_others_wrote_is_what_they_published() {
        let vendored: Value = serde_json::from_str(include_str!("assets/vendor/uplot.json")).unwrap();
        let version = vendored["version"].as_str().unwrap();
        let script = std::str::from_utf8(ASSETS.plot_script.content).unwrap();
        assert!(script.contains(&format!("(v{version})")), "the version that it says");
        let licence: &[u8] = include_bytes!("assets/vendor/LICENSE.uPlot");
        assert!(licence.starts_with(b"The MIT License"));
        let files = [
            ("uPlot.iife.min.js", ASSETS.plot_script.content),
            ("uPlot.min.css", ASSETS.plot_style.content),
            ("LICENSE.uPlot", licence),
        ];
        assert_eq!(vendored["sha256"].as_object().unwrap().len(), files.len());
        for (name, content) in files {
            let hash = hex(&Sha256::digest(content));
            assert_eq!(vendored["sha256"][name], Value::from(hash), "{name}");
        }
    }

    #[test]
    fn our_own_script_is_short_and_needs_no_leave() {
        let script = std::str::from_utf8(ASSETS.script.content).unwrap();
        assert!(script.lines().count() <= 300, "{} lines", script.lines().count());
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
        ] {
            assert!(!script.contains(word), "{word}");
        }
        let style = std::str::from_utf8(ASSETS.style.content).unwrap();
        assert!(!style.contains("@import") && !style.contains("url("));
    }
}
