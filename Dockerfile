# The image of the daemon: one program, the C library, the certificate authorities, a list of what the program is
# made of, and nothing else: no shell, no package manager.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag verifyd:local .
#   docker build --build-arg FEATURES=simulator --tag verifyd:demo .    # with demo, simulate and bench
#
# It needs BuildKit (the default since Docker 23; DOCKER_BUILDKIT=1 before).

# ---- sources ------------------------------------------------------------------------------------
FROM rust:1.95.0-bookworm AS sources

WORKDIR /src
# .dockerignore lets through only what the program is made of.
COPY . .

# ---- build --------------------------------------------------------------------------------------
FROM sources AS build

# The commit, for `verifyd version`: the history is not here.
ARG REVISION=unknown
ARG FEATURES=
# The caches stay with the builder, so the program is taken out of them in the same step. Beside it go the libraries
# that it is linked with, and what scanners of images read to know their versions.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    set -eu; \
    # Cargo goes by times alone, and the folder may be of a later checkout.
    find . -path ./target -prune -o -type f -exec touch {} +; \
    VERIFYD_BUILD_COMMIT="${REVISION}" cargo build --release --locked --no-default-features --features "${FEATURES}" --bin verifyd; \
    install -D -m 0755 target/release/verifyd /root-of-image/usr/local/bin/verifyd; \
    cd /root-of-image; \
    ldd usr/local/bin/verifyd | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=.; \
    cp --parents /etc/ssl/certs/ca-certificates.crt .; \
    mkdir -p etc var/lib/dpkg/status.d; \
    for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg-query --status "$package" > "var/lib/dpkg/status.d/$package"; \
    done; \
    cp --parents --dereference /etc/os-release .; \
    echo 'verifyd:x:10001:10001::/:/' > etc/passwd; \
    echo 'verifyd:x:10001:' > etc/group

# ---- list of components -------------------------------------------------------------------------
FROM rust:1.95.0-bookworm AS cyclonedx

RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo install --quiet --locked --version 0.5.9 --root /opt/cyclonedx cargo-cyclonedx

FROM sources AS components

COPY --from=cyclonedx /opt/cyclonedx /opt/cyclonedx
ARG FEATURES=
# A fixed time: the same sources give the same list. What only tests depend on, and their crates, would be in it as well.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    set -eu; \
    export PATH=/opt/cyclonedx/bin:$PATH SOURCE_DATE_EPOCH=0; \
    sed -i -e '/^\[dev-dependencies\]$/,/^$/d' -e 's/^members = .*/members = []/' Cargo.toml; \
    cargo cyclonedx --quiet --format json --spec-version 1.5 --no-default-features --features "${FEATURES}" \
        --override-filename verifyd.cdx; \
    install -D -m 0644 verifyd.cdx.json /out/verifyd.cdx.json

# ---- run ----------------------------------------------------------------------------------------
FROM scratch AS run

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="verifyd" \
      org.opencontainers.image.description="A queue-driven worker daemon that checks whether a customer's provider connection really works" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /root-of-image/ /
COPY --from=components /out/verifyd.cdx.json /usr/share/doc/verifyd/verifyd.cdx.json
COPY LICENSE /usr/share/doc/verifyd/LICENSE

# Probes and the metrics come from outside of the container's own loopback.
ENV PATH=/usr/local/bin \
    VERIFYD__HTTP__LISTEN=0.0.0.0:9464

# A number and not a name: Kubernetes' runAsNonRoot can only judge a number.
USER 10001:10001
WORKDIR /

EXPOSE 9464
# `serve` drains on it: no new runs, then the grace period for those that are under way.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["verifyd", "healthcheck"]

ENTRYPOINT ["verifyd"]
CMD ["serve"]
