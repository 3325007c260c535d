//! Shards: which pod has which, in a cluster.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use maud::{Markup, html};

use super::super::{
    api::{ApiCluster, ApiCopy, ApiPod, ApiShard},
    base::Console,
    view::{NavItem, empty, no_right, scrolling, text::bytes},
    visit::{Refused, Shown, Visit},
};
use crate::http::pages::Visitor;

/// `GET /console/shards`.
pub(in crate::console) async fn shards(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    let mut visit = console.visit(&visitor);
    let shown = show(&mut visit).await;
    visit.answer(NavItem::Health, shown)
}

async fn show(visit: &mut Visit<'_>) -> Result<Shown, Refused> {
    let cluster = match visit.get::<ApiCluster>("/cluster").await {
        Ok(cluster) => Ok(cluster),
        Err(refused) if refused.is_no_right() => Err(no_right("The shards", "operate")),
        Err(refused) if refused.status == StatusCode::NOT_FOUND => {
            Err(empty("This is one Zombi: it has no shards.", &html! {}))
        }
        Err(refused) => return Err(refused),
    };
    let body = html! {
        h1 { "Shards" }
        @match &cluster {
            Ok(cluster) => {
                p { "Cluster " code { (cluster.cluster) } ", as " (cluster.pod) " sees it." }
                @if cluster.shards.iter().any(|shard| shard.copies.len() > 1) {
                    p.muted { "A table belongs to one shard, which one of its pods owns; others follow." }
                } @else {
                    p.muted { "A table belongs to one shard, and a shard to its pod." }
                }
                section { h2 { "Pods" } (pods(&cluster.pods)) }
                section { h2 { "Shards" } (owners(&cluster.shards)) }
            },
            Err(instead) => { (instead) }
        }
    };
    Ok(Shown { title: "Shards".to_owned(), body })
}

fn pods(pods: &[ApiPod]) -> Markup {
    let rows = html! {
        table.grid.narrow {
            thead { tr { th scope="col" { "Pod" } th scope="col" { "Address" } th.n scope="col" { "Owns" } } }
            tbody {
                @for pod in pods {
                    tr {
                        th scope="row" { (pod.pod) }
                        td.long { code { (pod.address) } }
                        td.n { (pod.owned) }
                    }
                }
            }
        }
    };
    scrolling("Pods", &rows)
}

fn owners(shards: &[ApiShard]) -> Markup {
    let have_logs = shards.iter().any(|shard| shard.copy.is_some());
    let rows = html! {
        table.grid.narrow {
            thead {
                tr {
                    th scope="col" { "Shard" }
                    th scope="col" { "Owner" }
                    th scope="col" { "Copies" }
                    @if have_logs {
                        th.n scope="col" { "Term" }
                        th.n scope="col" { "Log" }
                        th scope="col" { "This pod's copy" }
                    }
                }
            }
            tbody {
                @for shard in shards {
                    tr {
                        th scope="row" { (format!("{:03}", shard.shard)) }
                        td { (owner(shard)) }
                        td { (shard.copies.join(", ")) }
                        @if have_logs { (of_copy(shard.copy.as_ref())) }
                    }
                }
            }
        }
    };
    scrolling("Shards", &rows)
}

/// Who owns a shard, as far as the asked pod can tell.
fn owner(shard: &ApiShard) -> &str {
    match (&shard.owner, shard.is_owner_known) {
        (Some(owner), _) => owner,
        (None, true) => "nobody",
        (None, false) => "not known here",
    }
}

/// How this pod's copy of a shard is.
fn of_copy(copy: Option<&ApiCopy>) -> Markup {
    let Some(copy) = copy else {
        return html! { td.n {} td.n {} td { "none" } };
    };
    let state = match (&copy.stopped, copy.has_caught_up, copy.lag) {
        (Some(why), ..) => format!("follows no more: {why}"),
        (None, false, _) => "reads the log".to_owned(),
        (None, true, Some(lag)) if lag > 0 => format!("{lag} entries behind"),
        (None, true, _) => "in step".to_owned(),
    };
    html! {
        td.n { (copy.term) }
        td.n { (copy.log_bytes.map(bytes).unwrap_or_default()) }
        td { (state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_is_only_not_known_is_not_said_to_be_nobody() {
        let shown = |name: Option<&str>, is_owner_known| {
            let (shard, copies, copy) = (3, Vec::new(), None);
            owner(&ApiShard { shard, owner: name.map(str::to_owned), is_owner_known, copies, copy })
                .to_owned()
        };
        assert_eq!(shown(Some("zombi-1"), true), "zombi-1");
        assert_eq!(shown(None, true), "nobody");
        assert_eq!(shown(None, false), "not known here");
    }
}
