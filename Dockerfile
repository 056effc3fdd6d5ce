# syntax=docker/dockerfile:1
# The serving image.
#   docker build -t trilho-serve .                    models in compiled form: no scikit-learn, no pandas
#   docker build -t trilho-serve --target sklearn .   models that only scikit-learn can serve
# For a build that can be repeated bit by bit, give the base by digest:
#   docker build --build-arg BASE=python:3.11-slim@sha256:... .
ARG BASE=python:3.11-slim

# Installs into a prefix of its own, so that nothing of the tools that install is carried over.
FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_DEFAULT_TIMEOUT=60
# Python is compiled now because nothing can be written later: without it each start costs a second
# more. The packages apart from our own code, so that a change of that does not compile them again.

FROM tools AS compiled-packages
COPY requirements-serve.txt /build/
RUN python -m pip install --require-hashes --no-deps --only-binary :all: --no-compile \
        --prefix /prefix -r /build/requirements-serve.txt \
    && find /prefix -type d -name tests -prune -exec rm -rf {} + \
    && find /prefix -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' \
        -o -name '*.h' -o -name '*.a' \) -delete \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /prefix -p /usr/local /prefix

FROM tools AS sklearn-packages
COPY requirements.txt /build/
RUN python -m pip install --require-hashes --no-deps --only-binary :all: --no-compile \
        --prefix /prefix -r /build/requirements.txt \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /prefix -p /usr/local /prefix

# What both images have in common: no installer, no root, nothing to write to.
FROM ${BASE} AS runtime
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip \
    && rm -rf /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/idlelib \
        /usr/local/lib/python3*/lib2to3 /usr/local/bin/idle* /usr/local/bin/2to3* \
    && find /usr/local -type d -name __pycache__ -prune -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin trilho
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONPATH=/app \
    OMP_NUM_THREADS=1
ARG BASE
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trilho-serve" \
      org.opencontainers.image.description="Answers predictions from a verified model bundle" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /app
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "trilho.serving.health"]
ENTRYPOINT ["python", "-m", "trilho.serving"]
CMD ["serve"]

# The larger image: scikit-learn and the project's own package, which the model's archive refers to.
FROM runtime AS sklearn
LABEL org.opencontainers.image.title="trilho-serve-sklearn"
COPY --from=sklearn-packages /prefix /usr/local
COPY src /app
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app
USER trilho

# The last stage is what `docker build .` makes.
FROM runtime AS compiled
COPY --from=compiled-packages /prefix /usr/local
COPY src/trilho /app/trilho
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app
USER trilho
