"""Serves graphite-web on loopback over points that a test has written: the reference for the render API.

    /usr/bin/python3 reference.py FOLDER

FOLDER/series.json is a list of {"path", "step", "points": [[second, value], ..]}. The port is printed once the
server listens. It ends when its standard input does.
"""
import json
import os
import sys
import threading

folder = sys.argv[1]
with open(os.path.join(folder, "graphite_reference_settings.py"), "w") as settings:
    settings.write(f"""
from graphite.settings import *
SECRET_KEY = "a test"
DEBUG = False
ALLOWED_HOSTS = ["*"]
LOG_DIR = {folder!r}
LOG_FILE_INFO = LOG_FILE_EXCEPTION = LOG_FILE_CACHE = LOG_FILE_RENDERING = "-"
STORAGE_DIR = {folder!r}
WHISPER_DIR = {os.path.join(folder, "whisper")!r}
CERES_DIR = RRD_DIR = ""
STANDARD_DIRS = [WHISPER_DIR]
INDEX_FILE = {os.path.join(folder, "index")!r}
CARBONLINK_HOSTS = []
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {os.path.join(folder, "db")!r}}}}}
CACHES = {{"default": {{"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}}}
DEFAULT_CACHE_DURATION = 0
FIND_CACHE_DURATION = 0
TAGDB_CACHE_DURATION = 0
TIME_ZONE = "UTC"
USE_WORKER_POOL = False
""")
os.environ["DJANGO_SETTINGS_MODULE"] = "graphite_reference_settings"
os.environ["GRAPHITE_STORAGE_DIR"] = folder
sys.path.insert(0, folder)
os.makedirs(os.path.join(folder, "whisper"), exist_ok=True)

import django
import whisper

django.setup()

from django.core.management import call_command

call_command("migrate", run_syncdb=True, verbosity=0)

from graphite.storage import STORE
from graphite.tags.utils import TaggedSeries

# Four days.
RETENTION = 4 * 24 * 60 * 60
with open(os.path.join(folder, "series.json")) as file:
    for series in json.load(file):
        path, step = series["path"], series["step"]
        file = os.path.join(folder, "whisper", TaggedSeries.encode(path, sep=os.sep)) + ".wsp"
        os.makedirs(os.path.dirname(file), exist_ok=True)
        whisper.create(file, [(step, RETENTION // step)], aggregationMethod="average")
        whisper.update_many(file, [tuple(point) for point in series["points"]])
        if ";" in path:
            STORE.tagdb.tag_series(path)

from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.core.wsgi import get_wsgi_application


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
