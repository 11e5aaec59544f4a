# One image for every process of Sluice: docker-compose.yml chooses which one runs.
FROM python:3.11.13-slim-bookworm AS environment

# The locked setuptools builds the wheel. An isolated build would download other packages. pip checks the hash of
# every package.
FROM environment AS wheel
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements.lock
WORKDIR /build
COPY LICENSE NOTICE README.md pyproject.toml ./
COPY bridge ./bridge
COPY db ./db
COPY sluice ./sluice
COPY tasks ./tasks
COPY worker ./worker
RUN python -m build --wheel --no-isolation --outdir /dist

FROM environment

# The packages that the processes need, without those of tests and checks. Copied before the code, so that a change
# of code does not reinstall the packages.
COPY requirements-image.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements-image.lock

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# A fixed id, so that files in a volume have the same owner on every machine.
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin sluice

COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir --no-index --no-deps /dist/*.whl

# Handlers are imported from this folder. An image that is based on this one can add its own.
WORKDIR /app
COPY examples ./examples

USER 10001:10001

CMD ["sluice", "--help"]
