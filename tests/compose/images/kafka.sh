#!/bin/bash
# Starts Kafka as the official image does: Kafka's own wrapper writes server.properties from the variables KAFKA_…, and
# formats an empty data folder. It fails if the folder is formatted.
set -euo pipefail

export CLUSTER_ID="${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}"
config=/opt/kafka/config
java=(java -cp "/opt/kafka/libs/*")
rm -f "$config/server.properties"
touch "$config/server.properties"
"${java[@]}" kafka.docker.KafkaDockerWrapper setup --default-configs-dir "$config" \
    --mounted-configs-dir "$config" --final-configs-dir "$config" \
    || [ -e "$KAFKA_LOG_DIRS/meta.properties" ]
exec "${java[@]}" -Xmx1G -Xms1G kafka.Kafka "$config/server.properties"
