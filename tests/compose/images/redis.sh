#!/bin/sh
# Starts Redis as the official image does: root gives the data to the user redis, then starts the server as this user.
set -eu

if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . ! -user redis -exec chown redis {} +
    exec gosu redis "$0" "$@"
fi
umask 0077
exec "$@"
