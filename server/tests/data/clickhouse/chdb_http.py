#!/usr/bin/env python3
"""chdb_http.py HOST:PORT FOLDER: as much of ClickHouse's HTTP interface as ClickHouseStore uses, over chdb (PyPI:
chdb-core-lite, a modern ClickHouse in process). One session, one query at a time. No compression, no replicated tables."""
import http.server, os, re, sys, tempfile, threading, urllib.parse

from chdb import session

HOST, PORT = sys.argv[1].rsplit(":", 1)
FOLDER = sys.argv[2]
SESSION, LOCK = session.Session(FOLDER), threading.Lock()
# What is no setting.
OTHER = {"query", "database", "default_format", "query_id", "wait_end_of_query"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            size = int(self.rfile.readline().strip() or b"0", 16)
            if size == 0:
                self.rfile.readline()
                return body
            body += self.rfile.read(size)
            self.rfile.readline()

    def do_POST(self):
        url = urllib.parse.urlparse(self.path)
        params = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        body = self.body()
        if url.path == "/ping":
            return self.answer(200, b"Ok.\n")
        settings = ", ".join(f"{name} = '{value[0]}'" for name, value in params.items() if name not in OTHER)
        query = params.get("query", [""])[0]
        try:
            with LOCK:
                if params.get("database"):
                    SESSION.query(f"USE {params['database'][0]}")
                self.answer(200, self.insert(query, body, settings) if query else self.select(body.decode(), params, settings))
        except Exception as error:  # an exception of ClickHouse
            code = re.search(r"Code: (\d+)", str(error))
            self.answer(500, str(error).encode(), code and code.group(1))

    do_GET = do_POST

    def insert(self, query, body, settings):
        statement, form = re.fullmatch(r"(.*)\bFORMAT\s+(\w+)\s*", query, re.S).groups()
        with tempfile.NamedTemporaryFile(dir=FOLDER) as file:
            file.write(body)
            file.flush()
            into = f"{statement} FROM INFILE '{file.name}'" + (f" SETTINGS {settings}" if settings else "")
            SESSION.query(f"{into} FORMAT {form}", "TabSeparated")
        return b""

    def select(self, query, params, settings):
        if settings:
            query += f" SETTINGS {settings}"
        result = SESSION.query(query, params.get("default_format", ["TabSeparated"])[0])
        return result.bytes() if result is not None and hasattr(result, "bytes") else b""

    def answer(self, status, body, code=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body or b"")))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


os.makedirs(FOLDER, exist_ok=True)
http.server.ThreadingHTTPServer((HOST, int(PORT)), Handler).serve_forever()
