#!/bin/sh
# Starts the broker with the user that the official image would make.
set -eu
cat >/var/lib/rabbitmq/rabbitmq.conf <<CONF
listeners.tcp.default = 0.0.0.0:5672
default_user = $RABBITMQ_DEFAULT_USER
default_pass = $RABBITMQ_DEFAULT_PASS
log.console = true
CONF
export RABBITMQ_CONFIG_FILE=/var/lib/rabbitmq/rabbitmq
exec rabbitmq-server
