"""Records of runs: what is written of every question, see `focus.records.run`."""

from focus.records.files import RECORDS, Record, read_records, read_run, write_records
from focus.records.run import KEY_FIELDS, RecordFile, record_key
from focus.records.settings import Shard, digest, identity

__all__ = [
    "KEY_FIELDS",
    "RECORDS",
    "Record",
    "RecordFile",
    "Shard",
    "digest",
    "identity",
    "read_records",
    "read_run",
    "record_key",
    "write_records",
]
