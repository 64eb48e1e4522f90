# Three images from one file: worker (CPU, the default), worker-gpu, client.
#   docker build --target worker-gpu -t sensestream-worker-gpu .
# What has been tried and what has not: docs/containers.md.
#   PYTHON_IMAGE  any image with Python 3.11 or 3.12, its venv module and ca-certificates
#   INDEX_URL     a package index other than the public one
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS base
# The home of the user is in /tmp, since the root of a running container is read-only.
ENV PATH=/opt/sensestream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
RUN groupadd --gid 10001 sensestream \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --no-log-init sensestream \
    && mkdir /audio /models /cache \
    && chown sensestream:sensestream /cache

# What only a build needs; nothing of it is left in the images but /opt/sensestream. The system's
# certificates are used and not the installers' own, so that those of a company's base image count.
FROM base AS build
ARG UV_VERSION=0.13.9
ARG INDEX_URL=
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_CONSTRAINT=constraints.txt \
    UV_BUILD_CONSTRAINT=constraints.txt \
    VIRTUAL_ENV=/opt/sensestream
# The environment itself has no pip: nothing is to be installed into a running container.
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install ${INDEX_URL:+--index-url "$INDEX_URL"} "uv==${UV_VERSION}" \
    && /opt/uv/bin/uv venv --python "$(command -v python3)" "$VIRTUAL_ENV"
WORKDIR /src
COPY constraints.txt ./
COPY common common

FROM build AS build-client
COPY producer producer
RUN /opt/uv/bin/uv pip install ${INDEX_URL:+--index-url "$INDEX_URL"} ./common ./producer

# funasr-onnx is what the tests compare the engine with; the worker never imports it. It would bring
# 460 MB (librosa, scipy, numba, jieba), and it asks for onnxruntime, which beside onnxruntime-gpu
# loses CUDA without a word. pip cannot leave a requirement out; uv can.
FROM build AS build-engine
COPY consumer consumer
RUN echo funasr-onnx > excludes.txt
ENV UV_EXCLUDE=excludes.txt

FROM build-engine AS build-worker
RUN /opt/uv/bin/uv pip install ${INDEX_URL:+--index-url "$INDEX_URL"} ./common './consumer[cpu]'

# CUDA and cuDNN come as wheels: the host gives the driver alone. The last line fails the build if
# the other runtime came all the same.
FROM build-engine AS build-worker-gpu
ARG ONNXRUNTIME_GPU_VERSION=1.31.1
RUN /opt/uv/bin/uv pip install ${INDEX_URL:+--index-url "$INDEX_URL"} \
        ./common './consumer[gpu]' "onnxruntime-gpu==${ONNXRUNTIME_GPU_VERSION}" \
    && ! /opt/uv/bin/uv pip show --quiet onnxruntime

FROM base AS client
COPY --from=build-client /opt/sensestream /opt/sensestream
COPY LICENSE /usr/share/doc/sensestream/
# By number, so that an orchestrator can see that it is not root's.
USER 10001:10001
WORKDIR /audio
ENTRYPOINT ["sensestream"]
CMD ["--help"]

FROM base AS base-worker
ENV SENSESTREAM_AUDIO_ROOTS=/audio \
    SENSESTREAM_MODEL_CACHE_DIR=/cache
COPY LICENSE /usr/share/doc/sensestream/
USER 10001:10001
WORKDIR /audio
# SIGTERM drains; the worker handles it as PID 1 as well as below `--init`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --retries=3 --start-period=60s \
    CMD ["sensestream-worker", "--health"]
ENTRYPOINT ["sensestream-worker"]

FROM base-worker AS worker-gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SENSESTREAM_DEVICE=cuda
COPY --from=build-worker-gpu /opt/sensestream /opt/sensestream

FROM base-worker AS worker
ENV SENSESTREAM_DEVICE=cpu
COPY --from=build-worker /opt/sensestream /opt/sensestream
