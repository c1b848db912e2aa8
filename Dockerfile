# The controller; compose.yaml says how it is run. As its own user it needs the group of the engine's socket (--group-add) and
# volumes that this user owns; docs/security.md says what that costs after a boot.
ARG BASE_IMAGE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements requirements
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/proxyctl \
 && /build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.lock \
 && /build/bin/pip --python /opt/proxyctl install --no-cache-dir --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md ./
COPY proxyctl proxyctl
COPY templates templates
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /build/wheel . \
 && /build/bin/pip --python /opt/proxyctl install --no-deps --no-index /build/wheel/*.whl

FROM ${BASE_IMAGE}
COPY --from=build /opt/proxyctl /opt/proxyctl
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/proxyctl --shell /usr/sbin/nologin proxyctl \
 && install -d -o proxyctl -g proxyctl /var/lib/proxyctl /run/proxyctl
ENV PATH=/opt/proxyctl/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER proxyctl
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["proxyctl", "healthcheck"]
ENTRYPOINT ["proxyctl"]
CMD ["run"]
