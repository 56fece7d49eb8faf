# fastclr from this tree, on a CPU; docs/docker.md has the arguments for NVIDIA's GPUs. Both bases are of one distribution,
# whose Python the environment of the first stage needs in the second.
ARG BUILD_BASE=debian:bookworm-slim
ARG BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=train
ARG FASTCLR_BUILD=cpu
ARG TORCH_CUDA_ARCH_LIST
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/fastclr
ENV PATH=/opt/fastclr/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" \
    torch torchvision setuptools wheel ninja pybind11
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --no-build-isolation ".[${EXTRAS}]"

FROM ${BASE}
# torch.compile and Triton call a compiler when they run
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home fastclr \
    && install -d -o fastclr /data
COPY --from=build /opt/fastclr /opt/fastclr
ENV PATH=/opt/fastclr/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER fastclr
WORKDIR /data
ENTRYPOINT ["fastclr"]
CMD ["info"]
