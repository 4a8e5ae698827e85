"""Parquet and CSV files as pyarrow and pandas write them, and the rows that they read back from them.

    python golden/tables.py            (pandas 3.1, pyarrow 26.0)

Values are those of `to_pylist`; moments, decimals and UUIDs are texts (isoformat, str), and fields of structures
without a value are left out, as `remove_none_values` of TRL does. Beside each file stands what is expected of it.
"""

import datetime as dt
import decimal
import json
import pathlib
import uuid

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

OUT = pathlib.Path(__file__).parent / "tables"
OUT.mkdir(exist_ok=True)


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def expect(name, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    (OUT / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def parquet(name, table, **options):
    path = OUT / f"{name}.parquet"
    pq.write_table(table, path, write_statistics=False, **options)
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    read = pq.read_table(path).to_pylist()
    rows = [{k: dict(v) if k in maps else plain(v) for k, v in row.items()} for row in read]
    # The same rows in several forms have one file of what is expected.
    expect(name.split("-")[0], rows)


call = pa.struct([("name", pa.string()), ("arguments", pa.string())])
message = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("tool_calls", pa.list_(pa.struct([("type", pa.string()), ("function", call)]))),
    ]
)


def turn(role, content=None, calls=None):
    return {"role": role, "content": content, "tool_calls": calls}


conversations = [
    [turn("user", "Hi"), turn("assistant", "Hello, Łukasz 🙂")],
    [
        turn("system", ""),
        turn("user", "How warm is it?\nIn Oslo."),
        turn(
            "assistant",
            calls=[
                {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                {"type": "function", "function": {"name": "clock", "arguments": None}},
            ],
        ),
        turn("tool", "7 °C"),
        turn("assistant", "7 °C", calls=[]),
    ],
    None,
    [],
    [turn("user", "again"), None, turn("assistant", "and again")],
]
many = [conversations[i % 5] for i in range(17)]
for codec, version in [("snappy", "1.0"), ("zstd", "2.0"), ("gzip", "1.0"), ("none", "2.0")]:
    parquet(
        f"messages-{codec}",
        pa.table({"messages": pa.array(many, pa.list_(message)), "source": [f"s{i % 3}" for i in range(len(many))]}),
        compression=codec,
        data_page_version=version,
        row_group_size=9,
        data_page_size=128,
        write_batch_size=4,
    )

ids = [list(range(i, i + i % 7)) for i in range(40)]
parquet(
    "tokens",
    pa.table(
        {
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "labels": pa.array([[-100 if v % 2 else v for v in row] for row in ids], pa.list_(pa.int64())),
            "attention_mask": pa.array([[1] * len(row) for row in ids], pa.list_(pa.int8())),
        }
    ),
    row_group_size=16,
    data_page_size=128,
    write_batch_size=8,
)

n = 12
parquet(
    "types",
    pa.table(
        {
            "text": pa.array([None if i % 4 == 3 else f"text {i % 3}" for i in range(n)], pa.large_string()),
            "name": pa.array([f"n{i % 2}" for i in range(n)]).dictionary_encode(),
            "flag": pa.array([None if i == 5 else i % 2 == 0 for i in range(n)]),
            "small": pa.array([i - 3 for i in range(n)], pa.int8()),
            "long": pa.array([(1 << 60) + i for i in range(n)], pa.int64()),
            "unsigned": pa.array([(1 << 64) - 1 - i for i in range(n)], pa.uint64()),
            "word": pa.array([(1 << 32) - 1 - i for i in range(n)], pa.uint32()),
            "float": pa.array([i / 8 for i in range(n)], pa.float32()),
            "double": pa.array([i / 3 if i else None for i in range(n)], pa.float64()),
            "half": pa.array([i / 4 for i in range(n)], pa.float16()),
            "day": pa.array([dt.date(1969, 12, 30) + dt.timedelta(i * 400) for i in range(n)]),
            "moment": pa.array([dt.datetime(2024, 2, 29, 12, 0, i, i * 1000) for i in range(n)], pa.timestamp("us")),
            "utc": pa.array([dt.datetime(1950, 1, 1, i, tzinfo=dt.timezone.utc) for i in range(n)], pa.timestamp("ms", "UTC")),
            "time": pa.array([dt.time(i, 2, 3, i) for i in range(n)], pa.time64("us")),
            "price": pa.array([decimal.Decimal(i - 4) / 8 for i in range(n)], pa.decimal128(9, 3)),
            "wide": pa.array([decimal.Decimal(i - 4) for i in range(n)], pa.decimal128(30, 0)),
            "point": pa.array([None if i == 2 else {"x": i, "y": None if i % 2 else {"z": "q"}} for i in range(n)]),
            "grid": pa.array([[[i], [], None, [i, i + 1]] if i % 3 else None for i in range(n)], pa.list_(pa.list_(pa.int16()))),
            "map": pa.array([[("a", i), ("b", None)] if i % 2 else [] for i in range(n)], pa.map_(pa.string(), pa.int32())),
            "constant": pa.array([7] * n),
        }
    ),
    row_group_size=5,
    use_dictionary=["text", "name", "constant"],
    column_encoding={"long": "DELTA_BINARY_PACKED", "double": "BYTE_STREAM_SPLIT"},
    store_decimal_as_integer=False,
)

parquet(
    "delta",
    pa.table({"prompt": [f"question {i}" * (i % 5) for i in range(50)], "completion": [f" {i * i}" for i in range(50)]}),
    use_dictionary=False,
    column_encoding={"prompt": "DELTA_LENGTH_BYTE_ARRAY", "completion": "PLAIN"},
    data_page_version="2.0",
    compression="zstd",
)


def table(name, text, **options):
    """A table as text, and its rows as `datasets` reads them, with pandas; every column as text."""
    path = OUT / name
    path.write_bytes(text)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig", **options)
    rows = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.to_dict("records")]
    expect(name, rows)


frame = pd.DataFrame(
    {
        "prompt": ["plain", "with, comma", 'a "quoted" word', "two\nlines\n\nand a blank", " spaces ", "", "007"],
        "completion": [" x", "y;z", "\ttab", "é🙂", "''", "no prompt", '"'],
    }
)
table("commas.csv", frame.to_csv(index=False).encode())
table("crlf.csv", b"\xef\xbb\xbf" + frame.to_csv(index=False, lineterminator="\r\n").encode())
table("semicolons.csv", frame.to_csv(index=False, sep=";").encode(), sep=";")
table("tabs.tsv", frame.to_csv(index=False, sep="\t").encode(), sep="\t")
table("loose.csv", b'prompt,completion\n\n5" pipe,a "b" c\n"x" y, z\n\n"",last', skip_blank_lines=True)
