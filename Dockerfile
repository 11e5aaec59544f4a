# One image for every process of ours: the compose file chooses which one it is.
FROM python:3.11.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app

# A fixed id, so that a volume's owner means the same on every machine.
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin sluice

WORKDIR /app

# Before the code, so that a change of code does not install everything again. Nothing enters without its
# hash: so the project itself is not installed (that would fetch a build backend) but found by PYTHONPATH.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements.lock
RUN printf '#!/usr/local/bin/python\nfrom sluice.cli.main import app\n\napp()\n' > /usr/local/bin/sluice \
 && chmod 755 /usr/local/bin/sluice

COPY bridge ./bridge
COPY db ./db
COPY sluice ./sluice
COPY examples ./examples
COPY tasks ./tasks
COPY worker ./worker

USER 10001:10001

CMD ["sluice", "--help"]
