# syntax=docker/dockerfile:1
#
#   docker build -t delora-sd .                                  # CPU
#   docker build -t delora-sd:cuda --build-arg VARIANT=cuda .    # NVIDIA GPUs; the host needs the driver and the container toolkit
#   docker run --rm -v "$PWD:/work" -v delora-cache:/cache delora-sd doctor --json
#   docker run --rm --gpus all -v "$PWD:/work" -v delora-cache:/cache delora-sd:cuda train /configs/train/delora.yaml data.photos=rex data.class_word=dog output_dir=runs/rex
#
# /work: photos in, run folders out. /cache: base models and class images, kept between containers.
# Files belong to uid 1000, or to whoever `--user "$(id -u):$(id -g)"` says.
ARG PYTHON=3.12
ARG VARIANT=cpu

FROM python:${PYTHON}-slim AS python
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/delora_sd
COPY scripts/constraints.txt scripts/constraints.txt

FROM python AS torch-cpu
# The usual build of torch brings 5 GB of CUDA libraries. PyTorch's page "Get Started" names the index of the small one:
# give its address as --build-arg PIP_INDEX_URL=..., which pip reads in this stage alone.
ARG PIP_INDEX_URL
RUN pip install --constraint scripts/constraints.txt torch torchvision

FROM python AS torch-cuda
RUN pip install --constraint scripts/constraints.txt torch torchvision
# What training.compile=true builds its kernels with.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM torch-${VARIANT}
ARG EXTRAS=heic,track
COPY pyproject.toml README.md LICENSE ./
# Dependencies before the code: a change of the code does not install them again.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" >/tmp/needs.txt \
    && pip install --constraint scripts/constraints.txt --requirement /tmp/needs.txt && rm /tmp/needs.txt
COPY delora_sd delora_sd
COPY eval eval
COPY configs configs
COPY train_dreambooth_delora.py ./
RUN pip install --constraint scripts/constraints.txt --editable ".[$EXTRAS]" \
    && ln -s /opt/delora_sd/configs /configs \
    && useradd --uid 1000 --create-home delora \
    && install --directory --mode 1777 /cache /work
ENV HOME=/tmp HF_HOME=/cache/huggingface TORCH_HOME=/cache/torch TRITON_CACHE_DIR=/cache/triton DELORA_SD_CACHE=/cache/delora_sd
USER delora
WORKDIR /work
VOLUME /cache
# 2 is "you can fix it" to us and reserved to Docker.
HEALTHCHECK --interval=5m --timeout=2m --start-period=1m CMD delora-sd doctor self_test=false model.base=miniature model.offline=true --json || exit 1
ENTRYPOINT ["delora-sd"]
CMD ["--help"]
