//! Every error code: its status, its cause and what to do. `docs/errors.md` and `/docs/errors` are made from
//! this table.

use axum::http::StatusCode;

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $cause:literal $cure:literal)*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $cause] $variant,)*
        }

        impl Code {
            /// All of them, in the order of the document.
            pub const ALL: &[Code] = &[$(Code::$variant),*];

            /// The `code` of the problem.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status),* }
            }

            /// What causes it.
            pub fn cause(self) -> &'static str {
                match self { $(Code::$variant => $cause),* }
            }

            /// What to do.
            pub fn cure(self) -> &'static str {
                match self { $(Code::$variant => $cure),* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" BAD_REQUEST
        "The request cannot be understood as HTTP for this path, or it is HTTP/1.1 and has no `Host`, or \
         more than one, or one that is not a valid host name."
        "Compare it with `/openapi.json`."
    Unauthenticated "unauthenticated" UNAUTHORIZED
        "There is no credential, or it is not accepted: `reason` says why."
        "Send `Authorization: Bearer TOKEN` with a token that is valid for this server."
    Forbidden "forbidden" FORBIDDEN
        "The caller may not do this: no binding of the policy gives `principal` the right to `verb` \
         `resource`. The answer is the same whether the resource exists or not. Or a token came to the admin \
         port from another machine, while the main port speaks TLS."
        "Ask whoever keeps the policy. `zombi auth can` says what a principal may do."
    AuthUnavailable "auth_unavailable" SERVICE_UNAVAILABLE
        "Tokens cannot be verified: the issuer's keys have not been fetched yet."
        "Try again after `Retry-After`. Static tokens work meanwhile."
    BadPath "bad_path" BAD_REQUEST
        "A part of the path is not UTF-8 after URL decoding."
        "Send UTF-8, percent-encoded."
    BadTableName "bad_table_name" BAD_REQUEST
        "A table's name breaks the rule `^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`."
        "Choose another name."
    BadGroupName "bad_group_name" BAD_REQUEST
        "A consumer group's name breaks the rule `^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`."
        "Choose another name."
    BadQuery "bad_query" BAD_REQUEST
        "A query parameter is unknown, is given twice, has the wrong form, or does not go with the others."
        "`detail` names the parameter; the parameters are in `/openapi.json`."
    BadLimit "bad_limit" BAD_REQUEST
        "`limit` is 0, or `limit` or `last` is above `limits.page_records`, which `limit` says."
        "Ask for fewer and follow `next_cursor`."
    BadCursor "bad_cursor" BAD_REQUEST
        "No read of this table has returned this cursor: it was cut, changed, or belongs to another table."
        "Send `next_cursor` unchanged. If it is lost, start again, or from an offset."
    BadPartition "bad_partition" BAD_REQUEST
        "The header `X-Partition` (or `Zombi-Partition`) is not a whole number, two such headers differ, or \
         an event names another partition; `index` or `line` says which."
        "Send digits only, and name a partition in one place."
    BadJson "bad_json" BAD_REQUEST
        "The body, or a line of it, is not JSON of the right form: a syntax error, an array or a scalar \
         where an object is due, an unknown, missing or repeated field, half of a surrogate pair (`\\ud83d` \
         alone), UTF-16, trailing bytes."
        "`detail` says where; in a stream `line` says which line."
    BadLogLevel "bad_log_level" BAD_REQUEST
        "The level is neither one of `error`, `warn`, `info`, `debug`, `trace`, `off`, nor a list of filters."
        "Send a level, or filters such as `zombi=debug,info`."
    BadProtobuf "bad_protobuf" BAD_REQUEST
        "The body is not the protobuf message that the path takes. It is read strictly: unknown fields, \
         repeated singular fields, wrong wire types and numbers out of range are refused."
        "Use the messages of `proto/zombi/v1/event.proto`."
    BadPayload "bad_payload" BAD_REQUEST
        "An event has neither or both of `payload` and `payload_base64`, its base64 does not decode, its \
         text is not UTF-8, or its JSON nests deeper than 128."
        "Send exactly one, in the right form."
    BadCloudEvent "bad_cloudevent" BAD_REQUEST
        "A CloudEvent breaks CloudEvents 1.0; `attribute` names what is missing or wrong, and in a batch \
         `index` says of which event."
        "Send `id`, `source`, `type` and `specversion` 1.0, attributes named in lower-case letters and \
         digits, `time` in RFC 3339, and `data` or `data_base64`, not both."
    NoRecords "no_records" BAD_REQUEST
        "A bulk write has no events: `records` is empty."
        "Send at least one."
    DuplicateCommit "duplicate_commit" BAD_REQUEST
        "One commit request names a partition twice."
        "Commit one offset for each partition."
    BodyBroken "body_broken" BAD_REQUEST
        "The body broke off, or its compression does not decode."
        "Send it again, with idempotency keys if it was a stream."
    PartitionOutOfRange "partition_out_of_range" UNPROCESSABLE_ENTITY
        "A partition's number is not from 0 to `limits.partitions_per_table` - 1."
        "Use fewer partitions, or raise the limit."
    TimestampOutOfRange "timestamp_out_of_range" UNPROCESSABLE_ENTITY
        "`timestamp_ms` is outside the years 1 to 9999."
        "Send milliseconds since 1970, or leave it out for the server's clock."
    BadKey "bad_key" UNPROCESSABLE_ENTITY
        "`key` is empty or longer than `limits.key_bytes`. Of a CloudEvent it is `partitionkey`, else \
         `subject`, else `source`."
        "Leave it out, or send a shorter one; a CloudEvent needs a shorter `partitionkey`."
    IdempotencyKeyOutOfRange "idempotency_key_out_of_range" UNPROCESSABLE_ENTITY
        "`idempotency_key` is empty or longer than `limits.idempotency_key_bytes`."
        "Leave it out, or send a shorter one, such as a hash."
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY
        "The idempotency key is known, and its first write, at `offset`, had another payload or `key`; \
         `index` or `line` says which event this is. Nothing was written."
        "Give each event an idempotency key of its own. If this is a retry, send the same payload, of the \
         same kind and bytes (in JSON, white space between tokens does not count), and the same `key`."
    CommitBeyondEnd "commit_beyond_end" UNPROCESSABLE_ENTITY
        "A consumer offset is beyond the partition's `next`."
        "Commit the offset after the last event that was read, at most `next`."
    NoColdTier "no_cold_tier" UNPROCESSABLE_ENTITY
        "The request needs S3, and `s3.bucket` is not set."
        "Configure a bucket, or do not ask for one."
    TooManyTables "too_many_tables" UNPROCESSABLE_ENTITY
        "The request would create more tables than `limits.tables`."
        "Use partitions or headers instead of tables, or raise the limit."
    TooManyPartitions "too_many_partitions" UNPROCESSABLE_ENTITY
        "The request would create more partitions, in all tables together, than `limits.partitions`."
        "Use fewer partitions, or raise the limit together with the memory."
    TooManyGroups "too_many_groups" UNPROCESSABLE_ENTITY
        "The commit would create more consumer groups than `limits.groups`, or more offsets than \
         `limits.group_offsets`."
        "Delete groups that nobody uses, let `consumers.expire_secs` forget them, or raise the limit."
    PartitionsShrink "partitions_shrink" UNPROCESSABLE_ENTITY
        "The change would leave a table with fewer `partitions`."
        "Keep their number: keys would move, and events would stay behind in partitions that nobody reads."
    BadErasure "bad_erasure" BAD_REQUEST
        "An erasure must name exactly one of `offsets`, `key`, `header` and `idempotency_key`, and what it \
         names must not be empty; `reason` has at most 1024 bytes."
        "Say in one of these ways what is to be erased."
    EraseBeyondEnd "erase_beyond_end" UNPROCESSABLE_ENTITY
        "An offset to erase was not given to an event yet: the partition's `next` is not behind it. Nothing \
         is erased."
        "Check the partition and the offsets."
    TooManyOffsets "too_many_offsets" UNPROCESSABLE_ENTITY
        "The erasure names, or finds, more events than `erase.offsets`. Nothing is erased."
        "Ask for several erasures, by `partition` or by offsets, or raise the limit. A whole table goes with \
         `DELETE /tables/{table}?now=true`."
    UnknownErasure "unknown_erasure" NOT_FOUND
        "The table has no erasure with this id. Of those that are done, the last `erase.keep` are remembered."
        "Check the table and the id."
    UnknownRoute "unknown_route" NOT_FOUND
        "There is nothing at this path."
        "The paths are in `/openapi.json`."
    UnknownTable "unknown_table" NOT_FOUND
        "There is no table of this name: nothing was written to it, or it was deleted."
        "Check the name; the first write creates a table."
    UnknownGroup "unknown_group" NOT_FOUND
        "The consumer group has committed nothing."
        "Check the name; the first commit creates a group."
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED
        "The path does not know the method."
        "The header `Allow` lists the methods that it knows."
    NotAcceptable "not_acceptable" NOT_ACCEPTABLE
        "`Accept` refuses every shape that the answer can have."
        "Accept `application/json`."
    CrossOrigin "cross_origin" FORBIDDEN
        "A browser sent the write from a page of another origin."
        "List the page's origin in `http.origins`, if it may write here."
    WrongHost "wrong_host" MISDIRECTED_REQUEST
        "`Host` is none of those in `http.hosts`, or, if that is empty, a browser asks at a name that is not the server's own."
        "Use one of the server's names, or list this one."
    Moved "moved" MISDIRECTED_REQUEST
        "The pod was asked for what another one owns. Between pods `Zombi-Owner` names it; a client sees \
         this only when it asks on the admin port for the move of a shard that another pod owns."
        "Ask without `Zombi-Hop`: any pod passes requests on. On the admin port ask the shard's owner, which \
         `GET /cluster` names."
    Timeout "timeout" REQUEST_TIMEOUT
        "The body was too slow: nothing of it arrived for `limits.body_idle_secs`, less than \
         `limits.body_min_bytes_per_sec` arrived, or not all of it within `limits.body_secs`. The last two \
         do not count for a stream of lines."
        "Send it without pauses. In a stream, `committed` lines are durable."
    OffsetMismatch "offset_mismatch" CONFLICT
        "`expected_offset` is not the partition's next offset, which is in `next`: another client has \
         written."
        "Read what was written, decide again, and send the new `next`."
    CommitBackwards "commit_backwards" CONFLICT
        "A consumer offset would step back from `committed`."
        "Usually a slower member of the group: ignore it. To rewind, commit with `\"force\": true`."
    OffsetExpired "offset_expired" GONE
        "The event at this offset was dropped, by retention or with its table; the first offset that can be \
         read is `earliest`."
        "Go on with `next_cursor`, or from `earliest`; what came before is gone."
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE
        "The body is over `limits.body_bytes`, or `limits.decoded_body_bytes` after decompression."
        "Split it, or stream it as `application/x-ndjson`."
    RecordTooLarge "record_too_large" PAYLOAD_TOO_LARGE
        "An event is over `limits.record_bytes`; `index` or `line` says which."
        "Store large data elsewhere and send its location, or raise the limit."
    TooManyHeaders "too_many_headers" PAYLOAD_TOO_LARGE
        "An event has more headers than `limits.record_headers`; `index` or `line` says which."
        "Put them into the payload, or raise the limit."
    TooManyRecords "too_many_records" PAYLOAD_TOO_LARGE
        "A request has more events or commits than `limits.bulk_records`; `index` is the first one too many."
        "Split it, or stream it as `application/x-ndjson`."
    HeadTooLarge "head_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE
        "Path and headers of the request are together over `limits.header_bytes`."
        "Send fewer or shorter headers. The headers of an event go into the body."
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE
        "The content type is not `application/json`, `application/x-protobuf` or `application/x-ndjson`, or \
         the content encoding is not gzip, zstd, deflate or snappy; or a protobuf body is said to be another \
         message. CloudEvents are taken as JSON only."
        "Send one of these."
    OffsetBeyondEnd "offset_beyond_end" RANGE_NOT_SATISFIABLE
        "A read starts beyond the partition's `next`."
        "Start at `next` or before. If the offset was real once, the partition has lost events: see `lost`."
    QuotaExceeded "quota_exceeded" TOO_MANY_REQUESTS
        "The principal is over a quota of the policy; `quota` says which: `requests`, `write_bytes`, \
         `read_bytes`, `inflight`, `streams`, `flushes`, `tables`, `partitions` or `groups`. Nothing was \
         written."
        "Try again after `Retry-After`. `tables`, `partitions` and `groups` count what the principal has \
         made, and waiting does not help: delete tables or groups that nobody needs, or raise the quota."
    Internal "internal" INTERNAL_SERVER_ERROR
        "A bug: the request ended in a panic, which is in the server's log."
        "Report it with the log line. A write may have been stored: send it again with the same idempotency \
         key."
    Corrupt "corrupt" INTERNAL_SERVER_ERROR
        "Stored bytes have changed; `detail` names the object. Wrong bytes are never served."
        "For a segment: restore the object from a version of the bucket. For RocksDB: replace the volume; \
         what is in S3 comes back."
    Overloaded "overloaded" SERVICE_UNAVAILABLE
        "A resource is used up; `reason` says which: `queue_full`, `hot_full`, `disk_full`, `memory` \
         (bodies), `answers`, `tails`, `cold_reads`, `keys_full`, `erasures` (`erase.pending` at once), \
         `log_full` (the shard's log in a cluster), or `slow` (the body was slow, and others needed its \
         memory). Nothing was written."
        "Try again after `Retry-After`. If it lasts: `hot_full` and `log_full` mean that events do not reach \
         S3, `disk_full` that the volume is too small, `keys_full` that `idempotency.max_bytes` is too small."
    ColdUnavailable "cold_unavailable" SERVICE_UNAVAILABLE
        "S3 does not answer, and the request needs it: a read of events that only S3 has, a flush, or \
         `wait_for=cold`. A read never returns a short page instead."
        "Try again after `Retry-After`, and check the bucket, the network and the credentials. Other writes \
         go on."
    HotUnavailable "hot_unavailable" SERVICE_UNAVAILABLE
        "RocksDB could not be read."
        "Try again, and check the server's log and the volume."
    Starting "starting" SERVICE_UNAVAILABLE
        "The server is opening its volume and its bucket. Nothing was written."
        "Try again after `Retry-After`; `/readyz` says how far it is, with identity on only that of the \
         admin port."
    ForwardFailed "forward_failed" SERVICE_UNAVAILABLE
        "The request needs another pod of the cluster, which is `pod`, and that did not answer. `outcome` is \
         `not_written` if there was no connection to it."
        "Try again after `Retry-After`, with the same idempotency keys if `outcome` is `unknown`. If it \
         lasts, see why the pod is not there; other tables go on."
    Demoted "demoted" SERVICE_UNAVAILABLE
        "Another copy of the table's shard has taken over while the request was under way. Nothing was \
         written, unless `outcome` is `unknown`, as it may be of a write that waits for S3."
        "Try again after `Retry-After`, with the same idempotency keys: the request then goes to the \
         new owner."
    NoOwner "no_owner" SERVICE_UNAVAILABLE
        "No copy of the table's shard owns it: the pods that have one are gone, or one is about to take \
         over. Nothing was written."
        "Try again after `Retry-After`. If it lasts, see why these pods are not there."
    LogUnavailable "log_unavailable" SERVICE_UNAVAILABLE
        "The log of the table's shard does not answer, or has no quorum. `outcome` is `not_written` if the \
         write was not sent to it."
        "Try again after `Retry-After`, with the same idempotency keys if `outcome` is `unknown`. If it \
         lasts, see to the servers that keep the log."
    WriteFailed "write_failed" SERVICE_UNAVAILABLE
        "RocksDB or its sync failed: the write is stored once or not at all. The process exits, and its \
         next start finds out which."
        "Send it again with the same idempotency key once the server is back."
    Closing "closing" SERVICE_UNAVAILABLE
        "The server is stopping. Nothing was written."
        "Try again after `Retry-After`."
    FenceUnknown "fence_unknown" SERVICE_UNAVAILABLE
        "The manifests in S3 have not been seen for `s3.lease_secs`, so that another Zombi may have taken \
         over the bucket; or this one has just taken over, and the one before may still write. Reads go on."
        "Try again after `Retry-After`, with the same idempotency keys if `outcome` is `unknown`. If it \
         lasts, S3 is out of reach: see the runbook on S3."
    Fenced "fenced" SERVICE_UNAVAILABLE
        "Another Zombi has taken over the bucket; this one confirms nothing more and exits."
        "Give each Zombi its own bucket or prefix."
}

