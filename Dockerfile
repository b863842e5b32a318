# syntax=docker/dockerfile:1
# The exporter and every other command, in an image without a shell:
#
#     docker build --tag callsight .
#     docker run --rm callsight serve --region us --nats-url nats://host:4222
#
# Builder and runtime use the same Debian, and so the same C library.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
# Cargo's downloads and build results stay in the builder's caches, so a change to the sources
# recompiles only them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin callsight \
    && install -D target/release/callsight /out/callsight

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/callsight /usr/local/bin/callsight
COPY LICENSE LICENSE-MIT LICENSE-APACHE /usr/share/doc/callsight/
# The ids of `nonroot`: Kubernetes can't tell from a name that it is not root.
USER 65532:65532
# Loopback, the default, would be unreachable from outside the container.
ENV CALLSIGHT_LISTEN=0.0.0.0:9464
EXPOSE 9464
ENTRYPOINT ["/usr/local/bin/callsight"]
CMD ["serve"]
