"""A proxy before a tracking server that loses what it is told to lose."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading

PASS, ERROR_AFTER, RESET_AFTER, DOWN, SILENT = (
    "pass",
    "error-after",
    "reset-after",
    "down",
    "silent",
)


class Proxy:
    """Forwards to 127.0.0.1:port. `rule(path, number)` names the fault of each request, counted
    from 0.

    error-after   the request is done, the answer is 503
    reset-after   the request is done, the connection is cut
    down          the connection is cut at once
    silent        nothing ever comes back
    """

    def __init__(self, port: int):
        self.upstream, self.rule, self.seen = port, lambda path, number: PASS, []
        self._ended = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                with contextlib.suppress(OSError):
                    proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.port = self._listener.server_address[1]

    def handle(self, request) -> None:
        fault = self.rule(request.path, len(self.seen))
        self.seen.append((request.path, fault))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        request.close_connection = True
        if fault == SILENT:
            self._ended.wait(60)
        if fault in (DOWN, SILENT):
            return
        status, kind, reply = self._forward(request, body)
        if fault == RESET_AFTER:
            return
        if fault == ERROR_AFTER:
            status, kind, reply = 503, "application/json", b"{}"
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(reply)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(reply)

    def _forward(self, request, body):
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        with contextlib.closing(upstream):
            headers = {
                k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")
            }
            upstream.request(request.command, request.path, body or None, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheader("Content-Type", "text/plain"), answer.read()

    def faults(self) -> int:
        return sum(fault != PASS for _, fault in self.seen)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._listener.shutdown()
        self._listener.server_close()
