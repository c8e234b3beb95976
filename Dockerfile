# popnet in a container; docs/containers.md says how to run it, and why so.
#
#   docker build -t popnet .
#
# Arguments: BASE, another base image (a Debian or Ubuntu with Python 3.11 or later); REVISION and CREATED, for the labels; PIP_CERT, PIP_INDEX_URL,
# for builders behind a proxy.

ARG BASE=docker.io/library/debian:bookworm-20250520-slim

# The builder has a compiler. It makes a virtual environment of the wheel and what it needs, each at one version, by hash.
FROM ${BASE} AS builder
ARG PIP_CERT=
ARG PIP_INDEX_URL=https://pypi.org/simple
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3-dev python3-venv
WORKDIR /source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY container/requirements.txt container/
RUN python3 -m venv /opt/popnet \
 && /opt/popnet/bin/pip install --require-hashes -r container/requirements.txt
COPY pyproject.toml setup.py MANIFEST.in LICENSE README.md ./
COPY kernels kernels
COPY docs/man docs/man
COPY tools/completion tools/completion
COPY tools/grafana tools/grafana
COPY tools/wireshark tools/wireshark
COPY popnet popnet
RUN /opt/popnet/bin/pip wheel --no-deps --wheel-dir /wheels . \
 && /opt/popnet/bin/pip install --no-deps /wheels/*.whl \
 && /opt/popnet/bin/pip uninstall --quiet --yes setuptools pip

# The image has Python, what kernels are made of, and the environment; no compiler, no pip.
FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    busybox-static iproute2 iputils-ping libpcap0.8 openssh-client python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
 && useradd --uid 1000 --create-home --shell /bin/bash popnet \
 && install -d -o popnet -g popnet -m 0700 /run/popnet /var/lib/popnet /captures \
 && install -d /etc/popnet/keys
COPY --from=builder /opt/popnet /opt/popnet
ENV PATH=/opt/popnet/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    POPNET_RUN_DIR=/run/popnet \
    POPNET_STATE_DIR=/var/lib/popnet \
    POPNET_AUTHORIZED_KEYS=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="popnet" \
      org.opencontainers.image.description="Replicated kernels on one Linux box, in user space" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-20250520-slim"
USER popnet
WORKDIR /home/popnet
EXPOSE 2222
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=2 CMD ["popnet", "status", "--quiet"]
# `popnet serve` is its own init: it reaps, and takes everything down at SIGTERM.
ENTRYPOINT ["popnet"]
CMD ["serve", "demo", "--gateway", "0.0.0.0:2222", "--public", "--authorized-keys", "/etc/popnet/keys", "--authorized-keys", "$POPNET_AUTHORIZED_KEYS"]
