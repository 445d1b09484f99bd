# The images of Tessera.
#
#   operator      control plane and node agent: `tessera operator|scheduler|agent`. No torch, no tests.
#   worker        what runs in training pods: `tessera-worker`, torch included.
#   worker-local  the same command without its libraries, for local clusters only: they mount them read-only
#                 (docs/images.md). Never push it.
#
# The base is a build argument: any glibc Linux with Python >= 3.11 and its venv module. Python comes from the base,
# everything else from requirements/*.txt, which `make generate` exports from uv.lock, hashes included. Layers are
# ordered by how seldom they change: libraries first, our own code last.
#
# A machine with its own package index or certificate authority hands them in as the secrets `pip-conf` and `ca-bundle`:
# they are mounted while pip runs, and are in no layer and in no history.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# -- pip and the build backend of our distributions; no image keeps this stage
FROM ${BASE} AS tools
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.txt /build/
RUN --mount=type=secret,id=pip-conf,target=/run/secrets/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.crt \
    python="$(command -v python3.11 || command -v python3)" \
    && "$python" -m venv /build/tools \
    && /build/tools/bin/pip install --require-hashes --requirement /build/build.txt \
    && "$python" -m venv --without-pip /opt/tessera \
    && echo /opt/tessera/own > "$(echo /opt/tessera/lib/python3.*/site-packages)/tessera-own.pth"

# -- libraries. Bytecode is compiled here because the images run read-only; unchecked, because nobody edits them there.
FROM tools AS operator-libraries
COPY requirements/operator.txt /build/
RUN --mount=type=secret,id=pip-conf,target=/run/secrets/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.crt \
    /build/tools/bin/pip --python /opt/tessera/bin/python install --no-compile --require-hashes \
        --requirement /build/operator.txt \
    && /opt/tessera/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/tessera/lib

FROM tools AS worker-libraries
COPY requirements/worker.txt /build/
RUN --mount=type=secret,id=pip-conf,target=/run/secrets/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.crt \
    /build/tools/bin/pip --python /opt/tessera/bin/python install --no-compile --require-hashes \
        --requirement /build/worker.txt \
    && /opt/tessera/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/tessera/lib

# -- our own code, installed beside the libraries so that a change of it rewrites one small layer
FROM tools AS operator-own
COPY operator /build/operator
RUN /build/tools/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /build/wheels /build/operator \
    && /build/tools/bin/pip --python /opt/tessera/bin/python install --no-compile --no-deps --no-index \
        --target /opt/tessera/own /build/wheels/*.whl \
    && /opt/tessera/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tessera/own

FROM tools AS worker-own
COPY workloads /build/workloads
RUN /build/tools/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /build/wheels /build/workloads \
    && /build/tools/bin/pip --python /opt/tessera/bin/python install --no-compile --no-deps --no-index \
        --target /opt/tessera/own /build/wheels/*.whl \
    && /opt/tessera/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tessera/own

# -- what all images run on: a user without rights, and a Python that neither writes bytecode nor imports from the
#    working directory
FROM ${BASE} AS runtime
RUN echo 'tessera:x:65532:65532:tessera:/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'tessera:x:65532:' >> /etc/group
ENV PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    PATH=/opt/tessera/own/bin:/opt/tessera/bin:/usr/local/bin:/usr/bin:/bin
LABEL org.opencontainers.image.vendor="Tessera" org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /
USER 65532:65532

FROM runtime AS worker-local
LABEL org.opencontainers.image.title="tessera-worker-local" \
      org.opencontainers.image.description="Tessera's worker without its libraries: for local clusters only"
COPY --chmod=755 tools/worker-local /opt/tessera/own/bin/tessera-worker
COPY workloads/src/tessera_workloads /opt/tessera/own/tessera_workloads
ENV PYTHONPATH=/opt/tessera-worker/site-packages:/opt/tessera/own
ENTRYPOINT ["tessera-worker"]

FROM runtime AS worker
LABEL org.opencontainers.image.title="tessera-worker" \
      org.opencontainers.image.description="Training, federated and benchmark workloads for Tessera's slices"
COPY --from=worker-libraries /opt/tessera /opt/tessera
COPY --from=worker-own /opt/tessera/own /opt/tessera/own
ARG VERSION=dev
LABEL org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["tessera-worker"]

# The last stage is what `docker build .` makes.
FROM runtime AS operator
LABEL org.opencontainers.image.title="tessera-operator" \
      org.opencontainers.image.description="Operator, allocator and node agent for NVIDIA MIG slices"
COPY --from=operator-libraries /opt/tessera /opt/tessera
COPY --from=operator-own /opt/tessera/own /opt/tessera/own
ARG VERSION=dev
LABEL org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["tessera"]
