# The image of `elect`: one stage compiles the binary, the other keeps it.
#
#   docker build -t leader-election .
#
# or, with a binary built outside (with a glibc no newer than DEBIAN_IMAGE's):
#
#   cargo build --release
#   docker build -t leader-election \
#       --build-arg ELECT_BINARY=target/release/elect --build-arg RUST_IMAGE=debian:bookworm-slim .
#
# The choice is made inside the stage and not by naming another one, because the
# classic builder runs every stage.

# Names, not digests: a pinned digest misses Debian's security fixes. To pin, pass your registry's:
# --build-arg DEBIAN_IMAGE=debian@sha256:… (docker image inspect -f '{{index .RepoDigests 0}}' debian:bookworm-slim).
ARG RUST_IMAGE=rust:1-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
ARG ELECT_BINARY=
# Label for finding and pruning this stage's leftovers.
LABEL leader-election.stage=build
WORKDIR /build
# etcd-client compiles etcd's .proto files, which import Google's (libprotobuf-dev).
RUN set -eu; \
    if [ -n "$ELECT_BINARY" ]; then exit 0; fi; \
    apt-get update; \
    apt-get install -y --no-install-recommends libprotobuf-dev protobuf-compiler; \
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN set -eu; \
    if [ -z "$ELECT_BINARY" ]; then \
        cargo build --release --locked --bin elect; \
        ELECT_BINARY=target/release/elect; \
    fi; \
    install -D -m 755 "$ELECT_BINARY" /out/elect

FROM ${DEBIAN_IMAGE}
COPY --from=build /out/elect /usr/local/bin/elect
COPY wait-for-it.sh /wait-for-it.sh
# Fails here, and not at the first start, if the binary does not run on this Debian.
RUN elect --version
# Numeric, so that an orchestrator can verify that it is not root. No account is needed.
USER 10001:10001
# Healthy means that the server's name is in the queue (ELECT_NAME; without it, any
# candidate's). A vacancy is no fault of this container, and a leader elsewhere does not make up for
# a lost place in the queue. `status` itself gives up after 4 s.
HEALTHCHECK --interval=5s --timeout=6s --start-period=15s --retries=3 \
    CMD status=$(elect status --json); echo "$status"; \
        case $status in *"\"name\":\"$ELECT_NAME${ELECT_NAME:+\"}"*) ;; *) exit 1 ;; esac
ENTRYPOINT ["elect"]
CMD ["--help"]
