//! Shards: which pod has which, in a cluster.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use maud::{Markup, html};

use super::super::{
    Console,
    api::{ApiCluster, ApiPod, ApiShard},
    view::{NavItem, empty, no_right, scrolling},
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
                p.muted { "A table belongs to one shard, and a shard to its pod." }
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
    let rows = html! {
        table.grid.narrow {
            thead { tr { th scope="col" { "Shard" } th scope="col" { "Owner" } th scope="col" { "Copies" } } }
            tbody {
                @for shard in shards {
                    tr {
                        th scope="row" { (format!("{:03}", shard.shard)) }
                        td { (shard.owner) }
                        td { (shard.copies.join(", ")) }
                    }
                }
            }
        }
    };
    scrolling("Shards", &rows)
}
