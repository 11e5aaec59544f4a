# One image for every process of Sluice: the compose file chooses which one runs.
FROM python:3.11.13-slim-bookworm AS environment

# First, so that a change of code does not install everything again. Every dependency is checked by its hash.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements.lock

# The wheel is built by the locked setuptools, without a build environment that would be downloaded.
FROM environment AS wheel
WORKDIR /build
COPY LICENSE NOTICE README.md pyproject.toml ./
COPY bridge ./bridge
COPY db ./db
COPY sluice ./sluice
COPY tasks ./tasks
COPY worker ./worker
RUN python -m build --wheel --no-isolation --outdir /dist

FROM environment

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# A fixed id, so that a volume's owner means the same on every machine.
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin sluice

COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir --no-index --no-deps /dist/*.whl

# Handlers are imported from here: the example's, and those that an image built from this one adds.
WORKDIR /app
COPY examples ./examples

USER 10001:10001

CMD ["sluice", "--help"]
