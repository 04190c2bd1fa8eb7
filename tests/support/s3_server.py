"""moto's S3 server on a port, answering one request at a time.

moto looks at the condition of a write and then writes, in two steps: two conditional writes at the same moment may
both win there. S3 itself does not allow that.
"""

import io
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

moto = DomainDispatcherApplication(create_backend_app)
lock = threading.Lock()


def one_at_a_time(environ, start_response):
    # Read all of it first: a client that is frozen or dies in the middle of a request must not hold up the others.
    environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())
    with lock:
        return moto(environ, start_response)


run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True)
