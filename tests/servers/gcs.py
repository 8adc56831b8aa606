"""The Google emulator, with what clients of the XML interface need besides: encoded paths, HEAD, listings."""

import sys
import time
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound

JSON_INTERFACES = ("/storage/", "/download/", "/upload/")


class XmlInterface(server.RequestHandler):
    def parse_request(self):
        understood = super().parse_request()
        if understood and not self.path.startswith(JSON_INTERFACES):
            path, mark, query = self.path.partition("?")
            self.path = unquote(path) + mark + query
        return understood

    def do_HEAD(self):
        bucket, _, name = self.path.lstrip("/").partition("/")
        try:
            found = self.storage.get_file_obj(bucket, name)
        except NotFound:
            return self.answer(404, b"")
        self.send_response(200)
        self.send_header("Content-Length", found["size"])
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = parse_qs(query)
        if "list-type" not in asked:
            return super().do_GET()
        prefix = asked.get("prefix", [""])[0]
        entries = ""
        for found in self.storage.get_file_list(path.strip("/"), prefix)[0]:
            entries += "<Contents><Key>%s</Key><Size>%s</Size>" % (escape(found["name"]), found["size"])
            entries += "<LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>e</ETag></Contents>"
        listing = "<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>" % entries
        return self.answer(200, listing.encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        if b"etag:" not in b"".join(self._headers_buffer).lower():
            self.send_header("ETag", '"e"')
        super().end_headers()


if __name__ == "__main__":
    port, bucket = int(sys.argv[1]), sys.argv[2]
    server.RequestHandler = XmlInterface
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket).start()
    while True:
        time.sleep(60)
