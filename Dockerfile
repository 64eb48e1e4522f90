# Three images from one file: worker (CPU, the default), worker-gpu, client.
#   docker build --target worker-gpu -t sensestream-worker-gpu .
# What has been tried and what has not: docs/containers.md.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS base
# numba (through funasr-onnx and librosa) wants a cache it can write to, and the root of a running
# container is read-only.
ENV PATH=/opt/sensestream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    SENSESTREAM_CACHE_DIR=/cache
RUN useradd --system --uid 10001 --home-dir /tmp --no-create-home sensestream \
    && mkdir /audio /models /cache \
    && chown sensestream /cache

# What only a build needs; nothing of it is left in the images but /opt/sensestream.
FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN python -m venv /opt/sensestream
COPY common common

FROM build AS build-client
COPY producer producer
RUN pip install ./common ./producer

FROM build AS build-worker
COPY consumer consumer
RUN pip install ./common './consumer[cpu]'

# funasr-onnx asks for onnxruntime, and onnxruntime beside onnxruntime-gpu loses CUDA without a
# word. pip cannot be told otherwise; uv reads the correction in pyproject.toml. The last line
# fails the build if both runtimes came all the same. CUDA and cuDNN come as wheels: the host
# gives the driver alone.
FROM build AS build-worker-gpu
ARG UV_VERSION=0.13.9
ARG ONNXRUNTIME_GPU_VERSION=1.31.1
# uv wants every member of the workspace to be there.
COPY producer producer
COPY consumer consumer
RUN python -m venv /opt/uv && /opt/uv/bin/pip install "uv==${UV_VERSION}" \
    && /opt/uv/bin/uv pip install --no-cache --python /opt/sensestream/bin/python \
        --compile-bytecode -c constraints.txt -b constraints.txt \
        ./common './consumer[gpu]' "onnxruntime-gpu==${ONNXRUNTIME_GPU_VERSION}" \
    && ! pip show --quiet onnxruntime

FROM base AS client
COPY --from=build-client /opt/sensestream /opt/sensestream
COPY LICENSE /usr/share/doc/sensestream/
USER sensestream
WORKDIR /audio
ENTRYPOINT ["sensestream"]
CMD ["--help"]

FROM base AS worker-gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SENSESTREAM_DEVICE=cuda \
    SENSESTREAM_AUDIO_ROOTS=/audio
COPY --from=build-worker-gpu /opt/sensestream /opt/sensestream
COPY LICENSE /usr/share/doc/sensestream/
USER sensestream
WORKDIR /audio
# SIGTERM drains; the worker itself is PID 1 unless run with `--init`, and handles both.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sensestream-worker"]

FROM base AS worker
ENV SENSESTREAM_DEVICE=cpu \
    SENSESTREAM_AUDIO_ROOTS=/audio
COPY --from=build-worker /opt/sensestream /opt/sensestream
COPY LICENSE /usr/share/doc/sensestream/
USER sensestream
WORKDIR /audio
STOPSIGNAL SIGTERM
ENTRYPOINT ["sensestream-worker"]
