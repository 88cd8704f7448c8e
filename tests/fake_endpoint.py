"An OpenAI-like endpoint on this machine that does what a test says, well-behaved or not."
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def says(text, **more):
    "A good response: status, headers, body."
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 400, "completion_tokens": 40}}
    return 200, {}, json.dumps(body | more).encode()


def verdict(points, total=None):
    "A reply as a judge should give it."
    return json.dumps({"points": points, "total": sum(points.values()) if total is None else total})


def hang(handler): handler.server.over.wait(8)


def reset(handler):
    "The connection ends with RST."
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.rfile._sock = handler.wfile._sock = None
    handler.connection.close()


def drip(what):
    "Bytes that come slowly: of the headers or of the body."
    def send(handler):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"
        slow = head if what == "headers" else b" " * 1000
        if what == "body": handler.wfile.write(head + b"\r\n")
        for byte in slow:
            if handler.server.over.wait(0.02): return
            try: handler.wfile.write(bytes([byte])); handler.wfile.flush()
            except OSError: return
    return send


class FakeEndpoint:
    "`answer(fields, number)` gives (status, headers, body), or a function that gets the handler; `fields` is the request."

    def __init__(self, answer): self.answer, self.asked, self.headers, self.busy, self.most_busy, self.lock = answer, [], [], 0, 0, threading.Lock()

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    fake.asked.append(fields); fake.headers.append(dict(self.headers)); fake.busy += 1
                    number, fake.most_busy = len(fake.asked) - 1, max(fake.most_busy, fake.busy)
                try: self.send(fake.answer(fields, number))
                except OSError: pass  # the client has gone
                finally:
                    with fake.lock: fake.busy -= 1

            def send(self, found):
                if callable(found): return found(self)
                status, headers, body = found
                self.send_response(status)
                for name, value in {"Content-Length": len(body), **headers}.items(): self.send_header(name, str(value))
                self.end_headers(); self.wfile.write(body)

            def log_message(self, *_): pass

        class Server(ThreadingHTTPServer):
            daemon_threads, over = True, threading.Event()
            def handle_error(self, *_): pass  # a client that goes away is no news here

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_): self.server.over.set(); self.server.shutdown(); self.server.server_close()

    @property
    def url(self): return f"http://127.0.0.1:{self.server.server_port}/v1"

    def quiet(self, seconds=2.0):
        "Wait until nobody is being answered."
        end = time.monotonic() + seconds
        while self.busy and time.monotonic() < end: time.sleep(0.01)