/// What has no code: bytes that are no request. hyper answers them itself, before anything else is asked, and
/// takes no body for that.
pub(super) const NO_REQUEST: &str = "\
    What cannot be a request gets a status without a body, and the connection ends, of HTTP/2 the stream: \
    400 for a head that is not HTTP, 414 for an address of 65,535 bytes or more, 431 for more than 512 \
    headers or a head of more than twice `limits.header_bytes`. Nothing of it is written.";

/// The document of all codes, as Markdown.
#[cfg(test)]
fn document() -> String {
    let mut text = String::from(
        "# Errors\n\n\
         Every error is `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)): \
         `type`, `title`, `status`, `detail` for people, `code` for\n\
         programs, and `request_id`, which is in the log too. On writes `outcome` says what to do: after \
         `not_written` you may send it again or not;\n\
         after `unknown`, send it again with the same idempotency key.\n\n\
         This page is made from the table in the code; every server has it at `/docs/errors`.\n",
    );
    text += &format!("\n{NO_REQUEST}\n");
    for code in Code::ALL {
        let (name, status) = (code.name(), code.status());
        text += &format!("\n## {name}\n\n`{status}`. {} {}\n", code.cause(), code.cure());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), document(), "run UPDATE_DOCS=1 cargo test --lib");
    }

    #[test]
    fn names_are_apart() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
