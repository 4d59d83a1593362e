# docker build -t dehazexl .                              for the processor
# docker build -t dehazexl:cuda --build-arg TORCH=cu130 . for NVIDIA's GPUs; run it with --gpus all
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dehazexl_cli dehazexl_cli
COPY weights weights
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
# A folder of PyTorch's own index: cpu, cu126, cu130, …
ARG TORCH=cpu
# rasterio's wheels take this one library from the system.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir -c /tmp/constraints.txt \
      --extra-index-url "https://download.pytorch.org/whl/${TORCH}" /tmp/dist/*.whl \
    && rm -r /tmp/dist /tmp/constraints.txt \
    && useradd --create-home --uid 1000 dehazexl
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["dehazexl"]
CMD ["--help"]
