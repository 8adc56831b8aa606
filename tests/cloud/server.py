"""The stand-in for AWS, putting one record into a shard at a time: its own way is not safe for concurrency and loses
records of calls that come together."""

import sys
import threading

from moto.kinesis.models import Shard
from moto.server import main

lock = threading.Lock()
put_record = Shard.put_record


def one_at_a_time(*arguments, **named):
    with lock:
        return put_record(*arguments, **named)


Shard.put_record = one_at_a_time
main(sys.argv[1:])
