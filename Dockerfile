# The image of the daemon: one binary, the certificate authorities, and nothing that needs a shell.

# ---- build --------------------------------------------------------------------------------------
FROM rust:1.95-bookworm AS build

WORKDIR /src
# .dockerignore lets through only what the binary is made of.
COPY . .

# The commit, for `verifyd version`: the history is not here.
ARG REVISION=unknown
# The caches stay with the builder, so the binary is taken out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    VERIFYD_BUILD_COMMIT="${REVISION}" cargo build --release --locked --no-default-features --bin verifyd \
    && install -D -m 0755 target/release/verifyd /out/verifyd

# ---- run ----------------------------------------------------------------------------------------
# The same release of Debian as above, for the same C library.
FROM debian:bookworm-slim AS run

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="verifyd" \
      org.opencontainers.image.description="A queue-driven worker daemon that checks whether a customer's provider connection really works" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# What the providers' certificates are checked against; copied, so that this stage runs no command.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/verifyd /usr/local/bin/verifyd
COPY LICENSE /usr/share/doc/verifyd/LICENSE

# Probes and the metrics come from outside of the container's own loopback.
ENV VERIFYD__HTTP__LISTEN=0.0.0.0:9464

# A number and not a name: Kubernetes' runAsNonRoot can only judge a number.
USER 10001:10001
WORKDIR /

EXPOSE 9464
# `serve` drains on it: no new runs, then the grace period for those that are under way.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["verifyd", "healthcheck"]

ENTRYPOINT ["verifyd"]
CMD ["serve"]
