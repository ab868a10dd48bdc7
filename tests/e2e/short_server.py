"""An HTTP server that promises a whole file and stops in the middle, every time: `short_server.py PORT FILE BYTES`."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if not self.path.endswith(FILE.name):  # a digest beside it
            self.send_error(404)
            return
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        size = FILE.stat().st_size
        self.send_response(206 if begin else 200)
        self.send_header("ETag", '"same"')
        self.send_header("Content-Length", str(size - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.end_headers()
        self.wfile.write(FILE.read_bytes()[begin:KEPT])
        self.close_connection = True


PORT, FILE, KEPT = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
ThreadingHTTPServer(("", PORT), Handler).serve_forever()
