"""Reads rows as they are published, with nothing of Rattle's.

    python consume.py amqp://guest:guest@localhost:5672/

It prints the learning curve of every run, live. Its queue is its own and goes when it ends, so nothing is taken from
those who store the rows. Ctrl-C ends it; a number after the address ends it after so many rows.
"""

import json
import sys

import pika

url, *most = sys.argv[1:]
left = int(most[0]) if most else None

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare("rattle", exchange_type="topic", durable=True)
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, "rattle", routing_key="*.updates")  # EXPERIMENT.TABLE; # for all rows
print("listening", flush=True)

try:
    for delivery, _properties, body in channel.consume(queue):
        for line in body.splitlines():  # a message holds many rows, each a JSON object with the columns of its table
            row = json.loads(line)
            print(f"{row['run_id']}  {row['env_steps']:>12,} steps  mean return {row['mean_return']}", flush=True)
            left = None if left is None else left - 1
        channel.basic_ack(delivery.delivery_tag)
        if left is not None and left <= 0:
            break
except KeyboardInterrupt:
    pass
connection.close()
