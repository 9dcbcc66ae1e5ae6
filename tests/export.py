"""Reads an export in every form with Apache Arrow's own library (pyarrow) and Python's, and compares them.

PARQUET=… CSV=… JSONL=… RECORDS=… python3 export.py
Prints one line per check; exits with 1 at the first that fails.
"""

import csv
import json
import os
import sys

import pyarrow
import pyarrow.csv
import pyarrow.parquet

RECORDS = int(os.environ["RECORDS"])


def check(what, holds):
    if not holds:
        print("FAILED", what)
        sys.exit(1)
    print("ok", what)


with open(os.environ["JSONL"], encoding="utf-8", newline="") as lines:
    rows = [json.loads(line) for line in lines.read().split("\n")[:-1]]
check("JSON Lines: one document a line", len(rows) == RECORDS)
check("JSON Lines: numbers go up", all(a["seq"] < b["seq"] for a, b in zip(rows, rows[1:])))
check("JSON Lines: a tenth is deleted", sum(row["deleted"] for row in rows) == RECORDS // 10)
check("JSON Lines: the deleted have no data", all((row["data"] is None) == row["deleted"] for row in rows))
check(
    "JSON Lines: columns are those of the document",
    all(row["name"] == row["data"]["name"] and row["a.b.0"] == row["data"]["a"]["b"][0] for row in rows if row["data"]),
)
check("JSON Lines: a large number keeps its digits", all(row["big"] == 9007199254740993 for row in rows if row["data"]))

table = pyarrow.parquet.read_table(os.environ["PARQUET"])
file = pyarrow.parquet.ParquetFile(os.environ["PARQUET"])
types = {field.name: str(field.type) for field in table.schema}
check("Parquet: more than one row group", file.metadata.num_row_groups > 1)
check("Parquet: types", types["seq"] == "int64" and types["deleted"] == "bool" and types["data"] == "string")
check("Parquet: moments are in UTC", types["changed_at"] == "timestamp[ms, tz=UTC]")
check("Parquet: required and optional", not table.schema.field("id").nullable and table.schema.field("data").nullable)
told = file.metadata.metadata
check("Parquet: says what it is of", told[b"palisade.stream"] == b"customers" and told[b"palisade.connection"] == b"acme")
columns = table.to_pydict()
check("Parquet: as many rows", table.num_rows == RECORDS)
check("Parquet: ids", columns["id"] == [row["id"] for row in rows])
check("Parquet: numbers", columns["seq"] == [row["seq"] for row in rows])
check("Parquet: deleted", columns["deleted"] == [row["deleted"] for row in rows])
check(
    "Parquet: documents",
    [None if text is None else json.loads(text) for text in columns["data"]] == [row["data"] for row in rows],
)
check("Parquet: picked texts", columns["name"] == [row["name"] for row in rows])
check("Parquet: picked numbers", columns["a.b.0"] == [None if row["data"] is None else str(row["a.b.0"]) for row in rows])
check("Parquet: what is null is null", all(value is None for value in columns["a.b.1"]))
check("Parquet: milliseconds are kept", all(at.microsecond == 123000 for at in columns["changed_at"][:100]))
live = pyarrow.parquet.read_table(os.environ["PARQUET"], filters=[("deleted", "=", False)], columns=["id"])
check("Parquet: filtered by its statistics", live.num_rows == RECORDS - RECORDS // 10)

with open(os.environ["CSV"], encoding="utf-8", newline="") as cells:
    read = list(csv.DictReader(cells))
check("CSV: as many rows by Python's reader", len(read) == RECORDS)
check("CSV: texts", [row["name"] for row in read] == [row["name"] or "" for row in rows])
check("CSV: documents", all(json.loads(a["data"]) == b["data"] for a, b in zip(read, rows) if b["data"]))
options = pyarrow.csv.ParseOptions(newlines_in_values=True)
arrow = pyarrow.csv.read_csv(os.environ["CSV"], parse_options=options)
check("CSV: as many rows by Arrow's reader", arrow.num_rows == RECORDS)
check("CSV: types by Arrow's reader", str(arrow.schema.field("seq").type) == "int64")
