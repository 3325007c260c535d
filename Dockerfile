# syntax=docker/dockerfile:1
# The build: docker build -t zombi:dev .
# With what it is: docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t zombi:0.1.0 .
# Images by tag, so that a build here gets their last corrections. A release resolves each to a digest, builds with that and records it.
ARG RUST=docker.io/library/rust:1.95-slim-trixie
ARG RUNTIME=gcr.io/distroless/cc-debian13:nonroot

FROM ${RUST} AS builder
# RocksDB is C++, and its binding is made with libclang. Versions follow the base image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ libclang-dev make && rm -rf /var/lib/apt/lists/*
# Writes the list of crates into the binary, where `cargo audit bin` and scanners of images find it.
RUN cargo install --locked --version 0.7.7 cargo-auditable
WORKDIR /build
# First the dependencies alone, RocksDB among them: this layer stays until Cargo.lock changes.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY crates/contracts/Cargo.toml crates/contracts/
COPY crates/tiering/Cargo.toml crates/tiering/
COPY crates/hot-rocksdb/Cargo.toml crates/hot-rocksdb/
COPY crates/cold-s3/Cargo.toml crates/cold-s3/
COPY crates/shared-log/Cargo.toml crates/shared-log/
COPY crates/testing/Cargo.toml crates/testing/
RUN mkdir -p src tests/it && echo 'fn main() {}' > src/main.rs && touch src/lib.rs tests/s3.rs tests/it/main.rs \
    && for crate in crates/*; do mkdir -p "$crate/src" && touch "$crate/src/lib.rs"; done \
    && cargo auditable build --release --locked --bin zombi
COPY build.rs ./
COPY proto proto
COPY crates crates
COPY src src
COPY docs docs
# For --version and zombi_build_info. Here, so that another commit does not build the dependencies again.
ARG REVISION=unknown
RUN find crates src -name '*.rs' -exec touch {} + && REVISION="${REVISION}" cargo auditable build --release --locked --bin zombi \
    && install -D target/release/zombi /out/zombi && install -d -m 0755 /out/data

FROM ${RUNTIME}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zombi" \
      org.opencontainers.image.description="An event store for Kubernetes: RocksDB hot, S3 cold, one ordered read over both" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=builder /out/zombi /usr/local/bin/zombi
# What the binary has in it, under which licences.
COPY LICENSE NOTICE /usr/share/doc/zombi/
# A new volume gets the owner of what it is mounted on.
COPY --from=builder --chown=65532:65532 /out/data /var/lib/zombi
USER 65532:65532
ENV ZOMBI_DATA_DIR=/var/lib/zombi
# Both allocators, RocksDB's and Zombi's own, keep less of what was freed: a third less at the peak, and no slower. See docs/performance.md.
ENV MALLOC_ARENA_MAX=1 MIMALLOC_PURGE_DELAY=100
VOLUME /var/lib/zombi
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/zombi"]
