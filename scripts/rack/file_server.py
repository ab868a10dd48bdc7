"""Serves a folder over HTTP on loopback, until it is ended: `python3 -m rack.file_server FOLDER`. Prints its port.

The kernel copies from the page cache to the socket, so that the server takes little of what is measured beside it.
"""

import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def copyfile(self, source, _outputfile):
        self.wfile.flush()
        self.connection.sendfile(source)

    def log_message(self, *_):
        """Nobody reads it."""


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *request: Handler(*request, directory=sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
