"""A program of your own whose events go the way of Rattle's.

python publish.py amqp://guest:guest@localhost:5672/
"""

import logging
import sys

from rattle.services.utils.logger import setup

logs = setup("my-simulator", experiment="pond", broker=sys.argv[1])
for tick in range(100):
    logging.info({"event": "pond_ticked", "tick": tick, "fish": 40 - tick // 5})
logging.getLogger("pond").warning("the water is low", extra={"litres": 12.5})
logs.close()  # waits until the broker has them; without a broker they wait on the disk for the next start
