"""Changes the first stored byte of an object in a bucket: `tamper.py SETTINGS ADDRESS`.

SETTINGS is JSON: the `url`, and the `options` of obstore that lead there.
"""

import json
import sys

import obstore
from obstore.store import from_url


def main(settings: str, address: str) -> None:
    given = json.loads(settings)
    options = {"client_options": {"allow_http": True}, **given["options"]}
    store = from_url(given["url"], **options)
    algorithm, _, digits = address.partition(":")
    if algorithm == "sha256":
        (name,) = _keys(store, f"sha256/{digits}")
        digits = name.rpartition("/")[2].partition(".")[0]
    record = max(one for one in _keys(store, f"objects/{digits}") if "/g" in one)
    copy = record.split(".")[3]
    key = min(_keys(store, f"parts/{digits}/{copy}"), default=record)
    data = bytearray(obstore.get(store, key).bytes())
    data[0] ^= 1
    obstore.put(store, key, bytes(data))


def _keys(store: object, folder: str) -> list[str]:
    return [meta["path"] for page in obstore.list(store, folder) for meta in page]


if __name__ == "__main__":
    main(*sys.argv[1:])
