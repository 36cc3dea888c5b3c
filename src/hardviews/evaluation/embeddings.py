"""Writes features of a data set to a Parquet file, batch by batch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

# Rows are buffered up to a row group of this many bytes: small groups are slow to read, large ones fill the memory.
GROUP_BYTES = 32 << 20


def schema_of(dimension: int, labelled: bool, metadata: Mapping[str, Any]) -> Any:
    """Columns ``path``, ``label`` (if there are labels), and ``embedding``, a list of ``dimension`` float32.

    Args:
        dimension: D.
        labelled: whether the data has labels.
        metadata: of the file: strings as they are, anything else as JSON.
    """
    columns = [pa.field("path", pa.string(), nullable=False)]
    columns += [pa.field("label", pa.int64(), nullable=False)] if labelled else []
    columns += [pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False)]
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    return pa.schema(columns, metadata=texts)


class EmbeddingFile:
    """A Parquet file written batch by batch; holds one row group and one batch in memory.

    Args:
        path: complete only after ``close``.
        schema: from ``schema_of``.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self.schema = schema
        self.rows = 0
        # Floats rarely repeat and compress poorly.
        self._writer = pq.ParquetWriter(path, schema, use_dictionary=False, compression="snappy")
        self._held: list[Any] = []
        self._bytes = 0

    def write(self, paths: Sequence[str], labels: Tensor | None, vectors: Tensor) -> None:
        """Adds the rows of a batch.

        Args:
            paths: B paths.
            labels: int64 ``[B]``, or None if the data has none.
            vectors: float32 ``[B, D]`` on the CPU.
        """
        columns = [pa.array(paths, pa.string())]
        columns += [] if labels is None else [pa.array(labels.numpy())]
        columns += [pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).numpy()), vectors.shape[1])]
        self._add(pa.record_batch(columns, schema=self.schema))

    def append(self, part: Path) -> None:
        """Appends the rows of another such file, one row group at a time."""
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                for batch in file.read_row_group(group).to_batches():
                    self._add(batch)

    def _add(self, batch: Any) -> None:
        self.rows += batch.num_rows
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, self.schema))
        self._held, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()
