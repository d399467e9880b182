# For a cluster with GPUs: torchrun, Ray, and everything that reads and writes far away. From the repository's root:
#     docker build -f deploy/cluster.Dockerfile -t registry.example/sfumato-cluster .
# PyTorch's wheel brings CUDA along; a node needs no more than NVIDIA's driver and container toolkit.
FROM python:3.12-slim
# torch.compile needs a compiler while it runs; KubeRay's probes need wget.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home sfumato && python -m venv /opt/sfumato
ENV PATH=/opt/sfumato/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /source
# What changes rarely first: the layer with the dependencies is kept while only our sources change.
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; \
        extras = ('train', 'remote', 'serve', 'postgresql', 'cluster'); \
        print(*p['dependencies'], *(name for extra in extras for name in e[extra]), 's3fs', sep='\n')" > requirements.txt \
    && pip install -r requirements.txt -c constraints.txt
COPY README.md LICENSE ./
COPY src ./src
RUN pip install --no-deps .
USER 10001
WORKDIR /home/sfumato
# No entry point: a pod says whether it is torchrun, ray or sfumato.
